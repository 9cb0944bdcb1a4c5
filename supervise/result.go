package supervise

import (
	"fmt"
	"strings"
	"time"
)

// WorkerStatus is a snapshot of one worker.
type WorkerStatus struct {
	Worker   WorkerID
	State    State
	Ready    bool
	Start    uint64 // the current or last start; 0 before the first
	PID      int    // for printing; 0 when there is no process
	Failures int    // consecutive
	Port     int
	Since    time.Time // when it got into its state
	Cause    string    // of the last failure, or what it waits for, in words; empty when there is none
	Surge    bool      // stands in while others of its pool are replaced
	Leaving  bool      // is being stopped for good
	Stopped  bool      // a command has stopped it
	Replaced bool      // is to be replaced, or just being
	Frozen   bool      // because a resource is short
	Held     bool      // its start waits until a resource is not short any more

	// What the worker says of itself, by Supervisor.Tell.
	Text      string // its STATUS=
	Errno     int    // its ERRNO=; 0 is none
	Reloading bool
	Announced bool // it has said that it is stopping
}

// Result counts what has happened so far.
type Result struct {
	Workers      int // slots of all pools
	Started      int // starts begun
	Ready        int // starts that became ready
	FailedStarts int // starts that failed, without those that a stop cancelled
	NeverReady   int // workers that had a failed start and never became ready
	Exited       int // starts that ended by themselves after they had been ready, and should not have
	Unhealthy    int // ready workers whose liveness rule failed
	GaveUp       int // workers in StateFailed
	Completed    int // workers in StateCompleted
	Blocked      int // workers whose leaf cannot be removed now
	Escalated    int // stops that needed the kill
	Leftover     int // processes that main processes left behind
}

// PoolError says that not every worker got where it should: some never became
// ready, or were given up.
type PoolError struct {
	Workers []WorkerStatus
}

// Error names the workers, at most a few of them.
func (e *PoolError) Error() string {
	if len(e.Workers) == 1 {
		return listWorkers(e.Workers) + " failed"
	}
	return fmt.Sprintf("%d workers failed: %s", len(e.Workers), listWorkers(e.Workers))
}

// StopError says that leaves could not be removed; their runs stay behind.
type StopError struct {
	Workers []WorkerStatus
	Errs    []error // why, in the order of Workers
}

// Error names the workers, at most a few of them.
func (e *StopError) Error() string {
	return fmt.Sprintf("%d workers cannot be removed: %s", len(e.Workers), listWorkers(e.Workers))
}

// Unwrap returns the reasons.
func (e *StopError) Unwrap() []error { return e.Errs }

func listWorkers(ws []WorkerStatus) string {
	const most = 5
	var b strings.Builder
	for i, w := range ws {
		if i == most {
			fmt.Fprintf(&b, " and %d more", len(ws)-most)
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(w.Worker.String())
		if w.Cause != "" {
			fmt.Fprintf(&b, " (%s)", w.Cause)
		}
	}
	return b.String()
}
