package runverb

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/pitvisor/pitvisor/internal/exit"
	"github.com/pitvisor/pitvisor/internal/oneshot"
	"github.com/pitvisor/pitvisor/internal/report"
	"github.com/pitvisor/pitvisor/internal/units"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"
)

// Flags is what was said on the command line.
type Flags struct {
	CgroupRoot string
	Color      string

	Timeout    time.Duration
	KillAfter  time.Duration
	Signal     unix.Signal
	WaitForAll bool
	Subreaper  bool

	UID, GID string
	Groups   []string
	noGroups bool // --groups "" was said
	Dir      string
	Env      []string
	EnvFiles []string
	ClearEnv bool
	Nice     int
	nice     bool // --nice was said
	NetNS    bool

	Name   string
	Labels []string
	Limits []string

	StdinLifeline bool
	LifelineFDs   []int

	Quiet      bool
	Stats      bool
	FailOnLeak bool
	Report     string
	JUnit      string
	Record     string
	GitHub     bool
	AllowWeak  bool

	Output string // of pitvisor detach

	set *pflag.FlagSet
	own map[string]bool // the flags of this verb, without the global ones
}

// Define adds the flags of pitvisor run to a set. The global ones are the caller's.
func (f *Flags) Define(set *pflag.FlagSet) {
	f.begin(set)
	set.Var((*duration)(&f.Timeout), "timeout", "stop the run after this time, such as 90s or 10m")
	f.defineStop(set)
	set.BoolVar(&f.WaitForAll, "wait-for-all", false, "the run ends with its last process, not with the command")
	set.BoolVar(&f.Subreaper, "subreaper", false, "adopt and reap the command's orphans; always on as PID 1")
	f.defineCommand(set)
	set.StringVar(&f.Name, "name", "", "name of the run (default: the command's)")
	f.defineRun(set)

	set.BoolVar(&f.StdinLifeline, "stdin-lifeline", false, "end of file on stdin ends the run; the command gets /dev/null")
	set.IntSliceVar(&f.LifelineFDs, "lifeline-fd", nil, "end of file on this inherited descriptor ends the run; may be repeated")

	set.BoolVarP(&f.Quiet, "quiet", "q", false, "say nothing about leftovers and time limits; reports are written all the same")
	set.BoolVar(&f.Stats, "stats", false, "print what the run used, on stderr")
	set.BoolVar(&f.FailOnLeak, "fail-on-leak", false, "exit 123 when the command left processes behind and otherwise succeeded")
	set.StringVar(&f.Report, "report", "", "write a report as JSON to this file; - is stdout")
	set.StringVar(&f.JUnit, "report-junit", "", "write a report as JUnit XML to this file")
	set.BoolVar(&f.GitHub, "github", false, "print leftovers as annotations of GitHub Actions, on stdout")
	set.StringVar(&f.Record, "record", "", "append a line of JSON to this file, on disk before the command starts and after it has ended")
	set.BoolVar(&f.AllowWeak, "allow-weak", false, "run without a cgroup where none is to be had: weaker, and marked so")
	f.finish(set)
}

// DefineDetach adds the flags of pitvisor detach to a set.
func (f *Flags) DefineDetach(set *pflag.FlagSet) {
	f.begin(set)
	set.StringVar(&f.Name, "name", "", "name of the server, for ps and end; must be given")
	set.Var((*duration)(&f.Timeout), "ttl", "end the server after this time, such as 2h (default: never)")
	f.defineStop(set)
	f.defineCommand(set)
	f.defineRun(set)
	set.StringVar(&f.Output, "output", "", "file that the server's output is appended to (default: <state>/detached/NAME.log)")
	f.finish(set)
}

// Default returns what no flags mean.
func Default() Flags {
	return Flags{Signal: unix.SIGTERM, KillAfter: 10 * time.Second, Color: "auto"}
}

func (f *Flags) begin(set *pflag.FlagSet) {
	*f = Default()
	f.set, f.own = set, map[string]bool{}
	set.SetInterspersed(false) // what follows the command belongs to it
}

func (f *Flags) finish(set *pflag.FlagSet) {
	set.VisitAll(func(flag *pflag.Flag) { f.own[flag.Name] = true })
}

func (f *Flags) defineStop(set *pflag.FlagSet) {
	set.Var((*duration)(&f.KillAfter), "kill-after", "kill what is still there this long after the stop signal; 0 kills at once")
	set.Var((*signalValue)(&f.Signal), "signal", "signal that stops the run when its time is over or its lifeline is cut")
}

func (f *Flags) defineCommand(set *pflag.FlagSet) {
	set.StringVar(&f.UID, "uid", "", "user to run the command as, name or number; its groups come with it")
	set.StringVar(&f.GID, "gid", "", "primary group, name or number")
	set.StringSliceVar(&f.Groups, "groups", nil, "supplementary groups, comma separated; \"\" is none")
	set.StringVar(&f.Dir, "chdir", "", "working directory of the command")
	set.StringArrayVar(&f.Env, "env", nil, "set NAME=VALUE, or keep NAME with --clear-env; may be repeated")
	set.StringArrayVar(&f.EnvFiles, "env-file", nil, "file of NAME=value lines; may be repeated, --env wins")
	set.BoolVar(&f.ClearEnv, "clear-env", false, "start with an empty environment")
	set.IntVar(&f.Nice, "nice", 0, "niceness of the command, -20 to 19")
	set.BoolVar(&f.NetNS, "netns", false, "a network namespace of its own, with nothing but loopback")
}

func (f *Flags) defineRun(set *pflag.FlagSet) {
	set.StringArrayVar(&f.Labels, "label", nil, "label KEY=VALUE of the run, for ps; may be repeated")
	set.StringArrayVar(&f.Limits, "limit", nil, "limit KEY=VALUE with the kernel's or systemd's name: memory.max=1G, TasksMax=100, CPUQuota=150%; may be repeated")
}

// Global adds the flags that all verbs have, for a program without the others.
func (f *Flags) Global(set *pflag.FlagSet) {
	set.StringVar(&f.CgroupRoot, "cgroup-root", "", "cgroup v2 directory to work below")
	set.StringVar(&f.Color, "color", "auto", "colours: auto, always or never; NO_COLOR is obeyed")
}

// None says whether there is no flag in front of the command, nor in the
// environment, and returns the command. It saves the most common call the making of
// thirty flags.
func None(args []string) (command []string, ok bool) {
	if len(args) == 0 || strings.HasPrefix(args[0], "-") && args[0] != "--" {
		return nil, false
	}
	for _, v := range os.Environ() {
		if strings.HasPrefix(v, twinPrefix) && !strings.HasPrefix(v, oneshot.EnvRunID+"=") {
			return nil, false
		}
	}
	if args[0] == "--" {
		args = args[1:]
	}
	return args, true
}

// twinPrefix begins the environment twin of every flag.
const twinPrefix = "PITVISOR_"

// Settle takes the environment twins of flags that were not given, and checks what
// can be seen to be wrong.
func Settle(set *pflag.FlagSet) error {
	var err error
	set.VisitAll(func(f *pflag.Flag) {
		name := twinPrefix + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		value, ok := os.LookupEnv(name)
		if !ok || f.Changed || err != nil {
			return
		}
		e := set.Set(f.Name, value)
		var wrong *pflag.InvalidValueError
		switch {
		case errors.As(e, &wrong):
			err = exit.Fail(exit.Usage, fmt.Errorf("environment %s=%q %w", name, value, WhyWrong(wrong)))
		case e != nil:
			err = exit.Fail(exit.Usage, fmt.Errorf("environment %s=%q: %w", name, value, e))
		}
	})
	return err
}

// check finds what does not go together.
func (f *Flags) check() error {
	if f.set != nil {
		f.noGroups = f.set.Changed("groups") && len(f.Groups) == 0
		f.nice = f.set.Changed("nice")
	}
	switch {
	case f.nice && (f.Nice < -20 || f.Nice > 19):
		return fmt.Errorf("--nice %d is not between -20 and 19", f.Nice)
	case f.Timeout < 0 || f.KillAfter < 0:
		return errors.New("a time cannot be negative")
	case f.AllowWeak && len(f.Limits) > 0:
		return errors.New("--limit needs a cgroup and --allow-weak does without one: leave one of them out")
	}
	for _, path := range []string{f.Report, f.JUnit} {
		if path == "" {
			continue
		}
		if err := report.Check(path); err != nil {
			return err
		}
	}
	for _, fd := range f.LifelineFDs {
		if err := checkLifeline(fd); err != nil {
			return err
		}
	}
	return nil
}

// checkLifeline refuses descriptors that are not there or that the command needs.
func checkLifeline(fd int) error {
	if fd < 3 {
		return fmt.Errorf("--lifeline-fd %d: it must be 3 or higher; for stdin there is --stdin-lifeline", fd)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil {
		return fmt.Errorf("--lifeline-fd %d: %w: pass it open to pitvisor, for example with %d<&0", fd, err, fd)
	}
	return nil
}

// needsExtras says whether what only the program with all verbs can do is asked for.
func (f *Flags) needsExtras() bool {
	return f.measured() || f.GitHub || f.AllowWeak
}

// measured says whether anybody wants to know what the run has used: who sets a limit
// wants to know that it was hit.
func (f *Flags) measured() bool {
	return len(f.Limits) > 0 || f.Stats || f.Report != "" || f.JUnit != ""
}

// duration is a flag that takes Go's and systemd's way of writing times.
type duration time.Duration

func (d *duration) String() string {
	if *d == 0 {
		return "0" // help does not show it as a default
	}
	return time.Duration(*d).String()
}

func (d *duration) Type() string { return "duration" }

func (d *duration) Set(text string) error {
	parsed, err := units.Duration(text)
	if err != nil {
		return fmt.Errorf("%w: write a number with a unit, such as 10s or 1m30s", err)
	}
	*d = duration(parsed)
	return nil
}

// signalValue is a flag that takes the name or number of a signal.
type signalValue unix.Signal

func (s *signalValue) String() string {
	return strings.TrimPrefix(units.SignalName(unix.Signal(*s)), "SIG")
}

func (s *signalValue) Type() string { return "signal" }

func (s *signalValue) Set(text string) error {
	sig, ok := units.Signal(text)
	if !ok {
		return errors.New("no such signal: write a name or a number, such as TERM, INT or 15")
	}
	*s = signalValue(sig)
	return nil
}
