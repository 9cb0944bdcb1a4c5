package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/pitvisor/pitvisor/cgroup"
)

// The results of a SweepEvent.
const (
	ResultSwept      = "swept"       // killed if need be, and removed
	ResultWouldSweep = "would-sweep" // a dry run found it stale
	ResultBlocked    = "blocked"     // could not be removed in time; Err says what is left
	ResultForeign    = "foreign"     // holds processes but no record of ours: left alone
	ResultSkipped    = "skipped"     // left alone for the reason in Err
)

const (
	defaultPerRun = 10 * time.Second
	// turn is how long a run may keep others from starting. A run that takes longer goes on beside
	// them, so that any number of runs that will not die delay the rest by moments only.
	turn = 250 * time.Millisecond
)

// SweepOptions says how to sweep. The zero value sweeps for real.
type SweepOptions struct {
	DryRun   bool             // change nothing, only say what a sweep would do
	Parallel int              // runs at a time; 0 means 4 for each CPU that Go uses
	Observe  func(SweepEvent) // gets each event as it happens, from Sweep's own goroutine; nil means nobody
	PerRun   time.Duration    // after which one run counts as blocked; 0 means 10 s

	patience time.Duration // instead of lockPatience, in tests
}

// SweepEvent is what became of one directory below the root.
type SweepEvent struct {
	Run       RunID         // zero for a directory that is not a run
	Dir       string        // its path, for printing
	Result    string        // ResultSwept, ...
	Processes int           // that were in it before it was killed; zombies do not count
	Elapsed   time.Duration // from the first look to the result
	Err       error         // why it is blocked or was skipped; often wraps a *cgroup.BlockedError
}

// MarshalJSON writes the error as text, and what blocks the run beside it.
func (e SweepEvent) MarshalJSON() ([]byte, error) {
	out := struct {
		Run       RunID         `json:"run,omitzero"`
		Dir       string        `json:"dir"`
		Result    string        `json:"result"`
		Processes int           `json:"processes"`
		Elapsed   time.Duration `json:"elapsed_ns"`
		Error     string        `json:"error,omitempty"`
		Blockers  []blockerJSON `json:"blockers,omitempty"`
	}{Run: e.Run, Dir: e.Dir, Result: e.Result, Processes: e.Processes, Elapsed: e.Elapsed}
	if e.Err != nil {
		out.Error = e.Err.Error()
	}
	var blocked *cgroup.BlockedError
	if errors.As(e.Err, &blocked) {
		for _, b := range blocked.Blockers {
			out.Blockers = append(out.Blockers, blockerJSON(b))
		}
	}
	return json.Marshal(out)
}

// blockerJSON is a cgroup.Blocker with the names of our JSON.
type blockerJSON struct {
	PID   int    `json:"pid"`
	Comm  string `json:"comm"`
	State string `json:"state"`
	Wchan string `json:"wchan,omitempty"`
}

// SweepResult sums a sweep up.
type SweepResult struct {
	Swept     int           `json:"swept"`     // or, in a dry run, would be
	Blocked   int           `json:"blocked"`   // stale, and still there
	Foreign   int           `json:"foreign"`   // not ours, left alone
	Alive     int           `json:"alive"`     // runs whose owner lives, or that are being made right now
	Skipped   int           `json:"skipped"`   // stale, but holding the caller itself
	Leaves    int           `json:"leaves"`    // empty leaves of dead supervisors, removed
	Processes int           `json:"processes"` // of all the runs swept
	Elapsed   time.Duration `json:"elapsed_ns"`
	Runs      []SweepEvent  `json:"runs"` // in the order they happened; none for what is alive
}

// Sweep kills and removes every stale run below the root, and removes the empty leaves of dead
// supervisors. It may run beside any number of other sweeps, creations and living runs, in this
// process and others; of two sweeps only one gets a run.
//
// A run is stale when its lock is free. If the lock is held though the owner is proven dead, somebody
// has inherited it who never came to exec; at once when something in the run is frozen, and else after
// two seconds, the run is killed under its lock, which frees it. A directory without the record of a
// run is removed if it is empty and has the name of a run, and otherwise left alone. A run that holds
// the calling process or an ancestor of it is skipped.
//
// A run that cannot be removed is an event, not an error, and delays no other run. The error is for
// what stops the sweep as a whole: the root cannot be read, or ctx ended; the result is valid then too.
func (r *Registry) Sweep(ctx context.Context, o SweepOptions) (SweepResult, error) {
	begin := time.Now()
	names, err := r.root.Children()
	if err != nil {
		return SweepResult{}, fmt.Errorf("sweep: %w", err)
	}
	if o.PerRun <= 0 {
		o.PerRun = defaultPerRun
	}
	if o.patience <= 0 {
		o.patience = lockPatience
	}
	if o.Parallel <= 0 {
		o.Parallel = 4 * runtime.GOMAXPROCS(0)
	}
	s := &sweep{root: r.root, options: o, verdicts: make(chan verdict, o.Parallel)}
	go s.run(ctx, names)
	var result SweepResult
	for v := range s.verdicts {
		result.add(v)
		if o.Observe != nil && v.event.Result != "" {
			o.Observe(v.event)
		}
	}
	result.Elapsed = time.Since(begin)
	if ctx.Err() != nil {
		return result, fmt.Errorf("sweep: %w", context.Cause(ctx))
	}
	return result, nil
}

// add counts one verdict.
func (r *SweepResult) add(v verdict) {
	switch v.event.Result {
	case ResultSwept, ResultWouldSweep:
		r.Swept++
		r.Processes += v.event.Processes
	case ResultBlocked:
		r.Blocked++
	case ResultForeign:
		r.Foreign++
	case ResultSkipped:
		r.Skipped++
	}
	if v.alive {
		r.Alive++
	}
	if v.leaf {
		r.Leaves++
	}
	if v.event.Result != "" {
		r.Runs = append(r.Runs, v.event)
	}
}

// verdict is what one directory adds to the result: an event, a count, or nothing at all.
type verdict struct {
	event SweepEvent
	alive bool // a run with an owner
	leaf  bool // the removed leaf of a dead supervisor
}

// sweep is one call of Sweep.
type sweep struct {
	root     *cgroup.Dir
	options  SweepOptions
	verdicts chan verdict
}

// run looks at each directory in a goroutine of its own, so many at a time as asked for, and closes
// the channel when the last one is done. The oldest runs come first.
func (s *sweep) run(ctx context.Context, names []string) {
	defer close(s.verdicts)
	var all sync.WaitGroup
	defer all.Wait()
	slots := make(chan struct{}, s.options.Parallel)
	slices.Sort(names)
	for _, name := range names {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		giveBack := sync.OnceFunc(func() { <-slots })
		late := time.AfterFunc(turn, giveBack)
		all.Go(func() {
			v := s.directory(ctx, name)
			late.Stop()
			giveBack()
			s.verdicts <- v
		})
	}
}
