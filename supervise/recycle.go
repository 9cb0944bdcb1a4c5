package supervise

import (
	"context"
	"fmt"
	"time"
)

// memoryEvery is how often the memory of workers is looked at where nothing else is said.
const memoryEvery = 10 * time.Second

// recycle asks the pool of a worker to replace it.
func (s *Supervisor) recycle(i int32, why Reason, found error) {
	c := &s.slots[i]
	if !c.pool.crew.mayRecycle(int(c.n), s.now()) {
		return
	}
	s.emit(Event{
		Worker: c.id(), Start: c.start, Kind: EventRecycling, Reason: why, From: c.shown, To: c.shown,
		Ready: c.ready, PID: int(c.pid), Port: int(c.port), Err: found,
	})
	c.pool.crew.recycle(int(c.n), why, s.now())
	s.collect(c.pool)
}

// Count takes note of how much a worker has done, as it or who uses it counts, for
// Recycle.Count of its pool. What comes for an earlier start does not count. It may be
// called as often as one likes, and from Observe, too.
func (s *Supervisor) Count(id WorkerID, start, count uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.poolNamed(id.Pool)
	if p == nil || id.Slot < 0 || id.Slot >= len(p.slots) {
		return
	}
	i := p.slots[id.Slot]
	c := &s.slots[i]
	most := c.rev.spec.Recycle.Count
	if most == 0 || count < most || c.start != start || !c.ready || c.asked {
		return
	}
	c.asked = true
	s.inbox.post(message{do: func() {
		s.recycleIf(i, start, ReasonCount, fmt.Errorf("counted %d, at most %d are meant", count, most))
	}})
}

// recycleIf recycles a worker if it is still the same start. When its pool has no
// time for it now, it may be asked for again.
func (s *Supervisor) recycleIf(i int32, start uint64, why Reason, found error) {
	c := &s.slots[i]
	if c.start != start || !c.ready {
		return
	}
	s.recycle(i, why, found)
	c.asked = c.pool.crew.members[c.n].mark != markNone
}

// measure starts the goroutine that looks at the memory of workers, if some pool
// wants that and none runs. The caller holds mu.
func (s *Supervisor) measure() {
	if s.measuring || s.halting.Load() || s.measureEvery() == 0 {
		return
	}
	s.measuring = true
	s.helpers.Go(s.keepMeasuring)
}

// measureEvery is the shortest interval that a pool wants; 0 is none.
func (s *Supervisor) measureEvery() time.Duration {
	least := time.Duration(0)
	for _, p := range s.pools {
		if every := p.measureEvery(); every > 0 && (least == 0 || every < least) {
			least = every
		}
	}
	return least
}

func (p *pool) measureEvery() time.Duration {
	r := p.spec().Recycle
	switch {
	case r.Memory == 0 || p.going:
		return 0
	case r.MemoryEvery == 0:
		return memoryEvery
	}
	return r.MemoryEvery
}

// keepMeasuring looks at the memory of workers until no pool wants that any more.
func (s *Supervisor) keepMeasuring() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		s.mu.Lock()
		every := s.measureEvery()
		if every == 0 {
			s.measuring = false
		}
		s.mu.Unlock()
		if every == 0 {
			return
		}
		timer.Reset(every)
		select {
		case <-timer.C:
		case <-s.ended:
			return
		}
		for _, m := range s.measurable() {
			if err := m.look(); err != nil {
				s.inbox.post(message{do: func() { s.recycleIf(m.i, m.start, ReasonMemory, err) }})
			}
		}
	}
}

// measurement is one look at the memory of one worker.
type measurement struct {
	i     int32
	start uint64
	pool  *pool
	leaf  string
	most  int64
}

// measurable returns the ready workers of pools whose turn it is.
func (s *Supervisor) measurable() []measurement {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []measurement
	for _, p := range s.pools {
		every := p.measureEvery()
		if every == 0 || s.now()-p.measuredAt < every-every/8 {
			continue
		}
		p.measuredAt = s.now()
		s.members(p, func(i int32, m *member) {
			if c := &s.slots[i]; c.ready && m.role == roleRegular && m.mark == markNone {
				all = append(all, measurement{i: i, start: c.start, pool: p, leaf: leafName(c.n, c.start), most: p.spec().Recycle.Memory})
			}
		})
	}
	return all
}

// look returns an error when the worker holds too much.
func (m *measurement) look() error {
	leaf, err := m.pool.openLeaf(m.leaf)
	if err != nil {
		return nil // it has ended
	}
	defer leaf.Close()
	if now, ok := leaf.MemoryCurrent(); ok && int64(now) > m.most {
		return fmt.Errorf("memory.current is %d, at most %d is meant", now, m.most)
	}
	return nil
}

// Wait waits until every worker that is meant is where it should be: ready, completed,
// given up, or stopped by a command; and none is to be replaced or is being stopped for
// good. The error is a *[PoolError] if some were given up. Those that keep failing are
// waited for.
func (s *Supervisor) Wait(ctx context.Context, sel Selector) error {
	for {
		more := s.ring.watch()
		bad, settled, err := s.settled(sel)
		switch {
		case err != nil:
			return err
		case settled && len(bad) > 0:
			return &PoolError{Workers: bad}
		case settled:
			return nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-s.ended:
			return ErrEnding
		}
	}
}

// settled says whether everybody who is meant is where they should be.
func (s *Supervisor) settled(sel Selector) (bad []WorkerStatus, settled bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	settled, found := true, false
	for _, p := range s.pools {
		s.members(p, func(i int32, m *member) {
			c := &s.slots[i]
			if !sel.Match(c.id(), p.spec().Labels) {
				return
			}
			found = true
			if c.state == StateFailed {
				bad = append(bad, s.status(i))
			}
			settled = settled && m.role == roleRegular && m.mark == markNone && (c.ready || c.over())
		})
	}
	if !found {
		err = ErrNoMatch
	}
	return bad, settled, err
}
