package oneshot

import (
	"time"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/internal/leftover"
	"github.com/pitvisor/pitvisor/registry"
	"github.com/pitvisor/pitvisor/spawn"
	"golang.org/x/sys/unix"
)

// EnvRunID is the variable that tells the command which run it is in.
const EnvRunID = "PITVISOR_RUN_ID"

// Spec says what to run and how. Root and Command must be set.
type Spec struct {
	Root    *cgroup.Dir   // where the run is made; stays the caller's
	Record  registry.Spec // what the run's record says
	Command spawn.Cmd     // without Leaf and Session, which are set here

	Timeout    time.Duration // after which the run is stopped; 0 is never
	StopSignal unix.Signal   // what stops it; 0 is SIGTERM
	Grace      time.Duration // from the stop signal to the kill; 0 kills at once
	WaitForAll bool          // the run ends with its last process, not with the command
	Lifelines  []int         // descriptors whose end of file stops the run; what they carry is dropped
	StopOnTerm bool          // TERM, INT, HUP and QUIT stop the run instead of being forwarded
	Subreaper  bool          // orphans become the caller's children, and are reaped

	// Job is asked once, before the command is started, to set limits on the run's
	// cgroups. nil sets none.
	Job func(Place) error
	// Announce is told of the run when it is made and its command is about to start.
	// nil is nobody. An error ends the run before anything has run.
	Announce func(*Result) error
	// Started is told when the command runs. nil is nobody.
	Started func(*Result)
	// Measure is asked once, when the last process has ended and the cgroups are
	// still there. nil is nobody.
	Measure func(Place)
}

// Place is where a run lives.
type Place struct{ Root, Run, Job, Leaf *cgroup.Dir }

// Cause says why a run ended.
type Cause uint8

// The causes.
const (
	CauseExited      Cause = iota // the command ended by itself, or by a signal sent to it
	CauseTimeout                  // Timeout was over
	CauseLifeline                 // a lifeline was cut
	CauseInterrupted              // a stop signal came when only the command's leftovers were waited for
)

// String returns the cause as the report names it.
func (c Cause) String() string {
	switch c {
	case CauseExited:
		return "exited"
	case CauseTimeout:
		return "timed-out"
	case CauseLifeline:
		return "lifeline"
	case CauseInterrupted:
		return "interrupted"
	}
	return "unknown"
}

// Result is how a run went.
type Result struct {
	Run     registry.Info
	Cgroup  string // the run's path
	PID     int    // of the command, for printing
	Started time.Time
	Ended   time.Time // when the run's last process had ended

	Exit  spawn.Exit // of the command
	Cause Cause
	Sent  unix.Signal // what stopped the run, 0 if nothing had to
	Grace bool        // the stop signal was not enough: the kernel killed what was left

	Left    leftover.Found       // what the command left behind; killed
	LeftErr error                // why what was left could not be listed; it is killed all the same
	Blocked *cgroup.BlockedError // what could not be killed; nil when the cgroups are gone
	Moved   string               // the killed cgroup that pitvisor had to move out of; "" if it had not
}

// Clean says that nothing was left behind.
func (r *Result) Clean() bool { return r.Left.Total == 0 && r.LeftErr == nil && r.Blocked == nil }
