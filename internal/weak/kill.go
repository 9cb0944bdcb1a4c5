package weak

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"time"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/internal/procfs"
	"github.com/pitvisor/pitvisor/pidfd"
	"github.com/pitvisor/pitvisor/spawn"
	"golang.org/x/sys/unix"
)

// BlockedError says what is left of a tree that could not be ended.
type BlockedError struct {
	Blockers []cgroup.Blocker // at most 16
	Total    int              // how many processes are left
	Err      error            // why they are: EPERM for another user's, else the cause of the context
}

// Error names the first processes that are left.
func (e *BlockedError) Error() string {
	if e.Total == 0 {
		return fmt.Sprintf("end the descendants: some are left, and not to be seen: %v", e.Err)
	}
	names := make([]string, 0, 4)
	for _, b := range e.Blockers[:min(len(e.Blockers), 3)] {
		names = append(names, b.String())
	}
	if e.Total > len(names) {
		names = append(names, "...")
	}
	noun := "processes"
	if e.Total == 1 {
		noun = "process"
	}
	return fmt.Sprintf("end the descendants: %d %s left (%s): %v", e.Total, noun, strings.Join(names, ", "), e.Err)
}

// Unwrap returns why they are left.
func (e *BlockedError) Unwrap() error { return e.Err }

// Hint says what would end them.
func (e *BlockedError) Hint() string {
	if errors.Is(e.Err, unix.EPERM) {
		return "what has become another user can be ended by root only; in a cgroup of its own it would have been"
	}
	return ""
}

// maxBlockers bounds what a BlockedError lists.
const maxBlockers = 16

const (
	// refusedTime is how long Kill goes on when nothing but processes of others is
	// left: some end by themselves when what they waited for has ended.
	refusedTime = 500 * time.Millisecond
	// mostStrikes keeps Kill from never looking at the time.
	mostStrikes = 1000
	// lookAgain is how often Kill looks when no child's death wakes it.
	lookAgain = 20 * time.Millisecond
)

// Kill ends the command and all its descendants with SIGKILL, and returns nil when
// this process has no child left, reaped ones included: the kernel's word that it
// has no descendant either. The exit of the command can be had from its
// [spawn.Process.Reap] afterwards.
//
// When the context ends before that, or nothing is left but what may not be killed,
// the error is a *[BlockedError].
func (t *Tree) Kill(ctx context.Context) error {
	died, stop := deaths()
	defer stop()
	k := killer{tree: t, striker: newStriker()}
	defer hurry()()
	for {
		left, err := k.round()
		if err != nil || !left {
			return err
		}
		switch {
		case ctx.Err() != nil:
			return t.blocked(context.Cause(ctx))
		case k.onlyRefused():
			return t.blocked(unix.EPERM)
		}
		wait(ctx, died)
	}
}

// WaitEmpty returns nil when this process has no child left, as Kill does, but sends
// nothing. It ends early with the cause of ctx.
func (t *Tree) WaitEmpty(ctx context.Context) error {
	died, stop := deaths()
	defer stop()
	for {
		left, err := t.anyLeft()
		if err != nil || !left {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		wait(ctx, died)
	}
}

// hurry lets the calling thread go before what it is to kill, where that is allowed,
// and returns what ends that.
func hurry() (end func()) {
	runtime.LockOSThread()
	// For the thread that calls, as 0 is one for Linux. The system call gives 20-nice.
	before, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	if err == nil {
		err = unix.Setpriority(unix.PRIO_PROCESS, 0, -20)
	}
	return func() {
		if err == nil {
			_ = unix.Setpriority(unix.PRIO_PROCESS, 0, 20-before) // back to where it was is allowed
		}
		runtime.UnlockOSThread()
	}
}

// deaths returns a channel that gets something after a child has died.
func deaths() (died chan os.Signal, stop func()) {
	died = make(chan os.Signal, 1)
	signal.Notify(died, unix.SIGCHLD)
	return died, func() { signal.Stop(died) }
}

func wait(ctx context.Context, died <-chan os.Signal) {
	timer := time.NewTimer(lookAgain)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-died:
	case <-timer.C:
	}
}

// anyLeft says whether there is any child, dead or alive. The reaper does not touch
// the command, so that is reaped here.
func (t *Tree) anyLeft() (bool, error) {
	if _, err := t.proc.Reap(); err != nil && !errors.Is(err, spawn.ErrRunning) {
		return true, err
	}
	return spawn.ChildLeft()
}

// killer is what Kill knows from one round to the next.
type killer struct {
	tree    *Tree
	striker *striker
	killed  int       // in the last round
	denied  int       // not killed in the last round for want of the right
	refused time.Time // since when there was nothing but those; zero is not so
}

// round kills what it finds, and says whether anything is left.
func (k *killer) round() (bool, error) {
	k.killed, k.denied = 0, 0
	k.strike()
	// A process that cannot be looked at now, say for want of descriptors, is found
	// again: what counts is what the kernel says of our children.
	_ = k.tree.kin.each(k.kill)
	left, err := k.tree.anyLeft()
	switch {
	case k.killed > 0 || k.denied == 0:
		k.refused = time.Time{}
	case k.refused.IsZero():
		k.refused = time.Now()
	}
	return left, err
}

// strike kills the command, its group and what is below it, then the orphans that
// came to us, for as long as there are new ones.
func (k *killer) strike() {
	command := k.tree.proc.Handle()
	_ = command.SignalGroup(unix.SIGKILL) // also when the command itself has ended
	if command.Signal(unix.SIGKILL) == nil {
		k.striker.below(command.PID(), command.FD())
	}
	for range mostStrikes {
		if k.striker.below(os.Getpid(), -1) == 0 {
			return
		}
	}
}

func (k *killer) kill(p *pidfd.Process) {
	err := p.Signal(unix.SIGKILL)
	switch {
	case err == nil:
		k.killed++
	case errors.Is(err, unix.EPERM):
		k.denied++
	}
}

// onlyRefused says that there has been nothing to kill for a while.
func (k *killer) onlyRefused() bool {
	return !k.refused.IsZero() && time.Since(k.refused) >= refusedTime
}

// blocked describes what is left, for people.
func (t *Tree) blocked(cause error) error {
	e := &BlockedError{Err: cause}
	err := t.kin.each(func(p *pidfd.Process) {
		e.Total++
		if len(e.Blockers) < maxBlockers {
			e.Blockers = append(e.Blockers, describe(p))
		}
	})
	if left, leftErr := t.anyLeft(); leftErr == nil && !left {
		return nil // just now
	}
	e.Err = errors.Join(e.Err, err)
	return e
}

// describe names a process.
func describe(p *pidfd.Process) cgroup.Blocker {
	b := cgroup.Blocker{PID: p.PID(), Comm: "?", State: "?"}
	proc, err := procfs.OpenHeld(p)
	if err != nil {
		return b
	}
	defer proc.Close()
	if stat, err := proc.Stat(); err == nil {
		b.Comm, b.State = stat.Comm, string(stat.State)
	}
	if wchan, err := proc.Read("wchan", 128); err == nil {
		b.Wchan = strings.TrimPrefix(strings.TrimSpace(string(wchan)), "0")
	}
	return b
}
