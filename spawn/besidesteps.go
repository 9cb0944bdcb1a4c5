//go:build amd64 || arm64

package spawn

import (
	"context"
	"errors"
	"strconv"
	"unsafe"

	"github.com/pitvisor/pitvisor/internal/steps"
	"github.com/pitvisor/pitvisor/pidfd"
	"golang.org/x/sys/unix"
)

// arrival is all that a process does before it executes its program beside another.
type arrival struct {
	*birth
	*arrivalMemory
	tried []uintptr // what each execve came to
}

// arrivalMemory is what its own steps work on.
type arrivalMemory struct {
	second uintptr         // the process in the PID namespace is there
	args2  steps.CloneArgs // of it
	pid2   int32
}

// startBeside starts the process: with clone3 into the leaf, and where it is to be in
// another PID namespace, which only a child can be, by that child once more. Another time
// namespace lets nobody in who shares memory: the process has a copy then, which takes 20 ms
// and not one where 200 MB are in use.
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
	a.args.Flags = unix.CLONE_VFORK | unix.CLONE_CLEAR_SIGHAND | unix.CLONE_PIDFD | unix.CLONE_INTO_CGROUP
	if ns.time < 0 {
		a.args.Flags |= unix.CLONE_VM
	}
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
	size := int(unsafe.Sizeof(arrivalMemory{})) + len(paths)*int(unsafe.Sizeof(uintptr(0)))
	for _, s := range paths {
		size += len(s) + 1
	}
	newTable := steps.New
	if ns.time >= 0 {
		newTable = steps.NewShared // nobody may enter who shares all memory
	}
	made, err := makeBirth(&b.Cmd, newTable, fixed+2*len(files)+2*len(paths), size)
	if err != nil {
		return nil, err
	}
	a := &arrival{birth: made, arrivalMemory: steps.Room[arrivalMemory](made.Table)}
	a.tried = a.Words(len(paths))
	a.settle(b, files, ns)
	a.enter(b, ns)
	a.runs(paths, b)
	return a, nil
}

// at notes how far the process came.
func (a *arrival) at(stage stageBeside) {
	a.note(uintptr(stage))
}

// settle does what must be done in our namespaces: there are our rights, and our /proc.
// Groups that were dropped need no right in a namespace that may forbid it.
func (a *arrival) settle(b *Beside, files []uintptr, ns *namespaces) {
	a.at(besideFiles)
	a.setSession(&b.Cmd)
	a.setFiles(files, uintptr(max(0, ns.process)), uintptr(max(0, ns.children)), uintptr(max(0, ns.time)))
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
	a.setRlimits(&b.Cmd)
	if b.Credential == nil {
		return
	}
	a.at(besideUser)
	a.setGroups(&b.Cmd)
	a.setGID(b.Credential.GID)
	if ns.none() {
		a.setUID(b.Credential.UID)
	}
}

// enter goes into the namespaces, and becomes the user there.
func (a *arrival) enter(b *Beside, ns *namespaces) {
	if ns.none() {
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
	if ns.time >= 0 {
		a.must(unix.SYS_SETNS, uintptr(ns.time), unix.CLONE_NEWTIME)
	}
	if ns.children >= 0 {
		a.fork()
	}
	a.at(besideUser)
	switch {
	case ns.user != nil:
		a.setGID(ns.user.GID)
		a.setUID(ns.user.UID)
	case b.Credential != nil:
		a.setUID(b.Credential.UID)
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
func (a *arrival) runs(paths []string, b *Beside) {
	if b.NoNewPrivs {
		a.at(besideSettings)
		a.must(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	}
	if b.Dir != "" {
		a.at(besideDir)
		a.must(unix.SYS_CHDIR, a.Text(b.Dir))
	}
	a.at(besideExec)
	args, vars := a.texts(a.argv, b.args()), a.variables(a.env, &b.Cmd)
	a.restore(&b.Cmd)
	a.Add(steps.Set, steps.Address(&a.executing), 1)
	for i, path := range paths {
		a.Add(unix.SYS_EXECVE, a.Text(path), args, vars)
		a.Add(steps.Keep, steps.Address(&a.tried[i]))
	}
	a.Steps()[len(a.Steps())-1].Then = steps.Address(a.failing)
}
