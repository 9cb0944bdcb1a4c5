package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/registry"
	"github.com/pitvisor/pitvisor/spawn"
	"golang.org/x/sys/unix"
)

// staleOwnerMode makes this program the owner of many runs, to be killed: `bench stale-owner ROOT RUNS EACH COMMAND`.
const staleOwnerMode = "stale-owner"

// staleOwner makes runs with processes in them and then waits to be killed. A supervisor per run would need minutes.
func staleOwner(args []string) error {
	if len(args) != 4 {
		return errors.New("usage: bench stale-owner ROOT RUNS EACH COMMAND")
	}
	runs, errRuns := strconv.Atoi(args[1])
	each, errEach := strconv.Atoi(args[2])
	if err := errors.Join(errRuns, errEach); err != nil {
		return err
	}
	root, err := cgroup.Open(args[0])
	if err != nil {
		return err
	}
	reg := registry.New(root)
	for i := range runs {
		run, err := reg.Create(registry.Spec{Kind: "up", Name: "stale-" + strconv.Itoa(i), Version: "bench"})
		if err != nil {
			return err
		}
		if err := fill(run.Dir(), each, args[3]); err != nil {
			return err
		}
	}
	select {} // until SIGKILL; the locks live as long as this process
}

// fill starts processes in leaves of one run, as a pool would.
func fill(run *cgroup.Dir, n int, command string) error {
	pool, err := run.Create("bench")
	if err != nil {
		return err
	}
	defer pool.Close()
	for slot := range n {
		leaf, err := pool.Create(strconv.Itoa(slot) + ".1")
		if err != nil {
			return err
		}
		// The process is never waited for: it outlives this one.
		_, err = spawn.Start(&spawn.Cmd{Path: command, Env: os.Environ(), Leaf: leaf})
		if err := errors.Join(err, leaf.Close()); err != nil {
			return err
		}
	}
	return nil
}

// sweep measures how long many stale runs take to go, by `pitvisor sweep` and beside the start of a new `pitvisor up`.
func (b *bench) sweep(ctx context.Context) error {
	who, err := b.needProduct()
	if err != nil {
		return err
	}
	var bySweep, byUp []float64
	for round := range b.scale.fewRounds {
		b.say.step("sweep of %d stale runs, round %d of %d", b.scale.stale, round+1, b.scale.fewRounds)
		took, err := b.sweepOnce(ctx, who, b.sweepCommand)
		if err != nil {
			return err
		}
		bySweep = append(bySweep, milliseconds(took))
		if took, err = b.sweepOnce(ctx, who, sweepByUp); err != nil {
			return err
		}
		byUp = append(byUp, milliseconds(took))
	}
	b.judgeSweep(bySweep, byUp)
	return nil
}

type sweeper func(ctx context.Context, c *cell, who contender, command string, old []int) (time.Duration, error)

// sweepOnce makes the stale runs, lets one sweeper loose, and checks that nothing of them is left.
func (b *bench) sweepOnce(ctx context.Context, who contender, sweep sweeper) (time.Duration, error) {
	var took time.Duration
	err := b.inCell(ctx, 2*time.Minute, func(ctx context.Context, c *cell) error {
		if err := b.makeStale(ctx, c); err != nil {
			return err
		}
		old, err := handles(c.counter.all())
		defer closeAll(old)
		if err != nil {
			return err
		}
		took, err = sweep(ctx, c, who, b.tools.pause, old)
		return err
	})
	return took, err
}

func (b *bench) makeStale(ctx context.Context, c *cell) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	argv := []string{self, staleOwnerMode, c.root.path, strconv.Itoa(b.scale.stale), strconv.Itoa(b.scale.each), b.tools.pause}
	c.started = time.Now()
	c.proc, err = startIn(c.sup, argv, c.env(job{ignoreTerm: true}), filepath.Join(c.dir, "log"))
	if err != nil {
		return err
	}
	if _, err := c.running(ctx, b.scale.stale*b.scale.each); err != nil {
		return err
	}
	return c.crash(ctx)
}

// sweepCommand is `pitvisor sweep`: from its start to its end.
func (b *bench) sweepCommand(ctx context.Context, c *cell, _ contender, _ string, old []int) (time.Duration, error) {
	var err error
	c.started = time.Now()
	argv := []string{b.tools.pitvisor, "sweep", "--cgroup-root", c.root.path, "--state-dir", c.stateDir()}
	c.proc, err = startIn(c.sup, argv, c.env(job{}), filepath.Join(c.dir, "log"))
	if err != nil {
		return 0, err
	}
	if err := c.proc.wait(ctx); err != nil {
		return 0, err
	}
	took := c.proc.ended.Sub(c.started)
	if c.proc.state == nil || !c.proc.state.Success() {
		return 0, fmt.Errorf("pitvisor sweep: %v", c.proc.state)
	}
	for _, fd := range old {
		if alive(fd) {
			return 0, errors.New("pitvisor sweep: a stale process is alive after it")
		}
	}
	if names := c.runs(); len(names) > 0 {
		return 0, fmt.Errorf("pitvisor sweep: left %d runs", len(names))
	}
	return took, nil
}

// sweepByUp is the sweep beside a new supervisor: from its start until the last old run is gone.
func sweepByUp(ctx context.Context, c *cell, who contender, command string, old []int) (time.Duration, error) {
	stale := make(map[string]bool)
	for _, name := range c.runs() {
		stale[name] = true
	}
	if err := c.launch(who, job{workers: 1, command: []string{command}, ignoreTerm: true}); err != nil {
		return 0, err
	}
	for left := len(stale); left > 0; {
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return 0, err
		}
		left = 0
		for _, name := range c.runs() {
			if stale[name] {
				left++
			}
		}
	}
	took := time.Since(c.started)
	if _, err := c.allGone(ctx, old); err != nil {
		return 0, err
	}
	_, err := c.stop(ctx, who.stop)
	return took, err
}

// runs lists the run cgroups of the cell.
func (c *cell) runs() []string {
	names, err := c.root.children()
	if err != nil {
		return nil
	}
	var runs []string
	for _, name := range names {
		if strings.HasPrefix(name, "run-") {
			runs = append(runs, name)
		}
	}
	return runs
}

// firstStart measures how much a stale run full of processes that ignore SIGTERM delays the first new worker.
func (b *bench) firstStart(ctx context.Context) error {
	who, err := b.needProduct()
	if err != nil {
		return err
	}
	var with, without []float64
	for round := range b.opts.rounds + 1 {
		b.say.step("first start beside %d stubborn orphans, round %d of %d", b.scale.orphans, round, b.opts.rounds)
		delayed, err := b.firstStartOnce(ctx, who, b.scale.orphans)
		if err != nil {
			return err
		}
		alone, err := b.firstStartOnce(ctx, who, 0)
		if err != nil {
			return err
		}
		if round > 0 {
			with, without = append(with, milliseconds(delayed)), append(without, milliseconds(alone))
		}
	}
	b.judgeFirstStart(with, without)
	return nil
}

func (b *bench) firstStartOnce(ctx context.Context, who contender, orphans int) (time.Duration, error) {
	var first time.Duration
	err := b.inCell(ctx, time.Minute, func(ctx context.Context, c *cell) error {
		j := job{workers: max(orphans, 1), command: []string{b.tools.pause}, ignoreTerm: true}
		if err := c.launch(who, j); err != nil {
			return err
		}
		if _, err := c.running(ctx, j.workers); err != nil {
			return err
		}
		if err := c.endFirst(ctx, who, orphans > 0); err != nil {
			return err
		}
		before := c.counter.count()
		j.workers = 1
		err := c.launch(who, j)
		if err != nil {
			return err
		}
		if first, err = c.running(ctx, before+1); err != nil {
			return err
		}
		_, err = c.stop(ctx, who.stop)
		return err
	})
	return first, err
}

// endFirst ends the first supervisor: by SIGKILL, which leaves orphans, or by a stop, which leaves nothing. Both leave
// the same files, so that the second start is the same but for the orphans.
func (c *cell) endFirst(ctx context.Context, who contender, crash bool) error {
	if crash {
		return c.crash(ctx)
	}
	if _, err := c.stop(ctx, who.stop); err != nil {
		return err
	}
	c.proc.close()
	c.proc = nil
	return unix.Access(c.root.path, unix.F_OK)
}
