package api

import "time"

// The kinds of [Event] that a stream has beside those of the supervisor.
const (
	EventGap = "gap" // events are missing: From and To say which
	EventEnd = "end" // the supervisor has ended; nothing follows
)

// Event is one line of the event stream: one step in the life of one worker, or a
// word about the stream itself (EventGap, EventEnd).
type Event struct {
	Seq    uint64    `json:"seq"` // strictly increasing; the place to go on from
	At     time.Time `json:"at"`
	Kind   string    `json:"kind"`             // "starting", "up", "ready", "start-failed", "exited", and so on: docs/api.md
	Worker string    `json:"worker,omitempty"` // "web/3", or "web" when it is about the whole pool
	Pool   string    `json:"pool,omitempty"`
	Slot   int       `json:"slot"`             // -1 when it is about the whole pool
	Start  uint64    `json:"start,omitempty"`  // which start of the worker
	Reason string    `json:"reason,omitempty"` // why it starts or stops

	From  State `json:"from,omitempty"`
	To    State `json:"to,omitempty"`
	Ready bool  `json:"ready"` // after the event
	PID   int   `json:"pid,omitempty"`
	Port  int   `json:"port,omitempty"`

	Exit      *Exit         `json:"exit,omitempty"`      // how the main process ended, where that is known
	Failure   *StartFailure `json:"failure,omitempty"`   // of "start-failed"
	Escalated bool          `json:"escalated,omitempty"` // the stop needed the kill
	Leftover  int           `json:"leftover,omitempty"`  // processes that the main process left; they were killed
	Elapsed   Duration      `json:"elapsed_ns,omitempty"`
	Delay     Duration      `json:"delay_ns,omitempty"` // of "backoff": until the next start; of "stopping": until the signal
	Rollout   uint64        `json:"rollout,omitempty"`  // of "rollout" and what ends it: which of the pool
	Size      *int          `json:"size,omitempty"`     // of "scaled": the new one
	WasSize   *int          `json:"was_size,omitempty"` // of "scaled": the old one
	Error     string        `json:"error,omitempty"`    // what else is known of the cause

	Pressure *Pressure `json:"pressure,omitempty"` // of "pressure" and "pressure-over"

	Missing *Gap `json:"missing,omitempty"` // of "gap"
}

// Pressure is for how much of the time programs have waited for a resource.
type Pressure struct {
	Where    string   `json:"where"`    // "host" or "run": whose programs
	Resource string   `json:"resource"` // "cpu", "memory" or "io"
	Kind     string   `json:"kind"`     // "some" of them, or "full": all that had something to do
	Share    float64  `json:"share"`    // of the time, 0 to 1
	Over     Duration `json:"over_ns"`  // measured over so long
}

// Gap is a range of events that a stream can no longer tell.
type Gap struct {
	From uint64 `json:"from"` // the first that is missing
	To   uint64 `json:"to"`   // the last
}

// Exit is how a process ended.
type Exit struct {
	Code   int    `json:"code"`             // -1 when a signal ended it
	Signal string `json:"signal,omitempty"` // as in "SIGKILL", or the number of a real-time signal
	Core   bool   `json:"core,omitempty"`   // it left a core dump
	Text   string `json:"text"`             // in words
}

// StartFailure is why a start did not become ready.
type StartFailure struct {
	Phase   string   `json:"phase"` // "prepare", "exec" or "readiness"
	Cause   string   `json:"cause"` // "exited", "timeout", "oom", "port-taken", and so on: docs/api.md
	Elapsed Duration `json:"elapsed_ns"`
	Stderr  []string `json:"stderr,omitempty"` // its last lines
	Error   string   `json:"error,omitempty"`
}
