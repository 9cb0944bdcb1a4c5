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
	case s.now < c.notBefore:
		s.fault("slot %d: start %d begins %v before its backoff is over", c.n, start, c.notBefore-s.now)
	}
	c.began++
	if uint64(c.began) != start {
		s.fault("slot %d: start %d is number %d", c.n, start, c.began)
	}
	c.answering, c.readyAt, c.goneAt = true, 0, 0
	s.after(s.within(10*time.Millisecond), func() {
		c.answering = false
		if s.chance(8) {
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
	if s.chance(6) {
		c.deep = true
		s.after(s.within(20*time.Second), func() {
			if c.leaf == start {
				c.deep = false
			}
		})
	}
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
	case s.chance(10):
		s.tell(c, input{kind: inNotReady, start: start, failure: &StartFailure{Cause: CauseProbe}})
	default:
		s.after(s.within(3*time.Second), func() { s.tell(c, input{kind: inReady, start: start}) })
	}
}

// signal is obeyed soon, late, or never.
func (s *sim) signal(c *simSlot) {
	start := c.w.start
	if c.leaf != start {
		s.fault("slot %d: start %d gets a signal but has no leaf", c.n, start)
	}
	if s.chance(10) {
		return
	}
	s.after(s.within(8*time.Second), func() { s.die(c, start, 143) })
}

func (s *sim) kill(c *simSlot) {
	start := c.w.start
	if c.leaf != start {
		s.fault("slot %d: start %d is killed but has no leaf", c.n, start)
	}
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
		s.tell(c, input{kind: inEmpty, start: start})
	}
}

// remove kills what is left and takes the leaf away, or says that it cannot.
func (s *sim) remove(c *simSlot) {
	start := c.w.start
	if c.leaf != start || c.answering {
		s.fault("slot %d: leaf of start %d removed while leaf is %d, busy %v", c.n, start, c.leaf, c.answering)
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
		s.send(c, in)
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
	// The machine sees ends later than they happen, so it may have forgotten
	// already: between the two the shortest delay is all that can be asked for.
	n := c.failures
	if c.readyAt != 0 && c.goneAt-c.readyAt >= b.Reset-time.Second {
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
	case EventBlocked:
		if c.alive || c.others > 0 {
			break
		}
		s.fault("slot %d: blocked by nothing", c.n)
	case EventExited:
		if c.stopped && c.goneAt == 0 {
			s.fault("slot %d: exit told for a process that we stopped", c.n)
		}
	case EventStarting, EventUp, EventBackoff, EventStopping, EventEscalated, EventStopped,
		EventGaveUp, EventCompleted, EventDegraded:
	}
}
