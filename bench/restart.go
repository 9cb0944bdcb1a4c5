package main

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// restartRun is one life of a pool whose workers were killed, one after the other.
type restartRun struct {
	Waits []float64 // ms from each kill until the new worker ran
	CPU   float64   // ms for each restart, with the exec of the new worker
}

func (r restartRun) median() float64 { return summarize(r.Waits).Median }
func (r restartRun) cpu() float64    { return r.CPU }

// restartPause lets a supervisor come to rest before the next kill.
const restartPause = 10 * time.Millisecond

// restarts measures rows 9 to 12. Each worker is killed once, so that nobody's back-off counts.
func (b *bench) restarts(ctx context.Context) error {
	measured := []string{product, "limit-c", "limit-c-journal", "limit-go"}
	var who []contender
	for _, c := range b.all {
		if slices.Contains(measured, c.name) {
			who = append(who, c)
		}
	}
	b.Restarts = make(map[string][]restartRun)
	for round := range b.opts.rounds + 1 {
		for turn := range who {
			c := who[(turn+round)%len(who)]
			b.say.step("%d restarts, round %d of %d: %s", b.scale.killed, round, b.opts.rounds, c.name)
			run, err := b.restartLife(ctx, c, b.scale.killed)
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			if round > 0 {
				b.Restarts[c.name] = append(b.Restarts[c.name], run)
			}
		}
	}
	b.judgeRestarts()
	return b.burst(ctx)
}

func (b *bench) restartLife(ctx context.Context, who contender, n int) (run restartRun, err error) {
	err = b.inCell(ctx, b.scale.patience, func(ctx context.Context, c *cell) error {
		if err := c.launch(who, job{workers: n, command: []string{b.tools.pause}, ignoreTerm: who.force}); err != nil {
			return err
		}
		if _, err := c.running(ctx, n); err != nil {
			return err
		}
		if err := pause(ctx, settle); err != nil {
			return err
		}
		before, err := c.box.cpu()
		if err != nil {
			return err
		}
		for _, pid := range c.counter.all()[:n] {
			wait, err := c.killed(ctx, pid)
			if err != nil {
				return err
			}
			run.Waits = append(run.Waits, milliseconds(wait))
			if err := pause(ctx, restartPause); err != nil {
				return err
			}
		}
		after, err := c.box.cpu()
		if err != nil {
			return err
		}
		run.CPU = milliseconds(after-before) / float64(n)
		_, err = c.stop(ctx, who.stop)
		return err
	})
	return run, err
}

// killed kills a worker, which lives, and returns how long it takes until the next one runs.
func (c *cell) killed(ctx context.Context, pid int) (time.Duration, error) {
	fd, err := handle(pid)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	next := c.counter.count() + 1
	at := time.Now()
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil {
		return 0, fmt.Errorf("kill worker %d: %w", pid, err)
	}
	born, err := c.counter.wait(ctx, next)
	return born.Sub(at), err
}

// burst is row 12: the same worker is killed again as soon as it runs.
func (b *bench) burst(ctx context.Context) error {
	who, err := b.needProduct()
	if err != nil {
		return err
	}
	b.say.step("a worker is killed six times in a row")
	const kills, free = 6, 2
	var gaps []float64
	err = b.inCell(ctx, time.Minute, func(ctx context.Context, c *cell) error {
		if err := c.launch(who, job{workers: 1, command: []string{b.tools.pause}, ignoreTerm: true}); err != nil {
			return err
		}
		if _, err := c.running(ctx, 1); err != nil {
			return err
		}
		for range kills {
			lives := c.counter.all()
			gap, err := c.killed(ctx, lives[len(lives)-1])
			if err != nil {
				return err
			}
			gaps = append(gaps, milliseconds(gap))
		}
		_, err := c.stop(ctx, who.stop)
		return err
	})
	words := make([]string, len(gaps))
	for i, gap := range gaps {
		words[i] = fmt.Sprintf("%.0f", gap)
	}
	const most = 100 // ms, of a restart that nothing holds back
	b.addRow(row{
		ID: "12", Measure: fmt.Sprintf("a worker killed %d times as soon as it runs, ms until the next one runs", kills),
		Pitvisor: strings.Join(words, ", "), Target: fmt.Sprintf("all come back, the first %d at once", free), Exact: true,
		Verdict: exactly(err == nil && len(gaps) == kills && slices.Max(gaps[:free]) < most),
	})
	return err
}

// judgeRestarts makes rows 9 to 11.
func (b *bench) judgeRestarts() {
	of := func(name string, f func(restartRun) float64) []float64 {
		var values []float64
		for _, run := range b.Restarts[name] {
			values = append(values, f(run))
		}
		return values
	}
	for _, r := range []struct {
		id, measure, other string
		target             float64
		f                  func(restartRun) float64
	}{
		{"9", "crash to replacement, p50 ms", "limit-c", 1.35, restartRun.median},
		{"9", "crash to replacement, p50 ms", "limit-c-journal", 1.15, restartRun.median},
		{"11", "a restart, CPU ms", "limit-c", 1.5, restartRun.cpu},
		{"11", "a restart, CPU ms", "limit-c-journal", 0, restartRun.cpu},
		{"11", "a restart, CPU ms", "limit-go", 0, restartRun.cpu},
	} {
		mine, other := of(product, r.f), of(r.other, r.f)
		ratio := summarize(ratios(mine, other))
		target, verdict := fmt.Sprintf("≤ %.2f × %s", r.target, r.other), atMost(ratio, r.target)
		if r.target == 0 {
			target, verdict = "(no target of its own)", "-"
		}
		b.addRow(row{
			ID: r.id, Measure: r.measure, Pitvisor: summarize(mine).spread("%.2f"), Reference: r.other + " " + summarize(other).spread("%.2f"),
			Ratio: ratio.spread("%.2f"), Target: target, Verdict: verdict,
		})
	}
	worst := func(name string) float64 { return nearlyAll(b.restartWaits(name)) }
	mine, other := worst(product), worst("limit-go")
	b.addRow(row{
		ID: "10", Measure: fmt.Sprintf("crash to replacement, p99 ms of %d", len(b.restartWaits(product))), Pitvisor: fmt.Sprintf("%.2f", mine),
		Reference: fmt.Sprintf("limit-go %.2f, limit-c %.2f", other, worst("limit-c")), Ratio: fmt.Sprintf("%.2f", mine/other),
		Target: "≤ 2 × limit-go", Verdict: atMost(summarize([]float64{mine / other}), 2),
	})
}

func (b *bench) restartWaits(name string) []float64 {
	var all []float64
	for _, run := range b.Restarts[name] {
		all = append(all, run.Waits...)
	}
	return all
}

// nearlyAll is the 99th percentile: the least value that at least 99 % do not exceed.
func nearlyAll(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[int(math.Ceil(0.99*float64(len(sorted))))-1]
}
