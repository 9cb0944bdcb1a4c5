package supervise

import (
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/cgroup"
)

// gateTime is how long the kill of the whole run waits for spawns under way.
const gateTime = 500 * time.Millisecond

// chore is what a remover does with an order: kernel work that may block.
func (s *Supervisor) chore(o order) {
	switch o.kind {
	case ordRemove:
		answer(s, s.chores, removeLeaf(o))
	case ordKill:
		s.withLeaf(o, func(leaf *cgroup.Dir) error {
			return o.pool.withoutVisits(!leaf.KillsAtOnce(), leaf.Kill)
		})
	case ordSignalAll:
		s.withLeaf(o, func(leaf *cgroup.Dir) error {
			_, err := leaf.Signal(o.rev.spec.Stop.Signal)
			_, contErr := leaf.Signal(unix.SIGCONT) // a stopped process could not obey
			return errors.Join(err, contErr)
		})
	case ordKillRun:
		s.killRun()
	case ordLimit:
		s.limitLeaf(o)
	case ordSettle:
		s.settleEnd(o)
	case ordFreeze:
		s.freezeLeaf(o)
	case ordWorkerRecord, ordPoolRecord:
		// Not for removers.
	}
}

// withLeaf opens a leaf for a moment. An error means that the leaf is gone, or
// cannot be killed this way; either is found out when it is removed.
func (s *Supervisor) withLeaf(o order, f func(*cgroup.Dir) error) {
	leaf, err := o.pool.openLeaf(leafName(o.n, o.start))
	if err != nil {
		return
	}
	_ = f(leaf)
	_ = leaf.Close() // a directory descriptor; nothing to lose
}

// killRun kills every process of the run with one write, and then whoever has
// left it. What is spawned at the same moment is killed leaf by leaf when its
// spawner has answered.
//
// The order matters: to kill each process first would wake each, and whoever wakes
// a thousand is put off by everyone of them. The dying take no notice of a kill.
func (s *Supervisor) killRun() {
	locked := lockSoon(&s.gate)
	err := s.opts.Run.Dir().Kill()
	if locked {
		s.gate.Unlock()
	}
	for first, more := 0, true; more; first += batch {
		s.mu.Lock()
		more = first+batch < len(s.slots)
		for i := first; i < min(first+batch, len(s.slots)); i++ {
			c := &s.slots[i]
			switch {
			case c.state != StateKilling || c.removing:
			case err != nil:
				s.killLeaf(int32(i))
			default:
				c.killProcess()
			}
		}
		s.mu.Unlock()
	}
}

// lockSoon waits a bounded time for the spawns under way that hold a gate: one that
// hangs in exec holds up nobody for ever.
func lockSoon(gate *sync.RWMutex) bool {
	deadline := time.Now().Add(gateTime)
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for !gate.TryLock() {
		if time.Now().After(deadline) {
			return false
		}
		<-ticker.C
	}
	return true
}

// withoutVisits kills, and if that freezes a leaf, it does so while nobody spawns beside a
// worker of the pool: such a child could be frozen before its exec, for which the runtime
// waits with everything.
func (p *pool) withoutVisits(freezes bool, kill func() error) error {
	if freezes && lockSoon(&p.visiting) {
		defer p.visiting.Unlock()
	}
	return kill()
}

// destroyLeaf kills what is in a leaf, and removes it.
func (p *pool) destroyLeaf(ctx context.Context, name string, id uint64) error {
	leaf, err := p.openLeaf(name)
	if err != nil {
		return err
	}
	defer func() { _ = leaf.Close() }() // a directory descriptor; nothing to lose
	return p.withoutVisits(!leaf.KillsAtOnce(), func() error { return p.dir.Destroy(ctx, name, id) })
}
