package supervise

import "time"

// What comes from outside of a start: commands, timers, and the liveness rule.

// onStartCommand takes a start: the first one, or one that somebody asks for.
func (t *turn) onStartCommand() {
	switch t.state {
	case StateDown, StateBackoff, StateFailed, StateCompleted:
		t.why = t.in.asked
		t.afresh()
	case StateStarting, StateStopping, StateKilling:
		if t.wantStop {
			t.comeBack()
		}
	case StateUp:
		// What is up is not asked to stop.
	}
}

// onRestart takes a restart, which also starts what is down.
func (t *turn) onRestart() {
	switch t.state {
	case StateDown, StateBackoff, StateFailed, StateCompleted:
		t.why = t.in.asked
		t.afresh()
	case StateStarting:
		t.tellCanceled(errRestart)
		t.comeBack()
	case StateUp:
		t.tellCanceled(errRestart)
		t.comeBack()
		t.stopFor(t.in.asked)
	case StateStopping, StateKilling:
		t.comeBack()
	}
}

// comeBack notes that the next start follows at once.
func (t *turn) comeBack() {
	t.wantStop, t.again = false, true
	t.why = t.in.asked
	if t.stopWhy == 0 {
		t.stopWhy = t.in.asked
	}
}

// afresh begins a start with which the counting of failures begins, too.
func (t *turn) afresh() {
	t.failures = 0
	t.begin()
}

// onStop takes a stop, with grace or without.
func (t *turn) onStop() {
	t.wantStop, t.again = true, false
	if t.stopWhy == 0 {
		t.stopWhy = t.in.asked
	}
	if t.stopAt == 0 {
		t.stopAt = t.in.at
	}
	switch t.state {
	case StateStarting:
		t.tellCanceled(errStopped)
	case StateUp:
		t.tellCanceled(errStopped)
		t.stop()
	case StateStopping:
		if t.wantNoWait {
			t.kill()
		}
	case StateBackoff:
		t.setDown()
	case StateDown, StateKilling, StateFailed, StateCompleted:
		// Killing sees wantStop when the leaf is gone; the others are over.
	}
}

func (t *turn) stopFor(why Reason) {
	if t.stopWhy == 0 {
		t.stopWhy = why
	}
	t.stop()
}

// becomeUnwell ends a worker whose liveness rule has failed.
func (t *turn) becomeUnwell() {
	t.unwell, t.ready = true, false
	t.report(action{kind: EventUnhealthy, elapsed: t.in.at - t.readyAt, err: t.in.err})
	t.stopFor(ReasonUnhealthy)
}

// announce takes the word of a ready worker that it is stopping.
func (t *turn) announce() {
	t.leaving, t.ready = true, false
	if t.stopWhy == 0 {
		t.stopWhy = ReasonAnnounced
	}
	if t.grace == 0 {
		t.kill()
		return
	}
	t.stopAt = t.in.at
	t.state = StateStopping
	t.due = t.in.at + t.grace
	t.report(action{kind: EventStopping, why: t.stopWhy})
}

// leftClean says that the end is the one that the worker has announced. How it ended is
// not always known.
func (t *turn) leftClean() bool {
	return t.leaving && !t.byUs && (t.in.ok || t.in.exit == nil)
}

// extend moves the timer, which would be due at regular.
func (t *turn) extend(regular time.Duration) {
	if t.due != 0 {
		t.due = max(t.due, min(t.in.at+t.in.extend, regular+maxExtend))
	}
}

// onUpTimer is for the start timeout, and for the age of what is ready.
func (t *turn) onUpTimer() {
	switch {
	case t.ready:
		t.due = t.in.at + recycleAgain
		t.act(doRecycle)
	case t.told:
		// It is being stopped, or was ready and is not any more.
	case !t.expired:
		t.expired = true
		t.due = t.in.at + answerWait
		t.act(doExpire)
	default:
		t.tellFailure(&StartFailure{Phase: PhaseReadiness, Cause: CauseTimeout, Err: errStartTimeout})
		t.stopFor(ReasonStartFailed)
	}
}
