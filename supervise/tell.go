package supervise

import (
	"errors"
	"time"
)

var (
	errStopped      = errors.New("a stop was asked for")
	errRestart      = errors.New("a restart was asked for")
	errStartTimeout = errors.New("not ready within the start timeout")
)

func (t *turn) reportStopped() {
	a := action{kind: EventStopped, why: t.stopWhy, escalated: t.escalated, elapsed: t.in.at - t.stopAt}
	if t.in.kind == inRemoved {
		a.exit, a.leftover, a.err = t.in.exit, t.in.leftover, t.in.why
	}
	t.report(a)
}

// tellEnd tells, once per start, an end that we did not ask for.
func (t *turn) tellEnd() {
	if t.toldEnd {
		return
	}
	t.toldEnd = true
	cause := t.strike.cause(t.in.exit, t.goneAt)
	if !t.told {
		if t.in.failure != nil && t.in.failure.Err == nil {
			t.in.failure.Err = cause
		}
		t.tellFailure(t.in.failure)
		return
	}
	if t.wasReady && !t.byUs && !t.completes() && !t.leftClean() {
		a := action{kind: EventExited, exit: t.in.exit, leftover: t.in.leftover, elapsed: t.goneAt - t.upAt, err: t.in.why}
		if t.strike.hit(t.in.exit) {
			a.why, a.err = ReasonCommand, cause
		} else if a.err == nil {
			a.err = cause
		}
		t.report(a)
	}
}

func (t *turn) tellCanceled(err error) {
	t.tellFailure(&StartFailure{Phase: t.phase(), Cause: CauseCanceled, Err: err})
}

// tellFailure tells, once per start, that it failed.
func (t *turn) tellFailure(f *StartFailure) {
	if t.told {
		return
	}
	t.told = true
	if f == nil {
		f = &StartFailure{Phase: t.phase(), Cause: CauseUnknown}
	}
	f.Elapsed = t.elapsed()
	t.report(action{
		kind: EventStartFailed, failure: f, exit: f.Exit,
		leftover: t.in.leftover, elapsed: f.Elapsed,
	})
}

// elapsed is the time from the begin of the start to its end, or to now.
func (t *turn) elapsed() time.Duration {
	if t.goneAt != 0 {
		return t.goneAt - t.began
	}
	return t.in.at - t.began
}

func (t *turn) phase() Phase {
	if t.state == StateStarting {
		return PhaseExec
	}
	return PhaseReadiness
}

// report tells an event. From and To are what the observer saw last and sees
// now, so that its events form a chain.
func (t *turn) report(a action) {
	a.do = doReport
	a.start = t.start
	a.from, a.to, a.ready = t.shown, t.state, t.ready
	t.shown = t.state
	t.out = append(t.out, a)
}
