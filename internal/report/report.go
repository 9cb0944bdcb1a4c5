// Package report puts into words and files how a run went: for people on stderr, as
// JSON, as JUnit, as annotations of a CI machine. docs/run-report.md describes the
// JSON, which is a public format.
//
// Everything that a command had a hand in is taken for hostile: it cannot break a
// form, nor make it long. What is not known is said to be unknown, and never zero.
//
// The package is not for finding out: it holds no process and reads no cgroup. It
// links neither encoding/json nor encoding/xml, because the program that is started
// for every command prints reports too.
package report

import (
	"time"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/internal/leftover"
)

// Schema is the number of the JSON format. New keys do not change it; a new meaning
// of an old one does.
const Schema = 1

// Outcome is how the run came to its end.
type Outcome string

// The outcomes.
const (
	Exited      Outcome = "exited"      // the command exited by itself
	Signalled   Outcome = "signalled"   // a signal ended the command that was not pitvisor's
	TimedOut    Outcome = "timed-out"   // pitvisor ended it when its time was over
	Lifeline    Outcome = "lifeline"    // pitvisor ended it because who held the lifeline was gone
	Interrupted Outcome = "interrupted" // pitvisor was asked to end it
	NotStarted  Outcome = "not-started" // the command did not run; Error says why
	Failed      Outcome = "failed"      // pitvisor could not do its work; Error says why
)

// What may have happened besides.
const (
	OOMKilled = "oom"        // the kernel killed processes of the run for want of memory
	PIDsLimit = "pids-limit" // the run was refused a process for its limit
)

// Report is everything there is to say of a run.
type Report struct {
	RunID   string // "" when no run was made
	Name    string
	Labels  map[string]string
	Command []string

	Started time.Time // zero: the command did not start
	Ended   time.Time // when the last process had ended; zero: it has not, or never was

	Outcome  Outcome
	Extra    []string // OOMKilled, PIDsLimit, ...
	ExitCode *int     // of the command; nil when it did not exit
	Signal   string   // that ended the command, such as "SIGKILL"; "" for none
	Core     bool     // a core was dumped
	Code     int      // pitvisor's exit code
	Error    string   // why the command did not run, or pitvisor failed

	Tier string // which of the kernel's guarantees are in force, "A" to "E"; "" is not known
	Weak bool   // there was no cgroup: what escaped is not known

	Left     leftover.Found       // what the command left behind; killed
	LeftErr  error                // why that is not known; nil when it is
	Detached []Run                // runs that were made on purpose to outlive this one
	Removed  bool                 // the run's cgroups are removed, so nothing of it is left
	Blocked  *cgroup.BlockedError // what could not be killed; nil for nothing

	Receipt *Receipt // nil: it was not measured
	OOM     *Hit     // nil: nobody was killed, or it is not known
	PIDs    *Hit     // nil: no fork was refused, or it is not known
}

// Run is another run that has to do with this one.
type Run struct {
	ID        string
	Name      string
	Processes int // of it that were left in this run; 0 for a detached one
}

// Hit says whose limit was hit.
type Hit struct {
	Count  uint64 // kills for want of memory, or forks that were refused
	Whose  string // "own", "below", "ancestor", "above"
	Cgroup string // that has the limit; "" if that is not known
	Sure   bool
	Words  string // the same for people
}

// Clean says that it is proven that nothing was left behind: nothing was found, the
// cgroups are removed, and there was one to begin with.
func (r *Report) Clean() bool {
	return r.Left.Total == 0 && r.LeftErr == nil && r.Blocked == nil && r.Removed && !r.Weak
}

// Wall returns how long the run took, from the start of the command to the end of
// the last process; false when it did not start or has not ended.
func (r *Report) Wall() (time.Duration, bool) {
	if r.Started.IsZero() || r.Ended.IsZero() {
		return 0, false
	}
	return max(0, r.Ended.Sub(r.Started)), true
}

// Nested returns the runs within this one that had processes left, by the first of
// their processes, as far as these are listed.
func (r *Report) Nested() []Run {
	var runs []Run
	at := map[string]int{}
	for _, p := range r.Left.Processes {
		if p.Run == "" {
			continue
		}
		i, known := at[p.Run]
		if !known {
			i = len(runs)
			at[p.Run] = i
			runs = append(runs, Run{ID: p.Run})
		}
		runs[i].Processes++
	}
	return runs
}
