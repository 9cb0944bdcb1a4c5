package runverb

import (
	"errors"
	"os"
	"time"

	"github.com/pitvisor/pitvisor/internal/exit"
	"github.com/pitvisor/pitvisor/internal/oneshot"
	"github.com/pitvisor/pitvisor/internal/report"
	"github.com/pitvisor/pitvisor/internal/units"
	"golang.org/x/sys/unix"
)

// Outcome is everything that there is to say of a run.
type Outcome struct {
	Args   []string
	Result *oneshot.Result
	Err    error // why the command did not run, or what kept pitvisor from working
	Code   int   // pitvisor's exit code
	Weak   bool
	Usage  Usage // nil when it was not measured
}

// code is pitvisor's exit code.
func (f *Flags) code(out *Outcome) int {
	r := out.Result
	if out.Err != nil {
		var e *exit.Error
		if errors.As(out.Err, &e) {
			return e.Code
		}
		return startCode(out.Err)
	}
	code := r.Exit.Code
	if r.Exit.Signal != 0 {
		code = exit.Signalled(r.Exit.Signal)
	}
	switch {
	case r.Blocked != nil:
		return exit.Self
	case r.Cause == oneshot.CauseTimeout:
		return exit.TimedOut
	case f.FailOnLeak && code == 0 && r.Left.Total > 0:
		return exit.Leaked
	}
	return code
}

// Report puts an outcome into the form that is printed and written.
func (o *Outcome) Report(name string) *report.Report {
	r := o.Result
	rep := &report.Report{
		Name: name, Labels: r.Run.Labels, Command: o.Args, Started: r.Started, Ended: r.Ended,
		Outcome: o.outcome(), Code: o.Code, Weak: o.Weak, Left: r.Left, LeftErr: r.LeftErr, Blocked: r.Blocked,
		Removed: !o.Weak && r.Blocked == nil && o.Err == nil,
	}
	if !r.Run.ID.IsZero() {
		rep.RunID = r.Run.ID.String()
	}
	switch {
	case o.Err != nil:
		rep.Error = o.Err.Error()
	case r.Exit.Signal != 0:
		rep.Signal, rep.Core = units.SignalName(r.Exit.Signal), r.Exit.Core
	default:
		rep.ExitCode = &r.Exit.Code
	}
	return rep
}

// outcome is how the run came to its end.
func (o *Outcome) outcome() report.Outcome {
	r := o.Result
	switch {
	case o.Err != nil && r.PID == 0:
		return report.NotStarted
	case o.Err != nil:
		return report.Failed
	}
	switch r.Cause {
	case oneshot.CauseTimeout:
		return report.TimedOut
	case oneshot.CauseLifeline:
		return report.Lifeline
	case oneshot.CauseInterrupted:
		return report.Interrupted
	case oneshot.CauseExited:
	}
	if r.Exit.Signal != 0 {
		return report.Signalled
	}
	return report.Exited
}

// say tells on stderr what is not as it should be. A clean run says nothing.
func (v *Verb) say(out *Outcome) {
	f, r := v.Flags, out.Result
	if f.Quiet {
		return
	}
	if r.Moved != "" {
		v.print("moved out of %s: the kernel kills everything that is started from a cgroup that was once killed", r.Moved)
	}
	if r.Cause == oneshot.CauseTimeout && out.Err == nil {
		how := ""
		if r.Grace {
			how = ", and killed after its grace of " + f.KillAfter.String()
		}
		v.print("stopped after %v, its time limit%s", f.Timeout.Round(time.Millisecond), how)
	}
	if r.Cause == oneshot.CauseLifeline && out.Err == nil {
		v.print("stopped: the lifeline was cut")
	}
	if out.Err == nil && (out.Weak || !r.Clean()) && v.Extras.Report == nil {
		_ = out.Report(r.Run.Name).WriteText(v.Stderr, f.Colored(2)) // there is nobody else to tell
	}
}

// Colored says whether to use colours on a descriptor.
func (f *Flags) Colored(fd int) bool {
	switch f.Color {
	case "always":
		return true
	case "never":
		return false
	}
	_, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	return err == nil && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}
