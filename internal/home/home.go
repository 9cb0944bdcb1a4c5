// Package home moves the calling program to a cgroup of its own, out of one from
// which it could start nothing.
//
// It is not for the processes that the program starts.
package home

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/registry"
	"github.com/pitvisor/pitvisor/spawn"
)

// Home is the cgroup that the program lives in. The caller leaves it in the end.
type Home struct {
	root   *cgroup.Dir
	origin *cgroup.Dir // where we came from; nil when we did not move
	leaf   *cgroup.Dir // where we are now; our lock on it tells sweepers that we live

	// Poisoned says that the kernel would have killed everything that is started
	// from where we came from: that cgroup was once killed.
	Poisoned bool
	From, To string // paths, when it has moved
}

// Settle moves the caller to a fresh leaf below root when it has to: when it sits in
// root, which must stay free of processes so that controllers can be enabled in it,
// or when its cgroup was once killed.
func Settle(root *cgroup.Dir) (*Home, error) {
	self, err := cgroup.SelfPath()
	if err != nil {
		return nil, err
	}
	poisoned, err := spawn.Poisoned(root)
	if err != nil {
		return nil, fmt.Errorf("try a start below %s: %w", root.Path(), err)
	}
	if !poisoned && filepath.Clean(self) != filepath.Clean(root.Path()) {
		return &Home{}, nil
	}
	h, err := move(root, self)
	if err != nil {
		return nil, err
	}
	h.Poisoned = poisoned
	if !poisoned {
		return h, nil
	}
	if still, err := spawn.Poisoned(root); err != nil || still {
		return nil, errors.Join(fmt.Errorf("the kernel kills every process started from %s, also after the move to %s", h.From, h.To), err, h.Leave())
	}
	return h, nil
}

// move makes a leaf and enters it.
func move(root *cgroup.Dir, self string) (*Home, error) {
	wrap := func(err error) error { return fmt.Errorf("move out of %s: %w", self, err) }
	origin, err := cgroup.Open(self)
	if err != nil {
		return nil, wrap(err)
	}
	leaf, err := registry.New(root).CreateSupervisorLeaf()
	if err != nil {
		return nil, wrap(errors.Join(err, origin.Close()))
	}
	if err := leaf.MoveSelf(); err != nil {
		return nil, wrap(errors.Join(err, root.RemoveChild(leaf.Name(), leaf.ID()), leaf.Close(), origin.Close()))
	}
	return &Home{root: root, origin: origin, leaf: leaf, From: self, To: filepath.Join(root.Path(), leaf.Name())}, nil
}

// Leave goes back to where the caller came from, so that its leaf can be removed.
// Where the kernel refuses that, the next sweep removes the leaf.
func (h *Home) Leave() error {
	if h.origin == nil {
		return nil
	}
	if err := h.origin.MoveSelf(); err == nil {
		_ = h.root.RemoveChild(h.leaf.Name(), h.leaf.ID()) // the next sweep removes it otherwise
	}
	return errors.Join(h.leaf.Close(), h.origin.Close())
}
