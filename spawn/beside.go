package spawn

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/pitvisor/pitvisor/pidfd"
	"golang.org/x/sys/unix"
)

// Beside is a command that is started beside another process: in that one's
// namespaces, as if that one had started it. It is for looking into what runs.
//
// These are the user, mount, network, IPC, UTS and cgroup namespaces, and the PID and time
// namespaces of the other's children. What is no namespace, such as a chroot, a seccomp
// filter or dropped capabilities, is not taken over: the other may have given up rights
// since it began, and who has them must not execute what it could put into its root.
type Beside struct {
	// Cmd is what is started. Leaf must be a fresh cgroup, as in [Start]. Path is looked
	// up from the other's mount namespace. There is no helper: resource limits and the
	// OOM score are set by the new process itself. Credential is the user as this
	// program sees it; in another user namespace it has the number that it has there.
	//
	// Weak, Autokill, ExtraFiles, NetNS and ForceHelper have no meaning and must not be
	// set.
	Cmd

	Process *pidfd.Process // the other
	Search  []string       // paths that are tried one after the other, as execvp does; nil is Path alone

	// Terminal makes Stdin, which must be a terminal without a session, the controlling
	// terminal. Session must be SessionNew.
	Terminal bool
}

// StartBeside starts a process beside another one. It is [Start] in all other
// respects, and needs Linux 5.8, amd64 or arm64.
func StartBeside(b *Beside) (*Process, error) {
	if err := b.check(); err != nil {
		return nil, err
	}
	if err := b.checkStrings(); err != nil {
		return nil, err
	}
	if err := b.checkLeaf(); err != nil {
		return nil, err
	}
	files, null, err := b.files()
	if null >= 0 {
		defer func() { _ = unix.Close(null) }() // nothing was written
	}
	if err != nil {
		return nil, err
	}
	ns, err := b.apart()
	if err != nil {
		return nil, err
	}
	defer ns.close()
	p, err := b.startBeside(files, ns)
	runtime.KeepAlive(b) // the descriptors in files are bare numbers
	return p, err
}

func (b *Beside) check() error {
	switch {
	case b.Process == nil:
		return b.invalid("no process to be beside")
	case b.Weak, b.Autokill, len(b.ExtraFiles) > 0, b.NetNS, b.ForceHelper:
		return b.invalid("a setting that has no meaning beside a process")
	case b.Terminal && (b.Session != SessionNew || b.Stdin == nil):
		return b.invalid("a controlling terminal needs a new session, and a file")
	}
	return b.Cmd.check()
}

// paths are those that are tried.
func (b *Beside) paths() []string {
	if len(b.Search) == 0 {
		return []string{b.Path}
	}
	return b.Search
}

// Candidates are the paths that execvp would try for a name with that environment, for
// [Beside.Search]: a name with a slash is a path, a bare one is looked for in PATH.
func Candidates(name string, env []string) []string {
	if strings.Contains(name, "/") {
		return []string{name}
	}
	path := defaultPath
	for _, entry := range env {
		if value, ok := strings.CutPrefix(entry, "PATH="); ok {
			path = value
		}
	}
	var all []string
	for _, in := range filepath.SplitList(path) {
		if filepath.IsAbs(in) {
			all = append(all, filepath.Join(in, name))
		}
	}
	return all
}

// namespaces is what a process must enter.
type namespaces struct {
	flags    int         // of setns, for the pidfd
	children int         // the PID namespace for children, -1 when it is ours
	time     int         // the time namespace for children, likewise
	process  int         // the pidfd, -1 when it is not needed
	user     *Credential // as it is called there; nil: it stays
}

func (n *namespaces) close() {
	for _, fd := range []int{n.children, n.time, n.process} {
		if fd >= 0 {
			_ = unix.Close(fd) // was only a way in
		}
	}
}

// none says that there is nothing to enter.
func (n *namespaces) none() bool { return n.flags == 0 && n.children < 0 && n.time < 0 }

// hold makes the ways in survive what becomes the descriptors below n of the process.
func (n *namespaces) hold(process, below int) (err error) {
	if n.flags != 0 {
		if n.process, err = unix.FcntlInt(uintptr(process), unix.F_DUPFD_CLOEXEC, below); err != nil {
			return err
		}
	}
	for _, way := range []*int{&n.children, &n.time} {
		if *way < 0 || *way >= below {
			continue
		}
		low := *way
		*way, err = unix.FcntlInt(uintptr(low), unix.F_DUPFD_CLOEXEC, below)
		if err = errors.Join(err, unix.Close(low)); err != nil {
			return err
		}
	}
	return nil
}

// kinds are the namespaces that setns takes with a pidfd.
func kinds() map[string]int {
	return map[string]int{
		"user": unix.CLONE_NEWUSER, "mnt": unix.CLONE_NEWNS, "net": unix.CLONE_NEWNET,
		"ipc": unix.CLONE_NEWIPC, "uts": unix.CLONE_NEWUTS, "cgroup": unix.CLONE_NEWCGROUP,
	}
}

// apart finds out which namespaces of the other are not ours: to enter one's own again
// takes rights that not everybody has. What is read by the number of the process counts
// only because the process is still there afterwards.
func (b *Beside) apart() (*namespaces, error) {
	n := &namespaces{children: -1, time: -1, process: -1}
	dir := "/proc/" + strconv.Itoa(b.Process.PID())
	err := n.read(dir)
	if err == nil && n.flags&unix.CLONE_NEWUSER != 0 {
		n.user, err = b.userInside(dir)
	}
	if exited, goneErr := b.Process.Exited(); goneErr != nil || exited {
		n.close()
		return nil, b.fail(CauseNamespace, "the process that it is to be beside has ended", errors.Join(goneErr, unix.ESRCH))
	}
	if err != nil {
		n.close()
		return nil, b.fail(CauseNamespace, "look at the namespaces of process "+strconv.Itoa(b.Process.PID()), err)
	}
	return n, nil
}

func (n *namespaces) read(dir string) error {
	for name, flag := range kinds() {
		theirs, err := os.Readlink(dir + "/ns/" + name)
		if err != nil {
			return err
		}
		ours, err := os.Readlink("/proc/self/ns/" + name)
		if err != nil {
			return err
		}
		if theirs != ours {
			n.flags |= flag
		}
	}
	var err error
	if n.children, err = ofChildren(dir, "pid"); err != nil {
		return err
	}
	n.time, err = ofChildren(dir, "time")
	return err
}

// ofChildren opens the namespace that the children of a process are in, where it is not
// ours; else it is -1.
func ofChildren(dir, kind string) (int, error) {
	children := dir + "/ns/" + kind + "_for_children"
	theirs, err := os.Readlink(children)
	if errors.Is(err, os.ErrNotExist) {
		return -1, nil // it has made one, in which there is no process yet, or the kernel has none
	}
	if err != nil {
		return -1, err
	}
	ours, err := os.Readlink("/proc/self/ns/" + kind)
	if err != nil || theirs == ours {
		return -1, err
	}
	return unix.Open(children, unix.O_RDONLY|unix.O_CLOEXEC, 0)
}

// userInside is the user of the command as the other's user namespace calls it.
func (b *Beside) userInside(dir string) (*Credential, error) {
	outside := b.Credential
	if outside == nil {
		outside = &Credential{UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}
	}
	inside := &Credential{}
	for _, one := range []struct {
		file string
		id   uint32
		to   *uint32
	}{{"uid_map", outside.UID, &inside.UID}, {"gid_map", outside.GID, &inside.GID}} {
		text, err := os.ReadFile(dir + "/" + one.file)
		if err != nil {
			return nil, err
		}
		id, ok := mapID(string(text), one.id)
		if !ok {
			return nil, fmt.Errorf("its user namespace has no %s entry for %d", one.file, one.id)
		}
		*one.to = id
	}
	return inside, nil
}

// mapID finds what an id is called inside, in the text of a map: lines with the first
// id inside, the first one outside, and how many.
func mapID(text string, id uint32) (uint32, bool) {
	for line := range strings.Lines(text) {
		var in, out, n uint64
		if _, err := fmt.Sscan(line, &in, &out, &n); err != nil {
			continue
		}
		if uint64(id) >= out && uint64(id) < out+n {
			return uint32(in + uint64(id) - out), true
		}
	}
	return 0, false
}

// stageBeside is how far the new process came.
type stageBeside uintptr

const (
	besideFiles stageBeside = iota + 1
	besideTerminal
	besideSettings
	besideUser
	besideEnter
	besideFork
	besideDir
	besideExec
)

// explainBeside makes an error of what failed in the new process.
func (b *Beside) explainBeside(at stageBeside, errno unix.Errno, tried []unix.Errno) error {
	switch at {
	case besideTerminal:
		return b.fail(CauseSetting, "take the terminal", errno)
	case besideSettings:
		return b.fail(CauseSetting, "set umask, nice, OOM score or resource limits", errno)
	case besideUser:
		if b.Credential != nil {
			return b.fail(CauseCredential, b.Credential.String(), errno)
		}
		return b.fail(CauseCredential, "become the user of that namespace", errno)
	case besideEnter:
		return b.fail(CauseNamespace, "enter the namespaces of process "+strconv.Itoa(b.Process.PID()), errno)
	case besideFork:
		return b.fail(CauseNamespace, "make a process in the PID namespace of the children of process "+strconv.Itoa(b.Process.PID()), errno)
	case besideDir:
		return b.fail(CauseBadDir, "enter directory "+b.Dir, errno)
	case besideExec:
		return b.explainExec(tried)
	case besideFiles:
	}
	return b.fail(causeOf(errno), "set up its files", errno)
}

// explainExec chooses the most telling of the errors of execve. The files are in
// another mount namespace, so they are not looked at.
func (b *Beside) explainExec(tried []unix.Errno) error {
	missing := func(e unix.Errno) bool { return e == 0 || e == unix.ENOENT || e == unix.ENOTDIR }
	i := slices.IndexFunc(tried, func(e unix.Errno) bool { return !missing(e) })
	if i < 0 {
		return b.fail(CauseNotFound, "", unix.ENOENT)
	}
	e, path := tried[i], b.paths()[i]
	switch e {
	case unix.EACCES, unix.EPERM:
		return b.fail(CauseNotExecutable, b.user()+" may not execute "+path, e)
	case unix.ENOEXEC:
		return b.fail(CauseBadFormat, path+" is neither a program for this machine nor a script", e)
	case unix.E2BIG:
		return b.fail(CauseInvalid, "the arguments and the environment are too long", e)
	case unix.EAGAIN:
		return b.fail(CauseForkLimit, b.user()+" has too many processes", e)
	}
	return b.fail(CauseNotExecutable, "execute "+path, e)
}
