package supervise

import (
	"errors"
	"fmt"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/registry"
	"github.com/pitvisor/pitvisor/resource"
)

// pool is one PoolSpec in force.
type pool struct {
	spec     PoolSpec
	policy   policy
	dir      *cgroup.Dir
	limits   resource.Limits // of a leaf, without what this host cannot do
	evidence bool            // a leaf counts kills for memory or refused forks
	crowded  bool            // and a cgroup over it has a limit of processes
	dirs     [3]*cgroup.Dir  // over the leaves: see above
	degraded []error         // limits that are not in force
	expander expander
	first    int // index of slot 0

	thawed atomic.Int64 // time.Duration of Supervisor.now when a start last found nothing frozen here

	// The pool's record, guarded by Supervisor.mu.
	waiting   int  // slots without a leaf that are not down
	recording bool // an order to write the record is queued
}

// makePool makes the cgroup of a pool and sets its limits.
func makePool(run *registry.Run, spec PoolSpec) (*pool, error) {
	p := &pool{spec: spec, limits: spec.Limits, expander: newExpander(spec.Command)}
	if p.spec.Stop.Signal == 0 {
		p.spec.Stop.Signal = unix.SIGTERM
	}
	p.policy = policy{
		restart: spec.Restart,
		backoff: spec.Backoff.filled(),
		limit:   spec.FailureLimit,
		grace:   spec.Stop.Grace,
		timeout: spec.StartTimeout,
		probed:  spec.Readiness != nil,
		leaf:    spec.Track == TrackLeaf,
	}
	dir, err := run.Dir().Create(spec.Name)
	if err != nil {
		return nil, fmt.Errorf("make pool %s: %w", spec.Name, err)
	}
	p.dir = dir
	if err := p.limit(run); err != nil {
		_ = p.remove(run.Dir()) // empty; what stays goes with the run
		return nil, fmt.Errorf("limit pool %s: %w", spec.Name, err)
	}
	// Only ps reads the record: without it a pool works as well.
	_ = registry.SetPool(dir, registry.Pool{Name: spec.Name, Size: spec.Size})
	return p, nil
}

// remove removes the empty cgroup of the pool.
func (p *pool) remove(run *cgroup.Dir) error {
	err := run.RemoveChild(p.dir.Name(), p.dir.ID())
	return errors.Join(err, p.dir.Close())
}

// limit enables what the limits need and sets those of the pool. With best
// effort it leaves out what this host cannot do.
func (p *pool) limit(run *registry.Run) error {
	ofPool := p.spec.PoolLimits
	for _, c := range ofPool.Controllers() {
		if err := p.tolerate(run.Enable(c)); err != nil {
			return err
		} else if p.lacks(c) {
			ofPool = ofPool.Without(c)
		}
	}
	for _, c := range p.limits.Controllers() {
		if err := p.tolerate(errors.Join(run.Enable(c), p.dir.Enable(c))); err != nil {
			return err
		} else if p.lacks(c) {
			p.limits = p.limits.Without(c)
		}
	}
	if err := p.tolerate(resource.Set(p.dir, ofPool)); err != nil {
		return err
	}
	for _, c := range p.limits.Controllers() {
		p.evidence = p.evidence || c == "memory" || c == "pids"
	}
	p.count(run)
	return p.tryLimits()
}

// tryLimits sets the limits of a leaf on one that nobody will use, so that a
// value which the kernel refuses is not found out by every single start.
func (p *pool) tryLimits() error {
	if p.limits.IsZero() {
		return nil
	}
	const name = "try-limits"
	leaf, err := p.dir.Create(name)
	if err != nil {
		return err
	}
	err = p.tolerate(resource.Set(leaf, p.limits))
	return errors.Join(err, leaf.Close(), p.dir.RemoveChild(name, leaf.ID()))
}

// tolerate notes a missing controller if the pool can do without it, and
// returns any other error.
func (p *pool) tolerate(err error) error {
	var missing *cgroup.ControllerError
	if p.spec.BestEffortLimits && errors.As(err, &missing) {
		p.degraded = append(p.degraded, err)
		return nil
	}
	return err
}

// lacks says whether a controller was found missing.
func (p *pool) lacks(controller string) bool {
	for _, err := range p.degraded {
		var missing *cgroup.ControllerError
		if errors.As(err, &missing) && missing.Controller == controller {
			return true
		}
	}
	return false
}
