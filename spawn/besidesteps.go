//go:build amd64 || arm64

package spawn

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"unsafe"

	"github.com/pitvisor/pitvisor/internal/nofile"
	"github.com/pitvisor/pitvisor/internal/steps"
	"github.com/pitvisor/pitvisor/pidfd"
	"golang.org/x/sys/unix"
)

// arrival is all that a process does before it executes its program beside another.
type arrival struct {
	*birth
	*arrivalMemory
	exit   *steps.Step
	tried  []uintptr // what each execve came to
	limits []uintptr
}

// arrivalMemory is what its own steps work on.
type arrivalMemory struct {
	stage  uintptr
	second uintptr         // the process in the PID namespace is there
	args2  steps.CloneArgs // of it
	pid2   int32
}

// startBeside starts the process: with clone3 into the leaf, and where it is to be in
// another PID namespace, which only a child can be, by that child once more.
func (b *Beside) startBeside(files []uintptr, ns *namespaces) (*Process, error) {
	if err := ns.hold(b.Process.FD(), len(files)); err != nil {
		return nil, b.fail(causeOf(err), "hold on to the namespaces", err)
	}
	a, err := newArrival(b, files, ns)
	if err != nil {
		return nil, b.fail(causeOf(err), "make room for the steps of the start", err)
	}
	defer func() { _ = a.Free() }() // it was mapped a moment ago
	ticket := tracked.begin()
	var p *Process
	defer func() { tracked.end(ticket, p) }()
	a.args.Flags = unix.CLONE_VM | unix.CLONE_VFORK | unix.CLONE_CLEAR_SIGHAND | unix.CLONE_PIDFD | unix.CLONE_INTO_CGROUP
	a.args.PidFD = uint64(steps.Address(&a.fd))
	a.args.ExitSignal = uint64(unix.SIGCHLD)
	a.args.Cgroup = uint64(b.Leaf.FD())
	forking.begin()
	pid, err := a.Clone3(a.first, &a.args)
	forking.end()
	if err != nil {
		if (err == unix.EPERM || err == unix.ENOSYS) && Clone3Refused() {
			return nil, b.fail(CauseNamespace, "a sandbox (seccomp) refuses clone3, without which this cannot be done", err)
		}
		return nil, b.diagnose(err)
	}
	first := &Process{handle: pidfd.FromFD(int(a.fd), pid), executed: a.executing != 0}
	if ns.children < 0 && a.failed == 0 {
		p = first
		return p, nil
	}
	exit, err := first.Wait(context.Background()) // it is about to end by itself
	if err = errors.Join(err, first.Close()); err != nil {
		return nil, b.fail(CauseUnknown, "wait for the process on the way", err)
	}
	p, err = b.taken(a, exit)
	return p, err
}

// taken takes over what was started by a process on the way, or says what went wrong.
func (b *Beside) taken(a *arrival, exit Exit) (*Process, error) {
	var p *Process
	if a.pid2 != 0 {
		// It is our child, and nobody has reaped it: the number is its own.
		fd, err := unix.PidfdOpen(int(a.pid2), 0)
		if err != nil {
			return nil, b.fail(causeOf(err), "hold process "+strconv.Itoa(int(a.pid2)), err)
		}
		p = &Process{handle: pidfd.FromFD(fd, int(a.pid2)), executed: a.executing != 0}
	}
	if p != nil && (a.failed != 0 || exit.Signal != 0) {
		// It has ended, or it was left alone on our memory, which must not be freed
		// under it.
		err := errors.Join(p.Signal(unix.SIGKILL), bury(p))
		if a.failed == 0 {
			return nil, b.fail(CauseKilledBeforeExec, "killed on the way into its PID namespace", err)
		}
	}
	switch {
	case a.failed != 0:
		tried := make([]unix.Errno, len(a.tried))
		for i, r := range a.tried {
			tried[i] = unix.Errno(-int(r))
		}
		return nil, b.explainBeside(stageBeside(a.stage), unix.Errno(-a.failed), tried)
	case p == nil:
		return nil, b.fail(CauseKilledBeforeExec, "killed on the way into its PID namespace", unix.ESRCH)
	}
	return p, nil
}

// newArrival makes the list of steps.
func newArrival(b *Beside, files []uintptr, ns *namespaces) (*arrival, error) {
	const fixed = 50
	paths := b.paths()
	vars := b.environ()
	words := len(b.args()) + 1 + len(vars) + 1 + len(paths) + 2*len(b.Rlimits) + 8
	size := int(unsafe.Sizeof(birthMemory{})) + int(unsafe.Sizeof(arrivalMemory{})) + len(b.Dir) + 128
	for _, list := range [][]string{b.args(), vars, paths} {
		for _, s := range list {
			size += len(s) + 1
		}
	}
	if b.Credential != nil {
		words += len(b.Credential.Groups) + 1
	}
	table, err := steps.New(fixed+2*len(files)+2*len(paths)+len(b.Rlimits), size+words*int(unsafe.Sizeof(uintptr(0))))
	if err != nil {
		return nil, err
	}
	a := &arrival{birth: &birth{Table: table, birthMemory: steps.Room[birthMemory](table)}, arrivalMemory: steps.Room[arrivalMemory](table)}
	argv, env := a.Words(len(b.args())+1), a.Words(len(vars)+1) // before any string
	a.tried, a.limits = a.Words(len(paths)), a.Words(2*len(b.Rlimits))
	a.failing = a.Add(steps.Keep, steps.Address(&a.failed))
	a.exit = a.Add(unix.SYS_EXIT_GROUP, 127)
	a.exit.Then, a.exit.Fail = steps.Address(a.exit), steps.Address(a.exit)
	a.first = a.Add(steps.Set, steps.Address(&a.executing), 0)
	a.settle(b, files, ns)
	a.enter(b, ns)
	a.runs(paths, argv, env, b)
	return a, nil
}

// at notes how far the process came.
func (a *arrival) at(stage stageBeside) {
	a.Add(steps.Set, steps.Address(&a.stage), uintptr(stage))
}

// settle does what must be done in our namespaces: there are our rights, and our /proc.
// Groups that were dropped need no right in a namespace that may forbid it.
func (a *arrival) settle(b *Beside, files []uintptr, ns *namespaces) {
	groups := a.groups(b) // before any string
	a.at(besideFiles)
	switch b.Session {
	case SessionNew:
		a.must(unix.SYS_SETSID)
	case SessionGroup:
		a.must(unix.SYS_SETPGID, 0, 0)
	case SessionKeep:
	}
	a.setFiles(files, uintptr(max(0, ns.process)), uintptr(max(0, ns.children)))
	if b.Terminal {
		a.at(besideTerminal)
		a.must(unix.SYS_IOCTL, 0, unix.TIOCSCTTY, 0)
	}
	a.at(besideSettings)
	if b.Umask != nil {
		a.must(unix.SYS_UMASK, uintptr(*b.Umask))
	}
	if b.Nice != nil {
		a.must(unix.SYS_SETPRIORITY, unix.PRIO_PROCESS, 0, uintptr(*b.Nice))
	}
	if b.OOMScoreAdj != nil {
		a.setOOMScore(*b.OOMScoreAdj)
	}
	a.setRlimits(b)
	if b.Credential == nil {
		return
	}
	a.at(besideUser)
	a.must(unix.SYS_SETGROUPS, uintptr(len(b.Credential.Groups)), groups)
	a.must(unix.SYS_SETRESGID, uintptr(b.Credential.GID), uintptr(b.Credential.GID), uintptr(b.Credential.GID))
	if ns.flags == 0 && ns.children < 0 {
		a.become(b.Credential.UID)
	}
}

func (a *arrival) become(uid uint32) {
	a.must(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid))
}

func (a *arrival) groups(b *Beside) uintptr {
	if b.Credential == nil {
		return 0
	}
	words := a.Words(len(b.Credential.Groups) + 1)
	copy(unsafe.Slice((*uint32)(unsafe.Pointer(&words[0])), len(b.Credential.Groups)), b.Credential.Groups)
	return steps.Address(&words[0])
}

// setOOMScore writes to a file whose descriptor is known only when it is open: it is
// kept in the step that writes. The kernel sets it for this process alone, though we
// share memory, as it does for every vfork.
func (a *arrival) setOOMScore(n int) {
	a.must(unix.SYS_OPENAT, wordOf(unix.AT_FDCWD), a.Text("/proc/self/oom_score_adj"), unix.O_WRONLY|unix.O_CLOEXEC, 0)
	keep := a.Add(steps.Keep)
	text := strconv.Itoa(n)
	at := a.Text(text)
	write := a.Add(unix.SYS_WRITE, 0, at, uintptr(len(text)))
	write.Fail = steps.Address(a.failing)
	keep.Args[0] = steps.Address(&write.Args[0])
}

// wordOf is a number that may be below 0 as the kernel gets it.
func wordOf(n int) uintptr { return uintptr(n) }

func (a *arrival) setRlimits(b *Beside) {
	for i, l := range b.Rlimits {
		a.limits[2*i], a.limits[2*i+1] = uintptr(l.Soft), uintptr(l.Hard)
		a.must(unix.SYS_PRLIMIT64, 0, uintptr(l.Resource), steps.Address(&a.limits[2*i]), 0)
	}
}

// enter goes into the namespaces, and becomes the user there.
func (a *arrival) enter(b *Beside, ns *namespaces) {
	if ns.flags == 0 && ns.children < 0 {
		return
	}
	a.at(besideEnter)
	if ns.children >= 0 && ns.flags&unix.CLONE_NEWUSER == 0 {
		a.must(unix.SYS_SETNS, uintptr(ns.children), unix.CLONE_NEWPID)
	}
	if ns.flags != 0 {
		a.must(unix.SYS_SETNS, uintptr(ns.process), uintptr(ns.flags))
	}
	if ns.children >= 0 && ns.flags&unix.CLONE_NEWUSER != 0 { // the right to it is in there
		a.must(unix.SYS_SETNS, uintptr(ns.children), unix.CLONE_NEWPID)
	}
	if ns.children >= 0 {
		a.fork()
	}
	a.at(besideUser)
	switch {
	case ns.user != nil:
		a.must(unix.SYS_SETRESGID, uintptr(ns.user.GID), uintptr(ns.user.GID), uintptr(ns.user.GID))
		a.become(ns.user.UID)
	case b.Credential != nil:
		a.become(b.Credential.UID)
	}
}

// fork makes the process go on as a child in the PID namespace, which is a child of
// this program as well. The one before goes on when that one has executed its program,
// sees that, and ends.
func (a *arrival) fork() {
	a.at(besideFork)
	a.args2 = steps.CloneArgs{
		Flags:     unix.CLONE_VM | unix.CLONE_VFORK | unix.CLONE_PARENT | unix.CLONE_PARENT_SETTID,
		ParentTID: uint64(steps.Address(&a.pid2)),
	}
	a.must(unix.SYS_CLONE3, steps.Address(&a.args2), unix.CLONE_ARGS_SIZE_VER2)
	a.Add(steps.Same, steps.Address(&a.second), 0).Fail = steps.Address(a.exit)
	a.Add(steps.Set, steps.Address(&a.second), 1)
}

// runs executes the first of the paths that can be.
func (a *arrival) runs(paths []string, argv, env []uintptr, b *Beside) {
	if b.NoNewPrivs {
		a.at(besideSettings)
		a.must(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	}
	if b.Dir != "" {
		a.at(besideDir)
		a.must(unix.SYS_CHDIR, a.Text(b.Dir))
	}
	a.at(besideExec)
	if limit, raised := nofile.Original(); raised && !slices.ContainsFunc(b.Rlimits, func(l Rlimit) bool { return l.Resource == unix.RLIMIT_NOFILE }) {
		a.limit = limit
		a.Add(unix.SYS_PRLIMIT64, 0, unix.RLIMIT_NOFILE, steps.Address(&a.limit), 0)
	}
	args, vars := a.texts(argv, b.args()), a.variables(env, &b.Cmd)
	a.must(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, a.OldMask(), 0, 8)
	a.Add(steps.Set, steps.Address(&a.executing), 1)
	for i, path := range paths {
		a.Add(unix.SYS_EXECVE, a.Text(path), args, vars)
		a.Add(steps.Keep, steps.Address(&a.tried[i]))
	}
	a.Steps()[len(a.Steps())-1].Then = steps.Address(a.failing)
}
