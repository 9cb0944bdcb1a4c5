package supervise

import (
	"errors"
	"maps"
	"slices"
)

// Status returns a snapshot of every worker, in the order of the pools.
func (s *Supervisor) Status() []WorkerStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]WorkerStatus, 0, len(s.slots))
	for _, p := range s.pools {
		s.members(p, func(i int32, m *member) {
			w := s.status(i)
			w.Surge, w.Leaving, w.Stopped = m.role == roleSurge, m.role == roleLeaving, m.parked
			w.Replaced = m.mark != markNone
			w.Frozen, w.Held = s.slots[i].frozen, s.slots[i].isHeld()
			all = append(all, w)
		})
	}
	return all
}

func (s *Supervisor) status(i int32) WorkerStatus {
	c := &s.slots[i]
	w := WorkerStatus{
		Worker: c.id(), State: c.state, Ready: c.ready, Start: c.start, Failures: int(c.failures),
		Since: s.at(c.since), Cause: c.cause,
	}
	switch c.state {
	case StateUp, StateStopping, StateKilling:
		w.PID, w.Port = int(c.pid), int(c.port)
		if x := c.extra; x != nil {
			w.Text, w.Errno, w.Reloading, w.Announced = x.said.Status, x.said.Errno, x.said.Reloading, x.said.Stopping
		}
	case StateDown, StateStarting, StateBackoff, StateFailed, StateCompleted:
	}
	if c.ready && s.now()-c.readyAt >= c.rev.policy.backoff.Reset {
		w.Failures = 0 // as its next end will count
	}
	return w
}

// PoolStatus is a snapshot of one pool.
type PoolStatus struct {
	Name    string
	Size    int // workers that there should be
	Ready   int // workers that are ready, with those that stand in
	Surge   int // workers that stand in during a rollout
	Leaving int // workers that are being stopped for good
	Labels  map[string]string
	Removed bool   // goes when its workers are gone
	Waits   string // for which other pools, in words; empty when it does not
	InVain  bool   // that will not come by itself any more

	Pressure string // what is done because a resource is short, in words; empty when nothing is
	Held     int    // starts that are held for it
	Frozen   int    // workers that are frozen for it
	Withheld int    // workers that are missing of Size for it

	Degraded []error // what of its limits and pressure is not in force on this host

	Rollout uint64 // the one under way; 0 is none
	Reason  Reason // of it
	Left    int    // workers it has still to replace

	Stopped *RolloutError // why the last one stopped; nil after one that did not, and when another begins or a reload comes
}

// Pools returns a snapshot of every pool.
func (s *Supervisor) Pools() []PoolStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]PoolStatus, 0, len(s.pools))
	for _, p := range s.pools {
		c := &p.crew
		all = append(all, PoolStatus{
			Name: p.name, Size: p.wanted, Ready: c.ready, Surge: c.surge, Leaving: c.leaving, Labels: maps.Clone(p.spec().Labels),
			Removed: p.going, Waits: p.waitsFor, InVain: p.waitsFor != "" && p.hopeless, Rollout: c.roll.id, Reason: c.roll.why, Left: c.roll.queued + c.roll.moving,
			Stopped: p.stopped, Pressure: p.pressureWords(), Held: s.heldNow(p), Frozen: s.frozenNow(p), Withheld: p.wanted - c.size,
			Degraded: slices.Clone(c.rev.degraded),
		})
	}
	return all
}

// Result returns the counts so far.
func (s *Supervisor) Result() Result {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.result
	for _, p := range s.pools {
		r.Workers += p.wanted
	}
	return r
}

// poolError is what Run says about workers that are not as they should be.
func (s *Supervisor) poolError() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var bad []WorkerStatus
	for _, p := range s.pools {
		s.members(p, func(i int32, _ *member) {
			if c := &s.slots[i]; c.state == StateFailed || c.everFailed && !c.everReady || p.crew.held && c.cause != "" {
				bad = append(bad, s.status(i))
			}
		})
	}
	if len(bad) == 0 {
		return nil
	}
	return &PoolError{Workers: bad}
}

// stopError is what Run says about leaves that cannot be removed.
func (s *Supervisor) stopError() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := &StopError{}
	for i := range s.slots {
		if c := &s.slots[i]; c.over() || c.state == StateDown {
			continue
		}
		e.Workers = append(e.Workers, s.status(int32(i)))
		err := s.blocked[int32(i)]
		if err == nil {
			err = errors.New("leaf is blocked")
		}
		e.Errs = append(e.Errs, err)
	}
	if len(e.Workers) == 0 {
		return nil
	}
	e.Errs = slices.Clip(e.Errs)
	return e
}
