package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/registry"
	"github.com/pitvisor/pitvisor/spawn"
)

// home is the cgroup that the supervisor itself lives in.
type home struct {
	root   *cgroup.Dir
	origin *cgroup.Dir // where we came from; nil when we did not move
	leaf   *cgroup.Dir // where we are now; our lock on it tells sweepers that we live
}

// settleSelf moves the supervisor to a fresh leaf of its own when it has to:
// when it sits in the root, which must stay free of processes, or when its
// cgroup was once killed, so that the kernel would kill everything it starts.
func settleSelf(root cgroup.Root, log *slog.Logger) (*home, error) {
	self, err := cgroup.SelfPath()
	if err != nil {
		return nil, err
	}
	poisoned, err := spawn.Poisoned(root.Dir)
	if err != nil {
		return nil, fmt.Errorf("try a start below %s: %w", root.Dir.Path(), err)
	}
	if !poisoned && filepath.Clean(self) != filepath.Clean(root.Dir.Path()) {
		return &home{}, nil
	}
	h, err := moveToLeaf(root.Dir, self)
	if err != nil {
		return nil, fmt.Errorf("move the supervisor out of %s: %w", self, err)
	}
	if !poisoned {
		return h, nil
	}
	if still, err := spawn.Poisoned(root.Dir); err != nil || still {
		return nil, errors.Join(fmt.Errorf("the kernel kills every process started from %s, also after the move to %s/%s", self, root.Dir.Path(), h.leaf.Name()), err, h.leave())
	}
	log.Warn("moved to a fresh cgroup: the kernel kills every process started from one that was once killed",
		"from", self, "to", filepath.Join(root.Dir.Path(), h.leaf.Name()))
	return h, nil
}

func moveToLeaf(root *cgroup.Dir, self string) (*home, error) {
	origin, err := cgroup.Open(self)
	if err != nil {
		return nil, err
	}
	for range 10 {
		leaf, err := root.Create("supervisor-" + registry.NewRunID().String())
		if err != nil {
			return nil, errors.Join(err, origin.Close())
		}
		if err = leaf.Lock(); err == nil {
			err = leaf.MoveSelf()
		}
		if err == nil {
			return &home{root: root, origin: origin, leaf: leaf}, nil
		}
		name, id := leaf.Name(), leaf.ID()
		_ = leaf.Close() // nothing is in it
		if !errors.Is(err, cgroup.ErrGone) && !errors.Is(err, cgroup.ErrLocked) && !errors.Is(err, fs.ErrNotExist) {
			return nil, errors.Join(err, root.RemoveChild(name, id), origin.Close())
		}
		// A sweep beside us took the empty leaf; make another.
	}
	return nil, errors.Join(errors.New("a sweep keeps removing the fresh leaf"), origin.Close())
}

// leave goes back to where the supervisor came from, so that its leaf can be
// removed. Where the kernel refuses that, the next sweep removes the leaf.
func (h *home) leave() error {
	if h.origin == nil {
		return nil
	}
	if err := h.origin.MoveSelf(); err == nil {
		_ = h.root.RemoveChild(h.leaf.Name(), h.leaf.ID()) // the next sweep removes it otherwise
	}
	return errors.Join(h.leaf.Close(), h.origin.Close())
}
