package supervise

import (
	"cmp"
	"errors"
	"fmt"
	"time"
)

// What the engine does with whole pools.

// boot starts the pools that wait for nobody.
func (s *Supervisor) boot() {
	s.mu.Lock()
	for _, p := range s.pools {
		s.enrol(p)
		if !p.crew.held && !s.halting.Load() {
			p.crew.boot(ReasonBoot)
			s.collect(p)
		}
	}
	s.unsettled = true
	if s.halting.Load() {
		s.haltCrews()
	}
	s.mu.Unlock()
	s.carryOut()
}

// enrol makes the slots of a new pool. The caller holds mu.
func (s *Supervisor) enrol(p *pool) {
	if n := len(p.crew.members); n > 0 {
		s.slotOf(p, n-1)
	}
}

// tellCrew tells the pool what a step has changed of its member.
func (s *Supervisor) tellCrew(i int32, before *worker) {
	c := &s.slots[i]
	if ch, changed := changeOf(before, &c.worker, s.acts); changed {
		s.inform(c, ch)
	}
}

// inform lets the pool of a slot see how its member is now.
func (s *Supervisor) inform(c *slot, ch change) {
	p := c.pool
	member := p.crew.members[c.n].role != roleNone
	p.crew.changed(int(c.n), ch, s.now())
	if member && p.crew.members[c.n].role == roleNone {
		s.forget(c)
	}
	s.collect(p)
	s.unsettled = s.unsettled || p.awaited
}

// tickCrews lets pools see that time has passed.
func (s *Supervisor) tickCrews(now time.Duration) {
	for _, p := range s.pools {
		if p.crew.wake != 0 && p.crew.wake <= now {
			p.crew.tick(now)
			s.collect(p)
		}
	}
}

// forget takes a worker that has left its pool out of the counts of those that are not
// as they should be.
func (s *Supervisor) forget(c *slot) {
	r := &s.result
	r.NeverReady -= toInt(c.everFailed && !c.everReady)
	r.GaveUp -= toInt(c.state == StateFailed)
	r.Completed -= toInt(c.state == StateCompleted)
	c.everFailed, c.everReady = false, false
	if c.state == StateFailed || c.state == StateCompleted {
		c.state = StateDown // its wantStop is set
	}
}

// collect notes that a pool has orders.
func (s *Supervisor) collect(p *pool) {
	if len(p.crew.out) > 0 && !p.busy {
		p.busy = true
		s.busy = append(s.busy, p)
	}
}

// carryOut carries out what the pools have decided. No other input comes in
// between: what a pool has decided about a member holds when it is done.
func (s *Supervisor) carryOut() {
	for more := true; more; {
		s.mu.Lock()
		for n := 0; n < batch && len(s.busy) > 0; n++ {
			s.carryOutNext(s.busy[0])
		}
		more = len(s.busy) > 0
		s.mu.Unlock()
		s.observe()
	}
	s.flushKills()
}

func (s *Supervisor) carryOutNext(p *pool) {
	o := p.crew.out[p.done]
	if p.done++; p.done == len(p.crew.out) {
		p.crew.out, p.done, p.busy = p.crew.out[:0], 0, false
		if cap(p.crew.out) > spareItems {
			p.crew.out = nil
		}
		s.busy = s.busy[1:]
	}
	switch o.do {
	case crewReport:
		s.reportPool(p, o)
	case crewSet:
		c := &s.slots[s.slotOf(p, o.n)]
		if o.soft && c.rev == c.next {
			s.limitAgain(c, o.rev)
			c.rev = o.rev
		}
		c.next = o.rev
	case crewStart:
		s.orderStep(p, o, inStart)
	case crewRestart:
		s.orderStep(p, o, inRestart)
	case crewStop:
		s.orderStep(p, o, inStop)
	}
	s.collect(p)
}

// orderStep gives a worker what its pool has decided.
func (s *Supervisor) orderStep(p *pool, o crewOrder, kind inputKind) {
	if s.halting.Load() && kind != inStop {
		return
	}
	i := s.slotOf(p, o.n)
	if o.rev != nil {
		s.slots[i].next = o.rev
	}
	s.step(i, input{kind: kind, at: s.now(), asked: o.why})
	c := &s.slots[i]
	s.inform(c, changeTo(&c.worker)) // also when the step has changed nothing
}

// reportPool makes an event of what a pool has to tell.
func (s *Supervisor) reportPool(p *pool, o crewOrder) {
	e := o.ev
	e.Worker = WorkerID{Pool: p.name, Slot: -1}
	if o.n >= 0 {
		c := &s.slots[s.slotOf(p, o.n)]
		e.Err = &RolloutError{Pool: p.name, Rollout: e.Rollout, Worker: c.id(), Cause: cmp.Or(c.cause, "completed before min_ready was over")}
	}
	var stuck *stuckError
	if errors.As(e.Err, &stuck) {
		cause := stuck.Error()
		if words := p.pressureWords(); words != "" {
			cause += "; " + words
		}
		e.Err = &RolloutError{Pool: p.name, Rollout: e.Rollout, Worker: e.Worker, Cause: cause}
	}
	s.emit(e)
	if e.Rollout != 0 {
		p.stopped = nil
		_ = errors.As(e.Err, &p.stopped) // another error is that a new one begins
	}
	if e.Kind == EventRolledOut || e.Kind == EventRolloutStopped {
		p.finish(e.Rollout, e.Err)
		s.unsettled = true // another spec may be in force
	}
}

// RolloutError says that a rollout stopped because a new worker did not become ready, or
// not in time; then Slot of Worker is -1.
type RolloutError struct {
	Pool    string
	Rollout uint64
	Worker  WorkerID
	Cause   string
}

// Error names the worker and the cause of its last failure.
func (e *RolloutError) Error() string {
	if e.Worker.Slot < 0 {
		return fmt.Sprintf("rollout %d of pool %s stopped: %s", e.Rollout, e.Pool, e.Cause)
	}
	return fmt.Sprintf("rollout %d of pool %s stopped: %v did not become ready: %s", e.Rollout, e.Pool, e.Worker, e.Cause)
}

// settle sees to what depends on whole pools: those that wait for others are
// started, those that are to go are removed, and when everything ends those whose
// turn it is are stopped.
func (s *Supervisor) settle() {
	for {
		s.mu.Lock()
		again := s.unsettled
		s.unsettled = false
		var stop []*pool
		if again {
			s.releaseHeld()
			s.removeGone()
			s.measure()
			s.watchPressure()
			stop = s.nextToStop()
		}
		s.mu.Unlock()
		if !again {
			return
		}
		s.carryOut()
		s.stopPools(stop)
	}
}

// halt begins the end of everything.
func (s *Supervisor) halt() {
	s.halting.Store(true)
	s.mu.Lock()
	s.haltCrews()
	s.unsettled = true
	s.mu.Unlock()
	s.settle()
}

func (s *Supervisor) haltCrews() {
	for _, p := range s.pools {
		p.crew.halted = true
	}
	s.thawAll()
}

// nextToStop returns the pools whose turn it is to end: those that no pool which
// still lives comes after.
func (s *Supervisor) nextToStop() []*pool {
	if !s.halting.Load() {
		return nil
	}
	needed := map[string]bool{}
	for _, p := range s.pools {
		if !p.finished() {
			for _, d := range p.after {
				needed[d.Pool] = true
			}
		}
	}
	var next []*pool
	for _, p := range s.pools {
		if !p.stopping && !needed[p.name] {
			p.stopping = true
			next = append(next, p)
		}
	}
	return next
}

// stopPools stops every worker of the pools at the same time, so that equal graces
// end together.
func (s *Supervisor) stopPools(pools []*pool) {
	in := input{kind: inStop, at: s.now(), asked: ReasonShutdown}
	for _, p := range pools {
		for first, more := 0, true; more; first += batch {
			s.mu.Lock()
			more = first+batch < len(p.slots)
			for n := first; n < min(first+batch, len(p.slots)); n++ {
				s.step(p.slots[n], in)
			}
			s.unsettled = s.unsettled || p.finished()
			s.mu.Unlock()
			s.observe()
		}
	}
	s.flushKills()
}

// over says whether nothing is left to do, or nothing but what cannot be done.
// Who was stopped by a command may be asked back, so then there is.
func (s *Supervisor) over() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	held := 0
	for _, p := range s.pools {
		if p.crew.held {
			held += p.open
		}
	}
	if s.open-held != s.stuck || len(s.busy) > 0 {
		return false
	}
	return s.halting.Load() || !s.opts.Keep && !s.parked()
}

// parked says whether some pool has members that a command has stopped, or none.
func (s *Supervisor) parked() bool {
	for _, p := range s.pools {
		if p.crew.size == 0 && !p.going {
			return true
		}
		for n := range p.crew.members {
			if p.crew.members[n].parked {
				return true
			}
		}
	}
	return false
}

// removeGone removes the pools that are to go and have no worker any more.
func (s *Supervisor) removeGone() {
	kept := s.pools[:0]
	for _, p := range s.pools {
		if !p.going || p.open > 0 || p.busy || s.reloading {
			kept = append(kept, p)
			continue
		}
		s.emit(Event{Worker: WorkerID{Pool: p.name, Slot: -1}, Kind: EventRemoved})
		for _, i := range p.slots {
			s.gone[p.name] = max(s.gone[p.name], s.slots[i].start)
		}
		s.free = append(s.free, p.slots...)
		if err := p.remove(s.opts.Run.Dir()); err != nil {
			s.lost = errors.Join(s.lost, fmt.Errorf("remove pool %s: %w", p.name, err))
		}
	}
	clear(s.pools[len(kept):])
	s.pools = kept
}
