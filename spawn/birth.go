//go:build amd64 || arm64

package spawn

import (
	"slices"
	"strings"
	"sync"
	"syscall"
	"unsafe"

	"github.com/pitvisor/pitvisor/internal/nofile"
	"github.com/pitvisor/pitvisor/internal/steps"
	"github.com/pitvisor/pitvisor/pidfd"
	"golang.org/x/sys/unix"
)

// startNumbered is startDirect for a process that finds its own number in its
// environment, which syscall.StartProcess cannot put there. Where this clone3 is refused
// the helper does it.
func (c *Cmd) startNumbered(files []uintptr) (*Process, error) {
	ticket := tracked.begin()
	born, err := c.vfork(files, unix.CLONE_PIDFD, unix.SIGCHLD)
	if err != nil {
		tracked.end(ticket, nil)
		if refusesClone3(err) {
			return c.startHelper(files)
		}
		return nil, c.diagnose(err)
	}
	if born.failed != 0 {
		// It is ending by itself. This needs no descriptor, of which there may be none.
		for unix.Waitid(unix.P_PIDFD, born.fd, nil, unix.WEXITED, nil) == unix.EINTR {
		}
		_ = unix.Close(born.fd) // nothing to lose
		tracked.end(ticket, nil)
		return nil, c.diagnose(born.failed)
	}
	p := &Process{handle: pidfd.FromFD(born.fd, born.pid)}
	tracked.end(ticket, p)
	return p, nil
}

// born is a process that vfork has made. It has executed its program or ended.
type born struct {
	pid, fd   int
	executing bool       // it came as far as execve; killed in there, it counts as executed
	failed    unix.Errno // what it could not do; it has ended then
}

// vfork makes a process in the leaf that carries out the steps of a birth. The error is
// that of clone3.
func (c *Cmd) vfork(files []uintptr, flags uint64, exitSignal unix.Signal) (born, error) {
	b, err := newBirth(c, files)
	if err != nil {
		return born{}, err
	}
	defer func() { _ = b.Free() }() // it was mapped a moment ago
	// What this program handles must not be handled in the child: it would run on our
	// memory. What it ignores stays ignored.
	b.args.Flags = flags | unix.CLONE_VM | unix.CLONE_VFORK | unix.CLONE_CLEAR_SIGHAND
	b.args.PidFD = uint64(steps.Address(&b.fd))
	b.args.ExitSignal = uint64(exitSignal)
	if !c.Weak {
		b.args.Flags |= unix.CLONE_INTO_CGROUP
		b.args.Cgroup = uint64(c.Leaf.FD())
	}
	forking.begin()
	pid, err := b.Clone3(b.first, &b.args)
	forking.end()
	if err != nil {
		return born{}, err
	}
	return born{pid: pid, fd: int(b.fd), executing: b.executing != 0, failed: unix.Errno(-b.failed)}, nil
}

// forking is a package variable because ForkLock is one.
var forking forks

// forks holds syscall.ForkLock while a process is being made, as every start of a Go
// program does: no file without CLOEXEC is just being opened. The first of them takes it
// and the last gives it back, so that they need not wait for each other; package syscall
// does the same among its own.
type forks struct {
	mu sync.Mutex // guards what follows
	n  int        // processes that are being made
}

func (f *forks) begin() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.n == 0 {
		syscall.ForkLock.Lock()
	}
	f.n++
}

func (f *forks) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.n--
	if f.n == 0 {
		syscall.ForkLock.Unlock()
	}
}

// birth is all that a child does before it executes its program.
type birth struct {
	*steps.Table
	*birthMemory
	first, failing *steps.Step
}

// birthMemory is what the steps work on.
type birthMemory struct {
	args      steps.CloneArgs
	limit     nofile.Limit
	executing uintptr
	failed    int // an errno below 0
	fd        int32
}

// newBirth makes the list of steps, in the order of Go's own starts.
func newBirth(c *Cmd, files []uintptr) (*birth, error) {
	if c.checkStrings() != nil {
		return nil, unix.EINVAL // as the kernel would say, if it could see them
	}
	const fixed = 18 // steps, beside two for each file
	vars := c.environ()
	words := len(c.args()) + 1 + len(vars) + 1
	size := int(unsafe.Sizeof(birthMemory{})) + len(c.Path) + len(c.Dir) + 64
	for _, s := range slices.Concat(c.args(), vars) {
		size += len(s) + 1
	}
	if c.Credential != nil {
		words += len(c.Credential.Groups) + 1
	}
	table, err := steps.New(fixed+2*len(files), size+words*int(unsafe.Sizeof(uintptr(0))))
	if err != nil {
		return nil, err
	}
	b := &birth{Table: table, birthMemory: steps.Room[birthMemory](table)}
	b.failing = b.Add(steps.Keep, steps.Address(&b.failed))
	exit := b.Add(unix.SYS_EXIT_GROUP, 127)
	exit.Then, exit.Fail = steps.Address(exit), steps.Address(exit)
	b.first = b.Add(steps.Set, steps.Address(&b.executing), 0)
	b.become(c)
	argv, env := b.Words(len(c.args())+1), b.Words(len(vars)+1) // before any string
	if c.Dir != "" {
		b.must(unix.SYS_CHDIR, b.Text(c.Dir))
	}
	b.setFiles(files)
	b.execute(b.Text(c.Path), b.texts(argv, c.args()), b.variables(env, c))
	return b, nil
}

// must adds a step whose failure is that of the start.
func (b *birth) must(call int, args ...uintptr) {
	b.Add(call, args...).Fail = steps.Address(b.failing)
}

// become sets the session and the user.
func (b *birth) become(c *Cmd) {
	switch c.Session {
	case SessionNew:
		b.must(unix.SYS_SETSID)
	case SessionGroup:
		b.must(unix.SYS_SETPGID, 0, 0)
	case SessionKeep:
	}
	if c.Credential == nil {
		return
	}
	words := b.Words(len(c.Credential.Groups) + 1)
	groups := unsafe.Slice((*uint32)(unsafe.Pointer(&words[0])), len(c.Credential.Groups))
	copy(groups, c.Credential.Groups)
	b.must(unix.SYS_SETGROUPS, uintptr(len(groups)), steps.Address(&words[0]))
	b.must(unix.SYS_SETGID, uintptr(c.Credential.GID))
	b.must(unix.SYS_SETUID, uintptr(c.Credential.UID))
}

// setFiles makes the files the descriptors 0, 1, 2 and so on. Others that are needed
// afterwards are kept.
func (b *birth) setFiles(files []uintptr, keep ...uintptr) {
	files = slices.Clone(files)
	free := uintptr(len(files))
	for _, fd := range slices.Concat(files, keep) {
		if fd != noFile {
			free = max(free, fd+1)
		}
	}
	// What would be overwritten before its turn goes to where nobody wants it.
	for i, fd := range files {
		if fd < uintptr(i) {
			b.must(unix.SYS_DUP3, fd, free, unix.O_CLOEXEC)
			files[i] = free
			free++
		}
	}
	for i, fd := range files {
		switch fd {
		case noFile:
			b.Add(unix.SYS_CLOSE, uintptr(i)) // it may be closed already
		case uintptr(i):
			b.must(unix.SYS_FCNTL, fd, unix.F_SETFD, 0)
		default:
			b.must(unix.SYS_DUP3, fd, uintptr(i), 0)
		}
	}
}

// execute gives back what belongs to this program only, and executes the other.
func (b *birth) execute(path, argv, env uintptr) {
	if limit, raised := nofile.Original(); raised {
		b.limit = limit
		b.Add(unix.SYS_PRLIMIT64, 0, unix.RLIMIT_NOFILE, steps.Address(&b.limit), 0)
	}
	b.must(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, b.OldMask(), 0, 8)
	b.must(steps.Set, steps.Address(&b.executing), 1)
	b.must(unix.SYS_EXECVE, path, argv, env)
}

// texts fills a list of strings in, which ends with 0.
func (b *birth) texts(words []uintptr, list []string) uintptr {
	for i, s := range list {
		words[i] = b.Text(s)
	}
	return steps.Address(&words[0])
}

// environ is the environment with room, at its end, for what [Cmd.OwnPID] asks for.
func (c *Cmd) environ() []string {
	if c.OwnPID == "" {
		return c.Env
	}
	const digits = 10 // of the highest pid_t
	return append(without(c.Env, c.OwnPID), c.OwnPID+"="+strings.Repeat("\x00", digits))
}

// variables fills the environment in, with the process's own number as it is called in
// its PID namespace.
func (b *birth) variables(words []uintptr, c *Cmd) uintptr {
	list := c.environ()
	env := b.texts(words, list)
	if c.OwnPID != "" {
		b.must(unix.SYS_GETPID)
		b.Add(steps.Decimal, words[len(list)-1]+uintptr(len(c.OwnPID+"=")))
	}
	return env
}
