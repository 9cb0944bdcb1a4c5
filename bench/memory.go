package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// held is what a supervisor holds with so many workers.
type held struct {
	Name     string
	Workers  int
	Start    time.Duration
	Held     usage
	Idle     time.Duration
	CPU      time.Duration // of the idle time
	Switches int64         // of the idle time, of the supervisor's threads
	Lost     int           // workers that were started again or are gone
	Stop     stopped
}

// memory measures what one further worker costs, between the large pool and the further one.
func (b *bench) memory(ctx context.Context) error {
	var errs []error
	for _, name := range []string{product, "limit-go"} {
		who, found := b.contender(name)
		if !found {
			continue
		}
		var sizes [2]held
		var err error
		for i, n := range []int{b.scale.large, b.scale.further} {
			b.say.step("%s holds %d workers", name, n)
			if sizes[i], err = b.hold1(ctx, who, n, time.Second); err != nil {
				break
			}
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
			continue
		}
		b.Held = append(b.Held, sizes[0], sizes[1])
		b.judgeFurther(sizes[0], sizes[1])
	}
	return errors.Join(errs...)
}

// hold keeps as many idle workers as one supervisor must be able to.
func (b *bench) hold(ctx context.Context) error {
	who, err := b.needProduct()
	if err != nil {
		return err
	}
	b.say.step("pitvisor holds %d workers", b.scale.hold)
	h, err := b.hold1(ctx, who, b.scale.hold, b.scale.holdFor)
	if err != nil {
		b.addRow(row{
			ID: "hold", Measure: fmt.Sprintf("%d idle workers held", b.scale.hold), Pitvisor: err.Error(),
			Target: "all held, none lost", Exact: true, Verdict: verdictMissed,
		})
		return err
	}
	b.Held = append(b.Held, h)
	b.addRow(row{
		ID: "hold", Measure: fmt.Sprintf("%d idle workers held for %v", h.Workers, h.Idle),
		Pitvisor: fmt.Sprintf("%d lost; %.1f MiB PSS, %d threads, %d fds; started in %.1f s, force-stopped in %.1f s",
			h.Lost, float64(h.Held.PSS)/mebibyte, h.Held.Threads, h.Held.FDs, h.Start.Seconds(), h.Stop.Wall.Seconds()),
		Target: "all held, none lost, nothing left", Exact: true, Verdict: exactly(h.Lost == 0 && h.Stop.Left == 0 && h.Stop.LeftDirs == 0),
	})
	b.addRow(row{
		ID: "8", Measure: fmt.Sprintf("idle with %d workers, over %v", h.Workers, h.Idle),
		Pitvisor: fmt.Sprintf("%.3f CPU ms/s, %d switches", milliseconds(h.CPU)/h.Idle.Seconds(), h.Switches),
		Target:   "0 switches", Exact: true, Verdict: exactly(h.Switches == 0),
	})
	return nil
}

func (b *bench) hold1(ctx context.Context, who contender, n int, idle time.Duration) (held, error) {
	h := held{Name: who.name, Workers: n}
	err := b.inCell(ctx, 5*time.Minute, func(ctx context.Context, c *cell) error {
		err := c.launch(who, job{workers: n, command: []string{b.tools.pause}, ignoreTerm: who.force})
		if err != nil {
			return err
		}
		if h.Start, err = c.running(ctx, n); err != nil {
			return err
		}
		if err := pause(ctx, settle); err != nil {
			return err
		}
		var run poolRun
		if err := c.watchIdle(ctx, idle, &run); err != nil {
			return err
		}
		h.Held, h.Idle, h.CPU, h.Switches = run.Held, run.IdleFor, run.IdleCPU, run.IdleSwitch
		living, err := c.survivors()
		if err != nil {
			return err
		}
		h.Lost = max(n-living, c.counter.count()-n)
		h.Stop, err = c.stop(ctx, who.stop)
		return err
	})
	return h, err
}

// judgeFurther rates the bytes of one further worker. Only pitvisor's have a target.
func (b *bench) judgeFurther(few, many held) {
	per := float64(many.Held.PSS-few.Held.PSS) / float64(many.Workers-few.Workers)
	if few.Name != product {
		b.note("%s: %.1f KiB of PSS per further worker between %d and %d.", few.Name, per/1024, few.Workers, many.Workers)
		return
	}
	b.addRow(row{
		ID: "5", Measure: fmt.Sprintf("PSS per further worker, between %d and %d", few.Workers, many.Workers),
		Pitvisor: fmt.Sprintf("%.2f KiB", per/1024), Target: "≤ 6 KiB", Exact: !b.opts.quick, // few workers more are less than the heap's steps
		Verdict: exactly(per <= 6*1024),
	})
}
