package supervise

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/registry"
)

// pool is a named set of workers, in a cgroup of its own.
type pool struct {
	name string
	dir  *cgroup.Dir
	use  sync.RWMutex // held while dir is used by who may come after its end

	dirs     [3]*cgroup.Dir // over the leaves: see above
	evidence atomic.Bool    // a leaf counts kills for memory or refused forks
	crowded  atomic.Bool    // and a cgroup over it has a limit of processes
	thawed   atomic.Int64   // time.Duration of Supervisor.now when a start last found nothing frozen here

	// The rest is guarded by Supervisor.mu.
	crew  crew
	slots []int32 // where the members are among all slots, by number; those that have left, too
	going bool    // is to be removed when its workers are gone
	busy  bool    // has orders
	done  int     // orders carried out so far

	after    []Dependency
	awaited  bool   // some pool waits for it
	hopeless bool   // it waits for what will not come
	waitsFor string // in words
	stopping bool   // its workers have been asked to end with everything

	best       time.Duration // of its starts, from the spawner to ready, or a little more
	measuredAt time.Duration // when the memory of its workers was looked at last

	rolling []*Progress   // rollouts that somebody may wait for
	stopped *RolloutError // of the last rollout; nil when it did not stop, or was followed by another or by a reload

	wanted     int          // the size that was asked for
	press      governed     // what pressure makes of it
	pressedBy  string       // in words
	heldStarts []startOrder // until that is over; some are not wanted any more
	freezing   sync.Mutex   // held by who writes whether a leaf is frozen
	visiting   sync.RWMutex // held by who spawns beside a worker, and exclusively by who freezes one, also to kill it

	open  int // slots that are not over
	stuck int // of these, the ones that only a blocked leaf keeps

	// The pool's record.
	waiting   int  // slots without a leaf that are not down
	recording bool // an order to write the record is queued
}

// makePool makes the cgroup of a pool and the first revision.
func makePool(run *registry.Run, spec PoolSpec) (*pool, error) {
	p := &pool{name: spec.Name, after: spec.After}
	dir, err := run.Dir().Create(spec.Name)
	if err != nil {
		return nil, fmt.Errorf("make pool %s: %w", spec.Name, err)
	}
	p.dir, p.dirs = dir, [3]*cgroup.Dir{dir, run.Dir(), run.Root()}
	rev, err := newRevision(run, dir, spec)
	if err == nil {
		err = p.limit(run, nil, rev)
	}
	if err != nil {
		_ = p.remove(run.Dir()) // empty; what stays goes with the run
		return nil, err
	}
	p.wanted, p.press.policy = spec.Size, rev.pressure
	p.crew = crew{size: spec.Size, rev: rev, held: len(spec.After) > 0}
	p.crew.enrol()
	p.setRecord(registry.Pool{Name: spec.Name, Size: spec.Size})
	return p, nil
}

// remove removes the empty cgroup of the pool.
func (p *pool) remove(run *cgroup.Dir) error {
	err := run.RemoveChild(p.dir.Name(), p.dir.ID())
	return errors.Join(err, p.close())
}

// close closes the pool's directory. Orders for its workers may be on their way still.
func (p *pool) close() error {
	p.use.Lock()
	defer p.use.Unlock()
	return p.dir.Close()
}

// openLeaf opens a leaf for somebody who does not know whether the worker, or the pool,
// is still there.
func (p *pool) openLeaf(name string) (*cgroup.Dir, error) {
	p.use.RLock()
	defer p.use.RUnlock()
	return p.dir.OpenChild(name)
}

// setRecord writes the pool's record. Only ps reads it: without it a pool works as well.
func (p *pool) setRecord(rec registry.Pool) {
	p.use.RLock()
	defer p.use.RUnlock()
	_ = registry.SetPool(p.dir, rec)
}

// spec is what the pool is to be now.
func (p *pool) spec() *PoolSpec { return &p.crew.rev.spec }

// finished says that none of its workers lives, but for what cannot be removed.
func (p *pool) finished() bool { return p.open == p.stuck }

// slotOf returns where member n is among all slots, and makes room for a new one.
func (s *Supervisor) slotOf(p *pool, n int) int32 {
	for len(p.slots) <= n {
		p.slots = append(p.slots, s.newSlot(p, len(p.slots)))
	}
	return p.slots[n]
}

// newSlot takes a slot that is free, or makes one. The number of starts goes on
// counting, so that what comes late for the last holder is known as such, and no start of
// a pool that was removed and has come again is mistaken for one of before.
func (s *Supervisor) newSlot(p *pool, n int) int32 {
	fresh := slot{pool: p, rev: p.crew.rev, next: p.crew.rev, n: int32(n), timer: noTimer}
	fresh.start = s.gone[p.name]
	p.open++
	s.open++
	if last := len(s.free) - 1; last >= 0 {
		i := s.free[last]
		s.free = s.free[:last]
		fresh.start = max(fresh.start, s.slots[i].start)
		s.slots[i] = fresh
		return i
	}
	s.slots = append(s.slots, fresh)
	s.timers.slots = s.slots
	return int32(len(s.slots) - 1)
}

// members calls f with the slot of everyone that the pool has now, by number.
func (s *Supervisor) members(p *pool, f func(i int32, m *member)) {
	for n := range p.crew.members {
		if m := &p.crew.members[n]; m.role != roleNone && n < len(p.slots) {
			f(p.slots[n], m)
		}
	}
}
