package main

import (
	"context"
	"fmt"
	"math"
	"time"
)

// settle is how long a supervisor may still be busy after its last worker runs; that work is part of the start.
const settle = 300 * time.Millisecond

// poolRun is one life of a pool under one contender.
type poolRun struct {
	Wall, CPU  time.Duration // until the last worker ran; CPU with what followed in the settling time
	Held       usage         // of the supervisor and its helpers
	IdleFor    time.Duration
	IdleCPU    time.Duration
	IdleSwitch int64
	Stop       stopped
	Err        string
}

// poolTable is one contender's row of rounds; index 0 is the first measured one.
type poolTable struct {
	Name  string
	Kind  string
	Force bool
	Runs  []poolRun
}

// pools measures start, holding and stop of pools of n workers: one warm-up round, then alternated rounds in which
// every contender once is the first.
func (b *bench) pools(ctx context.Context, n int) error {
	tables := make([]poolTable, len(b.all))
	for i, who := range b.all {
		tables[i] = poolTable{Name: who.name, Kind: who.kind.String(), Force: who.force}
	}
	b.Pools[n] = tables
	for round := range b.opts.rounds + 1 {
		for turn := range b.all {
			i := (turn + round) % len(b.all)
			who := b.all[i]
			if !b.due(who, n, round) {
				continue
			}
			b.say.step("%d workers, round %d of %d: %s", n, round, b.opts.rounds, who.name)
			run := b.pool(ctx, who, n, b.idleTime(who, round))
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if round > 0 {
				tables[i].Runs = append(tables[i].Runs, run)
			}
		}
	}
	b.judgePools(n)
	if mine, found := b.table(n, product); found && mine.failures() > 0 {
		return fmt.Errorf("%d of %d rounds of pitvisor failed", mine.failures(), len(mine.Runs))
	}
	return nil
}

// due tells whether a contender takes part in a round. Slow peers do fewer rounds at full size, and no warm-up there.
func (b *bench) due(who contender, n, round int) bool {
	if who.few == 0 || n < b.scale.large {
		return true
	}
	return round > 0 && round <= who.few
}

// idleTime says how long to watch in this round: once is enough, for the counts are exact.
func (b *bench) idleTime(who contender, round int) time.Duration {
	if round != 1 {
		return 0
	}
	switch who.name {
	case product, "limit-c", "limit-go":
		return b.scale.idle
	}
	return b.scale.idlePer
}

// pool measures one life. What goes wrong is part of the result: one bad round must not end the others.
func (b *bench) pool(ctx context.Context, who contender, n int, idle time.Duration) poolRun {
	var run poolRun
	err := b.inCell(ctx, b.scale.patience, func(ctx context.Context, c *cell) error {
		return b.poolLife(ctx, c, who, n, idle, &run)
	})
	if err != nil {
		run.Err = err.Error()
		b.say.line("%s, %d workers: %v", who.name, n, err)
	}
	return run
}

func (b *bench) poolLife(ctx context.Context, c *cell, who contender, n int, idle time.Duration, run *poolRun) error {
	err := c.launch(who, job{workers: n, command: []string{b.tools.pause}, ignoreTerm: who.force})
	if err != nil {
		return err
	}
	if run.Wall, err = c.running(ctx, n); err != nil {
		return err
	}
	if err := pause(ctx, settle); err != nil {
		return err
	}
	if run.CPU, err = c.box.cpu(); err != nil {
		return err
	}
	if err := c.watchIdle(ctx, idle, run); err != nil {
		return err
	}
	if lines := c.counter.count(); lines != n {
		return fmt.Errorf("%d starts of %d workers", lines, n)
	}
	run.Stop, err = c.stop(ctx, who.stop)
	return err
}

// watchIdle measures what the supervisor holds, and, if asked, what it does while there is nothing to do.
func (c *cell) watchIdle(ctx context.Context, idle time.Duration, run *poolRun) error {
	pids, err := c.supervisors()
	if err != nil {
		return err
	}
	if run.Held, err = measure(pids); err != nil || idle == 0 {
		return err
	}
	before, err := c.box.cpu()
	if err != nil {
		return err
	}
	run.IdleFor = idle
	if err := pause(ctx, idle); err != nil {
		return err
	}
	cpu, err := c.box.cpu()
	if err != nil {
		return err
	}
	after, err := measure(pids)
	if err != nil {
		return err
	}
	run.IdleCPU, run.IdleSwitch = cpu-before, after.Switches-run.Held.Switches
	// Memory is what it keeps while nothing happens; the counts are the most that was seen.
	after.Threads, after.FDs = max(after.Threads, run.Held.Threads), max(after.FDs, run.Held.FDs)
	run.Held = after
	return nil
}

// column returns one measure of all rounds; rounds that failed are NaN, so that rounds stay aligned.
func (t poolTable) column(f func(poolRun) float64) []float64 {
	values := make([]float64, len(t.Runs))
	for i, run := range t.Runs {
		values[i] = math.NaN()
		if run.Err == "" {
			values[i] = f(run)
		}
	}
	return values
}

func (t poolTable) failures() int {
	n := 0
	for _, run := range t.Runs {
		if run.Err != "" {
			n++
		}
	}
	return n
}

func wallMS(r poolRun) float64 { return milliseconds(r.Wall) }
func cpuMS(r poolRun) float64  { return milliseconds(r.CPU) }
func stopMS(r poolRun) float64 { return milliseconds(r.Stop.Wall) }

// table finds a contender's rounds of a pool size.
func (b *bench) table(n int, name string) (poolTable, bool) {
	for _, t := range b.Pools[n] {
		if t.Name == name {
			return t, true
		}
	}
	return poolTable{}, false
}
