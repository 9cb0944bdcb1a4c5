package supervise

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/registry"
	"github.com/pitvisor/pitvisor/resource"
)

// defaultStop asks a worker to end where its pool names no signal.
const defaultStop = unix.SIGTERM

// revision is one spec of a pool, with what follows from it. It never changes:
// starts of several revisions may be there at once.
type revision struct {
	spec     PoolSpec
	policy   policy
	limits   resource.Limits // of a leaf, without what this host cannot do
	ofPool   resource.Limits // of the pool, likewise
	degraded []error         // limits that are not in force
	expander expander
	pressure PressurePolicy // filled, and none where this host cannot tell

	surge, unavailable int // bounds of a rollout
}

// newRevision works out what follows from a spec. It enables the controllers that
// the limits need, below the run and in the pool, and tries the limits out.
func newRevision(run *registry.Run, pool *cgroup.Dir, spec PoolSpec) (*revision, error) {
	r := &revision{spec: spec, limits: spec.Limits, ofPool: spec.PoolLimits, expander: newExpander(spec.Command)}
	if r.spec.Stop.Signal == 0 {
		r.spec.Stop.Signal = defaultStop
	}
	r.policy = policy{
		restart: spec.Restart,
		backoff: spec.Backoff.filled(),
		limit:   spec.FailureLimit,
		grace:   spec.Stop.Grace,
		drain:   spec.Stop.Drain,
		timeout: spec.StartTimeout,
		probed:  spec.Readiness != nil,
		leaf:    spec.Track == TrackLeaf,
		age:     spec.Recycle.Age,
		jitter:  spec.Recycle.AgeJitter,
	}
	r.surge, r.unavailable = spec.Rollout.bounds(spec.Restart)
	if err := r.enable(run, pool); err != nil {
		return nil, fmt.Errorf("limit pool %s: %w", spec.Name, err)
	}
	if spec.Pressure.Action != 0 {
		r.pressure = spec.Pressure
		r.pressure.Pressure = r.pressure.filled()
		if err := r.tryPressure(run); err != nil {
			return nil, fmt.Errorf("watch pressure for pool %s: %w", spec.Name, err)
		}
	}
	return r, nil
}

// tryPressure finds out whether the pressure can be watched. With best effort the pool
// does without.
func (r *revision) tryPressure(run *registry.Run) error {
	where := run.Dir()
	if r.pressure.Where == PressureOfHost {
		where = nil
	}
	err := tryPressure(where, &r.pressure.Pressure)
	if err == nil || !r.spec.BestEffortLimits {
		return err
	}
	r.pressure = PressurePolicy{}
	r.degraded = append(r.degraded, err)
	return nil
}

// enable enables what the limits need. With best effort it leaves out what this
// host cannot do.
func (r *revision) enable(run *registry.Run, pool *cgroup.Dir) error {
	var missing error // of all limits, not only the first one's
	for _, c := range r.ofPool.Controllers() {
		if err := r.tolerate(run.Enable(c)); err != nil {
			missing = besides(missing, err)
		} else if r.lacks(c) {
			r.ofPool = r.ofPool.Without(c)
		}
	}
	needed := r.limits.Controllers()
	if r.spec.Recycle.Memory > 0 && !slices.Contains(needed, "memory") {
		needed = append(needed, "memory") // for memory.current of the leaves
	}
	for _, c := range needed {
		err := run.Enable(c)
		if err == nil {
			err = pool.Enable(c)
		}
		if err = r.tolerate(err); err != nil {
			missing = besides(missing, err)
		} else if r.lacks(c) {
			r.limits = r.limits.Without(c)
		}
	}
	if missing != nil {
		return missing
	}
	return errors.Join(r.try(run.Dir(), &r.ofPool), r.try(pool, &r.limits))
}

// besides adds an error to those before it, unless it is one of them.
func besides(before, err error) error {
	switch {
	case before == nil:
		return err
	case strings.Contains(before.Error(), err.Error()):
		return before
	}
	return fmt.Errorf("%w; %w", before, err)
}

// try sets limits on a cgroup that nobody will use, so that a value which the
// kernel refuses is found out before anything is changed.
func (r *revision) try(parent *cgroup.Dir, l *resource.Limits) error {
	if l.IsZero() {
		return nil
	}
	name := ".try-" + r.spec.Name
	dir, err := parent.Create(name)
	if err != nil {
		return err
	}
	degraded, err := setLimits(dir, l, r.spec.BestEffortLimits)
	r.degraded = append(r.degraded, degraded...)
	return errors.Join(err, dir.Close(), parent.RemoveChild(name, dir.ID()))
}

// tolerate notes a missing controller if the pool can do without it, and
// returns any other error.
func (r *revision) tolerate(err error) error {
	var missing *cgroup.ControllerError
	if r.spec.BestEffortLimits && errors.As(err, &missing) {
		r.degraded = append(r.degraded, err)
		return nil
	}
	return err
}

// counts says whether a leaf counts kills for memory or refused forks.
func (r *revision) counts() bool {
	for _, c := range r.limits.Controllers() {
		if c == "memory" || c == "pids" {
			return true
		}
	}
	return false
}

// lacks says whether a controller was found missing.
func (r *revision) lacks(controller string) bool {
	for _, err := range r.degraded {
		var missing *cgroup.ControllerError
		if errors.As(err, &missing) && missing.Controller == controller {
			return true
		}
	}
	return false
}
