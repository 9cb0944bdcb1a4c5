package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"time"
)

// shot is how one command went.
type shot struct {
	Wall, CPU time.Duration
	Err       string
}

// shotTable is one wrapper's row of rounds.
type shotTable struct {
	Name   string
	Kind   string
	Remote bool // its CPU time was not seen
	Shots  []shot
}

// oneshot measures the start, the run and the end of one command that does nothing under each wrapper: alternated
// rounds in which every wrapper once is the first.
func (b *bench) oneshot(ctx context.Context) (err error) {
	if b.tools.bare == "" {
		return fmt.Errorf("true.c: %w", errAbsent)
	}
	stages, err := b.openStages()
	if err != nil {
		return err
	}
	defer stages.close()
	lanes, err := b.openLanes(ctx, stages)
	defer func() {
		for _, l := range lanes {
			err = errors.Join(err, l.close(ctx))
		}
	}()
	if err != nil {
		return err
	}
	if err := b.shootRounds(ctx, lanes); err != nil {
		return err
	}
	b.judgeOneshot()
	if err := b.holdOneshot(ctx, lanes); err != nil {
		return err
	}
	return b.oneshotFailures()
}

// oneshotFailures is the error of commands that pitvisor did not run well.
func (b *bench) oneshotFailures() error {
	var errs []error
	for _, t := range b.Shots {
		if n := t.failures(); n > 0 && t.Kind == kindProduct.String() {
			errs = append(errs, fmt.Errorf("%s: %d of %d commands failed", t.Name, n, len(t.Shots)))
		}
	}
	return errors.Join(errs...)
}

// stages are the threads that wrappers start from, by what they need to see.
type stages map[stageKind]*stage

func (b *bench) openStages() (stages, error) {
	mount, err := findCgroup2()
	if err != nil {
		return nil, err
	}
	plain, err := newStage(func() error { return nil })
	if err != nil {
		return nil, err
	}
	all := stages{stagePlain: plain}
	if mount == usualCgroup {
		return all, nil
	}
	other, err := newStage(func() error { return unified(mount) })
	if err != nil {
		b.omit("what needs cgroup v2 at "+usualCgroup, err)
		return all, nil
	}
	all[stageUnified] = other
	return all, nil
}

// of is the stage for a wrapper; where all is as everybody expects it, there is but one.
func (s stages) of(kind stageKind) *stage {
	if found := s[kind]; found != nil {
		return found
	}
	return s[stagePlain]
}

func (s stages) close() {
	for _, one := range s {
		one.close()
	}
}

// openLanes tries every wrapper out. One that does not work here is named as an omission; that pitvisor does not is an
// error.
func (b *bench) openLanes(ctx context.Context, stages stages) ([]*lane, error) {
	var lanes []*lane
	for _, w := range b.wrappers(ctx) {
		l := &lane{wrapper: w, stage: stages.of(w.stage), session: onTerminal()}
		err := l.open(b)
		if err == nil {
			err = b.try(ctx, l)
		}
		if err == nil {
			lanes = append(lanes, l)
			continue
		}
		if err := l.close(ctx); err != nil {
			return lanes, err
		}
		if w.kind == kindProduct {
			return lanes, fmt.Errorf("%s: %w", w.name, err)
		}
		b.omit(w.name, err)
	}
	return lanes, nil
}

// try runs commands that exit with 7 and with 0 and expects to see just that. It is the warm-up, too.
func (b *bench) try(ctx context.Context, l *lane) error {
	command := []string{b.tools.bare, "7"}
	if !l.idle {
		if _, err := l.fire(ctx, command, 7); err != nil {
			return err
		}
	}
	_, err := l.fire(ctx, command[:1], 0)
	return err
}

func (b *bench) shootRounds(ctx context.Context, lanes []*lane) error {
	tables := make([]shotTable, len(lanes))
	for i, l := range lanes {
		tables[i] = shotTable{Name: l.name, Kind: l.kind.String(), Remote: l.remote}
	}
	b.Shots = tables
	disk, err := newSyncClock(filepath.Join(b.work, "sync"))
	if err != nil {
		return err
	}
	defer disk.close()
	for round := range b.oneshotRounds() {
		if round%10 == 0 {
			b.say.step("one command, round %d of %d", round, b.oneshotRounds())
		}
		if err := disk.measure(); err != nil {
			return err
		}
		for turn := range lanes {
			i := (turn + round) % len(lanes)
			tables[i].Shots = append(tables[i].Shots, b.shoot(ctx, lanes[i]))
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
		}
	}
	b.Syncs = disk.took
	return nil
}

// oneshotRounds is at least what the scale has: rounds are cheap here, and the machine is noisy.
func (b *bench) oneshotRounds() int {
	return max(b.scale.oneshots, b.opts.rounds)
}

// shoot measures one command. What goes wrong is part of the result, and costs the lane its cell.
func (b *bench) shoot(ctx context.Context, l *lane) shot {
	s, err := l.fire(ctx, []string{b.tools.bare}, 0)
	if err != nil {
		s.Err = err.Error()
		b.say.line("%s: %v", l.name, err)
		if err := errors.Join(l.close(ctx), l.open(b)); err != nil {
			b.say.line("%s: %v", l.name, err)
		}
	}
	return s
}

// column returns one measure of all rounds; rounds that failed are NaN, so that rounds stay aligned.
func (t shotTable) column(f func(shot) float64) []float64 {
	values := make([]float64, len(t.Shots))
	for i, s := range t.Shots {
		values[i] = math.NaN()
		if s.Err == "" {
			values[i] = f(s)
		}
	}
	return values
}

func (t shotTable) failures() int {
	n := 0
	for _, s := range t.Shots {
		if s.Err != "" {
			n++
		}
	}
	return n
}

func shotWall(s shot) float64 { return milliseconds(s.Wall) }
func shotCPU(s shot) float64  { return milliseconds(s.CPU) }

// shotTable finds a wrapper's rounds.
func (b *bench) shotTable(name string) (shotTable, bool) {
	for _, t := range b.Shots {
		if t.Name == name {
			return t, true
		}
	}
	return shotTable{}, false
}
