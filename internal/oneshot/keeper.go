package oneshot

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/internal/guardian"
	"github.com/pitvisor/pitvisor/internal/home"
	"github.com/pitvisor/pitvisor/internal/leftover"
	"github.com/pitvisor/pitvisor/pidfd"
	"github.com/pitvisor/pitvisor/registry"
	"github.com/pitvisor/pitvisor/spawn"
	"golang.org/x/sys/unix"
)

// keeper holds everything that the command starts together.
type keeper interface {
	// open makes what a start needs, and fills in what the result says of the run.
	open(spec *Spec, r *Result) error
	start(c *spawn.Cmd) (*spawn.Process, error)
	// describe writes the records that ps shows, as far as it can.
	describe(p *spawn.Process, started time.Time)
	signal(sig unix.Signal)
	// holds says whether a process, just seen by number, is one of those held.
	holds(pid int) bool
	// empty says whether nothing is left; watch has the waiter told when to ask again.
	empty() (bool, error)
	watch(w *waiter) error
	left(c leftover.Command) (leftover.Found, error)
	// kill returns when nothing is left, or the context ends.
	kill(ctx context.Context) error
	// end removes what open has made. What is in the way is a *cgroup.BlockedError.
	end() error
	measure(f func(Place))
}

// cell is a keeper by cgroup.
type cell struct {
	run   *registry.Run
	place Place
	guard *guardian.Guardian
	home  *home.Home // where pitvisor itself had to move, nil if it had not
	moved *string    // tells the result
	clear bool       // the kernel has said that nothing is left
	leafs []*cgroup.Dir
}

func (c *cell) open(spec *Spec, r *Result) error {
	var err error
	if c.run, err = registry.New(spec.Root).Create(spec.Record); err != nil {
		return err
	}
	r.Run, r.Cgroup, c.moved = c.run.Info(), c.run.Dir().Path(), &r.Moved
	c.place.Root, c.place.Run = spec.Root, c.run.Dir()
	if c.place.Job, err = c.run.Dir().Create(jobName); err != nil {
		return err
	}
	if err := c.makeLeaf(leafName); err != nil {
		return err
	}
	// Controllers cannot be handed down by a cgroup that holds processes, and the
	// guardian stays where it is made.
	if spec.Job != nil {
		if err := c.settle(); err != nil {
			return err
		}
	}
	c.guard, err = guardian.Start(guardian.Options{Root: spec.Root, Run: c.run.Dir(), Inner: []string{jobName, leafName}})
	if err != nil {
		return fmt.Errorf("start the guardian of %s: %w", r.Cgroup, err)
	}
	if spec.Job != nil {
		return spec.Job(c.place)
	}
	return nil
}

// settle moves pitvisor itself out of where it is in the way.
func (c *cell) settle() error {
	h, err := home.Settle(c.place.Root)
	if err != nil {
		return err
	}
	c.home = h
	if h.Poisoned {
		*c.moved = h.From
	}
	return nil
}

func (c *cell) makeLeaf(name string) error {
	leaf, err := c.place.Job.Create(name)
	if err != nil {
		return err
	}
	c.place.Leaf, c.leafs = leaf, append(c.leafs, leaf)
	return nil
}

// start starts the command, a second time from a fresh cgroup if the kernel killed
// the first one because of where pitvisor sits.
func (c *cell) start(cmd *spawn.Cmd) (*spawn.Process, error) {
	// Whoever froze what is above the leaf a moment ago has frozen this process, too.
	cmd.Thawed = true
	cmd.Leaf = c.place.Leaf
	// The guardian can be killed first. It is older than the command's pidfd and holds
	// no copy of it: the kernel kills when the last one is closed.
	cmd.Autokill = true
	p, err := spawn.Start(cmd)
	if err != nil {
		return nil, err
	}
	poisoned, err := c.diedOfPoison(p)
	if err != nil || !poisoned {
		return p, err
	}
	if err := p.Close(); err != nil {
		return nil, err
	}
	if err := errors.Join(c.settle(), c.makeLeaf("0.2")); err != nil {
		return nil, err
	}
	cmd.Leaf = c.place.Leaf
	return spawn.Start(cmd)
}

// diedOfPoison says whether the command was killed by the kernel before it ran, as
// it is with everything that is started from a cgroup that was once killed.
func (c *cell) diedOfPoison(p *spawn.Process) (bool, error) {
	exited, err := p.Handle().Exited()
	if err != nil || !exited {
		return false, err
	}
	exit, err := p.Reap()
	if err != nil || !exit.BeforeExec || exit.Signal != unix.SIGKILL {
		return false, err
	}
	return spawn.Poisoned(c.place.Root)
}

// describe leaves it at the cgroups where a record cannot be written: records are
// for people, and that they are missing is no reason to end a command.
func (c *cell) describe(p *spawn.Process, started time.Time) {
	identity, err := p.Handle().Identity()
	if err != nil {
		return
	}
	_ = registry.SetPool(c.place.Job, registry.Pool{Name: jobName, Size: 1})
	_ = registry.SetWorker(c.place.Leaf, registry.Worker{
		Pool: jobName, Start: 1, State: "up", Ready: true, Process: identity, Started: started,
	})
}

// signal leaves out who may not be signalled, or is forked meanwhile: they are
// killed after the grace.
func (c *cell) signal(sig unix.Signal) { _, _ = c.place.Run.Signal(sig) }

func (c *cell) holds(pid int) bool {
	p, err := pidfd.Open(pid)
	if err != nil {
		return false // who sent a signal may be gone by now, and then nobody knows
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil || info.CgroupID == 0 {
		return false
	}
	in, err := c.place.Run.Contains(info.CgroupID)
	return err == nil && in
}

func (c *cell) empty() (bool, error) {
	events, err := c.place.Run.Events()
	if err != nil && !isGone(err) {
		return false, err
	}
	c.clear = err != nil || !events.Populated // or somebody else has ended the run
	return c.clear, nil
}

func (c *cell) watch(w *waiter) error { return w.watchEvents(c.place.Run) }

// left freezes the run meanwhile, so that nothing escapes the list by forking. A kill
// works on a frozen cgroup, so nobody thaws it.
func (c *cell) left(command leftover.Command) (leftover.Found, error) {
	ctx, cancel := context.WithTimeout(context.Background(), freezeTime)
	defer cancel()
	_ = c.place.Run.Freeze(ctx) // what is not frozen by then is looked at while it moves
	command.RunID = c.run.ID().String()
	command.Leaf = jobName + "/" + c.place.Leaf.Name()
	return leftover.List(c.place.Run, command)
}

func (c *cell) kill(ctx context.Context) error {
	err := c.place.Run.Kill()
	if errors.Is(err, cgroup.ErrNotSupported) {
		err = c.place.Run.KillEach(ctx)
	}
	if isGone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	return c.place.Run.WaitEmpty(ctx)
}

func (c *cell) measure(f func(Place)) { f(c.place) }

// end ends the run, whatever is in it, and lets the guardian go when that is done. A
// run that cannot be ended is left to the next sweep, and named.
func (c *cell) end() error {
	if c.run == nil {
		return nil
	}
	errs := []error{c.closeRun()}
	if c.guard != nil {
		errs = append(errs, c.guard.Stop())
	}
	for _, leaf := range c.leafs {
		errs = append(errs, leaf.Close())
	}
	if c.place.Job != nil {
		errs = append(errs, c.place.Job.Close())
	}
	if c.home != nil {
		errs = append(errs, c.home.Leave())
	}
	return errors.Join(errs...)
}

// closeRun removes the run, and gives it up to the next sweep if that cannot be done.
func (c *cell) closeRun() error {
	if c.clear && c.guard != nil {
		// It ends on another processor meanwhile. A crash now leaves empty directories.
		if err := c.guard.Kill(); err != nil {
			return err
		}
	}
	if c.removeEmpty() {
		return c.run.Close(context.Background()) // it has nothing to wait for
	}
	ctx, cancel := context.WithTimeout(context.Background(), endTime)
	defer cancel()
	err := c.run.Close(ctx)
	if errors.As(err, new(*cgroup.BlockedError)) {
		return errors.Join(err, c.run.Release())
	}
	return err
}

// removeEmpty takes the short way for a run that is empty: three system calls and no
// timer. It says whether the run's directory is gone.
func (c *cell) removeEmpty() bool {
	if c.place.Leaf == nil || len(c.leafs) > 1 {
		return false
	}
	return c.place.Job.RemoveChild(c.place.Leaf.Name(), c.place.Leaf.ID()) == nil &&
		c.run.Dir().RemoveChild(jobName, c.place.Job.ID()) == nil &&
		c.place.Root.RemoveChild(c.run.Dir().Name(), c.run.Dir().ID()) == nil
}
