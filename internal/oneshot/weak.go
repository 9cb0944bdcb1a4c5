package oneshot

import (
	"context"
	"errors"
	"time"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/internal/leftover"
	"github.com/pitvisor/pitvisor/internal/weak"
	"github.com/pitvisor/pitvisor/pidfd"
	"github.com/pitvisor/pitvisor/registry"
	"github.com/pitvisor/pitvisor/spawn"
	"golang.org/x/sys/unix"
)

// RunWeak is Run without a cgroup: tier E, see package weak for what that cannot
// hold. Spec.Root, Job and Measure are not looked at. There is no guardian: if the
// caller is killed, everything it has started lives on.
func RunWeak(spec *Spec) (*Result, error) { return run(spec, &tree{}) }

// tree is a keeper by descent.
type tree struct{ *weak.Tree }

func (t *tree) open(spec *Spec, r *Result) error {
	r.Run = registry.Info{
		ID: registry.NewRunID(), Kind: spec.Record.Kind, Name: spec.Record.Name,
		Version: spec.Record.Version, Labels: spec.Record.Labels, Started: time.Now(),
	}
	return nil
}

func (t *tree) start(c *spawn.Cmd) (*spawn.Process, error) {
	var err error
	if t.Tree, err = weak.Start(*c); err != nil {
		return nil, err
	}
	return t.Process(), nil
}

func (t *tree) describe(*spawn.Process, time.Time) {}
func (t *tree) measure(func(Place))                {}
func (t *tree) watch(*waiter) error                { return nil } // SIGCHLD wakes the loop

func (t *tree) signal(sig unix.Signal) { _, _ = t.Signal(sig) } // who is missed is killed after the grace

func (t *tree) holds(pid int) bool {
	members, err := t.Members()
	for _, m := range members {
		if m.PID == pid {
			return true
		}
	}
	return err != nil
}

func (t *tree) empty() (bool, error) {
	members, err := t.Members()
	return err == nil && len(members) == 0, err
}

func (t *tree) left(c leftover.Command) (leftover.Found, error) {
	members, err := t.Members()
	if err != nil {
		return leftover.Found{}, err
	}
	var held []*pidfd.Process
	for _, m := range members {
		p, err := m.Open()
		if errors.Is(err, pidfd.ErrGone) || m == c.Leader {
			continue
		}
		if err != nil {
			return leftover.Found{}, err
		}
		defer p.Close()
		held = append(held, p)
	}
	return leftover.ListHeld(held, c), nil
}

func (t *tree) kill(ctx context.Context) error {
	err := t.Kill(ctx)
	var blocked *weak.BlockedError
	if errors.As(err, &blocked) {
		return &cgroup.BlockedError{Path: "below this process", Blockers: blocked.Blockers, Total: blocked.Total, Err: blocked.Err}
	}
	return err
}

// end makes sure: without a cgroup it is the kill that proves that nothing is left.
func (t *tree) end() error {
	if t.Tree == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), endTime)
	defer cancel()
	return errors.Join(t.kill(ctx), t.Close())
}
