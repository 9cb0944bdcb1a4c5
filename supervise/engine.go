package supervise

import (
	"context"
	"fmt"
	"runtime"
	"time"

	"github.com/pitvisor/pitvisor/spawn"
)

// message is what the engine is told by its helpers: an input for slot i, with
// what came out of the work, or one of the special ones.
type message struct {
	i      int32
	in     input
	rev    *revision // with inSpawned: what it was started with
	do     func()    // a command, which is carried out with mu held
	proc   *spawn.Process
	extra  *extra
	leafID uint64
	hits   uint32
	polled uint32 // with inExited and inEmpty from the poller: the low half of the start's number
	named  bool   // with inExited: of the process that the worker has named as its main one

	settled bool // with inExited: everything is known that the worker has said
	unsure  bool // with inReady: the process may have ended

	fault error         // the supervisor is blind
	ping  chan struct{} // to be closed
}

// batch is how many messages are taken before those who wait for the lock, and
// the observer, get their turn.
const batch = 256

// The engine owns all workers. It takes messages, timers and stops, lets step decide,
// and never waits for the kernel. It works in turns, of which one is done at a time. Who
// brings a message does the turn himself if nobody is at one: waking a goroutine costs
// more than most of what there is to decide. All else is for a goroutine of its own.

// engine is that goroutine. It returns when there is nothing left to do.
func (s *Supervisor) engine(ctx context.Context) {
	stop, killing := ctx.Done(), s.killing
	halting := ctx.Err() != nil
	if halting {
		stop = nil
	}
	next := func() { s.begin(halting) }
	for !s.ownTurn(next) {
		next = func() {}
		select {
		case <-s.inbox.wake:
		case <-s.alarm.C:
		case <-stop:
			stop = nil
			next = s.halt
		case <-killing:
			stop, killing = nil, nil
			next = func() {
				s.halt()
				s.all(input{kind: inKill, asked: ReasonShutdown})
			}
		}
	}
}

// begin is what comes before everything else.
func (s *Supervisor) begin(halting bool) {
	s.degrade()
	s.halting.Store(halting)
	s.boot()
}

// ownTurn is a turn of the engine's goroutine, which begins with something special. It
// returns true after the last one.
func (s *Supervisor) ownTurn(first func()) bool {
	s.turning.Lock()
	defer s.turning.Unlock()
	first()
	s.closed = s.turn()
	return s.closed
}

// turn does all that has come and is due. It returns true when nothing is left to do. The
// caller holds turning.
func (s *Supervisor) turn() bool {
	s.taken = s.handleAll(s.inbox.take(s.taken))
	s.fire()
	s.settle()
	if s.over() {
		s.alarm.Stop()
		return true
	}
	s.arm()
	return false
}

// tell hands a message to the engine, and does the turn for it if nobody is at one. The
// caller holds no lock.
func (s *Supervisor) tell(m message) {
	s.inbox.add(m)
	if s.turning.TryLock() {
		over := s.closed || s.turn()
		s.turning.Unlock()
		if !over {
			return
		}
	}
	s.inbox.ring()
}

// answer tells what came of an order: at once, or with the next answers if more orders
// wait in the queue.
func answer[T any](s *Supervisor, q *queue[T], m message) {
	if q.idle() {
		s.tell(m)
	} else {
		s.inbox.lay(m)
	}
}

// arm sets the alarm for what is due first; none is set when nothing is.
func (s *Supervisor) arm() {
	s.mu.Lock()
	_, due, ok := s.timers.next()
	if slow, waits := s.launches.due(); waits && (!ok || slow < due) {
		due, ok = slow, true
	}
	for _, p := range s.pools {
		if wake := p.crew.wake; wake != 0 && (!ok || wake < due) {
			due, ok = wake, true
		}
	}
	s.mu.Unlock()
	if !ok {
		s.alarm.Stop()
		return
	}
	s.alarm.Reset(max(due-s.now(), 0))
}

// all gives every worker the same input, at the same time, so that equal
// graces end together.
func (s *Supervisor) all(in input) {
	in.at = s.now()
	for first, more := 0, true; more; first += batch {
		s.mu.Lock()
		more = first+batch < len(s.slots)
		for i := first; i < min(first+batch, len(s.slots)); i++ {
			s.step(int32(i), in)
		}
		s.mu.Unlock()
		s.observe()
	}
	s.flushKills()
}

// fire delivers the timers that are due.
func (s *Supervisor) fire() {
	for more := true; more; {
		more = false
		s.mu.Lock()
		now := s.now()
		s.launchMore()
		s.tickCrews(now)
		for range batch {
			i, due, ok := s.timers.next()
			if !ok || due > now {
				break
			}
			s.step(i, input{kind: inTimer, at: now})
			more = true
			if len(s.busy) > 0 {
				break
			}
		}
		busy := len(s.busy) > 0
		s.mu.Unlock()
		s.observe()
		if busy {
			s.carryOut()
		}
	}
	s.flushKills()
}

func (s *Supervisor) handleAll(msgs []message) []message {
	for rest := msgs; len(rest) > 0; {
		n := 0
		s.mu.Lock()
		for n < min(len(rest), batch) && len(s.busy) == 0 {
			s.handle(&rest[n])
			n++
		}
		busy := len(s.busy) > 0
		s.mu.Unlock()
		s.observe()
		if busy {
			s.carryOut()
		}
		rest = rest[n:]
	}
	return msgs
}

func (s *Supervisor) handle(m *message) {
	switch {
	case m.ping != nil:
		close(m.ping)
		return
	case m.do != nil:
		m.do()
		return
	case m.fault != nil:
		// Blind, but not helpless: kills and removals go on without the poller.
		s.fault = m.fault
		s.KillNow()
		return
	}
	m.in.at = s.now()
	c := &s.slots[m.i]
	switch m.in.kind {
	case inSpawned:
		s.takeProcess(c, m)
	case inSpawnFailed:
		c.proc, c.extra, c.leafID = m.proc, m.extra, m.leafID
	case inExited, inEmpty:
		if !s.isEnd(c, m) {
			return
		}
	case inRemoved:
		c.leafID = 0
		delete(s.blocked, m.i)
		s.result.Blocked -= toInt(c.toldBlock)
	case inBlocked:
		c.proc, c.extra = m.proc, m.extra
		s.blocked[m.i] = m.in.err
	case inReady, inNotReady:
		if m.unsure && m.in.start == c.start && c.isGone() {
			return // its end is on its way
		}
		if m.in.start == c.start && c.extra != nil {
			c.port = uint16(m.in.port)
			c.extra = c.extra.settle()
		}
	case inStart, inRestart, inUnwell, inTimer, inStop, inKill, inExtend, inStopping, inStruck:
	}
	s.step(m.i, m.in)
	if m.in.kind == inSpawned || m.in.kind == inSpawnFailed {
		s.hearEarly(m.i)
	}
}

// isEnd says whether what the poller saw means something, and is all that can be known.
func (s *Supervisor) isEnd(c *slot, m *message) bool {
	if uint32(c.start) != m.polled || c.state == StateKilling && c.removing {
		return false
	}
	if m.in.kind == inExited && (!c.isEndOf(m.named) || s.unsettledEnd(m)) {
		return false
	}
	m.in.start = c.start
	return !c.rev.policy.leaf || s.lookAtLeaf(c, &m.in)
}

// takeProcess takes over what a spawner has made.
func (s *Supervisor) takeProcess(c *slot, m *message) {
	c.proc, c.extra, c.leafID, c.pid, c.hits = m.proc, m.extra, m.leafID, int32(m.proc.PID()), m.hits
	if now := c.rev; now != m.rev { // another was put in force meanwhile
		c.rev = m.rev
		s.limitAgain(c, now)
		c.rev = now
	}
	if err := s.watch(m.i); err != nil {
		m.in.kind, m.in.leaf = inSpawnFailed, true
		m.in.failure = &StartFailure{Phase: PhaseExec, Cause: CauseLeaf, Err: err}
	}
}

// step lets the machine decide about one worker, and sees to what it says.
func (s *Supervisor) step(i int32, in input) {
	c := &s.slots[i]
	in.rnd = s.rnd()
	before := c.worker
	c.worker, s.acts = c.rev.policy.step(c.worker, in, s.acts[:0])
	s.count(c.pool, &before, &c.worker)
	for k := range s.acts {
		s.act(i, &s.acts[k])
	}
	if c.due != before.due {
		s.timers.update(i)
	}
	if c.extra != nil && c.extra.cancel != nil && !c.probing() && !c.expired {
		c.extra.cancel(errStopped)
	}
	c.unwatch()
	s.land(i)
	s.chill(i)
	s.note(i, &before)
	s.tellCrew(i, &before)
}

// count keeps the sums by which the engine knows that it is done.
func (s *Supervisor) count(p *pool, before, after *worker) {
	open, stuck := toInt(!after.over())-toInt(!before.over()), toInt(after.stuck())-toInt(before.stuck())
	s.open += open
	s.stuck += stuck
	p.open += open
	p.stuck += stuck
	s.live += toInt(after.lives()) - toInt(before.lives())
	s.result.GaveUp -= toInt(before.state == StateFailed && after.state != StateFailed)
	s.result.Completed -= toInt(before.state == StateCompleted && after.state != StateCompleted)
	s.unsettled = s.unsettled || p.finished() && (open != 0 || stuck != 0)
}

func toInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// observe hands the collected events over, without holding the lock.
func (s *Supervisor) observe() {
	s.mu.Lock()
	events, ordered := s.events, s.ordered
	s.events, s.ordered = s.spare[:0], false
	s.mu.Unlock()
	if ordered {
		// The spawner is next on this processor, and an idle one takes it only after a while.
		runtime.Gosched()
	}
	s.ring.add(events)
	if s.opts.Observe != nil {
		for _, e := range events {
			s.opts.Observe(e)
		}
	}
	clear(events)
	if cap(events) > spareItems {
		events = nil
	}
	s.spare = events
}

// degrade tells which limits are not in force.
func (s *Supervisor) degrade() {
	s.mu.Lock()
	s.tellRunDegraded()
	for _, p := range s.pools {
		s.tellDegraded(p)
	}
	s.mu.Unlock()
	s.observe()
}

func (s *Supervisor) tellDegraded(p *pool) {
	for _, err := range p.crew.rev.degraded {
		s.emit(Event{Worker: WorkerID{Pool: p.name, Slot: -1}, Kind: EventDegraded, Err: err})
	}
}

func (s *Supervisor) emit(e Event) {
	s.seq++
	e.Seq, e.At = s.seq, time.Now()
	s.events = append(s.events, e)
}

// Ping returns when what keeps the workers has answered, which proves that it does its
// work. It fails when ctx ends before. Not for Observe, which is a part of that work.
func (s *Supervisor) Ping(ctx context.Context) error {
	m := message{ping: make(chan struct{})}
	s.inbox.post(m)
	select {
	case <-m.ping:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("ping supervisor: %w", context.Cause(ctx))
	}
}
