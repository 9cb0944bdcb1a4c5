package supervise

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/spawn"
)

const (
	// removeTime bounds the first try to remove a leaf, and againTime the later
	// ones, so that leaves which cannot be removed hold the removers up only a
	// little; the engine comes back to them.
	removeTime = 50 * time.Millisecond
	againTime  = 10 * time.Millisecond
	// reapTime bounds the wait for a main process that was killed a moment ago.
	reapTime = time.Second
)

var (
	errUnknown     = errors.New("the last process of the leaf ended; how is not known")
	errUnknownMain = errors.New("the process that the worker had named as its main one ended; how is not known")
)

// removal is the end of one start, in a remover. Its proc is nil once reaped.
type removal struct {
	order
	leaf     string
	exit     *spawn.Exit // nil until reaped
	blame    blame
	leftover int
}

// removeLeaf reaps the main process, finds out what else there is to know about
// its end, and removes the leaf with whatever is in it.
func removeLeaf(o order) message {
	r := removal{order: o, leaf: leafName(o.n, o.start)}
	x := o.extra
	if x != nil {
		r.exit = x.exit
	}
	r.reap()
	r.look()
	err := r.remove()
	if err == nil {
		err = r.reapEscaped()
	}
	if err == nil {
		err = r.endNamed()
	}
	in := r.describe()
	if err == nil {
		x.close()
		return message{i: o.i, in: in}
	}
	in.kind, in.err = inBlocked, err
	if x == nil {
		x = &extra{}
	}
	x.exit = r.exit
	return message{i: o.i, in: in, proc: r.proc, extra: x, leafID: o.leafID}
}

// reap takes the exit of the main process, if it has ended.
func (r *removal) reap() {
	if r.proc == nil {
		return
	}
	exit, err := r.proc.Reap()
	if errors.Is(err, spawn.ErrRunning) {
		return
	}
	r.note(err, exit)
	_ = r.proc.Close() // a pidfd; nothing to lose
	r.proc = nil
}

// note keeps the exit of the process that was started, unless the worker has named
// another one.
func (r *removal) note(err error, exit spawn.Exit) {
	if err == nil && r.exit == nil && r.extra.mainProcess() == nil {
		r.exit = &exit
	}
}

// look reads what the leaf has counted, before it goes.
func (r *removal) look() {
	if r.byUs || !r.pool.evidence.Load() || r.exit != nil && r.exit.Success() {
		return
	}
	leaf, err := r.pool.dir.OpenChild(r.leaf)
	if err != nil {
		return // then nothing is known
	}
	r.blame = r.pool.blame(leaf, r.hits)
	_ = leaf.Close() // a directory descriptor; nothing to lose
}

// remove removes the leaf. Most are empty by now, which costs one system call.
func (r *removal) remove() error {
	// No id: the name is never used twice, so no other leaf can have it.
	err := r.pool.dir.RemoveChild(r.leaf, 0)
	if errors.Is(err, cgroup.ErrPopulated) {
		r.count()
		wait := removeTime
		if r.again {
			wait = againTime
		}
		ctx, cancel := context.WithTimeout(context.Background(), wait)
		defer cancel()
		err = r.pool.destroyLeaf(ctx, r.leaf, r.leafID)
	}
	if errors.Is(err, cgroup.ErrGone) {
		return nil
	}
	return err
}

// count counts what the main process has left behind.
func (r *removal) count() {
	if r.killed {
		return // what is there was killed together with it
	}
	leaf, err := r.pool.dir.OpenChild(r.leaf)
	if err != nil {
		return
	}
	defer leaf.Close()
	pids, err := leaf.Residents()
	if err != nil {
		return
	}
	for _, pid := range pids {
		if r.proc == nil || pid != r.proc.PID() {
			r.leftover++
		}
	}
}

// reapEscaped ends a main process that lives though its leaf is gone: it has
// moved itself to another cgroup.
func (r *removal) reapEscaped() error {
	r.reap()
	if r.proc == nil {
		return nil
	}
	_ = r.proc.Signal(unix.SIGKILL) // it may have ended meanwhile
	ctx, cancel := context.WithTimeout(context.Background(), reapTime)
	defer cancel()
	exit, err := r.proc.Wait(ctx)
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("process %d outlives its leaf %s: %w", r.proc.PID(), r.leaf, err)
	}
	r.note(err, exit)
	_ = r.proc.Close() // a pidfd; nothing to lose
	r.proc = nil
	return nil
}

// endNamed ends a process that the worker has named as its main one and that has left
// the leaf, and finds out how it ended: it is no child of ours, so from Linux 6.15 on.
func (r *removal) endNamed() error {
	named := r.extra.mainProcess()
	if named == nil {
		return nil
	}
	_ = named.Signal(unix.SIGKILL) // most have ended
	ctx, cancel := context.WithTimeout(context.Background(), reapTime)
	defer cancel()
	if err := named.Wait(ctx); err != nil {
		return fmt.Errorf("process %d outlives its leaf %s: %w", named.PID(), r.leaf, err)
	}
	if r.extra.exit == nil && named.WaitReaped(ctx) == nil {
		if status, err := named.ExitStatus(); err == nil {
			r.exit = exitOf(status)
		}
	}
	return nil
}

func exitOf(status unix.WaitStatus) *spawn.Exit {
	exit := &spawn.Exit{Code: status.ExitStatus(), Core: status.CoreDump(), At: time.Now()}
	if status.Signaled() { // and Code is -1
		exit.Signal = status.Signal()
	}
	return exit
}

// describe says how the start ended.
func (r *removal) describe() input {
	in := input{kind: inRemoved, start: r.start, exit: r.exit, leftover: r.leftover}
	x := r.extra
	if x != nil && x.early && !r.byUs {
		in.exit = nil
	}
	in.ok = in.exit != nil && in.exit.Success()
	phase, cause, why := r.cause(in.exit)
	in.why = why
	if !r.told {
		in.failure = &StartFailure{Phase: phase, Cause: cause, Exit: in.exit, Stderr: x.lastLines(), Err: why}
	}
	return in
}

// cause says why a start ended, in case it had not become ready.
func (r *removal) cause(exit *spawn.Exit) (Phase, FailureCause, error) {
	switch {
	case exit == nil && r.extra.mainProcess() != nil:
		return PhaseReadiness, CauseExited, errUnknownMain
	case exit == nil:
		return PhaseReadiness, CauseExited, errUnknown
	case exit.BeforeExec:
		return PhaseExec, CauseExec, errKilledBeforeExec
	case !exit.Success() && r.blame.oom.Kills > 0: // or of a child of it, which it did not survive
		return PhaseReadiness, CauseOOM, r.blame.memoryError()
	case !exit.Success() && r.blame.pids.Refused > 0:
		return PhaseReadiness, CauseLimit, r.blame.pidsError()
	case exit.Signal != 0:
		return PhaseReadiness, CauseSignaled, nil
	}
	return PhaseReadiness, CauseExited, nil
}
