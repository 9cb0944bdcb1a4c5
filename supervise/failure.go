package supervise

import (
	"fmt"
	"strings"
	"time"

	"github.com/pitvisor/pitvisor/spawn"
)

// Phase says how far a start got.
type Phase uint8

// The phases of a start, in their order.
const (
	PhasePrepare   Phase = iota + 1 // leaf, limits, output and readiness rule are made
	PhaseExec                       // the process is made and executes the program
	PhaseReadiness                  // the readiness rule must hold
)

// String returns the phase in one word.
func (p Phase) String() string {
	switch p {
	case PhasePrepare:
		return "prepare"
	case PhaseExec:
		return "exec"
	case PhaseReadiness:
		return "readiness"
	}
	return fmt.Sprintf("phase(%d)", uint8(p))
}

// FailureCause says why a start did not become ready.
type FailureCause uint8

// The causes of a failed start.
const (
	CauseUnknown   FailureCause = iota
	CauseExec                   // the program did not run; Err holds a *spawn.Error where there is one
	CauseExited                 // the process exited before it was ready, with whatever code
	CauseSignaled               // a signal ended the process before it was ready
	CauseTimeout                // the start timeout was over
	CauseOOM                    // the kernel killed it for memory
	CauseLimit                  // it ran into the limit of processes of its leaf, its pool or further up
	CausePortTaken              // its port belongs to somebody else
	CauseCanceled               // a stop was asked for meanwhile
	CauseOutput                 // its output could not be opened
	CauseProbe                  // the readiness rule could not be applied
	CauseLeaf                   // its leaf could not be made, limited or watched
	CauseInherit                // what it inherits could not be had
)

// String returns the cause in kebab case.
func (c FailureCause) String() string {
	switch c {
	case CauseUnknown:
		return "unknown"
	case CauseExec:
		return "exec"
	case CauseExited:
		return "exited"
	case CauseSignaled:
		return "signaled"
	case CauseTimeout:
		return "timeout"
	case CauseOOM:
		return "oom"
	case CauseLimit:
		return "limit"
	case CausePortTaken:
		return "port-taken"
	case CauseCanceled:
		return "canceled"
	case CauseOutput:
		return "output"
	case CauseProbe:
		return "probe"
	case CauseLeaf:
		return "leaf"
	case CauseInherit:
		return "inherit"
	}
	return fmt.Sprintf("cause(%d)", uint8(c))
}

// StartFailure says why one start did not become ready.
type StartFailure struct {
	Phase   Phase
	Cause   FailureCause
	Exit    *spawn.Exit // nil when the process did not end by itself
	Elapsed time.Duration
	Stderr  []string // the last lines of stderr of this start
	Err     error    // what else is known; may be nil
}

// Error tells the failure in one line, without the tail of stderr.
func (f *StartFailure) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s", f.Phase, f.Cause)
	if f.Exit != nil {
		fmt.Fprintf(&b, " (%v)", *f.Exit)
	}
	fmt.Fprintf(&b, " after %v", f.Elapsed.Round(time.Millisecond))
	if f.Err != nil {
		fmt.Fprintf(&b, ": %v", f.Err)
	}
	return b.String()
}

// Unwrap returns Err.
func (f *StartFailure) Unwrap() error { return f.Err }
