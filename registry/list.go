package registry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pitvisor/pitvisor/cgroup"
)

// RunState says what a directory below the root is.
type RunState string

// The states. Only a stale run is ever killed; a half-made one is empty and merely removed.
const (
	RunRunning  RunState = "running"   // the owner holds the lock
	RunStale    RunState = "stale"     // the lock is free, or its holder's parent, the owner, is proven dead
	RunStarting RunState = "starting"  // locked, and without a record yet
	RunHalfMade RunState = "half-made" // empty, free and without a record: its owner died while making it
	RunForeign  RunState = "foreign"   // holds processes but no record of ours
)

// RunView is one directory below the root as List saw it. The records in it were written by the run's
// owner; names are for people and may hold anything.
type RunView struct {
	Info
	State     RunState   `json:"state"`
	Dir       string     `json:"dir"` // the path, for printing
	CgroupID  uint64     `json:"cgroup_id"`
	Socket    string     `json:"socket,omitempty"` // where the owner can be asked; "" when it cannot
	Processes int        `json:"processes"`        // in the whole run; zombies do not count
	Memory    *uint64    `json:"memory,omitempty"` // bytes; nil where this host cannot tell
	Pools     []PoolView `json:"pools,omitempty"`
}

// PoolView is one pool of a run.
type PoolView struct {
	Pool
	Workers []WorkerView `json:"workers,omitempty"` // by slot, then by start
}

// WorkerView is one leaf of a pool. Where the leaf carries no record, only Pool, Slot and Start are set.
type WorkerView struct {
	Worker
	Leaf      string        `json:"leaf"`
	Processes []ProcessView `json:"processes,omitempty"`
	Memory    *uint64       `json:"memory,omitempty"`
	Age       time.Duration `json:"age_ns"`
	Frozen    bool          `json:"frozen,omitempty"` // all of its processes, by whomever
}

// List describes every run below the root, the oldest first, and then what is there but is not ours.
// It changes nothing; its probe of a lock lasts microseconds. What vanishes while it looks is left out,
// or shown as far as it was seen.
func (r *Registry) List(ctx context.Context) ([]RunView, error) {
	names, err := r.root.Children()
	if err != nil {
		return nil, fmt.Errorf("list runs: %w", err)
	}
	views := make([]RunView, 0, len(names))
	for _, name := range names {
		if isSupervisorName(name) {
			continue
		}
		view, ok, err := r.view(ctx, name)
		if err != nil {
			return nil, fmt.Errorf("list runs: %w", err)
		}
		if ok {
			views = append(views, view)
		}
	}
	slices.SortStableFunc(views, olderFirst)
	return views, nil
}

// olderFirst orders runs by start; what has no id comes last, by name.
func olderFirst(a, b RunView) int {
	if a.ID.IsZero() != b.ID.IsZero() {
		if a.ID.IsZero() {
			return 1
		}
		return -1
	}
	return cmp.Or(a.Started.Compare(b.Started), cmp.Compare(a.Dir, b.Dir))
}

// view looks at one directory of the root; false when there is nothing to show.
func (r *Registry) view(ctx context.Context, name string) (RunView, bool, error) {
	if ctx.Err() != nil {
		return RunView{}, false, context.Cause(ctx)
	}
	dir, err := r.root.OpenChild(name)
	if isGone(err) {
		return RunView{}, false, nil
	}
	if err != nil {
		return RunView{}, false, err
	}
	defer dir.Close()
	info, state, err := classify(dir)
	if err != nil || state == "" {
		return RunView{}, false, err
	}
	v := RunView{Info: info, State: state, Dir: dir.Path(), CgroupID: dir.ID(), Memory: memoryOf(dir), Socket: readSocket(dir)}
	if state == RunForeign {
		v.Processes = len(pidsBelow(dir))
		return v, true, nil
	}
	v.Pools, v.Processes, err = viewPools(ctx, dir)
	return v, err == nil, err
}

// classify tells what an open directory of the root is, without touching it. No state means that
// there is nothing to say about it: it is gone, or neither ours nor in use.
func classify(dir *cgroup.Dir) (Info, RunState, error) {
	info, state, err := recordAndState(dir)
	if isGone(err) {
		return Info{}, "", nil
	}
	if err != nil {
		return Info{}, "", err
	}
	// A removed directory keeps its labels as long as it is open, but what they say has ended.
	if there, err := dir.Exists(); err != nil || !there {
		return Info{}, "", err
	}
	return info, state, nil
}

func recordAndState(dir *cgroup.Dir) (Info, RunState, error) {
	info, err := readInfo(dir)
	if err == nil {
		state, err := stateOf(dir, info)
		return info, state, err
	}
	if !errors.Is(err, errNoRecord) {
		return Info{}, "", err
	}
	id, named := runIDOf(dir.Name())
	info = Info{ID: id, Started: id.Time()}
	if named {
		locked, err := dir.Locked()
		if err != nil || locked {
			return info, RunStarting, err
		}
	}
	events, err := dir.Events()
	switch {
	case err != nil:
		return Info{}, "", err
	case events.Populated:
		return Info{}, RunForeign, nil
	case named:
		return info, RunHalfMade, nil
	}
	return Info{}, "", nil
}

// stateOf tells a run with a record that is alive from a stale one.
func stateOf(dir *cgroup.Dir, info Info) (RunState, error) {
	locked, err := dir.Locked()
	if err != nil {
		return "", err
	}
	if !locked || info.ownerDead() {
		return RunStale, nil
	}
	return RunRunning, nil
}

// memoryOf is the memory the kernel charges to the directory, nil where it does not count.
func memoryOf(dir *cgroup.Dir) *uint64 {
	bytes, ok := dir.MemoryCurrent()
	if !ok {
		return nil
	}
	return &bytes
}

// pidsBelow lists the processes of a whole subtree, for counting and printing; none when it is gone.
func pidsBelow(dir *cgroup.Dir) []int {
	pids, err := dir.PIDsRecursive()
	if err != nil {
		return nil
	}
	return pids
}
