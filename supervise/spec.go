package supervise

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/resource"
	"github.com/pitvisor/pitvisor/spawn"
)

// PoolSpec says what a pool is to be. Name, Size and Command.Path must be set.
type PoolSpec struct {
	Name    string // names the pool's cgroup and its workers; [a-z0-9][a-z0-9_-]{0,62}
	Size    int    // the number of workers
	Command Command

	Limits           resource.Limits // of each worker's leaf
	PoolLimits       resource.Limits // of the pool's cgroup, over all its workers
	BestEffortLimits bool            // a limit whose controller is missing is reported (EventDegraded), not refused

	Restart      RestartPolicy
	Backoff      Backoff
	FailureLimit int // consecutive failures after which a worker is given up; 0 means never

	Inherit      []Inheritance // what each start is given beside its standard files
	Stop         Stop
	Readiness    Readiness     // nil means ready as soon as the exec succeeded
	StartTimeout time.Duration // from the exec to ready; 0 means wait for ever
	Liveness     Liveness      // nil means a ready worker is well as long as it lives
	Track        Track
	Variant      string // of whatever else Output and Readiness give a worker; another one replaces it in a Reload

	Rollout  Rollout
	Recycle  Recycle
	After    []Dependency
	Pressure PressurePolicy
	Labels   map[string]string // for selecting; the supervisor does nothing with them
}

// Rollout bounds what goes on at a time when workers are replaced. No bounds
// mean one more than Size and none less, or with RestartNever none more and one less.
type Rollout struct {
	MaxSurge       int // workers beyond Size; the new ones come first
	MaxUnavailable int // workers that may be missing of Size

	MinReady time.Duration // how long a new worker must stay ready before it counts; one that does not has failed
	Progress time.Duration // within which time one more new worker must count, or the rollout stops; 0 means no limit
}

func (r Rollout) bounds(restart RestartPolicy) (surge, unavailable int) {
	switch {
	case r.MaxSurge != 0 || r.MaxUnavailable != 0:
		return r.MaxSurge, r.MaxUnavailable
	case restart == RestartNever:
		return 0, 1
	}
	return 1, 0
}

// Recycle says when a ready worker is replaced because it has lived long enough,
// as a rollout of one. Zero is never.
type Recycle struct {
	Age       time.Duration // since it was ready
	AgeJitter float64       // the part of Age, 0 to 1, that chance may take off
	Memory    int64         // bytes: memory.current of its leaf, looked at every MemoryEvery
	Count     uint64        // what the worker, or who uses it, has counted: Supervisor.Count

	MemoryEvery time.Duration // 0 means 10 s
}

// Command is what every worker of a pool runs.
//
// In Args and Env the placeholders {pool}, {slot}, {worker}, {start} and {run}
// are replaced at each start. PITVISOR_RUN_ID, PITVISOR_POOL, PITVISOR_SLOT,
// PITVISOR_WORKER and PITVISOR_START are added to Env.
type Command struct {
	Path string   // of the program, not looked up in PATH
	Args []string // with argv[0] first; nil means just Path
	Env  []string // the whole environment; nothing is inherited
	Dir  string   // working directory; empty means the supervisor's

	Credential  *spawn.Credential
	Umask       *int
	Rlimits     []spawn.Rlimit
	Nice        *int
	OOMScoreAdj *int
	NoNewPrivs  bool
	NetNS       bool // a network namespace of its own, with loopback up
}

// RestartPolicy says what happens when a worker ends by itself.
type RestartPolicy uint8

// The restart policies.
const (
	RestartAlways    RestartPolicy = iota // whatever the exit code: a worker is not meant to end
	RestartOnFailure                      // unless it exited 0
	RestartNever
)

// String returns the policy as it is written in a configuration.
func (p RestartPolicy) String() string {
	switch p {
	case RestartAlways:
		return "always"
	case RestartOnFailure:
		return "on-failure"
	case RestartNever:
		return "never"
	}
	return fmt.Sprintf("restart(%d)", uint8(p))
}

// Track says what a worker's life is tied to.
type Track uint8

// The ways to track a worker.
const (
	// TrackMain: the worker lives while the process lives that was started.
	// What that process leaves behind is killed.
	TrackMain Track = iota
	// TrackLeaf: the worker lives while its leaf is populated, so the command
	// may daemonise. The started process may end with exit 0 meanwhile; any
	// other end of it is the end of the worker. How the last process of the
	// leaf ended is not known, so it counts as a failure. A stop signal always
	// goes to every member. Costs one more file descriptor per worker.
	TrackLeaf
)

// String returns the way as it is written in a configuration.
func (t Track) String() string {
	switch t {
	case TrackMain:
		return "main"
	case TrackLeaf:
		return "leaf"
	}
	return fmt.Sprintf("track(%d)", uint8(t))
}

// Stop says how a worker is stopped.
type Stop struct {
	Signal unix.Signal   // 0 means SIGTERM
	Grace  time.Duration // from the signal to the kill; 0 means kill at once, without a signal
	Drain  time.Duration // how long a worker that was ready is not ready before the signal, so that no more work is sent to it
	All    bool          // signal every process of the leaf, not only the main one
}

// WorkerID names one slot of a pool; it outlives the slot's processes.
type WorkerID struct {
	Pool string
	Slot int // from 0
}

// String returns the worker as it is printed everywhere, "web/3".
func (id WorkerID) String() string { return fmt.Sprintf("%s/%d", id.Pool, id.Slot) }
