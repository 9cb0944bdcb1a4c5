package supervise

import "time"

// step returns the worker after the input, and out with what is to be done
// appended. It decides everything and does nothing.
func (p *policy) step(w worker, in input, out []action) (worker, []action) {
	t := turn{policy: p, worker: w, in: in, out: out}
	switch in.kind {
	case inStart:
		t.onStartCommand()
	case inRestart:
		t.onRestart()
	case inTimer:
		if w.due != 0 && in.at >= w.due {
			t.due = 0
			t.onTimer()
		}
	case inStop:
		t.onStop()
	case inKill:
		t.wantNoWait = true
		t.onStop()
	case inSpawned, inSpawnFailed, inReady, inNotReady, inUnwell, inExited, inEmpty, inRemoved, inBlocked, inExtend, inStopping, inStruck:
		if in.start == w.start {
			t.onStart()
		}
	}
	if t.state != w.state {
		t.since = in.at
	}
	return t.worker, t.out
}

// turn is one step under way.
type turn struct {
	*policy
	worker
	in  input
	out []action
}

// onStart takes what belongs to the current start.
func (t *turn) onStart() {
	if t.in.kind == inStruck {
		if t.lives() {
			t.strike = t.in.strike
		}
		return
	}
	switch t.state {
	case StateStarting:
		t.onStarting()
	case StateUp:
		t.onUp()
	case StateStopping:
		t.onStopping()
	case StateKilling:
		t.onKilling()
	case StateDown, StateBackoff, StateFailed, StateCompleted:
		// Nothing of that start is left that could matter.
	}
}

func (t *turn) onStarting() {
	if t.in.began != 0 {
		t.began = t.in.began
	}
	switch t.in.kind {
	case inSpawned:
		t.onSpawned()
	case inSpawnFailed:
		if t.in.leaf {
			t.state = StateKilling
		}
		t.tellFailure(t.in.failure)
		if t.in.leaf {
			t.remove()
			return
		}
		t.end()
	case inExited, inEmpty:
		t.ended = t.ended || t.isEnd()
	default:
		// Not in this state.
	}
}

func (t *turn) onSpawned() {
	t.state = StateUp
	t.upAt = t.in.at
	t.report(action{kind: EventUp})
	switch {
	case t.ended:
		t.remove()
	case t.wantStop || t.again:
		t.stop()
	case t.probed:
		if t.timeout > 0 {
			t.due = t.in.at + t.timeout
		}
		t.act(doProbe)
	default:
		t.becomeReady()
	}
}

func (t *turn) onUp() {
	switch t.in.kind {
	case inReady:
		if !t.told {
			t.becomeReady()
		}
	case inNotReady:
		if !t.told {
			t.tellFailure(t.in.failure)
			t.stopFor(ReasonStartFailed)
		}
	case inUnwell:
		if t.ready {
			t.becomeUnwell()
		}
	case inExited, inEmpty:
		if t.isEnd() {
			t.remove()
		}
	case inExtend:
		if !t.told && !t.expired {
			t.extend(t.upAt + t.timeout)
		}
	case inStopping:
		if t.ready {
			t.announce()
		}
	default:
		// Not in this state.
	}
}

func (t *turn) onStopping() {
	switch {
	case t.in.kind == inExtend && !t.draining:
		t.extend(max(t.stopAt, t.askedAt) + t.grace)
	case t.isEnd():
		t.remove()
	}
}

func (t *turn) onKilling() {
	switch t.in.kind {
	case inExited, inEmpty:
		if !t.removing {
			t.remove()
		}
	case inRemoved:
		t.removing = false
		t.tellEnd()
		t.end()
	case inBlocked:
		t.removing = false
		t.tellEnd()
		t.retry()
	default:
		// Not in this state.
	}
}

// isEnd says whether an end of the main process or of the leaf is that of the
// start. With TrackLeaf a main process may go while others stay: by exit 0, or
// in whatever way while the worker is being stopped.
func (t *turn) isEnd() bool {
	if t.in.kind == inEmpty {
		return true
	}
	if t.in.kind != inExited {
		return false
	}
	goesOn := t.leaf && !t.in.empty && (t.in.ok || t.state == StateStopping)
	return !goesOn
}

// onTimer is called when the time that was due has come.
func (t *turn) onTimer() {
	switch t.state {
	case StateUp:
		t.onUpTimer()
	case StateStopping:
		if t.draining {
			t.drained()
		} else {
			t.kill()
		}
	case StateKilling:
		t.remove()
	case StateBackoff:
		t.begin()
	case StateDown, StateStarting, StateFailed, StateCompleted:
		// Nothing is ever due in these.
	}
}

// begin begins the next start.
func (t *turn) begin() {
	t.worker = worker{
		start:    t.start + 1,
		began:    t.in.at,
		failures: t.failures,
		state:    StateStarting,
		shown:    t.shown,
		why:      t.why,
	}
	t.act(doSpawn)
	t.report(action{kind: EventStarting, why: t.why})
}

func (t *turn) becomeReady() {
	t.ready, t.wasReady, t.told = true, true, true
	t.readyAt = t.in.at
	t.due = 0
	if t.age > 0 {
		t.due = t.in.at + max(1, t.age-time.Duration(float64(t.age)*t.jitter*t.in.rnd))
	}
	t.report(action{kind: EventReady, port: t.in.port, elapsed: t.in.at - t.began})
	t.act(doWatch)
}

// stop begins to end a process that lives.
func (t *turn) stop() {
	drain := t.ready && t.drain > 0
	if t.grace == 0 && !drain || t.wantNoWait {
		t.kill()
		return
	}
	t.markStop()
	t.state = StateStopping
	if drain {
		t.draining = true
		t.due = t.in.at + t.drain
		t.report(action{kind: EventStopping, why: t.stopWhy, delay: t.drain})
		return
	}
	t.ask()
	t.report(action{kind: EventStopping, why: t.stopWhy})
}

// ask sends the stop signal, after which the grace runs.
func (t *turn) ask() {
	t.due = t.in.at + t.grace
	t.act(doSignal)
}

// drained is called when the drain time is over.
func (t *turn) drained() {
	if t.grace == 0 {
		t.kill()
		return
	}
	t.draining = false
	t.askedAt = t.in.at
	t.ask()
}

// kill ends a process that lives at once.
func (t *turn) kill() {
	kind := EventStopping
	if t.state == StateStopping && !t.draining {
		kind = EventEscalated
		t.escalated = true
	}
	t.markStop()
	t.killed, t.draining = true, false
	t.state = StateKilling
	t.due = t.in.at + killWait
	t.act(doKill)
	t.report(action{kind: kind, why: t.stopWhy, escalated: t.escalated, elapsed: t.in.at - t.stopAt})
}

func (t *turn) markStop() {
	t.ready, t.byUs = false, true
	if t.stopAt == 0 {
		t.stopAt = t.in.at
	}
}

// remove lets the leaf be removed. The state changes silently: how the start
// ended is told when the remover knows.
func (t *turn) remove() {
	if t.goneAt == 0 {
		t.goneAt = t.in.at
	}
	t.ready = false
	t.state = StateKilling
	t.removing = true
	t.due = 0
	t.act(doRemove)
}

// retry waits before the next try to remove a leaf.
func (t *turn) retry() {
	t.due = t.in.at + min(retryMin<<min(t.tries, 10), retryMax)
	t.tries = min(t.tries+1, 100)
	if !t.toldBlock && t.in.at-t.goneAt >= blockedAfter {
		t.toldBlock = true
		t.report(action{kind: EventBlocked, err: t.in.err})
	}
}

// end is called when nothing of the start is left, and decides what follows.
func (t *turn) end() {
	t.due = 0
	if t.wantStop {
		t.setDown()
		return
	}
	if t.byUs || t.leftClean() && !t.completes() {
		t.reportStopped()
		t.draining, t.askedAt = false, 0
		t.byUs, t.killed, t.escalated, t.stopAt = false, false, false, 0
	}
	switch {
	case t.again:
		t.afresh()
	case t.wasReady:
		t.endOfReady()
	default:
		t.why = ReasonStartFailed
		t.fail(t.backoffOfStart())
	}
}

// endOfReady decides what follows a start that had been ready.
func (t *turn) endOfReady() {
	if t.goneAt-t.readyAt >= t.backoff.Reset {
		t.failures = 0
	}
	if t.completes() {
		t.failures = 0
		t.state = StateCompleted
		t.report(action{
			kind: EventCompleted, exit: t.in.exit, leftover: t.in.leftover,
			elapsed: t.goneAt - t.upAt, err: t.in.why,
		})
		return
	}
	t.why = ReasonExited
	switch {
	case t.unwell:
		t.why = ReasonUnhealthy
	case t.strike.hit(t.in.exit):
		t.why = ReasonCommand
	}
	t.fail(t.backoff)
}

// completes says whether the end is the one that the worker was started for.
func (t *turn) completes() bool { return t.restart != RestartAlways && t.in.ok && !t.unwell }

// backoffOfStart is the backoff after a failed start: none of them is free,
// since what failed at once will hardly be cured at once.
func (t *turn) backoffOfStart() Backoff {
	b := t.backoff
	b.Free = 0
	return b
}

// fail counts a failure and decides what follows it.
func (t *turn) fail(b Backoff) {
	t.failures++
	if t.restart == RestartNever || t.limit > 0 && int(t.failures) >= t.limit {
		t.state = StateFailed
		t.report(action{kind: EventGaveUp, why: t.why, exit: t.in.exit})
		return
	}
	delay := b.Delay(int(t.failures), t.in.rnd)
	if delay <= 0 {
		t.begin()
		return
	}
	t.state = StateBackoff
	t.due = t.in.at + delay
	t.report(action{kind: EventBackoff, why: t.why, delay: delay})
}

// setDown ends the worker for good.
func (t *turn) setDown() {
	t.state = StateDown
	t.due = 0
	t.reportStopped()
}

func (t *turn) act(do actionKind) { t.out = append(t.out, action{do: do}) }
