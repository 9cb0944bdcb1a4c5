package supervise

import (
	"context"
	"fmt"
	"reflect"
)

// Changes is what a reload has changed, by the names of pools.
type Changes struct {
	Added, Removed []string
	Scaled         []string    // have another size
	Updated        []string    // have another spec, for which no worker has to be replaced
	Rolling        []*Progress // whose workers are being replaced
	Run            bool        // what concerns all pools together has changed
}

// Empty says that nothing was changed.
func (c Changes) Empty() bool {
	return len(c.Added)+len(c.Removed)+len(c.Scaled)+len(c.Updated)+len(c.Rolling) == 0 && !c.Run
}

// reloading is a reload that is being prepared.
type reloading struct {
	*Supervisor
	plans []plan
	gone  []*pool
}

// plan is what becomes of one spec.
type plan struct {
	spec PoolSpec
	pool *pool
	new  bool
	rev  *revision // nil leaves the one in force
	seen *revision // the one that was in force
	soft bool      // no worker has to be replaced
}

// Reload makes the pools those of specs, and changes only what has to change: pools
// come and go, sizes change, and workers are replaced where what they are started
// with is another, as the new Rollout of their pool says. Everything that may fail is
// done before anything is changed. It does not wait for the workers.
//
// Workers are replaced for another Command, Track, Variant, Inherit or Liveness, and for
// another Readiness that does not suit them. Limits are changed while they run; everything else
// is only the supervisor's business. Readiness and Liveness are compared with their
// method Equal(any) bool; without one, with ==. A Readiness that has Suits(any) bool says
// with it whether a worker started under the other one, which may be nil, can go on.
func (s *Supervisor) Reload(ctx context.Context, specs []PoolSpec) (Changes, error) {
	s.reload.Lock()
	defer s.reload.Unlock()
	return s.reloadPools(ctx, specs)
}

// ReloadAll is Reload, with another spec of the run as well. Limits of the run are
// changed first, and changed back if the pools cannot be had.
func (s *Supervisor) ReloadAll(ctx context.Context, run RunSpec, specs []PoolSpec) (Changes, error) {
	s.reload.Lock()
	defer s.reload.Unlock()
	if err := run.validate(); err != nil {
		return Changes{}, fmt.Errorf("check the run: %w", err)
	}
	before := s.runs // only who holds reload changes it
	if reflect.DeepEqual(before.asked, run) {
		return s.reloadPools(ctx, specs)
	}
	now, err := s.setRun(before, run)
	if err != nil {
		return Changes{}, err
	}
	changes, err := s.reloadPools(ctx, specs)
	s.countAgain()
	if err == nil {
		err = s.ask(ctx, func() error {
			s.runs, s.unsettled, changes.Run = now, true, true
			s.tellRunDegraded()
			return nil
		})
	}
	if err != nil {
		_, _ = s.setRun(now, before.asked) // it did hold before
	}
	return changes, err
}

func (s *Supervisor) reloadPools(ctx context.Context, specs []PoolSpec) (Changes, error) {
	if err := validateAll(specs); err != nil {
		return Changes{}, fmt.Errorf("check pools: %w", err)
	}
	r := &reloading{Supervisor: s}
	r.look(specs)
	defer r.release()
	if err := r.prepare(); err != nil {
		r.undo()
		return Changes{}, err
	}
	var done Changes
	if err := s.ask(ctx, func() error { done = r.apply(); return nil }); err != nil {
		r.undo()
		return Changes{}, err
	}
	return done, nil
}

// look finds out which pools are there, and keeps them there.
func (r *reloading) look(specs []PoolSpec) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reloading = true
	wanted := map[string]bool{}
	for _, spec := range specs {
		wanted[spec.Name] = true
		r.plans = append(r.plans, plan{spec: spec, pool: r.poolNamed(spec.Name)})
	}
	for _, p := range r.pools {
		if !wanted[p.name] {
			r.gone = append(r.gone, p)
		}
	}
}

func (r *reloading) release() {
	r.mu.Lock()
	r.reloading = false
	r.mu.Unlock()
	r.inbox.post(message{do: func() { r.unsettled = true }}) // pools may go now
}

// prepare makes what is new, beside what is there.
func (r *reloading) prepare() error {
	for i := range r.plans {
		pl := &r.plans[i]
		var err error
		if pl.pool == nil {
			pl.new = true
			if pl.pool, err = makePool(r.opts.Run, pl.spec); err != nil {
				pl.new = false
				return err
			}
			continue
		}
		pl.seen = r.inForce(pl.pool)
		same, soft := compare(&pl.seen.spec, &pl.spec)
		if same {
			continue
		}
		pl.soft = soft
		if pl.rev, err = newRevision(r.opts.Run, pl.pool.dir, pl.spec); err != nil {
			return err
		}
	}
	return r.limitPools()
}

// limitPools sets the limits of pools, which is the last that may fail.
func (r *reloading) limitPools() error {
	for i := range r.plans {
		pl := &r.plans[i]
		if pl.rev == nil {
			continue
		}
		if err := pl.pool.limit(r.opts.Run, pl.seen, pl.rev); err != nil {
			for k := range r.plans[:i+1] {
				if before := &r.plans[k]; before.rev != nil {
					_ = before.pool.limit(r.opts.Run, before.rev, before.seen) // it did hold before
				}
			}
			return err
		}
	}
	return nil
}

func (r *reloading) inForce(p *pool) *revision {
	r.mu.Lock()
	defer r.mu.Unlock()
	return p.crew.rev
}

// undo removes what was made.
func (r *reloading) undo() {
	for i := range r.plans {
		if pl := &r.plans[i]; pl.new {
			_ = pl.pool.remove(r.opts.Run.Dir()) // empty; what stays goes with the run
		}
	}
}

// apply puts the specs in force. The engine calls it.
func (r *reloading) apply() Changes {
	var c Changes
	pools := make([]*pool, 0, len(r.plans)+len(r.gone))
	for i := range r.plans {
		pl := &r.plans[i]
		pools = append(pools, pl.pool)
		if pl.new {
			r.add(pl.pool)
			c.Added = append(c.Added, pl.spec.Name)
		} else {
			r.change(pl, &c)
		}
		pl.pool.after = pl.spec.After
	}
	for _, p := range r.gone {
		if !p.going {
			p.going = true
			c.Removed = append(c.Removed, p.name)
			p.wanted = 0
			p.crew.scale(0, ReasonCommand, r.now())
			r.collect(p)
		}
		pools = append(pools, p)
	}
	r.pools = pools
	r.unsettled = true
	return c
}

// add lets a new pool begin.
func (r *reloading) add(p *pool) {
	r.emit(Event{Worker: WorkerID{Pool: p.name, Slot: -1}, Kind: EventAdded, Size: p.crew.size})
	r.tellDegraded(p)
	r.enrol(p)
	if !p.crew.held {
		p.crew.boot(ReasonReload)
		r.collect(p)
	}
}

// change puts another spec in force for a pool that is there.
func (r *reloading) change(pl *plan, c *Changes) {
	p := pl.pool
	p.stopped = nil // what did not come about is wanted no more, or is tried again
	if p.going {
		p.going = false
		c.Added = append(c.Added, p.name)
		r.emit(Event{Worker: WorkerID{Pool: p.name, Slot: -1}, Kind: EventAdded, Size: pl.spec.Size})
	}
	if pl.rev != nil {
		soft := pl.soft && p.crew.rev == pl.seen // a rollout may have ended meanwhile
		id := p.crew.reload(pl.rev, soft, r.now())
		r.tellDegraded(p)
		if soft {
			c.Updated = append(c.Updated, p.name)
		} else {
			c.Rolling = append(c.Rolling, p.progress(id))
		}
	}
	if p.wanted != pl.spec.Size {
		if len(c.Added) == 0 || c.Added[len(c.Added)-1] != p.name {
			c.Scaled = append(c.Scaled, p.name)
		}
		p.wanted = pl.spec.Size
	}
	r.resize(p, ReasonCommand)
	r.enrol(p)
	r.collect(p)
	r.noteSize(p)
}

// compare says whether two specs of a pool are the same but for the size, and if not
// whether workers may go on with the other one.
func compare(a, b *PoolSpec) (same, soft bool) {
	live := equalRules(a.Liveness, b.Liveness)
	soft = hard(a).equal(hard(b)) && suits(a.Readiness, b.Readiness) && live && sameInheritance(a.Inherit, b.Inherit)
	x, y := *a, *b
	for _, spec := range []*PoolSpec{&x, &y} {
		spec.Size = 0
		spec.Readiness, spec.Liveness, spec.Inherit = nil, nil, nil
		if spec.Stop.Signal == 0 {
			spec.Stop.Signal = defaultStop
		}
	}
	return soft && equalRules(a.Readiness, b.Readiness) && reflect.DeepEqual(x, y), soft
}

// hardSpec is what a worker is started with.
type hardSpec struct {
	Command Command
	Track   Track
	Variant string
}

func hard(p *PoolSpec) hardSpec {
	return hardSpec{Command: p.Command, Track: p.Track, Variant: p.Variant}
}

func (h hardSpec) equal(o hardSpec) bool { return reflect.DeepEqual(h, o) }

// suits says whether a worker that was started under one of the rules can go on with
// the other one.
func suits(a, b any) bool {
	if s, ok := a.(interface{ Suits(any) bool }); ok {
		return s.Suits(b)
	}
	if s, ok := b.(interface{ Suits(any) bool }); ok {
		return s.Suits(a)
	}
	return equalRules(a, b)
}

// equalRules compares rules by their own judgement.
func equalRules(a, b any) bool {
	if e, ok := a.(interface{ Equal(any) bool }); ok {
		return e.Equal(b)
	}
	return reflect.TypeOf(a) == reflect.TypeOf(b) && (a == nil || reflect.TypeOf(a).Comparable() && a == b)
}
