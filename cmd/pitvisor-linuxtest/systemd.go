package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"regexp"
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
	o.define(f, words{
		guest: "machine", cache: "kernels, disks and saved machines", limit: 5 * time.Minute, programs: "suites",
		install: "more Debian `packages`, separated by commas",
	})
	if err := o.parse(f, args); err != nil {
		return nil, err
	}
	if o.suites == "" {
		f.Usage()
		return nil, errUsage
	}
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
	l := &systemLane{lane: lane{o: &o.options, out: out, cache: o.cached(out)}}
	if l.rules, err = o.rules(); err != nil {
		return false, err
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
	ok, err := o.tell(out, reports)
	return ok, errors.Join(err, context.Cause(ctx))
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
