package runverb

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/internal/exit"
	"github.com/pitvisor/pitvisor/internal/oneshot"
	"github.com/pitvisor/pitvisor/registry"
	"golang.org/x/sys/unix"
)

// Extras is what only the program with all verbs can do. A nil field is what the
// caller cannot; the flags that need it are then refused by [Run] with ErrNeedsExtras.
type Extras struct {
	// Limit makes the step that sets limits, of KEY=VALUE texts.
	Limit func(limits []string) (func(oneshot.Place) error, error)
	// Prepare makes the statistics available that Measure reads, as far as it can.
	Prepare func(oneshot.Place)
	// Measure reads what a run has used, before its cgroups are removed.
	Measure func(oneshot.Place) Usage
	// Report writes the reports that were asked for.
	Report func(*Flags, *Outcome) error
	// Scope gets an ordinary user a delegated cgroup, and moves the caller there. The
	// name is for people.
	Scope func(name string) error
	// Weak runs a command without a cgroup.
	Weak func(*oneshot.Spec) (*oneshot.Result, error)
}

// Usage is what a run has used, in the words of the program that can measure it.
type Usage any

// ErrNeedsExtras says that a flag needs what this program has not linked.
var ErrNeedsExtras = errors.New("this needs the program with all verbs")

// Verb is one call of the verb.
type Verb struct {
	Flags   *Flags
	Version string
	Stderr  io.Writer
	Extras  Extras
}

// Run runs the command in args and returns the exit code. An error is one that the
// caller prints; it carries its exit code.
func (v *Verb) Run(args []string) (int, error) {
	f := v.Flags
	if err := f.check(); err != nil {
		return 0, exit.Fail(exit.Usage, err)
	}
	if len(args) == 0 {
		return 0, exit.FailHint(exit.Usage, errors.New("no command"), "write it behind two dashes: pitvisor run -- make test")
	}
	if f.needsExtras() && v.Extras.Report == nil {
		return 0, ErrNeedsExtras
	}
	out := &Outcome{Args: args, Result: &oneshot.Result{}}
	spec, root, err := v.spec(args, out)
	if err == nil {
		defer root.close()
		err = v.execute(spec, out)
	}
	if errors.Is(err, ErrNeedsExtras) {
		return 0, err
	}
	out.Err = err
	out.Code = f.code(out)
	v.say(out)
	if v.Extras.Report != nil && (out.Err == nil || out.Code != exit.Usage) { // 2 may be the command's own
		if rerr := v.Extras.Report(f, out); rerr != nil {
			err = errors.Join(err, rerr)
			out.Code = exit.Self
		}
	}
	if err != nil {
		return 0, coded(out.Code, err)
	}
	return out.Code, nil
}

// coded gives an error the code of the outcome, and keeps the way out that it knows.
func coded(code int, err error) error {
	var e *exit.Error
	if errors.As(err, &e) && e.Code == code {
		return err
	}
	return exit.FailHint(code, err, exit.Hint(err))
}

// place is the root of a run; nil for a run without a cgroup.
type place struct{ dir *cgroup.Dir }

func (p place) close() {
	if p.dir != nil {
		_ = p.dir.Close() // was only used to make things in
	}
}

// spec puts together what is to be run, and finds out where.
func (v *Verb) spec(args []string, out *Outcome) (*oneshot.Spec, place, error) {
	spec, err := v.plan(args)
	if err != nil {
		return spec, place{}, err
	}
	if v.Flags.measured() {
		v.measure(spec, out)
	}
	root, err := v.root(out)
	spec.Root = root.dir
	return spec, root, err
}

// measure adds the reading of statistics to a run.
func (v *Verb) measure(spec *oneshot.Spec, out *Outcome) {
	limit := spec.Job
	spec.Job = func(p oneshot.Place) error {
		v.Extras.Prepare(p)
		if limit != nil {
			return limit(p)
		}
		return nil
	}
	spec.Measure = func(p oneshot.Place) { out.Usage = v.Extras.Measure(p) }
}

// plan is what the flags and arguments say, without a place.
func (v *Verb) plan(args []string) (*oneshot.Spec, error) {
	f := v.Flags
	labels, err := f.labels()
	if err != nil {
		return nil, exit.Fail(exit.Usage, err)
	}
	command, err := f.command(args)
	if err != nil {
		return nil, err
	}
	spec := &oneshot.Spec{
		Record:  registry.Spec{Kind: "run", Name: f.name(args), Version: v.Version, Labels: labels},
		Command: command, Timeout: f.Timeout, StopSignal: f.Signal, Grace: f.KillAfter,
		WaitForAll: f.WaitForAll, Subreaper: f.Subreaper || os.Getpid() == 1,
	}
	v.lifelines(spec)
	if len(f.Limits) > 0 {
		if spec.Job, err = v.Extras.Limit(f.Limits); err != nil {
			return nil, exit.Fail(exit.Usage, err)
		}
	}
	return spec, nil
}

// lifelines takes the descriptors that end the run away from the command.
func (v *Verb) lifelines(spec *oneshot.Spec) {
	if v.Flags.StdinLifeline {
		spec.Lifelines = append(spec.Lifelines, 0)
	}
	for _, fd := range v.Flags.LifelineFDs {
		unix.CloseOnExec(fd)
		spec.Lifelines = append(spec.Lifelines, fd)
	}
}

// root finds the cgroup to work in, gets one from systemd, or does without.
func (v *Verb) root(out *Outcome) (place, error) {
	root, err := cgroup.FindRoot(v.Flags.CgroupRoot)
	if err == nil {
		return place{root.Dir}, nil
	}
	if v.Extras.Scope == nil {
		return place{}, ErrNeedsExtras
	}
	hint := exit.Hint(err)
	// From inside a run a scope would be a way out of it.
	// And so it would be out of the limits of a batch job.
	if v.Flags.CgroupRoot == "" && os.Geteuid() != 0 && !cgroup.InRun() && os.Getenv("SLURM_JOB_ID") == "" {
		scopeErr := v.Extras.Scope(v.Flags.name(out.Args))
		if scopeErr == nil {
			root, err = cgroup.FindRoot("")
			return place{root.Dir}, exit.AsSelf(err)
		}
		err = fmt.Errorf("%w; and systemd gave none: %w", err, scopeErr)
		hint = cmp.Or(exit.Hint(scopeErr), hint)
	}
	if v.Flags.AllowWeak {
		out.Weak = true
		return place{}, nil
	}
	return place{}, exit.FailHint(exit.Self, err, hint+"; or take less than a cgroup gives: --allow-weak")
}

// execute runs the command, with the records around it that were asked for.
func (v *Verb) execute(spec *oneshot.Spec, out *Outcome) error {
	var rec *recorder
	if v.Flags.Record != "" {
		var err error
		if rec, err = openRecord(v.Flags.Record); err != nil {
			return exit.Fail(exit.Self, err)
		}
		spec.Announce = func(r *oneshot.Result) error { return rec.started(r, out.Args) }
	}
	run := oneshot.Run
	if out.Weak {
		run = v.Extras.Weak
	}
	var err error
	out.Result, err = run(spec)
	if rec != nil {
		err = errors.Join(err, rec.ended(out.Result, err))
	}
	return err
}

func (v *Verb) print(format string, args ...any) {
	fmt.Fprintf(v.Stderr, "pitvisor: "+format+"\n", args...)
}
