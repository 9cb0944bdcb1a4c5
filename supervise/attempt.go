package supervise

import (
	"context"
	"errors"
	"time"

	"github.com/pitvisor/pitvisor/pidfd"
	"github.com/pitvisor/pitvisor/spawn"
)

// attempt is one readiness attempt under way. It owns the Attempt and the open
// leaf of the extra.
type attempt struct {
	i     int32
	start uint64
	rev   *revision
	proc  *spawn.Process
	extra *extra
}

// exitWait is how long an attempt that failed waits for the end of its process:
// a process that goes down breaks its connections and pipes first, and its exit
// is the better answer.
const exitWait = 100 * time.Millisecond

// run waits until the rule holds, or cannot hold any more.
func (a *attempt) run(ctx context.Context) message {
	x := a.extra
	info, err := x.attempt.Wait(ctx, a.proc.Handle(), x.leaf)
	m := message{i: a.i, in: input{kind: inReady, start: a.start, port: info.Port}}
	switch {
	case err == nil && x.words != nil:
		m.unsure = true // another process may be its main one by now
	case err == nil && !a.gone():
	case ctx.Err() != nil && !errors.Is(context.Cause(ctx), errStartTimeout), a.gone(), err != nil && a.ends(ctx):
		// The end of the start, or of the process, is the engine's to see and to tell.
		m.in = input{}
	default:
		m.in.kind = inNotReady
		m.in.failure = &StartFailure{Phase: PhaseReadiness, Cause: causeOf(ctx, err), Stderr: x.lastLines(), Err: err}
	}
	_ = x.attempt.Close() // nothing depends on it
	x.closeLeaf()
	return m
}

// gone says whether the process has ended, and with it the start.
func (a *attempt) gone() bool {
	if a.rev.policy.leaf {
		return false // others may go on in the leaf
	}
	exited, err := a.process().Exited()
	return exited || err != nil
}

// ends waits a little for the process to end.
func (a *attempt) ends(ctx context.Context) bool {
	if a.rev.policy.leaf {
		return false
	}
	short, cancel := context.WithTimeout(ctx, exitWait)
	defer cancel()
	return a.process().Wait(short) == nil
}

// process is the main process: the one that was started, or that the worker has named.
func (a *attempt) process() *pidfd.Process {
	if named := a.extra.mainProcess(); named != nil {
		return named
	}
	return a.proc.Handle()
}

// causeOf says why an attempt failed.
func causeOf(ctx context.Context, err error) FailureCause {
	switch {
	case errors.Is(context.Cause(ctx), errStartTimeout):
		return CauseTimeout
	case errors.Is(err, ErrPortTaken):
		return CausePortTaken
	}
	return CauseProbe
}
