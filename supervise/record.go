package supervise

import (
	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/pidfd"
	"github.com/pitvisor/pitvisor/registry"
)

// The records are for ps to read; a leaf without one is of a worker that starts.
// Each is written by the spawner when it has made the process, and by one
// goroutine from then on; what it writes is what holds when it comes to it, so
// that any number of changes costs one write.

// maxWaiting bounds the waiting slots in a pool's record.
const maxWaiting = 64

// note orders the records that a step makes stale.
func (s *Supervisor) note(i int32, before *worker) {
	c := &s.slots[i]
	p := c.pool
	if c.state == before.state && c.ready == before.ready {
		return
	}
	// That it is up, and ready without a rule, has been written by the spawner.
	if c.state == StateStopping || c.state == StateUp && c.ready && c.rev.policy.probed {
		s.noteWorker(i)
	}
	p.waiting += toInt(waits(c.state)) - toInt(waits(before.state))
	if !waits(c.state) && !waits(before.state) {
		return
	}
	if !p.recording {
		p.recording = true
		s.records.push(order{kind: ordPoolRecord, pool: p})
	}
}

// waits says that a slot has no leaf which could carry a record of its own.
func waits(st State) bool {
	return st == StateBackoff || st == StateFailed || st == StateCompleted
}

func (s *Supervisor) noteWorker(i int32) {
	c := &s.slots[i]
	if !c.recording {
		c.recording = true
		s.records.push(order{kind: ordWorkerRecord, i: i, n: c.n, pool: c.pool})
	}
}

// record writes one record. An error is not worth a word: ps will show less.
func (s *Supervisor) record(o order) {
	switch o.kind {
	case ordWorkerRecord:
		s.recordWorker(o)
	case ordPoolRecord:
		s.recordPool(o.pool)
	case ordRemove, ordKill, ordKillRun, ordSignalAll, ordLimit, ordSettle, ordFreeze:
		// Not records.
	}
}

func (s *Supervisor) recordWorker(o order) {
	s.mu.Lock()
	c := &s.slots[o.i]
	c.recording = false
	o.start, o.n, o.pool = c.start, c.n, c.pool
	w := registry.Worker{
		Pool: c.pool.name, Slot: int(c.n), Start: c.start, State: c.state.String(),
		Ready: c.ready, Port: int(c.port), Started: s.at(c.began),
	}
	proc, worth := c.mainHandle(), c.lives()
	s.mu.Unlock()
	if !worth || proc == nil {
		return // the leaf is on its way out
	}
	s.withLeaf(o, func(leaf *cgroup.Dir) error {
		id, err := proc.Identity()
		if err != nil {
			id = pidfd.Identity{PID: proc.PID()}
		}
		w.Process = id
		return registry.SetWorker(leaf, w)
	})
}

func (s *Supervisor) recordPool(p *pool) {
	s.mu.Lock()
	p.recording = false
	rec := registry.Pool{Name: p.name, Size: p.wanted, Pressure: p.pressureWords()}
	waiting := p.waiting + s.heldNow(p)
	for _, i := range p.slots {
		if len(rec.Waiting) >= min(waiting, maxWaiting) {
			break
		}
		switch c := &s.slots[i]; {
		case c.isHeld():
			rec.Waiting = append(rec.Waiting, registry.Slot{Slot: int(c.n), State: c.state.String(), Cause: "held"})
		case waits(c.state):
			rec.Waiting = append(rec.Waiting, registry.Slot{Slot: int(c.n), State: c.state.String(), Cause: c.cause})
		}
	}
	rec.Omitted = waiting - len(rec.Waiting)
	s.mu.Unlock()
	p.setRecord(rec)
}
