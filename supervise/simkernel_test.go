package supervise

import "time"

// spawn is the kernel's side of doSpawn.
func (s *sim) spawn(c *simSlot) {
	start := c.w.start
	switch {
	case c.leaf != 0 || c.alive || c.answering:
		s.fault("slot %d: start %d begins while start %d is there", c.n, start, c.leaf)
	case c.stopped:
		s.fault("slot %d: start %d begins after the stop", c.n, start)
	case c.pardon:
		c.pardon, c.failures, c.notBefore = false, 0, 0
	case s.now < c.notBefore:
		s.fault("slot %d: start %d begins %v before its backoff is over", c.n, start, c.notBefore-s.now)
	}
	c.began++
	if uint64(c.began) != start {
		s.fault("slot %d: start %d is number %d", c.n, start, c.began)
	}
	c.answering, c.readyAt, c.goneAt, c.drainedAt = true, 0, 0, 0
	if c.hung() {
		s.hold(c)
		return
	}
	s.after(s.within(10*time.Millisecond), func() {
		c.answering = false
		if s.chance(8) || c.bad() && !s.policy.probed {
			left := s.chance(20)
			if left {
				c.leaf = start
			}
			s.send(c, input{kind: inSpawnFailed, start: start, leaf: left, failure: &StartFailure{Cause: CauseExec}})
			return
		}
		c.leaf, c.alive, c.others, c.deep = start, true, 0, false
		s.send(c, input{kind: inSpawned, start: start})
		s.live(c, start)
	})
}

// hold lets a start wait until nobody wants it any more.
func (s *sim) hold(c *simSlot) {
	start := c.w.start
	s.after(time.Second, func() {
		if !c.w.told {
			s.hold(c)
			return
		}
		c.answering = false
		s.send(c, input{kind: inSpawnFailed, start: start, failure: &StartFailure{Cause: CauseCanceled}})
	})
}

// live draws the fate of a new process.
func (s *sim) live(c *simSlot, start uint64) {
	if s.policy.leaf {
		c.others = 1
		s.after(s.within(50*time.Millisecond), func() { s.exit(c, start, 0) })
	}
	switch {
	case s.chance(10): // dies at once, perhaps before it is ready
		s.after(s.within(5*time.Millisecond), func() { s.die(c, start, 1) })
	case s.chance(10):
		s.after(s.within(time.Second), func() { s.die(c, start, 0) })
	case s.chance(50):
		s.after(s.within(time.Minute), func() { s.die(c, start, 139) })
	}
	if s.chance(10) && !s.policy.leaf {
		c.others = 3
	}
	s.talk(c, start)
	s.struck(c, start)
	if s.chance(6) {
		c.deep = true
		s.after(s.within(20*time.Second), func() {
			if c.leaf == start {
				c.deep = false
			}
		})
	}
}

// talk is what a worker says of itself: that it needs more time, or that it is stopping,
// which it then does soon, late or never.
func (s *sim) talk(c *simSlot, start uint64) {
	for range s.rnd.IntN(3) {
		s.after(s.within(10*time.Second), func() {
			s.tell(c, input{kind: inExtend, start: start, extend: s.within(5 * time.Second)})
		})
	}
	if !s.chance(10) {
		return
	}
	s.after(s.within(time.Minute), func() {
		if c.leaf != start || !c.alive {
			return
		}
		s.tell(c, input{kind: inStopping, start: start})
		if !s.chance(30) {
			s.after(s.within(8*time.Second), func() { s.die(c, start, s.rnd.IntN(2)) })
		}
	})
}

// struck lets somebody kill the leaf at some time, who says so first.
func (s *sim) struck(c *simSlot, start uint64) {
	if !s.chance(10) {
		return
	}
	s.after(s.within(time.Minute), func() {
		if c.leaf != start || c.w.start != start {
			return
		}
		if c.w.lives() {
			c.struck = start
		}
		s.send(c, input{kind: inStruck, start: start, strike: &strike{kill: true, by: "sim", at: s.now}})
		s.after(s.within(20*time.Millisecond), func() { s.killed(c, start) })
	})
}

// exit is the end of the main process alone.
func (s *sim) exit(c *simSlot, start uint64, code int) {
	if c.leaf != start || !c.alive {
		return
	}
	c.alive, c.code = false, code
	if c.goneAt == 0 && (!s.policy.leaf || c.others == 0 || code != 0) {
		c.goneAt = s.now
	}
	empty := c.others == 0
	s.tell(c, input{kind: inExited, start: start, ok: code == 0, empty: empty})
	if empty && s.policy.leaf {
		s.tell(c, input{kind: inEmpty, start: start})
	}
}

// die is the end of what the worker's life is tied to.
func (s *sim) die(c *simSlot, start uint64, code int) {
	if c.leaf != start {
		return
	}
	s.exit(c, start, code)
	if s.policy.leaf && c.others > 0 {
		c.others = 0
		if c.goneAt == 0 {
			c.goneAt = s.now
		}
		s.tell(c, input{kind: inEmpty, start: start})
	}
}

// probe is a readiness attempt: it may succeed, fail, or never say a word, and
// it may come much later than anybody cares for.
func (s *sim) probe(c *simSlot) {
	start := c.w.start
	switch {
	case s.chance(10):
		return
	case s.chance(10), c.bad():
		s.tell(c, input{kind: inNotReady, start: start, failure: &StartFailure{Cause: CauseProbe}})
	default:
		longest := 3 * time.Second // longer than anybody waits
		if s.calm {
			longest /= 10
		}
		s.after(s.within(longest), func() { s.tell(c, input{kind: inReady, start: start}) })
	}
}

// watch is a liveness rule: it may find fault at any time, or too late.
func (s *sim) watch(c *simSlot) {
	start := c.w.start
	if c.leaf != start || !c.w.ready {
		s.fault("slot %d: start %d is watched, ready %v, while leaf is %d", c.n, start, c.w.ready, c.leaf)
	}
	if s.chance(10) {
		s.after(s.within(time.Minute), func() { s.tell(c, input{kind: inUnwell, start: start, err: errSim}) })
	}
}

// recycle is a pool that replaces a worker in place, or has no time.
func (s *sim) recycle(c *simSlot) {
	if s.now-c.readyAt < s.policy.age/2 {
		s.fault("slot %d: recycled %v after it was ready, age is %v", c.n, s.now-c.readyAt, s.policy.age)
	}
	s.aged(c)
}

// command is one that people or the pool give.
func (s *sim) command(c *simSlot, kind inputKind) {
	if s.ending {
		return
	}
	began := c.began
	switch kind {
	case inStop:
		c.stopped = true
	case inStart:
		c.pardon = c.pardon || c.stopped || !c.w.lives() && c.leaf == 0 && !c.answering
		c.stopped = false
	default:
		c.pardon, c.stopped = true, false
	}
	idle := c.leaf == 0 && !c.answering
	s.send(c, input{kind: kind})
	if idle && kind != inStop && c.began != began+1 {
		s.fault("slot %d: was idle, and does not begin when asked", c.n)
	}
}

// commands gives a worker some commands at random times.
func (s *sim) commands(c *simSlot, storm time.Duration) {
	for range s.rnd.IntN(4) {
		kind := []inputKind{inStart, inRestart, inStop}[s.rnd.IntN(3)]
		s.after(time.Duration(s.rnd.Int64N(int64(storm))), func() {
			if s.calm {
				return
			}
			s.command(c, kind)
			if kind == inStop {
				s.after(s.within(10*time.Second), func() { s.command(c, inStart) })
			}
		})
	}
}

// signal is obeyed soon, late, or never.
func (s *sim) signal(c *simSlot) {
	start := c.w.start
	if c.leaf != start {
		s.fault("slot %d: start %d gets a signal but has no leaf", c.n, start)
	}
	if c.drainedAt != 0 && s.now-c.drainedAt < s.policy.drain {
		s.fault("slot %d: start %d gets a signal %v after it was ready, drain time is %v", c.n, start, s.now-c.drainedAt, s.policy.drain)
	}
	if s.chance(10) {
		return
	}
	code := 143 * s.rnd.IntN(2)
	s.after(s.within(8*time.Second), func() { s.die(c, start, code) })
}

func (s *sim) kill(c *simSlot) {
	start := c.w.start
	if c.leaf != start {
		s.fault("slot %d: start %d is killed but has no leaf", c.n, start)
	}
	c.hit = start
	s.after(s.within(20*time.Millisecond), func() { s.killed(c, start) })
}

// killed is what cgroup.kill does to a leaf.
func (s *sim) killed(c *simSlot, start uint64) {
	if c.leaf != start || c.deep {
		return
	}
	c.others = 0
	if c.alive {
		s.exit(c, start, 137)
	} else if s.policy.leaf {
		if c.goneAt == 0 {
			c.goneAt = s.now
		}
		s.tell(c, input{kind: inEmpty, start: start})
	}
}

// remove kills what is left and takes the leaf away, or says that it cannot.
func (s *sim) remove(c *simSlot) {
	start := c.w.start
	if c.leaf != start || c.answering {
		s.fault("slot %d: leaf of start %d removed while leaf is %d, busy %v", c.n, start, c.leaf, c.answering)
	}
	if c.alive && c.hit != start {
		s.fault("slot %d: leaf of start %d removed while the worker lives, and was not killed", c.n, start)
	}
	c.answering = true
	s.after(s.within(100*time.Millisecond), func() {
		s.killed(c, start)
		c.answering = false
		in := input{kind: inRemoved, start: start, ok: c.code == 0, failure: &StartFailure{Cause: CauseExited}}
		if c.alive || c.others > 0 {
			in.kind, in.ok = inBlocked, false
			s.send(c, in)
			return
		}
		c.leaf = 0
		if s.policy.leaf {
			in.ok = false
		}
		s.account(c, in.ok)
		began := c.began
		s.send(c, in)
		if c.pardon && !c.stopped && c.began == began {
			s.fault("slot %d: start %d is over, but the one that was asked for does not begin", c.n, start)
		}
	})
}

// account works out, in its own way, when the next start may begin.
func (s *sim) account(c *simSlot, ok bool) {
	b := s.policy.backoff
	if c.readyAt == 0 {
		b.Free = 0
	} else if c.goneAt-c.readyAt >= b.Reset+time.Second {
		c.failures = 0 // surely forgotten
	}
	c.failures++
	// The machine hears of an end some time before the leaf is gone, and may have forgotten
	// by then: the shortest delay is all that can be asked for.
	n := c.failures
	if c.readyAt != 0 && s.now-c.readyAt >= b.Reset {
		n = 1
		c.failures = 1
	}
	c.notBefore = s.now + b.Delay(n, 1)
}

// report checks what the observer would see.
func (s *sim) report(c *simSlot, a action) {
	if a.from != c.shown {
		s.fault("slot %d: %v from %v, but the last event went to %v", c.n, a.kind, a.from, c.shown)
	}
	c.shown = a.to
	if a.to != c.w.state && a.kind == EventStarting {
		s.fault("slot %d: %v says %v but the state is %v", c.n, a.kind, a.to, c.w.state)
	}
	switch a.kind {
	case EventReady:
		c.told[a.start]++
		c.readyAt = s.now
	case EventStartFailed:
		c.told[a.start]++
		if a.failure == nil {
			s.fault("slot %d: failure of start %d without a reason", c.n, a.start)
		}
	case EventUnhealthy:
		c.unwell = a.start
	case EventCompleted:
		if c.unwell == a.start {
			s.fault("slot %d: start %d completes though it was unwell", c.n, a.start)
		}
	case EventBlocked:
		if c.alive || c.others > 0 {
			break
		}
		s.fault("slot %d: blocked by nothing", c.n)
	case EventExited:
		if c.stopped && c.goneAt == 0 {
			s.fault("slot %d: exit told for a process that we stopped", c.n)
		}
		if struck := c.struck == a.start; struck != (a.why == ReasonCommand) || struck != (a.err != nil) {
			s.fault("slot %d: start %d was struck: %v, and is told with %v, %v", c.n, a.start, struck, a.why, a.err)
		}
	case EventStarting, EventUp, EventBackoff, EventStopping, EventEscalated, EventStopped,
		EventGaveUp, EventDegraded:
	}
}
