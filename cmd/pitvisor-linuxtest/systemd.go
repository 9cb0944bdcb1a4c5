package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/pitvisor/pitvisor/linuxtest/vm"
)

// systemOptions are the flags that only systemd has; the others are those of vm.
type systemOptions struct {
	options
	suites string
	cold   string
	files  listFlag
}

// parseSystemd reads the arguments of systemd.
func parseSystemd(args []string) (*systemOptions, error) {
	var o systemOptions
	f := flag.NewFlagSet("systemd", flag.ContinueOnError)
	f.StringVar(&o.suites, "suite", "bookworm,trixie", "Debian `suites`, separated by commas: each has its own systemd")
	f.StringVar(&o.kernels, "kernel", "", "`kernel` of every suite, as for vm (default the suite's own)")
	f.StringVar(&o.cold, "cold", "", "tests, or the program, whose name matches this `regexp` boot a system of their own and may reboot it")
	f.Var(&o.files, "file", "`file` that tests find in $LINUXTEST_FILES; may be repeated")
	f.StringVar(&o.json, "json", "", "write the results to this `file`")
	f.StringVar(&o.skips, "skips", "", "`file` with the reasons for which tests may be skipped; any other skip is a failure")
	f.StringVar(&o.install, "install", "", "more Debian `packages`, separated by commas")
	f.StringVar(&o.build, "build", "", "`packages` of programs, separated by commas, that the tests get from linuxtest.Build")
	f.StringVar(&o.cache, "cache", "", "`directory` of kernels, disks and saved machines (default pitvisor-linuxtest in the user's cache)")
	f.StringVar(&o.accel, "accel", "", "kvm or tcg (default kvm where it works)")
	f.Var(&o.env, "env", "`NAME=VALUE` in the programs' environment; may be repeated")
	f.BoolVar(&o.update, "update", false, "ask for newer kernels and packages now; otherwise that is done once a week")
	f.BoolVar(&o.verbose, "v", false, "print what the programs write while they run")
	f.IntVar(&o.memory, "memory", 0, "of each machine, in MiB (default 1024)")
	f.IntVar(&o.cpus, "cpus", 0, "of each machine (default 2)")
	f.IntVar(&o.at, "p", min(2, runtime.NumCPU()), "how many suites run at a time")
	f.DurationVar(&o.limit, "timeout", 5*time.Minute, "of each program")
	f.Usage = func() {
		fmt.Fprintf(f.Output(), "%s\nflags of systemd:\n", usage)
		f.PrintDefaults()
	}
	if i := slices.Index(args, "--"); i >= 0 {
		args, o.args = args[:i], args[i+1:]
	}
	if err := f.Parse(args); err != nil {
		return nil, errUsage
	}
	o.packages = f.Args()
	if len(o.packages) == 0 && len(o.args) == 0 || o.suites == "" {
		f.Usage()
		return nil, errUsage
	}
	o.verbose = o.verbose || len(o.packages) == 0 // a program is run for what it says
	return &o, nil
}

// runSystemd does it all and says whether everything passed.
func runSystemd(ctx context.Context, args []string) (bool, error) {
	o, err := parseSystemd(args)
	if err != nil {
		return false, err
	}
	out := &printer{w: os.Stdout}
	began := time.Now()
	l := &systemLane{lane: lane{o: &o.options, out: out, cache: vm.Cache{
		Dir: o.cache, Update: o.update, Log: func(line string) { out.line("%s", line) },
	}}}
	if o.skips != "" {
		if l.rules, err = vm.ReadRules(o.skips); err != nil {
			return false, err
		}
	}
	if l.payload, err = l.programs(ctx, o); err != nil {
		return false, err
	}
	out.line("programs ready after %.1f s", time.Since(began).Seconds())
	reports, err := l.all(ctx, strings.Split(o.suites, ","), l.one)
	err = errors.Join(err, l.payload.Close())
	if err != nil {
		return false, err
	}
	ok := true
	for _, r := range reports {
		printReport(out, r)
		ok = ok && r.OK()
	}
	if o.json != "" {
		if err := save(o.json, reports); err != nil {
			return false, err
		}
	}
	return ok, context.Cause(ctx)
}

// systemLane is what all suites share.
type systemLane struct{ lane }

func (l *systemLane) programs(ctx context.Context, o *systemOptions) (*vm.Payload, error) {
	var cold *regexp.Regexp
	if o.cold != "" {
		var err error
		if cold, err = regexp.Compile(o.cold); err != nil {
			return nil, fmt.Errorf("-cold: %w", err)
		}
	}
	if len(o.packages) > 0 {
		return l.cache.SystemTests(ctx, vm.SystemTests{
			TestSpec: vm.TestSpec{Packages: o.packages, Programs: list(o.build), Args: o.args, Limit: o.limit},
			Cold:     cold, Files: o.files,
		})
	}
	if len(o.files) > 0 {
		return nil, errors.New("-file is for packages; a program is taken as it is")
	}
	p, err := l.cache.Program(ctx, o.args[0], o.args[1:], o.limit)
	if err != nil {
		return nil, err
	}
	p.Programs[0].Cold = cold != nil && cold.MatchString(p.Programs[0].Name)
	return p, nil
}

// one runs everything in one suite.
func (l *systemLane) one(ctx context.Context, suite string) (*vm.Report, error) {
	began := time.Now()
	name := l.o.kernels
	if name == "" {
		name = vm.KernelOf(suite)
	}
	kernel, err := l.cache.Kernel(ctx, name)
	if err != nil {
		return nil, err
	}
	system, err := l.cache.System(ctx, suite, list(l.o.install)...)
	if err != nil {
		return nil, err
	}
	took := time.Since(began)
	l.out.line("%s: kernel %s and a disk with systemd %s after %.1f s", suite, kernel.Release, system.Systemd, took.Seconds())
	m := vm.Machine{
		Kernel: kernel, System: system, Payload: l.payload.Image(), Programs: l.payload.Programs,
		Env: l.o.env, Memory: l.o.memory, CPUs: l.o.cpus, Accel: l.o.accel,
	}
	r := vm.Examine(ctx, m, l.rules, func(e vm.Event, o *vm.Outcome) { l.observe(suite, m.Programs, e, o) })
	r.Prepare = took.Round(10 * time.Millisecond).Seconds()
	return r, nil
}
