package supervise

import (
	"fmt"
	"time"

	"github.com/pitvisor/pitvisor/spawn"
)

// State is where a worker is in its life; machine.go tells the story. Ready is
// a flag beside it.
type State uint8

// The states of a worker.
const (
	StateDown      State = iota // not started yet, or stopped for good
	StateStarting               // a leaf and a process are being made
	StateUp                     // the exec succeeded
	StateStopping               // has got the stop signal; the grace is running
	StateKilling                // its leaf is being killed and removed
	StateBackoff                // waits before the next start
	StateFailed                 // given up; needs a person
	StateCompleted              // ended as it should; is not started again
)

// String returns the state in one lower-case word.
func (s State) String() string {
	switch s {
	case StateDown:
		return "down"
	case StateStarting:
		return "starting"
	case StateUp:
		return "up"
	case StateStopping:
		return "stopping"
	case StateKilling:
		return "killing"
	case StateBackoff:
		return "backoff"
	case StateFailed:
		return "failed"
	case StateCompleted:
		return "completed"
	}
	return fmt.Sprintf("state(%d)", uint8(s))
}

// EventKind says what happened.
type EventKind uint8

// The kinds of events. Every change of a worker's state is one event, and each
// event's From is the To of the worker's event before it.
const (
	EventStarting        EventKind = iota + 1 // a start begins
	EventUp                                   // the exec succeeded
	EventReady                                // the readiness rule held; exactly one of this and EventStartFailed per start
	EventStartFailed                          // Failure says why the start did not become ready
	EventExited                               // ended by itself after it had been ready, and should not have
	EventBackoff                              // the next start comes after Delay
	EventStopping                             // the stop signal is sent
	EventEscalated                            // the grace is over: the leaf is killed
	EventStopped                              // ended because we wanted it, and the leaf is gone
	EventGaveUp                               // will not be started again; needs a person
	EventCompleted                            // ended as it should
	EventBlocked                              // the leaf cannot be removed yet; Err says what blocks it. Removal goes on
	EventDegraded                             // a limit of the pool is not in force; Err says which
	EventUnhealthy                            // the liveness rule failed: Err says how. A stop and a restart follow
	EventScaled                               // the pool has another size: Size instead of WasSize
	EventRollout                              // a rollout of the pool begins
	EventRolledOut                            // and has replaced everybody
	EventRolloutStopped                       // or did not; Err says why. The old workers serve on
	EventAdded                                // the pool came with a reload
	EventRemoved                              // the pool went with a reload, and so have its workers
	EventRecycling                            // the worker is to be replaced, for Reason: Err says what was found
	EventWaiting                              // the pool waits for others; Err says for which
	EventMain                                 // the worker has named another process of its own as its main process: PID
	EventReloading                            // the worker says that it reloads
	EventReloaded                             // and that it has
	EventPressure                             // a resource is short, as Pressure says: for a pool, or where it has no name for the run
	EventPressureOver                         // and is not any more
	EventHeld                                 // the pool's starts are held, because of pressure
	EventReleased                             // and are not any more
	EventFrozen                               // the pool's ready workers are frozen, because of pressure
	EventThawed                               // and are not any more
	EventPressureTimeout                      // the pool undoes what it has done for pressure, because that has lasted for MaxFor
)

// String returns the kind in kebab case.
func (k EventKind) String() string {
	words := [...]string{
		"", "starting", "up", "ready", "start-failed", "exited", "backoff", "stopping", "escalated",
		"stopped", "gave-up", "completed", "blocked", "degraded", "unhealthy", "scaled", "rollout",
		"rolled-out", "rollout-stopped", "added", "removed", "recycling", "waiting", "main-process",
		"reloading", "reloaded", "pressure", "pressure-over", "starts-held", "starts-released", "frozen", "thawed",
		"pressure-timeout",
	}
	if k > 0 && int(k) < len(words) {
		return words[k]
	}
	return fmt.Sprintf("event(%d)", uint8(k))
}

// Event is one step in the life of one worker.
type Event struct {
	Seq    uint64 // strictly increasing over the whole supervisor, from 1
	At     time.Time
	Worker WorkerID // Slot is -1 when it is about the whole pool
	Start  uint64   // which start of the worker; 0 before the first
	Kind   EventKind
	Reason Reason // why it starts or stops, and ReasonCommand if a command of somebody ended it (Strike): EventExited, EventStarting, EventBackoff, EventStopping, EventEscalated, EventStopped, EventGaveUp, EventRecycling, EventRollout

	From, To State
	Ready    bool // after the event
	PID      int  // of the main process of this start, for printing; 0 before there is one
	Port     int  // from the readiness rule; 0 when there is none

	Exit      *spawn.Exit   // how the main process ended; nil when it has not, or when that is not known
	Failure   *StartFailure // EventStartFailed only
	Escalated bool          // the stop needed the kill
	Leftover  int           // processes the main process left in its leaf; they were killed

	// Elapsed is, for EventReady and EventStartFailed, the time since the start
	// began; for EventExited and EventCompleted since the process was up; for
	// EventUnhealthy since it was ready; for EventStopped since the stop began; for
	// EventReloaded since the reload began.
	Elapsed time.Duration
	Delay   time.Duration // EventBackoff: until the next start; EventStopping: until the signal, while the worker drains

	Rollout       uint64 // which rollout of the pool, from 1; EventRollout, EventRolledOut, EventRolloutStopped
	Size, WasSize int    // EventScaled

	Pressure *PressureInfo // EventPressure and EventPressureOver: what was measured

	Err error // what else is known about the cause; often nil
}
