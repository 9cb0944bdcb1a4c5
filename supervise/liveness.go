package supervise

import (
	"context"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/pidfd"
)

// Liveness is a rule that decides when a ready worker must be restarted. It is
// another question than readiness, and asked only once that has been answered.
type Liveness interface {
	// Prepare is called before each start, from several goroutines at once.
	// What it makes is released by Vigil.Close.
	Prepare(StartInfo, Output) (Vigil, error)
}

// Vigil is a liveness rule applied to one start. It costs a goroutine for as long
// as the worker is ready.
type Vigil interface {
	Env() []string // added to the environment of the worker

	// Watch returns an error when the worker must be restarted. It must return
	// soon after ctx is done, with whatever. Process and leaf are open during
	// the call; ready is what the readiness rule has learned. A start that never
	// becomes ready never gets this call.
	Watch(ctx context.Context, p *pidfd.Process, leaf *cgroup.Dir, ready ReadyInfo) error

	// Close releases what Prepare made. It is called exactly once, after Watch.
	Close() error
}

// startWatch lets the liveness rule watch a worker that has become ready.
func (s *Supervisor) startWatch(i int32) {
	c := &s.slots[i]
	if c.extra == nil || c.extra.vigil == nil || c.proc == nil {
		return
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	c.extra.unwatch = cancel
	vigil, proc, start, port := c.extra.vigil, c.proc, c.start, int(c.port)
	pool, name := c.pool, leafName(c.n, c.start)
	s.helpers.Go(func() {
		defer vigil.Close() // nothing depends on it
		leaf, err := pool.openLeaf(name)
		if err != nil {
			return // it is gone, and so is the worker
		}
		err = vigil.Watch(ctx, proc.Handle(), leaf, ReadyInfo{Port: port})
		_ = leaf.Close() // a directory descriptor; nothing to lose
		if err != nil && ctx.Err() == nil {
			s.inbox.post(message{i: i, in: input{kind: inUnwell, start: start, err: err}})
		}
	})
}

// unwatch ends the watching of a worker that is not ready any more.
func (c *slot) unwatch() {
	if !c.watched() {
		c.extra.stopWatch()
	}
}

func (x *extra) stopWatch() {
	if x != nil && x.unwatch != nil {
		x.unwatch(errStopped)
	}
}
