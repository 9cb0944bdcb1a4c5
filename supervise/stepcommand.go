package supervise

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
