package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pitvisor/pitvisor/linuxtest/vm"
)

// options are the flags of vm.
type options struct {
	kernels string
	json    string
	skips   string
	install string
	build   string
	cache   string
	accel   string
	env     listFlag
	only    listFlag
	update  bool
	verbose bool
	memory  int
	cpus    int
	at      int
	limit   time.Duration

	packages []string // before the dashes
	args     []string // after them
}

// listFlag is a flag that may be given more than once.
type listFlag []string

func (l *listFlag) String() string { return strings.Join(*l, " ") }

func (l *listFlag) Set(value string) error {
	*l = append(*l, value)
	return nil
}

// parse reads the arguments of vm.
func parse(args []string) (*options, error) {
	var o options
	f := flag.NewFlagSet("vm", flag.ContinueOnError)
	f.StringVar(&o.kernels, "kernel", "all", "kernels, separated by commas: "+strings.Join(vm.Names(), ", ")+", suite:NAME, or all")
	f.StringVar(&o.json, "json", "", "write the results to this `file`")
	f.StringVar(&o.skips, "skips", "", "`file` with the reasons for which tests may be skipped; any other skip is a failure")
	f.StringVar(&o.install, "install", "", "Debian `packages`, separated by commas, that the guest has beside a shell and coreutils")
	f.StringVar(&o.build, "build", "", "`packages` of programs, separated by commas, that the tests get from linuxtest.Build")
	f.StringVar(&o.cache, "cache", "", "`directory` of kernels and images (default pitvisor-linuxtest in the user's cache)")
	f.StringVar(&o.accel, "accel", "", "kvm or tcg (default kvm where it works)")
	f.Var(&o.env, "env", "`NAME=VALUE` in the programs' environment; may be repeated")
	f.Var(&o.only, "only", "`KERNELS=PACKAGES`, each with commas: these of the packages are tested on these kernels only; may be repeated")
	f.BoolVar(&o.update, "update", false, "ask for newer kernels and packages now; otherwise that is done once a week")
	f.BoolVar(&o.verbose, "v", false, "print what the programs write while they run")
	f.IntVar(&o.memory, "memory", 0, "of each guest, in MiB (default 1024)")
	f.IntVar(&o.cpus, "cpus", 0, "of each guest (default 2)")
	f.IntVar(&o.at, "p", min(2, runtime.NumCPU()), "how many guests run at a time")
	f.DurationVar(&o.limit, "timeout", 10*time.Minute, "of each program")
	f.Usage = func() {
		fmt.Fprintf(f.Output(), "%s\nflags of vm:\n", usage)
		f.PrintDefaults()
	}
	if i := slices.Index(args, "--"); i >= 0 {
		args, o.args = args[:i], args[i+1:]
	}
	if err := f.Parse(args); err != nil {
		return nil, errUsage
	}
	o.packages = f.Args()
	if len(o.packages) == 0 && len(o.args) == 0 {
		f.Usage()
		return nil, errUsage
	}
	o.verbose = o.verbose || len(o.packages) == 0 // a program is run for what it says
	return &o, nil
}

// list splits at commas.
func list(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(text, ",")
}

// names are the kernels that were asked for.
func (o *options) names() []string {
	if o.kernels == "all" {
		return vm.Names()
	}
	return strings.Split(o.kernels, ",")
}

// runVM does it all and says whether everything passed.
func runVM(ctx context.Context, args []string) (bool, error) {
	o, err := parse(args)
	if err != nil {
		return false, err
	}
	out := &printer{w: os.Stdout}
	l, err := prepare(ctx, o, out)
	if err != nil {
		return false, err
	}
	reports, err := l.all(ctx, o.names(), l.one)
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

// lane is what all kernels share.
type lane struct {
	o       *options
	cache   vm.Cache
	out     *printer
	root    *vm.Root
	payload *vm.Payload
	rules   *vm.Rules
	only    only
	took    time.Duration // to prepare it
}

func prepare(ctx context.Context, o *options, out *printer) (*lane, error) {
	for _, name := range o.names() {
		if err := vm.Known(name); err != nil {
			return nil, err
		}
	}
	began := time.Now()
	l := &lane{o: o, out: out, cache: vm.Cache{Dir: o.cache, Update: o.update, Log: func(line string) { out.line("%s", line) }}}
	var err error
	if o.skips != "" {
		if l.rules, err = vm.ReadRules(o.skips); err != nil {
			return nil, err
		}
	}
	if l.only, err = readOnly(ctx, o.only); err != nil {
		return nil, err
	}
	if len(o.packages) > 0 {
		l.payload, err = l.cache.Tests(ctx, vm.TestSpec{Packages: o.packages, Programs: list(o.build), Args: o.args, Limit: o.limit})
	} else {
		l.payload, err = l.cache.Program(ctx, o.args[0], o.args[1:], o.limit)
	}
	if err != nil {
		return nil, err
	}
	built := time.Now()
	if l.root, err = l.cache.Root(ctx, list(o.install)...); err != nil {
		return nil, errors.Join(err, l.payload.Close())
	}
	l.took = time.Since(began)
	out.line("programs ready after %.1f s, root file system after %.1f s", built.Sub(began).Seconds(), l.took.Seconds())
	return l, nil
}

// all runs every kernel or system, a few at a time; those with most programs first,
// so that none is left for the end alone.
func (l *lane) all(ctx context.Context, names []string, one func(context.Context, string) (*vm.Report, error)) ([]*vm.Report, error) {
	reports := make([]*vm.Report, len(names))
	failed := make([]error, len(names))
	turns := make(chan struct{}, max(1, l.o.at))
	var wg sync.WaitGroup
	for _, i := range l.order(names) {
		name := names[i]
		turns <- struct{}{}
		wg.Go(func() {
			defer func() { <-turns }()
			reports[i], failed[i] = one(ctx, name)
		})
	}
	wg.Wait()
	return reports, errors.Join(failed...)
}

// order is the places of the names in the order of their start.
func (l *lane) order(names []string) []int {
	places := make([]int, len(names))
	programs := make([]int, len(names))
	for i, name := range names {
		chosen, _ := l.only.choose(l.payload.Programs, name)
		places[i], programs[i] = i, len(chosen)
	}
	slices.SortStableFunc(places, func(a, b int) int { return programs[b] - programs[a] })
	return places
}

func (l *lane) one(ctx context.Context, name string) (*vm.Report, error) {
	began := time.Now()
	kernel, err := l.cache.Kernel(ctx, name)
	if err != nil {
		return nil, err
	}
	took := time.Since(began)
	programs, dropped := l.only.choose(l.payload.Programs, name)
	m := vm.Machine{
		Kernel: kernel, Root: l.root, Payload: l.payload.Image(), Programs: programs,
		Env: l.o.env, Memory: l.o.memory, CPUs: l.o.cpus, Accel: l.o.accel,
	}
	r := vm.Examine(ctx, m, l.rules, func(e vm.Event, o *vm.Outcome) { l.observe(name, m.Programs, e, o) })
	r.Prepare, r.Dropped = took.Round(10*time.Millisecond).Seconds(), dropped
	return r, nil
}

// observe prints what happens on a kernel.
func (l *lane) observe(kernel string, programs []vm.Program, e vm.Event, o *vm.Outcome) {
	switch e.Kind {
	case vm.EventReady:
		l.out.line("%s: up", kernel)
	case vm.EventStart:
		if l.o.verbose {
			l.out.line("%s: %s", kernel, programs[e.Program].Name)
		}
	case vm.EventOutput:
		if l.o.verbose {
			l.out.raw(strings.ReplaceAll(string(e.Output), "\x16", ""))
		}
	case vm.EventEnd:
		var b strings.Builder
		printOutcome(&b, kernel, o)
		l.out.raw(b.String())
	}
}

// printer writes whole lines, whoever calls.
type printer struct {
	mu sync.Mutex // guards w
	w  io.Writer
}

func (p *printer) line(format string, args ...any) { p.raw(fmt.Sprintf(format, args...) + "\n") }

func (p *printer) raw(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, _ = io.WriteString(p.w, text) // a lost terminal is no reason to fail
}
