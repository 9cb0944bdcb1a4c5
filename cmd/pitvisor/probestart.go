package main

import (
	"errors"
	"fmt"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/internal/guardian"
	"github.com/pitvisor/pitvisor/spawn"
)

// tryStart starts a program in a leaf of a scratch run as a worker is started. No program
// is known to be here, so it is one that cannot exist: the process that was to become it
// says so.
func tryStart(root, run *cgroup.Dir) (err error) {
	poisoned, err := spawn.Poisoned(root)
	if err != nil {
		return err
	}
	if poisoned {
		return errors.New("the kernel kills everything that is started from this cgroup, because it was once killed; `pitvisor up` moves itself")
	}
	leaf, err := run.Create("started")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, leaf.Close()) }()
	const nothing = "/dev/null/nothing"
	_, err = spawn.Start(&spawn.Cmd{Path: nothing, Leaf: leaf})
	var failed *spawn.Error
	switch {
	case err == nil:
		return fmt.Errorf("start %s: it was started, and there is no such program", nothing) // the end of the run is its end
	case errors.As(err, &failed) && failed.Cause == spawn.CauseNotFound:
		return nil
	}
	return err
}

// tryGuardian has a scratch run guarded for a moment, as `pitvisor run` does.
func tryGuardian(root, run *cgroup.Dir) error {
	g, err := guardian.Start(guardian.Options{Root: root, Run: run})
	if err != nil {
		return err
	}
	return g.Stop()
}
