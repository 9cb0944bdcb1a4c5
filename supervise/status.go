package supervise

import (
	"errors"
	"slices"
)

// Status returns a snapshot of every worker, in the order of the pools.
func (s *Supervisor) Status() []WorkerStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]WorkerStatus, len(s.slots))
	for i := range s.slots {
		all[i] = s.status(int32(i))
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
	case StateDown, StateStarting, StateBackoff, StateFailed, StateCompleted:
	}
	if c.ready && s.now()-c.readyAt >= c.pool.policy.backoff.Reset {
		w.Failures = 0 // as its next end will count
	}
	return w
}

// Result returns the counts so far.
func (s *Supervisor) Result() Result {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.result
}

// poolError is what Run says about workers that are not as they should be.
func (s *Supervisor) poolError() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var bad []WorkerStatus
	for i := range s.slots {
		if c := &s.slots[i]; c.state == StateFailed || c.everFailed && !c.everReady {
			bad = append(bad, s.status(int32(i)))
		}
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
		if s.slots[i].over() {
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
