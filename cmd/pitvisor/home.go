package main

import (
	"errors"
	"fmt"
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
	leaf, err := registry.New(root).CreateSupervisorLeaf()
	if err != nil {
		return nil, errors.Join(err, origin.Close())
	}
	if err := leaf.MoveSelf(); err != nil {
		return nil, errors.Join(err, root.RemoveChild(leaf.Name(), leaf.ID()), leaf.Close(), origin.Close())
	}
	return &home{root: root, origin: origin, leaf: leaf}, nil
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
