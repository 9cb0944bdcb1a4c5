package main

import (
	"cmp"
	"flag"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/pitvisor/pitvisor/linuxtest/vm"
)

// common are the flags of all commands that run programs.
type common struct {
	json    string
	skips   string
	build   string
	env     listFlag
	verbose bool
	at      int
	limit   time.Duration

	packages []string // before the dashes
	args     []string // after them
}

// options are the flags that vm and systemd share.
type options struct {
	common
	kernels string
	install string
	cache   string
	accel   string
	update  bool
	memory  int
	cpus    int
}

// listFlag is a flag that may be given more than once.
type listFlag []string

func (l *listFlag) String() string { return strings.Join(*l, " ") }

func (l *listFlag) Set(value string) error {
	*l = append(*l, value)
	return nil
}

// words are what the commands say, or do by themselves, in different ways.
type words struct {
	programs string // what runs side by side
	at       int    // how many of them
	limit    time.Duration
	skips    string // "" is a file

	guest, cache, install string // of the commands with virtual machines
}

// define adds the flags.
func (o *common) define(f *flag.FlagSet, w words) {
	skips := cmp.Or(w.skips, "`file` with the reasons for which tests may be skipped; any other skip is a failure")
	f.StringVar(&o.json, "json", "", "write the results to this `file`")
	f.StringVar(&o.skips, "skips", "", skips)
	f.StringVar(&o.build, "build", "", "`packages` of programs, separated by commas, that the tests get from linuxtest.Build")
	f.Var(&o.env, "env", "`NAME=VALUE` in the programs' environment; may be repeated")
	f.BoolVar(&o.verbose, "v", false, "print what the programs write while they run")
	f.IntVar(&o.at, "p", w.at, "how many "+w.programs+" run at a time")
	f.DurationVar(&o.limit, "timeout", w.limit, "of each program")
	f.Usage = func() {
		fmt.Fprintf(f.Output(), "%s\nflags of %s:\n", usage, f.Name())
		f.PrintDefaults()
	}
}

func (o *options) define(f *flag.FlagSet, w words) {
	w.at = min(2, runtime.NumCPU())
	o.common.define(f, w)
	f.StringVar(&o.install, "install", "", w.install)
	f.StringVar(&o.cache, "cache", "", "`directory` of "+w.cache+" (default pitvisor-linuxtest in the user's cache)")
	f.StringVar(&o.accel, "accel", "", "kvm or tcg (default kvm where it works)")
	f.BoolVar(&o.update, "update", false, "ask for newer kernels and packages now; otherwise that is done once a week")
	f.IntVar(&o.memory, "memory", 0, "of each "+w.guest+", in MiB (default 1024)")
	f.IntVar(&o.cpus, "cpus", 0, "of each "+w.guest+" (default 2)")
}

// parse reads the arguments.
func (o *common) parse(f *flag.FlagSet, args []string) error {
	if i := slices.Index(args, "--"); i >= 0 {
		args, o.args = args[:i], args[i+1:]
	}
	if err := f.Parse(args); err != nil {
		return errUsage
	}
	o.packages = f.Args()
	if len(o.packages) == 0 && len(o.args) == 0 {
		f.Usage()
		return errUsage
	}
	o.verbose = o.verbose || len(o.packages) == 0 // a program is run for what it says
	return nil
}

// cached is the cache that was asked for.
func (o *options) cached(out *printer) vm.Cache {
	return vm.Cache{Dir: o.cache, Update: o.update, Log: func(line string) { out.line("%s", line) }}
}

// rules are the reasons for skips that are allowed; nil leaves it at counting.
func (o *options) rules() (*vm.Rules, error) {
	if o.skips == "" {
		return nil, nil
	}
	return vm.ReadRules(o.skips)
}

// list splits at commas.
func list(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(text, ",")
}

// tell prints what was found, saves it, and says whether all passed.
func (o *options) tell(out *printer, reports []*vm.Report) (ok bool, err error) {
	ok = true
	for _, r := range reports {
		printReport(out, r)
		ok = ok && r.OK()
	}
	if o.json != "" {
		err = save(o.json, reports)
	}
	return ok && err == nil, err
}
