package main

import (
	"context"
	"fmt"
	"strconv"
	"time"
)

// contained is how much of one stop's prey got away.
type contained struct {
	Name                string
	Daemons, DaemonLeft int
	Bomb, BombLeft      int
	DaemonStop          time.Duration
	BombStop            time.Duration
	DirsLeft            int
	Err                 string
}

// containment stops pools whose workers have daemonised, TERM-ignoring grandchildren, and one bounded fork bomb, and
// counts what is alive afterwards.
func (b *bench) containment(ctx context.Context) error {
	if b.tools.daemonise == "" || b.tools.bomb == "" {
		return fmt.Errorf("daemonise.c, bomb.c: %w", errAbsent)
	}
	for _, who := range b.all {
		if who.name == "limit-c-nocg" || who.name == "limit-c-journal" {
			continue // they contain nothing, or the same as limit-c
		}
		b.say.step("daemons and a bomb: %s", who.name)
		result := b.contain(ctx, who)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		b.Contained = append(b.Contained, result)
	}
	b.judgeContained()
	return b.stopCost(ctx)
}

func (b *bench) contain(ctx context.Context, who contender) contained {
	n := b.scale.daemons
	r := contained{Name: who.name, Daemons: n, Bomb: b.scale.bomb}
	daemons, err := b.stopOf(ctx, who, job{workers: n, command: []string{b.tools.daemonise}, ignoreTerm: who.force}, 2*n)
	if err != nil {
		r.Err = err.Error()
		return r
	}
	r.DaemonLeft, r.DaemonStop, r.DirsLeft = daemons.Left, daemons.Wall, daemons.LeftDirs
	bomb, err := b.stopOf(ctx, who, b.bombJob(who.force), b.scale.bomb)
	if err != nil {
		r.Err = err.Error()
		return r
	}
	r.BombLeft, r.BombStop = bomb.Left, bomb.Wall
	r.DirsLeft += bomb.LeftDirs
	return r
}

func (b *bench) bombJob(deaf bool) job {
	return job{workers: 1, command: []string{b.tools.bomb, strconv.Itoa(b.scale.bomb)}, ignoreTerm: deaf}
}

// stopOf starts a job, waits for so many processes, and stops it.
func (b *bench) stopOf(ctx context.Context, who contender, j job, processes int) (stopped, error) {
	var s stopped
	err := b.inCell(ctx, 90*time.Second, func(ctx context.Context, c *cell) error {
		if err := c.launch(who, j); err != nil {
			return err
		}
		if _, err := c.running(ctx, processes); err != nil {
			return err
		}
		if err := pause(ctx, settle); err != nil {
			return err
		}
		var err error
		s, err = c.stop(ctx, who.stop)
		return err
	})
	if err != nil {
		b.say.line("%s: %v", who.name, err)
	}
	return s, err
}

// stopCost compares forced stops with and without the daemons, and of a bomb with as many plain workers.
func (b *bench) stopCost(ctx context.Context) error {
	who, err := b.needProduct()
	if err != nil {
		return err
	}
	plain := func(n int) job {
		return job{workers: n, command: []string{b.tools.pause}, ignoreTerm: true}
	}
	n, size := b.scale.daemons, b.scale.bomb
	jobs := []struct {
		job       job
		processes int
	}{
		{plain(n), n},
		{job{workers: n, command: []string{b.tools.daemonise}, ignoreTerm: true}, 2 * n},
		{plain(size), size},
		{b.bombJob(true), size},
	}
	walls := make([][]float64, len(jobs))
	for round := range b.opts.rounds + 1 {
		for i, j := range jobs {
			b.say.step("cost of a stop with daemons and with a bomb, round %d of %d", round, b.opts.rounds)
			s, err := b.stopOf(ctx, who, j.job, j.processes)
			if err != nil {
				return err
			}
			if round > 0 {
				walls[i] = append(walls[i], milliseconds(s.Wall))
			}
		}
	}
	b.judgeStopCost(walls)
	return nil
}
