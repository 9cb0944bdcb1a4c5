package supervise

import (
	"errors"
	"fmt"
	"slices"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/resource"
)

// RunSpec is what is asked for the run as a whole. The zero value is nothing.
type RunSpec struct {
	RunLimits  resource.Limits // of the run's cgroup, over all pools
	Watch      []Pressure      // of which EventPressure tells, and nothing follows
	BestEffort bool            // what this host cannot do of it is reported (EventDegraded), not refused
}

// runSpec is a RunSpec in force.
type runSpec struct {
	asked    RunSpec
	RunSpec          // without what this host cannot do, and filled
	degraded []error // what is not in force
}

func (r *RunSpec) validate() error {
	for i := range r.Watch {
		if len(r.Watch[i].thresholds()) == 0 {
			return errors.New("the run: pressure of nothing is watched")
		}
		if err := r.Watch[i].validate(); err != nil {
			return fmt.Errorf("the run: %w", err)
		}
	}
	return nil
}

// setRun puts another spec of the run in the place of the one before. After an error that
// one holds.
func (s *Supervisor) setRun(before runSpec, spec RunSpec) (runSpec, error) {
	now := runSpec{asked: spec, RunSpec: spec}
	err := s.limitRun(&before, &now)
	if err == nil {
		err = s.tryWatches(&now)
	}
	if err == nil {
		return now, nil
	}
	dir := s.opts.Run.Dir()
	_ = lift(dir, spec.RunLimits, before.RunLimits) // it did hold before
	limits := before.RunLimits
	_, _ = setLimits(dir, &limits, true)
	return before, err
}

// limitRun limits the run's own cgroup.
func (s *Supervisor) limitRun(before, now *runSpec) error {
	run := s.opts.Run
	for _, c := range now.RunLimits.Controllers() {
		err := run.Root().Enable(c)
		var missing *cgroup.ControllerError
		if now.BestEffort && errors.As(err, &missing) {
			now.degraded, now.RunLimits = append(now.degraded, err), now.RunLimits.Without(c)
			err = nil
		}
		if err != nil {
			return fmt.Errorf("limit the run: %w", err)
		}
	}
	err := lift(run.Dir(), before.RunLimits, now.RunLimits)
	degraded, setErr := setLimits(run.Dir(), &now.RunLimits, now.BestEffort)
	now.degraded = append(now.degraded, degraded...)
	if err := errors.Join(err, setErr); err != nil {
		return fmt.Errorf("limit the run: %w", err)
	}
	return nil
}

// tryWatches finds out what can be watched.
func (s *Supervisor) tryWatches(now *runSpec) error {
	var can []Pressure
	for _, w := range now.Watch {
		w = w.filled()
		err := tryPressure(s.place(w.Where), &w)
		switch {
		case err == nil:
			can = append(can, w)
		case now.BestEffort:
			now.degraded = append(now.degraded, err)
		default:
			return err
		}
	}
	now.Watch = can
	return nil
}

// setLimits sets limits. With best effort it takes out those whose controller, or whose
// file, this host has not, and says which.
func setLimits(d *cgroup.Dir, l *resource.Limits, bestEffort bool) (degraded []error, err error) {
	for {
		err := resource.Set(d, *l)
		var missing *cgroup.ControllerError
		if err == nil || !bestEffort || !errors.As(err, &missing) {
			return degraded, err
		}
		degraded = append(degraded, err)
		if less := l.WithoutFile(missing.File); missing.File != "" && len(less.Files()) < len(l.Files()) {
			*l = less
		} else {
			*l = l.Without(missing.Controller)
		}
	}
}

// tellRunDegraded tells what of the run's spec is not in force.
func (s *Supervisor) tellRunDegraded() {
	for _, err := range s.runs.degraded {
		s.emit(Event{Worker: WorkerID{Slot: -1}, Kind: EventDegraded, Err: err})
	}
}

// countAgain lets the leaves count for limits that the run has now.
func (s *Supervisor) countAgain() {
	s.mu.Lock()
	pools := slices.Clone(s.pools)
	s.mu.Unlock()
	for _, p := range pools {
		p.use.RLock()
		p.count(s.opts.Run) // of a pool that has gone meanwhile nothing can be read
		p.use.RUnlock()
	}
}
