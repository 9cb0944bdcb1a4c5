package registry

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/pitvisor/pitvisor/cgroup"
)

const (
	// lockPatience is how long a lock may stay held before it is broken, after its owner is dead and
	// nothing shows who holds it: another sweep, mostly, or a child that comes to exec in a moment. An
	// owner that is ending has as long. The kernel takes the memory of a big process apart first: 0.5 s
	// were seen with 4 GB.
	lockPatience = 2 * time.Second
	// lockPause is the time between two tries to get a lock.
	lockPause = 5 * time.Millisecond
)

// directory does what is to be done about one directory of the root.
func (s *sweep) directory(ctx context.Context, name string) verdict {
	begin := time.Now()
	ctx, cancel := context.WithTimeout(ctx, s.options.PerRun)
	defer cancel()
	dir, err := s.root.OpenChild(name)
	if isGone(err) {
		return verdict{}
	}
	if err != nil {
		id, _ := runIDOf(name)
		return verdict{event: SweepEvent{Run: id, Dir: s.root.Path() + "/" + name, Result: ResultBlocked, Err: err}}
	}
	defer dir.Close()
	if isSupervisorName(name) {
		return verdict{leaf: s.supervisorLeaf(dir)}
	}
	var v verdict
	if s.options.DryRun {
		v = s.look(dir)
	} else {
		v = s.take(ctx, dir)
	}
	if v.event.Result != "" {
		v.event.Run, _ = runIDOf(name)
		v.event.Dir = dir.Path()
		v.event.Elapsed = time.Since(begin)
	}
	return v
}

// supervisorLeaf removes a leaf that is empty and not locked. A supervisor that is about to move into
// a new one holds its lock.
func (s *sweep) supervisorLeaf(dir *cgroup.Dir) bool {
	if s.options.DryRun || dir.Name() == supervisorName || dir.Lock() != nil {
		return false
	}
	if there, err := dir.Exists(); err != nil || !there {
		return false
	}
	return s.root.RemoveChild(dir.Name(), dir.ID()) == nil
}

// look is the dry run: it only probes.
func (s *sweep) look(dir *cgroup.Dir) verdict {
	_, state, err := classify(dir)
	if err != nil {
		return verdict{event: SweepEvent{Result: ResultBlocked, Err: err}}
	}
	switch state {
	case RunRunning, RunStarting:
		return verdict{alive: true}
	case RunForeign:
		return verdict{event: SweepEvent{Result: ResultForeign, Processes: len(pidsBelow(dir))}}
	case RunStale, RunHalfMade:
		if holds, err := dir.HoldsSelf(); err == nil && holds {
			return verdict{event: SweepEvent{Result: ResultSkipped, Err: cgroup.ErrSelf}}
		}
		return verdict{event: SweepEvent{Result: ResultWouldSweep, Processes: len(pidsBelow(dir))}}
	}
	return verdict{}
}

// take sweeps the directory if it is a stale run.
func (s *sweep) take(ctx context.Context, dir *cgroup.Dir) verdict {
	if _, named := runIDOf(dir.Name()); !named {
		return s.leave(dir)
	}
	alive, err := s.lock(ctx, dir)
	if alive {
		return verdict{alive: true}
	}
	if err == nil {
		var there bool
		if there, err = dir.Exists(); err == nil && !there {
			return verdict{} // its owner or another sweep has removed it
		}
	}
	if err == nil {
		_, err = readInfo(dir)
	}
	if errors.Is(err, errNoRecord) {
		return s.halfMade(dir)
	}
	before := noted(dir)
	killed := before
	if err == nil {
		killed = noteAll(dir)
		err = s.root.Destroy(ctx, dir.Name(), dir.ID())
	}
	switch {
	case err == nil:
		return verdict{event: SweepEvent{Result: ResultSwept, Processes: killed}}
	case isGone(err):
		return verdict{}
	case errors.Is(err, cgroup.ErrSelf):
		note(dir, before) // nobody was killed
		return verdict{event: SweepEvent{Result: ResultSkipped, Err: err}}
	}
	return verdict{event: SweepEvent{Result: ResultBlocked, Processes: killed, Err: err}}
}

// noteAll writes down on the directory how many processes are about to be killed, and gives the number
// to report. Of several sweeps that kill in a run, be it that one is blocked, or breaks the lock and
// does not get it first, or crashes, the one that removes it in the end thus reports them all, once.
func noteAll(dir *cgroup.Dir) int {
	// In this order: another sweep that has killed some meanwhile has noted them before.
	there := len(pidsBelow(dir))
	killed := max(noted(dir), there)
	note(dir, killed)
	return killed
}

func note(dir *cgroup.Dir, killed int) {
	_ = dir.SetXattr(xattrKilled, []byte(strconv.Itoa(killed))) // a number for people; the kill matters more
}

// noted is what was written down before; 0 if nothing was.
func noted(dir *cgroup.Dir) int {
	text, err := dir.Xattr(xattrKilled)
	if err != nil {
		return 0
	}
	killed, err := strconv.Atoi(string(text))
	if err != nil {
		return 0
	}
	return killed
}

// leave says so when there is something foreign in the root.
func (s *sweep) leave(dir *cgroup.Dir) verdict {
	events, err := dir.Events()
	if err != nil || !events.Populated {
		return verdict{}
	}
	return verdict{event: SweepEvent{Result: ResultForeign, Processes: len(pidsBelow(dir))}}
}

// halfMade removes a directory whose owner died before the record was whole. Nothing can have been
// started in it; if there is something in it nevertheless, it is not ours to kill.
func (s *sweep) halfMade(dir *cgroup.Dir) verdict {
	err := s.root.RemoveChild(dir.Name(), dir.ID())
	switch {
	case err == nil:
		return verdict{event: SweepEvent{Result: ResultSwept}}
	case errors.Is(err, cgroup.ErrPopulated):
		return verdict{event: SweepEvent{Result: ResultForeign, Processes: len(pidsBelow(dir))}}
	case isGone(err):
		return verdict{}
	}
	return verdict{event: SweepEvent{Result: ResultBlocked, Err: err}}
}

// lock gets the lock of a run that is stale. While somebody else holds it, it depends on the owner. If
// it lives, so does the run. If it is ending, or dead, or has not written the record yet, it is tried
// again for a while: mostly the lock comes free, and a probe for ps holds it for an instant too. If the
// owner is dead and the lock still held then, it is broken; at once if something in the run is frozen,
// since who holds it may never come free. That costs a walk, so it is not looked at each time.
func (s *sweep) lock(ctx context.Context, dir *cgroup.Dir) (alive bool, err error) {
	patience, cancel := context.WithTimeout(ctx, s.options.patience)
	defer cancel()
	for try := 0; ; try++ {
		err := dir.Lock()
		if !errors.Is(err, cgroup.ErrLocked) {
			return false, err
		}
		owner, err := ownerOf(dir)
		if err != nil || owner == ownerLives {
			return err == nil, err
		}
		stuck := owner == ownerDead && try > 0 && try&(try-1) == 0 && frozenIn(dir)
		if !stuck && patience.Err() == nil {
			pause(patience, lockPause)
			continue
		}
		if ctx.Err() != nil {
			return false, fmt.Errorf("lock %s: %w", dir.Path(), context.Cause(ctx))
		}
		if owner != ownerDead {
			return true, nil // slow, but somebody who lives holds the lock
		}
		return false, s.breakLock(ctx, dir)
	}
}

// frozenIn says whether a process in the cgroup is frozen, by whomever; false also for what is gone.
func frozenIn(dir *cgroup.Dir) bool {
	events, err := dir.Events()
	if err != nil || !events.Populated || events.Frozen {
		return err == nil && events.Populated
	}
	names, err := dir.Children()
	if err != nil {
		return false
	}
	for _, name := range names {
		child, err := dir.OpenChild(name)
		if err != nil {
			continue
		}
		frozen := frozenIn(child)
		_ = child.Close() // was only read
		if frozen {
			return true
		}
	}
	return false
}

// breakLock frees and takes the lock of a run whose owner is proven dead. Its holder is a child of the
// owner that never came to exec, so it is in the run: in a frozen cgroup, say, or waiting for a file
// system that hangs. A kill reaches it there, and with it the last copy of the owner's descriptors
// is gone. One sweep does this at a time: the lock on the root says whose turn it is.
func (s *sweep) breakLock(ctx context.Context, dir *cgroup.Dir) error {
	root, err := s.openRoot()
	if err != nil {
		return fmt.Errorf("break lock of %s: %w", dir.Path(), err)
	}
	defer root.Close()
	if err := waitLock(ctx, root); err != nil {
		return fmt.Errorf("break lock of %s: wait for another breaker: %w", dir.Path(), err)
	}
	err = dir.Lock() // the breaker before may have freed it
	if !errors.Is(err, cgroup.ErrLocked) {
		return err
	}
	before := noted(dir)
	noteAll(dir)
	if err := dir.Kill(); err != nil {
		note(dir, before) // nobody was killed
		return fmt.Errorf("break lock of %s: %w", dir.Path(), err)
	}
	if err := waitLock(ctx, dir); err != nil {
		return fmt.Errorf("break lock of %s: its owner is dead, and its members are killed: %w", dir.Path(), err)
	}
	return nil
}

// openRoot opens the root once more, because a lock belongs to an open file and the one of the
// Registry is shared with everybody in this process.
func (s *sweep) openRoot() (*cgroup.Dir, error) {
	root, err := cgroup.Open(s.root.Path())
	if err != nil {
		return nil, err
	}
	if root.ID() != s.root.ID() {
		_ = root.Close() // was only compared
		return nil, fmt.Errorf("open root %s again: %w", s.root.Path(), cgroup.ErrGone)
	}
	return root, nil
}

// waitLock tries for a lock until it is had, or ctx ends.
func waitLock(ctx context.Context, dir *cgroup.Dir) error {
	for {
		err := dir.Lock()
		if err == nil || !errors.Is(err, cgroup.ErrLocked) {
			return err
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%w: %w", err, context.Cause(ctx))
		}
		pause(ctx, lockPause)
	}
}
