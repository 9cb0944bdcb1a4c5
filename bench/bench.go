package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// scale is how big everything is.
type scale struct {
	small, large  int           // pool start
	further, hold int           // memory per further worker; how many idle workers are held
	idle, idlePer time.Duration // how long idleness is watched: of pitvisor and the main floors, of the others
	holdFor       time.Duration
	daemons, bomb int
	stale, each   int           // stale runs to sweep, processes in each
	orphans       int           // TERM-ignoring ones beside a new start
	fewRounds     int           // rounds of the dear rows
	oneshots      int           // rounds of one command
	killed        int           // workers of a pool that are killed, one after the other
	chatty        int           // workers that write much
	output        int           // bytes that all of them write, in big writes
	patience      time.Duration // for one life of one contender
}

func (o options) scale() scale {
	if o.quick {
		return scale{
			small: 10, large: 50, further: 100, hold: 200, idle: 3 * time.Second, idlePer: time.Second,
			holdFor: 2 * time.Second, daemons: 10, bomb: 50, stale: 10, each: 5, orphans: 8, fewRounds: 1, oneshots: 10, killed: 10, chatty: 10, output: 8 << 20,
			patience: 30 * time.Second,
		}
	}
	return scale{
		small: 100, large: 1000, further: 5000, hold: 10000, idle: 20 * time.Second, idlePer: 5 * time.Second,
		holdFor: 10 * time.Second, daemons: 50, bomb: 200, stale: 200, each: 5, orphans: 8, fewRounds: 3, oneshots: 120, killed: 50, chatty: 100, output: 320 << 20,
		patience: 3 * time.Minute,
	}
}

// bench is one run of the benchmark.
type bench struct {
	opts  options
	scale scale
	root  *box
	work  string // scratch directory
	tools tools
	all   []contender
	say   *progress
	cells int
	report
}

// section is a part that can be chosen by -only.
type section struct {
	name string
	gate bool // part of the gate
	run  func(context.Context) error
}

func (b *bench) sections() []section {
	return []section{
		{"machine", true, b.machine},
		{"oneshot", true, b.oneshot},
		{"pool-small", true, func(ctx context.Context) error { return b.pools(ctx, b.scale.small) }},
		{"pool-large", true, func(ctx context.Context) error { return b.pools(ctx, b.scale.large) }},
		{"restart", false, b.restarts},
		{"output", false, b.output},
		{"memory", false, b.memory},
		{"hold", false, b.hold},
		{"containment", false, b.containment},
		{"reuse", false, b.reuse},
		{"poisoned", false, b.poisoned},
		{"sweep", false, b.sweep},
		{"first-start", false, b.firstStart},
	}
}

// benchmark does everything and always leaves nothing behind. A section that fails is told and does not stop the rest.
func benchmark(ctx context.Context, opts options) (err error) {
	if _, err := os.Stat(filepath.Join("bench", "c")); err != nil {
		return fmt.Errorf("find the sources (run it from the top of the project): %w", err)
	}
	b := &bench{opts: opts, scale: opts.scale(), say: newProgress(os.Stderr)}
	work, err := filepath.Abs(filepath.Join(opts.out, "bench"))
	if err != nil {
		return err
	}
	b.work = work
	if b.root, err = openRoot(ctx, opts.cgroup); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.root.destroy(ctx)) }()
	if err := b.build(ctx, filepath.Join(work, "bin")); err != nil {
		return err
	}
	b.all = b.contenders(ctx)
	failed := b.runSections(ctx)
	return errors.Join(failed, b.write(), b.missed())
}

// missed is the error of targets that were not reached. Noisy ones count in the gate only, which has the rounds for it.
func (b *bench) missed() error {
	var errs []error
	if _, found := b.product(); !found {
		errs = append(errs, fmt.Errorf("pitvisor: %w", errAbsent))
	}
	for _, r := range b.Rows {
		if r.Verdict == verdictMissed && (r.Exact || b.opts.gate) {
			errs = append(errs, fmt.Errorf("row %s, %s: %s %s, target %s", r.ID, r.Measure, r.Pitvisor, r.Ratio, r.Target))
		}
	}
	return errors.Join(errs...)
}

func (b *bench) runSections(ctx context.Context) error {
	b.begin()
	var errs []error
	for _, s := range b.sections() {
		if s.name != "machine" && !b.opts.only.MatchString(s.name) || (b.opts.gate && !s.gate) {
			continue
		}
		b.say.section(s.name)
		if err := s.run(ctx); err != nil {
			b.omit(s.name, err)
			if errors.Is(err, errAbsent) {
				continue
			}
			err = fmt.Errorf("%s: %w", s.name, err)
			b.say.line("%v", err)
			errs = append(errs, err)
		}
		if ctx.Err() != nil {
			break
		}
	}
	b.finish()
	return errors.Join(errs...)
}

// product returns pitvisor, if there is one.
func (b *bench) product() (contender, bool) {
	return b.contender(product)
}

func (b *bench) contender(name string) (contender, bool) {
	for _, c := range b.all {
		if c.name == name {
			return c, true
		}
	}
	return contender{}, false
}

// needProduct is the check of the sections that are about pitvisor alone.
func (b *bench) needProduct() (contender, error) {
	c, found := b.product()
	if !found {
		return c, fmt.Errorf("pitvisor: %w", errAbsent)
	}
	return c, nil
}

// inCell runs one life of a contender in a fresh cell and removes the cell whatever happened.
func (b *bench) inCell(ctx context.Context, limit time.Duration, f func(context.Context, *cell) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not done in %v", limit))
	defer cancel()
	c, err := b.newCell()
	if err != nil {
		return err
	}
	err = f(ctx, c)
	if err != nil && c.proc != nil {
		err = fmt.Errorf("%w; its last words: %s", err, c.proc.tail())
	}
	return errors.Join(err, c.close(ctx))
}
