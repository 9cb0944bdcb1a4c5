package supervise

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

var (
	// ErrNoMatch is returned, wrapped, when no worker or pool is meant.
	ErrNoMatch = errors.New("no such worker")
	// ErrEnding is returned by commands when everything is about to stop, or has.
	ErrEnding = errors.New("the supervisor is stopping")
	// ErrWaiting is returned, wrapped, when a pool waits for others and so has
	// nothing that could be restarted.
	ErrWaiting = errors.New("pool waits for others")
)

// ask lets the engine carry f out, with mu held, and returns what it says. When
// ctx ends before it has begun, it is not carried out.
func (s *Supervisor) ask(ctx context.Context, f func() error) error {
	answer := make(chan error, 1)
	s.inbox.post(message{do: func() {
		switch {
		case ctx.Err() != nil:
			answer <- context.Cause(ctx)
		case s.halting.Load():
			answer <- ErrEnding
		default:
			answer <- f()
		}
	}})
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-s.ended:
		return ErrEnding
	}
}

// selected calls f for every regular member that is meant. The caller holds mu.
func (s *Supervisor) selected(sel Selector, f func(p *pool, i int32, n int)) error {
	found := false
	for _, p := range s.pools {
		for n := range p.crew.members {
			id := WorkerID{Pool: p.name, Slot: n}
			if p.crew.members[n].role == roleRegular && sel.Match(id, p.spec().Labels) {
				found = true
				f(p, s.slotOf(p, n), n)
			}
		}
	}
	if !found {
		return ErrNoMatch
	}
	return nil
}

// Stop asks workers to end, as their pool says, and not to come back until Start
// or Restart brings them back, or Scale, if it has removed them before. It returns which, and
// does not wait.
func (s *Supervisor) Stop(ctx context.Context, sel Selector) ([]WorkerID, error) {
	return s.each(ctx, sel, inStop)
}

// Kill is Stop without grace.
func (s *Supervisor) Kill(ctx context.Context, sel Selector) ([]WorkerID, error) {
	return s.each(ctx, sel, inKill)
}

// Start starts workers that were stopped, were given up or have completed, and those
// that wait before their next start, with no failures counted. It returns which were
// meant, and does not wait. Those of a pool that waits for others keep waiting.
func (s *Supervisor) Start(ctx context.Context, sel Selector) ([]WorkerID, error) {
	return s.each(ctx, sel, inStart)
}

func (s *Supervisor) each(ctx context.Context, sel Selector, kind inputKind) (ids []WorkerID, err error) {
	err = s.ask(ctx, func() error {
		return s.selected(sel, func(p *pool, i int32, n int) {
			ids = append(ids, WorkerID{Pool: p.name, Slot: n})
			if p.crew.held && kind == inStart {
				s.unpark(i)
				return
			}
			s.step(i, input{kind: kind, at: s.now(), asked: ReasonCommand})
		})
	})
	if err != nil {
		return nil, err
	}
	return ids, nil
}

// unpark takes a stop back of a worker that was never started.
func (s *Supervisor) unpark(i int32) {
	c := &s.slots[i]
	before := c.worker
	c.wantStop = false
	s.count(c.pool, &before, &c.worker)
	s.inform(c, changeTo(&c.worker))
}

// Signal sends a signal to the main process of workers that live, and returns which
// got it. A worker that ends by it ends by itself, as far as its pool is concerned.
func (s *Supervisor) Signal(ctx context.Context, sel Selector, sig unix.Signal) (ids []WorkerID, err error) {
	var errs []error
	err = s.ask(ctx, func() error {
		return s.selected(sel, func(p *pool, i int32, n int) {
			c := &s.slots[i]
			if !c.lives() || c.proc == nil {
				return
			}
			err := c.mainHandle().Signal(sig)
			switch {
			case errors.Is(err, os.ErrProcessDone):
				return // what comes of that is on its way
			case err != nil:
				errs = append(errs, fmt.Errorf("signal %v: %w", c.id(), err))
				return
			}
			ids = append(ids, c.id())
		})
	})
	return ids, errors.Join(err, errors.Join(errs...))
}

// Scale gives a pool another size, 0 included. Workers of the highest numbers go. It
// does not wait: Wait does. A Reload sets the size anew.
func (s *Supervisor) Scale(ctx context.Context, name string, size int) error {
	if size < 0 || size > maxWorkers {
		return fmt.Errorf("scale pool %s: size %d is not within 0 and %d", name, size, maxWorkers)
	}
	return s.ask(ctx, func() error {
		p := s.poolNamed(name)
		if p == nil || p.going {
			return fmt.Errorf("scale pool %s: %w", name, ErrNoMatch)
		}
		if total := s.total() - p.wanted + size; total > maxWorkers {
			return fmt.Errorf("scale pool %s: %d workers, more than %d", name, total, maxWorkers)
		}
		p.wanted = size
		s.resize(p, ReasonCommand)
		s.noteSize(p)
		return nil
	})
}

// Restart replaces workers by new ones, as the Rollout of their pool says, and
// starts those that were stopped, were given up or have completed. Each pool that
// has some is a rollout of its own.
func (s *Supervisor) Restart(ctx context.Context, sel Selector) (begun []*Progress, err error) {
	err = s.ask(ctx, func() error {
		targets := map[*pool]map[int]bool{}
		var order []*pool
		if err := s.selected(sel, func(p *pool, _ int32, n int) {
			if targets[p] == nil {
				targets[p] = map[int]bool{}
				order = append(order, p)
			}
			targets[p][n] = true
		}); err != nil {
			return err
		}
		for _, p := range order {
			if p.crew.held {
				return fmt.Errorf("restart pool %s: %w: it %s", p.name, ErrWaiting, p.waitsFor)
			}
		}
		for _, p := range order {
			id := p.crew.restart(func(n int) bool { return targets[p][n] }, s.now())
			begun = append(begun, p.progress(id))
			s.collect(p)
		}
		return nil
	})
	return begun, err
}

// Progress is a rollout that was begun.
type Progress struct {
	Pool    string
	Rollout uint64

	done chan struct{}
	err  error // once done is closed
}

// Wait waits for the end of the rollout. The error is a *[RolloutError] when a new
// worker did not become ready, and ErrEnding when everything is stopped meanwhile.
func (p *Progress) Wait(ctx context.Context) error {
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// progress makes the handle of a rollout. Its end has not been reported yet, since
// that is an order, which comes after.
func (p *pool) progress(id uint64) *Progress {
	g := &Progress{Pool: p.name, Rollout: id, done: make(chan struct{})}
	p.rolling = append(p.rolling, g)
	return g
}

// finish tells who waits that a rollout has ended.
func (p *pool) finish(id uint64, err error) {
	kept := p.rolling[:0]
	for _, g := range p.rolling {
		if g.Rollout != id {
			kept = append(kept, g)
			continue
		}
		g.err = err
		close(g.done)
	}
	clear(p.rolling[len(kept):])
	p.rolling = kept
}

// abandonRollouts tells who still waits that nothing comes of it.
func (s *Supervisor) abandonRollouts() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.pools {
		for len(p.rolling) > 0 {
			p.finish(p.rolling[0].Rollout, ErrEnding)
		}
	}
}

// total is how many workers all pools want.
func (s *Supervisor) total() int {
	n := 0
	for _, p := range s.pools {
		n += p.wanted
	}
	return n
}

// noteSize orders the pool's record anew.
func (s *Supervisor) noteSize(p *pool) {
	if !p.recording {
		p.recording = true
		s.records.push(order{kind: ordPoolRecord, pool: p})
	}
}
