//go:build amd64 || arm64

package spawn

import (
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"unsafe"

	"github.com/pitvisor/pitvisor/internal/nofile"
	"github.com/pitvisor/pitvisor/internal/steps"
	"github.com/pitvisor/pitvisor/pidfd"
	"golang.org/x/sys/unix"
)

// startSteps is startDirect for what syscall.StartProcess cannot do: it puts the number
// of the process into its environment, and sets its limits and its OOM score. Where this
// clone3 is refused the helper does it.
func (c *Cmd) startSteps(files []uintptr) (*Process, error) {
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
		return c.afterFailure(born, files)
	}
	p := &Process{handle: pidfd.FromFD(born.fd, born.pid)}
	tracked.end(ticket, p)
	return p, nil
}

// afterFailure says why a process did not execute its program. The helper tries again
// what it alone may be able to do: in a program that was root, or whose file nobody may
// read, /proc/self belongs to root until it executes something.
func (c *Cmd) afterFailure(b born, files []uintptr) (*Process, error) {
	switch {
	case b.at.Stage == stageOOMScore && b.failed == unix.EACCES && helperReady.Load():
		return c.startHelper(files)
	case b.at.Stage == 0: // session or files
		return nil, c.diagnose(b.failed)
	}
	return nil, c.explain(b.at)
}

// born is a process that vfork has made. It has executed its program or ended.
type born struct {
	pid, fd   int
	executing bool       // it came as far as execve; killed in there, it counts as executed
	failed    unix.Errno // what it could not do; it has ended then
	at        record     // where that was
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
	failed := unix.Errno(-b.failed)
	return born{
		pid: pid, fd: int(b.fd), executing: b.executing != 0, failed: failed,
		at: record{Stage: stage(b.stage), Errno: uint32(failed), Index: uint32(b.index)},
	}, nil
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
	first, failing, exit *steps.Step
	argv, env            []uintptr
	limits               []uintptr // two for each
	groups               []uintptr // with one to spare, for what are uint32
}

// birthMemory is what the steps work on.
type birthMemory struct {
	args      steps.CloneArgs
	limit     nofile.Limit
	stage     uintptr // how far it came
	index     uintptr // of the limit
	executing uintptr
	failed    int // an errno below 0
	fd        int32
}

// newBirth makes the list of steps, in the order of the helper: the limits come when the
// files are there, and all that takes rights before the user.
func newBirth(c *Cmd, files []uintptr) (*birth, error) {
	if c.checkStrings() != nil {
		return nil, unix.EINVAL // as the kernel would say, if it could see them
	}
	const fixed = 32 // steps, beside two for each file, and two for each limit
	b, err := makeBirth(c, steps.New, fixed+2*len(files), 0)
	if err != nil {
		return nil, err
	}
	b.setSession(c)
	b.setFiles(files)
	if c.OOMScoreAdj != nil {
		b.at(stageOOMScore)
		b.setOOMScore(*c.OOMScoreAdj)
	}
	b.at(stageRlimit)
	b.setRlimits(c)
	if c.Credential != nil {
		b.at(stageCredential)
		b.setGroups(c)
		b.setGID(c.Credential.GID)
		b.setUID(c.Credential.UID)
	}
	if c.Dir != "" {
		b.at(stageDir)
		b.must(unix.SYS_CHDIR, b.Text(c.Dir))
	}
	b.at(stageExec)
	path, argv, env := b.Text(c.Path), b.texts(b.argv, c.args()), b.variables(b.env, c)
	b.restore(c)
	b.must(steps.Set, steps.Address(&b.executing), 1)
	b.must(unix.SYS_EXECVE, path, argv, env)
	return b, nil
}

// makeBirth makes the table for so many steps, beside those for the limits, and so much
// memory, beside what c takes. It begins with the steps for the case of a failure.
func makeBirth(c *Cmd, newTable func(count, room int) (*steps.Table, error), count, size int) (*birth, error) {
	const score = 64 // more than its strings take
	vars := c.environ()
	argv, env, limits, groups := len(c.args())+1, len(vars)+1, 2*len(c.Rlimits), 0
	if c.Credential != nil {
		groups = len(c.Credential.Groups) + 1
	}
	words := argv + env + max(limits, 1) + max(groups, 1)
	size += int(unsafe.Sizeof(birthMemory{})) + words*int(unsafe.Sizeof(uintptr(0))) + score
	for _, s := range slices.Concat(c.args(), vars, []string{c.Path, c.Dir}) {
		size += len(s) + 1
	}
	table, err := newTable(count+2*len(c.Rlimits), size)
	if err != nil {
		return nil, err
	}
	b := &birth{Table: table, birthMemory: steps.Room[birthMemory](table)}
	b.argv, b.env, b.limits, b.groups = b.Words(argv), b.Words(env), b.Words(limits), b.Words(groups)
	b.failing = b.Add(steps.Keep, steps.Address(&b.failed))
	b.exit = b.Add(unix.SYS_EXIT_GROUP, 127)
	b.exit.Then, b.exit.Fail = steps.Address(b.exit), steps.Address(b.exit)
	b.first = b.Add(steps.Set, steps.Address(&b.executing), 0)
	return b, nil
}

// at notes how far the process came.
func (b *birth) at(s stage) { b.note(uintptr(s)) }

func (b *birth) note(stage uintptr) { b.Add(steps.Set, steps.Address(&b.stage), stage) }

// must adds a step whose failure is that of the start.
func (b *birth) must(call int, args ...uintptr) {
	b.Add(call, args...).Fail = steps.Address(b.failing)
}

func (b *birth) setSession(c *Cmd) {
	switch c.Session {
	case SessionNew:
		b.must(unix.SYS_SETSID)
	case SessionGroup:
		b.must(unix.SYS_SETPGID, 0, 0)
	case SessionKeep:
	}
}

func (b *birth) setGroups(c *Cmd) {
	groups := unsafe.Slice((*uint32)(unsafe.Pointer(unsafe.SliceData(b.groups))), len(c.Credential.Groups))
	copy(groups, c.Credential.Groups)
	b.must(unix.SYS_SETGROUPS, uintptr(len(groups)), steps.Address(unsafe.SliceData(b.groups)))
}

func (b *birth) setGID(gid uint32) {
	b.must(unix.SYS_SETRESGID, uintptr(gid), uintptr(gid), uintptr(gid))
}

func (b *birth) setUID(uid uint32) {
	b.must(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid))
}

// setOOMScore writes to a file whose descriptor is known only when it is open: it is
// kept in the step that writes. The kernel sets it for this process alone, though we
// share memory, as it does for every vfork.
func (b *birth) setOOMScore(n int) {
	b.must(unix.SYS_OPENAT, wordOf(unix.AT_FDCWD), b.Text(oomScoreFile), unix.O_WRONLY|unix.O_CLOEXEC, 0)
	keep := b.Add(steps.Keep)
	text := strconv.Itoa(n)
	at := b.Text(text)
	write := b.Add(unix.SYS_WRITE, 0, at, uintptr(len(text)))
	write.Fail = steps.Address(b.failing)
	keep.Args[0] = steps.Address(&write.Args[0])
}

// wordOf is a number that may be below 0 as the kernel gets it.
func wordOf(n int) uintptr { return uintptr(n) }

// setRlimits sets all of them, and notes which one it is at.
func (b *birth) setRlimits(c *Cmd) {
	for i, l := range c.Rlimits {
		b.limits[2*i], b.limits[2*i+1] = uintptr(l.Soft), uintptr(l.Hard)
		b.Add(steps.Set, steps.Address(&b.index), uintptr(i))
		b.must(unix.SYS_PRLIMIT64, 0, uintptr(l.Resource), steps.Address(&b.limits[2*i]), 0)
	}
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

// restore gives back what belongs to this program only: a limit of open files that c does
// not set, and the blocked signals.
func (b *birth) restore(c *Cmd) {
	own := func(l Rlimit) bool { return l.Resource == unix.RLIMIT_NOFILE }
	if limit, raised := nofile.Original(); raised && !slices.ContainsFunc(c.Rlimits, own) {
		b.limit = limit
		b.Add(unix.SYS_PRLIMIT64, 0, unix.RLIMIT_NOFILE, steps.Address(&b.limit), 0)
	}
	b.must(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, b.OldMask(), 0, 8)
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
