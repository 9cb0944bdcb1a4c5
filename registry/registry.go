package registry

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"github.com/pitvisor/pitvisor/cgroup"
)

// claimTries bounds how often a new directory may be lost to sweeps and lock probes beside it. Each
// loss needs one of them to hit a window of microseconds; only the first eight tries come without a pause.
const claimTries = 64

// Registry is the runs below one root cgroup. It holds no state but the root, so several of them, in
// one process or many, may use the same root at the same time.
type Registry struct {
	root *cgroup.Dir
}

// New uses root, which stays the caller's to close and must be open as long as the Registry is used.
func New(root *cgroup.Dir) *Registry { return &Registry{root: root} }

// Root is the directory the runs are in.
func (r *Registry) Root() *cgroup.Dir { return r.root }

// Create makes a run that the calling process owns: an empty, locked, described directory below the
// root. The run lives until Close, or until this process ends in whatever way: from then on every
// Sweep may take it. Sweeps beside it cannot take it before Create has returned.
//
// On an error nothing is left behind.
func (r *Registry) Create(s Spec) (*Run, error) {
	run := &Run{root: r.root}
	err := run.info.fill(&s)
	if err != nil {
		return nil, fmt.Errorf("create run: %w", err)
	}
	if run.info.ID, run.dir, err = r.claim(runPrefix); err != nil {
		return nil, fmt.Errorf("create run: %w", err)
	}
	if err := run.info.write(run.dir); err != nil {
		r.abandon(run.dir)
		return nil, fmt.Errorf("create run: %w", err)
	}
	return run, nil
}

// CreateSupervisorLeaf makes a locked leaf supervisor-<id> below the root, for the calling process to
// move itself into. No sweep removes it while the returned directory is open; afterwards every sweep
// does, once it is empty.
func (r *Registry) CreateSupervisorLeaf() (*cgroup.Dir, error) {
	_, dir, err := r.claim(supervisorPrefix)
	if err != nil {
		return nil, fmt.Errorf("create supervisor leaf: %w", err)
	}
	return dir, nil
}

// claim makes a directory <prefix><new id> and holds its lock. Between mkdir and flock the directory
// looks like one that a crash has left, and a sweep may rightly remove it: then another one is made.
func (r *Registry) claim(prefix string) (RunID, *cgroup.Dir, error) {
	var lost error
	for try := range claimTries {
		pause(context.Background(), time.Duration(max(0, min(try-8, 20)))*time.Millisecond)
		id := NewRunID()
		dir, err := r.claimOnce(prefix + id.String())
		if err == nil {
			return id, dir, nil
		}
		if !errors.Is(err, errLostRace) {
			return RunID{}, nil, err
		}
		lost = err
	}
	return RunID{}, nil, fmt.Errorf("claim directory in %s: %d tries: %w", r.root.Path(), claimTries, lost)
}

// errLostRace says that somebody else had the new directory first.
var errLostRace = errors.New("a sweep or a lock probe was faster")

func (r *Registry) claimOnce(name string) (*cgroup.Dir, error) {
	dir, err := r.root.Create(name)
	if err != nil {
		return nil, r.lostOr(err)
	}
	if err := dir.Lock(); err != nil {
		r.abandon(dir)
		if errors.Is(err, cgroup.ErrLocked) {
			return nil, fmt.Errorf("lock %s: %w", dir.Path(), errLostRace)
		}
		return nil, fmt.Errorf("lock %s: %w", dir.Path(), err)
	}
	linked, err := dir.Exists()
	if err != nil {
		r.abandon(dir)
		return nil, fmt.Errorf("check %s: %w", dir.Path(), err)
	}
	if !linked {
		_ = dir.Close() // removed already; nothing to lose
		return nil, fmt.Errorf("lock %s: removed before: %w", dir.Path(), errLostRace)
	}
	return dir, nil
}

// lostOr tells a directory that vanished between mkdir and open from a root that is gone.
func (r *Registry) lostOr(err error) error {
	if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if there, existsErr := r.root.Exists(); existsErr == nil && !there {
		return fmt.Errorf("use root %s: removed by somebody else: %w", r.root.Path(), err)
	}
	return fmt.Errorf("%w: %w", errLostRace, err)
}

// abandon removes a new, still empty directory of ours and closes it.
func (r *Registry) abandon(dir *cgroup.Dir) {
	_ = r.root.RemoveChild(dir.Name(), dir.ID()) // what stays is half made, and swept later
	_ = dir.Close()
}

// Run is a run that the calling process owns. Its methods are safe for concurrent use.
type Run struct {
	info Info
	root *cgroup.Dir
	dir  *cgroup.Dir

	mu     sync.Mutex // guards closed, and orders Close and Release
	closed bool
}

// ID is the run's id.
func (run *Run) ID() RunID { return run.info.ID }

// Info is the run's record.
func (run *Run) Info() Info { return run.info }

// Dir is the run's directory. It carries the lock: the caller must not close it, and nothing may keep
// a duplicate of its descriptor beyond exec.
func (run *Run) Dir() *cgroup.Dir { return run.dir }

// Root is the cgroup that the run's directory is in. The caller must not close it.
func (run *Run) Root() *cgroup.Dir { return run.root }

// Enable hands controllers down to the cgroups in the run, through the registry's root, which is
// delegated to us, and through nothing above it. See [cgroup.Dir.Enable].
func (run *Run) Enable(controllers ...string) error {
	if err := run.root.Enable(controllers...); err != nil {
		return err
	}
	return run.dir.Enable(controllers...)
}

// Close ends the run: it kills what is left in it, waits until the kernel says that it is empty,
// removes it and only then gives up the lock. When ctx ends first the result wraps a
// *cgroup.BlockedError, the run stays locked, and Close may be called again; Release leaves it to a
// sweep. After the first success Close does nothing.
func (run *Run) Close(ctx context.Context) error {
	run.mu.Lock()
	defer run.mu.Unlock()
	if run.closed {
		return nil
	}
	if err := run.root.Destroy(ctx, run.dir.Name(), run.dir.ID()); err != nil {
		return fmt.Errorf("end run %s: %w", run.info.ID, err)
	}
	run.closed = true
	if err := run.dir.Close(); err != nil {
		return fmt.Errorf("close run %s: %w", run.info.ID, err)
	}
	return nil
}

// Release gives up the run without ending it: from now on it is stale, and the next sweep by whomever
// kills and removes it.
func (run *Run) Release() error {
	run.mu.Lock()
	defer run.mu.Unlock()
	if run.closed {
		return nil
	}
	run.closed = true
	if err := run.dir.Close(); err != nil {
		return fmt.Errorf("release run %s: %w", run.info.ID, err)
	}
	return nil
}

// pause waits for d or the end of ctx.
func pause(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
