package main

import (
	"fmt"
	"math"
	"time"
)

// judgePools makes the rows of one pool size: 3 and 4 for each, 5 to 8 and 13 for the large one.
func (b *bench) judgePools(n int) {
	mine, found := b.table(n, product)
	if !found || mine.failures() == len(mine.Runs) {
		return
	}
	b.judgeStart("3", fmt.Sprintf("start of %d workers, CPU ms", n), n, mine, cpuMS)
	b.judgeStart("4", fmt.Sprintf("start of %d workers, wall ms", n), n, mine, wallMS)
	if n != b.scale.large {
		return
	}
	if !b.opts.gate {
		b.judgeHeld(n, mine)
	}
	b.judgeAgainst(row{ID: "13", Measure: fmt.Sprintf("forced stop of %d workers, ms until all is gone", n)}, mine, n, "limit-c", 1.25, stopMS)
	left, dirs := mine.left(), 0
	for _, run := range mine.Runs {
		dirs = max(dirs, run.Stop.LeftDirs)
	}
	b.addRow(row{
		ID: "13", Measure: "left after the forced stop", Pitvisor: fmt.Sprintf("%d processes, %d cgroups", left, dirs),
		Target: "0 and 0", Exact: true, Verdict: exactly(left == 0 && dirs == 0),
	})
}

// judgeStart compares with the Go floor (must), the C floor (for information) and the best peer of the same run.
func (b *bench) judgeStart(id, measure string, n int, mine poolTable, f func(poolRun) float64) {
	b.judgeAgainst(row{ID: id, Measure: measure}, mine, n, "limit-go", 1.10, f)
	if _, found := b.table(n, "limit-c"); found {
		b.judgeAgainst(row{ID: id, Measure: measure, Target: "(no target of its own)", Verdict: "-"}, mine, n, "limit-c", 0, f)
	}
	best, lowest := "", math.Inf(1)
	for _, t := range b.Pools[n] {
		if m := summarize(t.column(f)).Median; t.Kind == kindPeer.String() && m < lowest {
			best, lowest = t.Name, m
		}
	}
	if best != "" {
		b.judgeAgainst(row{ID: id, Measure: measure + ", best peer"}, mine, n, best, 1.0, f)
	}
}

// judgeAgainst adds a row with a ratio to another contender. A verdict that is already there stays.
func (b *bench) judgeAgainst(r row, mine poolTable, n int, other string, target float64, f func(poolRun) float64) {
	base, found := b.table(n, other)
	if !found {
		r.Verdict, r.Reference = verdictNone, other
		b.addRow(r)
		return
	}
	ratio := summarize(ratios(mine.column(f), base.column(f)))
	r.Pitvisor = summarize(mine.column(f)).spread("%.0f")
	r.Reference = other + " " + summarize(base.column(f)).spread("%.0f")
	r.Ratio = ratio.spread("%.2f")
	if r.Verdict == "" {
		r.Target, r.Verdict = fmt.Sprintf("≤ %.2f × %s", target, other), atMost(ratio, target)
	}
	b.addRow(r)
}

func (b *bench) judgeHeld(n int, mine poolTable) {
	held, idleCPU, idleSwitches := mine.held()
	floor, _ := b.table(n, "limit-go")
	floorHeld, _, _ := floor.held()
	pss := float64(held.PSS) / mebibyte
	b.addRow(row{
		ID: "5", Measure: fmt.Sprintf("PSS of the supervisor at %d workers", n), Pitvisor: fmt.Sprintf("%.1f MiB", pss),
		Reference: fmt.Sprintf("limit-go %.1f MiB", float64(floorHeld.PSS)/mebibyte),
		Ratio:     fmt.Sprintf("%.2f", float64(held.PSS)/math.Max(float64(floorHeld.PSS), 1)),
		Target:    "≤ 12 MiB", Exact: true, Verdict: exactly(pss <= 12),
	})
	b.addRow(row{
		ID: "6", Measure: fmt.Sprintf("threads at %d workers", n), Pitvisor: fmt.Sprint(held.Threads),
		Reference: fmt.Sprintf("limit-go %d", floorHeld.Threads), Target: "≤ 10, not growing", Exact: true, Verdict: exactly(held.Threads <= 10),
	})
	b.addRow(row{
		ID: "7", Measure: fmt.Sprintf("fds at %d workers", n), Pitvisor: fmt.Sprint(held.FDs),
		Reference: fmt.Sprintf("limit-go %d", floorHeld.FDs), Target: fmt.Sprintf("≤ %d", n+30), Exact: true, Verdict: exactly(held.FDs <= n+30),
	})
	b.addRow(row{
		ID: "8", Measure: fmt.Sprintf("idle with %d workers, over %v", n, b.scale.idle),
		Pitvisor: fmt.Sprintf("%.3f CPU ms/s, %.2f switches/s", idleCPU, idleSwitches),
		Target:   "≤ 0.5 CPU ms/s, ≤ 2 switches/s", Exact: true, Verdict: exactly(idleCPU <= 0.5 && idleSwitches <= 2),
	})
}

func (b *bench) judgeContained() {
	for _, c := range b.Contained {
		if c.Name != product {
			continue
		}
		r := row{
			ID: "14", Measure: fmt.Sprintf("alive after a stop: %d daemonised, bomb of %d", c.Daemons, c.Bomb),
			Pitvisor: fmt.Sprintf("%d and %d, %d cgroups", c.DaemonLeft, c.BombLeft, c.DirsLeft), Target: "0 and 0",
			Exact: true, Verdict: exactly(c.Err == "" && c.DaemonLeft == 0 && c.BombLeft == 0 && c.DirsLeft == 0),
		}
		if c.Err != "" {
			r.Pitvisor = c.Err
		}
		b.addRow(r)
	}
}

// judgeStopCost takes the stops of: plain workers, the same with daemons, as many plain processes as a bomb, a bomb.
func (b *bench) judgeStopCost(walls [][]float64) {
	for _, pair := range []struct {
		measure     string
		with, plain []float64
	}{
		{fmt.Sprintf("forced stop of %d workers with a daemon each, ms", b.scale.daemons), walls[1], walls[0]},
		{fmt.Sprintf("forced stop of a bomb of %d, ms, against as many plain workers", b.scale.bomb), walls[3], walls[2]},
	} {
		ratio := summarize(ratios(pair.with, pair.plain))
		b.addRow(row{
			ID: "14", Measure: pair.measure, Pitvisor: summarize(pair.with).spread("%.0f"),
			Reference: "without " + summarize(pair.plain).spread("%.0f"), Ratio: ratio.spread("%.2f"),
			Target: "≤ 2 × without", Verdict: atMost(ratio, 2),
		})
	}
}

func (b *bench) judgePoisoned(started time.Duration, err error) {
	r := row{ID: "17", Measure: "supervisor started in a cgroup that once got cgroup.kill", Target: "works, or a clear error, within 1 s"}
	if err != nil {
		r.Pitvisor, r.Exact, r.Verdict = err.Error(), true, verdictMissed
	} else {
		r.Pitvisor = fmt.Sprintf("all workers run after %.0f ms", milliseconds(started))
		r.Exact, r.Verdict = true, exactly(started <= time.Second)
	}
	b.addRow(r)
}

func (b *bench) judgeSweep(bySweep, byUp []float64) {
	what := fmt.Sprintf("%d stale runs with %d processes gone, ms", b.scale.stale, b.scale.stale*b.scale.each)
	for _, r := range []struct {
		how    string
		values []float64
	}{{"by `pitvisor sweep`", bySweep}, {"beside the start of a new `pitvisor up`", byUp}} {
		s := summarize(r.values)
		b.addRow(row{ID: "sweep", Measure: what + ", " + r.how, Pitvisor: s.spread("%.0f"), Target: "< 1000", Verdict: atMost(s, 1000)})
	}
}

func (b *bench) judgeFirstStart(with, without []float64) {
	delays := make([]float64, len(with))
	for i := range delays {
		delays[i] = with[i] - without[i]
	}
	s := summarize(delays)
	b.addRow(row{
		ID: "first", Measure: fmt.Sprintf("first new worker, ms after the start, beside a stale run of %d processes deaf to SIGTERM", b.scale.orphans),
		Pitvisor: summarize(with).spread("%.0f"), Reference: "no stale run " + summarize(without).spread("%.0f"),
		Ratio: "delay " + s.spread("%.0f"), Target: "delay < 50 ms", Exact: true, Verdict: exactly(s.N > 0 && s.Median < 50),
	})
}
