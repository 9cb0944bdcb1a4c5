package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pitvisor/pitvisor/linuxtest/vm"
)

// vmOptions are the flags that only vm has.
type vmOptions struct {
	options
	only listFlag
}

// parseVM reads the arguments of vm.
func parseVM(args []string) (*vmOptions, error) {
	var o vmOptions
	f := flag.NewFlagSet("vm", flag.ContinueOnError)
	f.StringVar(&o.kernels, "kernel", "all", "kernels, separated by commas: "+strings.Join(vm.Names(), ", ")+", suite:NAME, or all")
	f.Var(&o.only, "only", "`KERNELS=PACKAGES`, each with commas: these of the packages are tested on these kernels only; may be repeated")
	o.define(f, words{
		guest: "guest", cache: "kernels and images", limit: 10 * time.Minute, programs: "guests",
		install: "Debian `packages`, separated by commas, that the guest has beside a shell and coreutils",
	})
	return &o, o.parse(f, args)
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
	o, err := parseVM(args)
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
	ok, err := o.tell(out, reports)
	return ok, errors.Join(err, context.Cause(ctx))
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

func prepare(ctx context.Context, o *vmOptions, out *printer) (*lane, error) {
	for _, name := range o.names() {
		if err := vm.Known(name); err != nil {
			return nil, err
		}
	}
	began := time.Now()
	l := &lane{o: &o.options, out: out, cache: o.cached(out)}
	var err error
	if l.rules, err = o.rules(); err != nil {
		return nil, err
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
