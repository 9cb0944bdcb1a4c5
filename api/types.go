package api

import "time"

// State is where a worker is in its life. Ready is a flag beside it.
type State string

// The states of a worker.
const (
	StateDown      State = "down"      // not started yet, or stopped for good
	StateStarting  State = "starting"  // a process is being made
	StateUp        State = "up"        // its program runs
	StateStopping  State = "stopping"  // has got the stop signal; the grace is running
	StateKilling   State = "killing"   // is being killed and removed
	StateBackoff   State = "backoff"   // waits before the next start
	StateFailed    State = "failed"    // given up; needs a person
	StateCompleted State = "completed" // ended as it should; is not started again
)

// Status is a snapshot of one supervisor.
type Status struct {
	Run     Run      `json:"run"`
	Seq     uint64   `json:"seq"`     // the newest event that is surely part of the snapshot: listen from here to miss nothing
	Pools   []Pool   `json:"pools"`   // in the order of the configuration; those of the selected workers
	Workers []Worker `json:"workers"` // by pool, then by number; the selected ones
}

// Run is what a supervisor says of itself.
type Run struct {
	ID      string    `json:"id"`      // of the run
	Name    string    `json:"name"`    // of its configuration
	Version string    `json:"version"` // of the program
	Started time.Time `json:"started"` // when the run was made
	Owner   string    `json:"owner"`   // the supervisor's process, as PID:INODE
	Cgroup  string    `json:"cgroup"`  // the directory of the run
	Config  string    `json:"config"`  // the file it was started with
	Tier    string    `json:"tier"`    // which guarantees of the kernel are in force, A to E
}

// Pool sums up the workers of one pool.
type Pool struct {
	Name   string `json:"name"`
	Size   int    `json:"size"`   // how many workers there are to be
	Up     int    `json:"up"`     // workers whose program runs
	Ready  int    `json:"ready"`  // workers that may get work
	Failed int    `json:"failed"` // workers that were given up

	Completed int `json:"completed,omitempty"` // workers that have done their work and are not started again

	Labels  map[string]string `json:"labels,omitempty"`
	Waits   string            `json:"waits,omitempty"`   // for which other pools, in words
	InVain  bool              `json:"in_vain,omitempty"` // what it waits for will not come by itself any more
	Removed bool              `json:"removed,omitempty"` // goes when its workers are gone
	Rollout *Rollout          `json:"rollout,omitempty"` // the one under way; with an error the last one, which stopped

	Pressure string `json:"pressure,omitempty"` // what is done because a resource is short, in words
	Held     int    `json:"held,omitempty"`     // starts that wait for it to be over
	Frozen   int    `json:"frozen,omitempty"`   // workers that are frozen for it
	Withheld int    `json:"withheld,omitempty"` // workers that are missing of size for it

	Degraded []string `json:"degraded,omitempty"` // what of its limits and pressure is not in force on this host
}

// Rollout is the replacing of a pool's workers by new ones.
type Rollout struct {
	Pool   string `json:"pool,omitempty"`
	ID     uint64 `json:"id"`               // its number in the pool, from 1
	Reason string `json:"reason,omitempty"` // why it was begun
	Left   int    `json:"left"`             // workers that are still to be replaced
	Error  string `json:"error,omitempty"`  // why it stopped; the old workers serve on
}

// Worker is a snapshot of one worker.
type Worker struct {
	Worker   string    `json:"worker"` // its name, as in "web/3"
	Pool     string    `json:"pool"`
	Slot     int       `json:"slot"` // its number in the pool, from 0
	State    State     `json:"state"`
	Ready    bool      `json:"ready"`              // its readiness rule has held
	Start    uint64    `json:"start"`              // which start of it this is, or was last; 0 before the first
	PID      int       `json:"pid,omitempty"`      // of the main process, for printing; absent when there is none
	Port     int       `json:"port,omitempty"`     // that the readiness rule found
	Frozen   bool      `json:"frozen,omitempty"`   // all its processes are stopped, by whomever
	Held     bool      `json:"held,omitempty"`     // its start waits until a resource is not short any more
	Stopped  bool      `json:"stopped,omitempty"`  // by a command; it comes back only by one
	Surge    bool      `json:"surge,omitempty"`    // stands in while others of its pool are replaced
	Leaving  bool      `json:"leaving,omitempty"`  // is being stopped for good
	Replaced bool      `json:"replaced,omitempty"` // is to be replaced, or just being
	Failures int       `json:"failures"`           // in a row
	Since    time.Time `json:"since"`              // when it got into its state
	Cause    string    `json:"cause,omitempty"`    // of its last failure

	// What it says of itself by sd_notify.
	Status    string `json:"status,omitempty"`    // STATUS=
	Errno     int    `json:"errno,omitempty"`     // ERRNO=
	Reloading bool   `json:"reloading,omitempty"` // RELOADING=1, and no READY=1 since
	Announced bool   `json:"announced,omitempty"` // STOPPING=1
}

// Inspection is everything there is to know of one worker.
type Inspection struct {
	Worker    Worker    `json:"worker"`
	Command   Command   `json:"command"`
	Leaf      *Leaf     `json:"leaf,omitempty"`      // absent when there is no process
	Processes []Process `json:"processes,omitempty"` // of the leaf, zombies left out
	Events    []Event   `json:"events,omitempty"`    // the newest that are still held, the oldest first
}

// Command is what a pool runs and how. Environment variables are left out: they are
// where secrets are kept.
type Command struct {
	Path         string   `json:"path"`
	Args         []string `json:"args"` // with the program's name first; placeholders as they are configured
	Directory    string   `json:"directory,omitempty"`
	UID          *int     `json:"uid,omitempty"` // absent: the supervisor's
	GID          *int     `json:"gid,omitempty"`
	Restart      string   `json:"restart"`     // "always", "on-failure" or "never"
	StopSignal   string   `json:"stop_signal"` // as in "SIGTERM"
	StopGrace    Duration `json:"stop_grace_ns"`
	Drain        Duration `json:"drain_ns,omitempty"` // from the end of being ready to the stop signal
	StartTimeout Duration `json:"start_timeout_ns"`   // 0 is for ever
	FailureLimit int      `json:"failure_limit"`      // 0 is none
	HasReadiness bool     `json:"has_readiness"`      // false: ready as soon as the program runs
	Track        string   `json:"track"`              // "main" or "leaf"
}

// Leaf is the cgroup of one start, with what it has used so far. Numbers that this
// host does not count are absent.
type Leaf struct {
	Path           string            `json:"path"`
	CgroupID       uint64            `json:"cgroup_id"`
	Frozen         bool              `json:"frozen"`
	MemoryBytes    *uint64           `json:"memory_bytes,omitempty"`
	MemoryPeak     *uint64           `json:"memory_peak_bytes,omitempty"`
	CPUNanoseconds *uint64           `json:"cpu_ns,omitempty"`
	PIDs           *uint64           `json:"pids,omitempty"`
	OOMKills       *uint64           `json:"oom_kills,omitempty"`
	Limits         map[string]string `json:"limits,omitempty"` // the kernel's files that hold more than "max" or the default
}

// Process is one process of a worker.
type Process struct {
	PID   int    `json:"pid"`
	Inode uint64 `json:"inode,omitempty"` // names the process and not only its number; absent before Linux 6.9
	Name  string `json:"name"`            // the kernel's, of at most 15 bytes; written by the process
	State string `json:"state"`           // one letter, as in ps(1)
}

// Action asks something of workers. Select must name at least one: a pool, a worker
// ("web/3"), one start of it ("web/3.7", which does nothing when another one runs),
// a process ("4711:84423"), or a pattern ("web/*", "*").
type Action struct {
	Select []string `json:"select"`
	Signal string   `json:"signal,omitempty"` // for signal only: a name such as "HUP", or a number
	All    bool     `json:"all,omitempty"`    // for signal only: every process of the leaf, not only the main one
}

// Selected asks for something that is about whole workers. Select is as in [Action],
// but for processes; labels ("env=prod") select pools.
type Selected struct {
	Select  []string `json:"select"`
	Wait    bool     `json:"wait,omitempty"`       // answer when all of it is done
	Timeout Duration `json:"timeout_ns,omitempty"` // of Wait, at most an hour, which 0 means; it ends the waiting only
}

// Stop asks workers to end.
type Stop struct {
	Selected
	Now bool `json:"now,omitempty"` // kill them, without the grace of their pool
}

// Scale gives a pool another size.
type Scale struct {
	Pool    string   `json:"pool"`
	Size    *int     `json:"size"`
	Wait    bool     `json:"wait,omitempty"` // answer when all workers are where they should be
	Timeout Duration `json:"timeout_ns,omitempty"`
}

// Reload asks for the configuration to be read again.
type Reload struct {
	Wait    bool     `json:"wait,omitempty"` // answer when all rollouts have ended
	Timeout Duration `json:"timeout_ns,omitempty"`
}

// Changed says what a command has changed, or has begun to.
type Changed struct {
	Workers  []string  `json:"workers,omitempty"`
	Rollouts []Rollout `json:"rollouts,omitempty"`
	Added    []string  `json:"added,omitempty"` // pools
	Removed  []string  `json:"removed,omitempty"`
	Scaled   []string  `json:"scaled,omitempty"`
	Updated  []string  `json:"updated,omitempty"` // have another configuration, for which no worker has to be replaced
	Run      bool      `json:"run,omitempty"`     // what concerns all pools together has changed
	Sockets  bool      `json:"sockets,omitempty"` // the listening sockets have changed
	Later    []string  `json:"later,omitempty"`   // settings that hold from the next start of the supervisor on
}

// Done says what became of an [Action]: one line for each worker that was selected.
type Done struct {
	Workers []Outcome `json:"workers"`
}

// Outcome is what became of an [Action] at one worker.
type Outcome struct {
	Worker    string `json:"worker"`
	Start     uint64 `json:"start"`
	Processes int    `json:"processes"`       // how many it was done to; those of a leaf may change meanwhile
	Error     string `json:"error,omitempty"` // why it was not done
}

// Caller is whom the supervisor takes the caller for.
type Caller struct {
	Role   string `json:"role"`             // "owner", "reader", "worker", "token" or "stranger"
	UID    int    `json:"uid"`              // -1 on TCP
	PID    int    `json:"pid"`              // 0 where it is not to be seen from the supervisor
	Worker string `json:"worker,omitempty"` // whose leaf the caller is in, with role "worker"
	Why    string `json:"why"`              // in words
}

// Record is one line of the history.
type Record struct {
	At      time.Time `json:"at"`
	Run     string    `json:"run"`
	Pool    string    `json:"pool,omitempty"`
	Slot    int       `json:"slot"` // -1 when it is about the whole pool
	Start   uint64    `json:"start,omitempty"`
	Kind    string    `json:"kind"` // of the event
	Cause   string    `json:"cause,omitempty"`
	Exit    string    `json:"exit,omitempty"`
	Detail  string    `json:"detail,omitempty"` // the last lines of stderr
	Elapsed Duration  `json:"elapsed_ns,omitempty"`
}

// History is the newest records of the supervisor's history file.
type History struct {
	Records []Record `json:"records"` // the oldest first
}

// Duration is a time.Duration that travels as a number of nanoseconds.
type Duration = time.Duration

// Error is why a call was not done. It travels as the body of every answer that is
// not 2xx.
type Error struct {
	Status int    `json:"status"`         // of HTTP
	Code   string `json:"code"`           // one of the Code constants
	Cause  string `json:"cause"`          // in words
	Cure   string `json:"cure,omitempty"` // what would help
}

// The codes of errors.
const (
	CodeBadRequest = "bad-request" // 400, 405, 413, 415: the call is wrong
	CodeForbidden  = "forbidden"   // 403: not for this caller
	CodeNotFound   = "not-found"   // 404: no such route, worker or pool
	CodeConflict   = "conflict"    // 409: not in this state
	CodeOtherRun   = "other-run"   // 409: a stream is to go on that another supervisor has begun
	CodeTooMany    = "too-many"    // 429, 503: more calls or connections than one user may have
	CodeInternal   = "internal"    // 500: the supervisor's own trouble
	CodeToken      = "token"       // 401: TCP without the right token
	CodeTimeout    = "timeout"     // 504: what was waited for has not come in time
)

// Error returns the cause.
func (e *Error) Error() string { return e.Cause }

// Hint returns the cure.
func (e *Error) Hint() string { return e.Cure }

// Is says whether target is an *Error of the same code, so that a caller can write
// errors.Is(err, &api.Error{Code: api.CodeForbidden}).
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code && (t.Status == 0 || t.Status == e.Status)
}
