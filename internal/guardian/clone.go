//go:build amd64 || arm64

package guardian

import (
	"errors"
	"fmt"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/pidfd"
	"golang.org/x/sys/unix"
)

// startClone starts a guardian that is a clone. [errors.ErrUnsupported] says that
// there cannot be one.
func startClone(o Options) (*Guardian, error) {
	// cgroup.kill opens only where it exists and may be written.
	kill, err := unix.Openat(o.Run.FD(), "cgroup.kill", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open cgroup.kill of %s: %w", o.Run.Path(), killError(o.Run, err))
	}
	defer func() { _ = unix.Close(kill) }() // the guardian has its own
	if err := unix.CloseRange(maxFD, maxFD, 0); err != nil {
		return nil, fmt.Errorf("look for close_range: %w: %w", errors.ErrUnsupported, err)
	}
	owner, err := self()
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(owner) }() // the guardian has its own
	p, err := newPlan(place{root: o.Root.FD(), kill: kill, owner: owner, run: o.Run.Name(), inner: o.Inner})
	if err != nil {
		return nil, fmt.Errorf("map memory for the guardian: %w", err)
	}
	pid, err := p.clone()
	if err != nil {
		p.discard()
		return nil, fmt.Errorf("clone the guardian: %w", err)
	}
	// From both sides, as shells do it: from here on who kills our process group misses
	// the guardian, even if it has not run yet. It is our child, and nobody has reaped it.
	_ = unix.Setpgid(pid, 0) // it did so itself, or it has ended
	return &Guardian{handle: pidfd.FromFD(int(p.mem.pidfd), pid), memory: p.Mapping()}, nil
}

// startWitness clones a witness.
func startWitness() (*Guardian, error) {
	owner, err := self()
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(owner) }() // the witness has its own
	p, err := newWitnessPlan(owner)
	if err != nil {
		return nil, fmt.Errorf("map memory for the witness: %w", err)
	}
	pid, err := p.clone()
	if err != nil {
		p.discard()
		return nil, fmt.Errorf("clone the witness: %w", err)
	}
	return &Guardian{handle: pidfd.FromFD(int(p.mem.pidfd), pid), memory: p.Mapping()}, nil
}

// maxFD is a descriptor that nobody has.
const maxFD = 1<<32 - 1

// killError says whether a run that is there has no cgroup.kill for us.
func killError(run *cgroup.Dir, err error) error {
	switch err {
	case unix.ENOENT:
		if there, existsErr := run.Exists(); existsErr == nil && !there {
			return fmt.Errorf("%w: %w", cgroup.ErrGone, err)
		}
	case unix.EACCES, unix.EPERM, unix.EROFS:
	default:
		return err
	}
	return fmt.Errorf("%w: %w", errors.ErrUnsupported, err)
}

// clone starts the guardian. Its file table is a copy, so what this process closes
// stays open in it until it has closed it itself.
func (p *plan) clone() (int, error) {
	// No exit signal: it is nobody's business but that of Stop.
	const flags = unix.CLONE_VM | unix.CLONE_PIDFD
	pid, err := p.Clone(&p.Steps()[0], flags, &p.mem.pidfd)
	switch err {
	case nil:
		return pid, nil
	case unix.EPERM, unix.ENOSYS, unix.EINVAL: // a sandbox, or something that is not quite Linux
		return 0, fmt.Errorf("%w: %w", errors.ErrUnsupported, err)
	default:
		return 0, err
	}
}
