package main

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// waiting is what a wrapper holds while its command sleeps.
type waiting struct {
	Name     string
	Held     usage // memory that two processes share is in it once
	Helpers  int   // processes beside the one that was started
	Own      int64 // bytes of PSS of the helpers that are not the wrapper's own memory
	Idle     time.Duration
	CPU      time.Duration // of the idle time
	Switches int64
}

// holdOneshot looks at every wrapper while its command sleeps.
func (b *bench) holdOneshot(ctx context.Context, lanes []*lane) error {
	for _, l := range lanes {
		if l.remote || l.closed || l.idle || l.name == bareCommand || l.name == recorded {
			continue // nothing to see, or nothing new
		}
		b.say.step("what %s holds", l.name)
		w, err := b.watch(ctx, l.wrapper)
		if err != nil && l.kind == kindProduct {
			return fmt.Errorf("%s: %w", l.name, err)
		}
		if err != nil {
			b.omit(l.name+" while its command sleeps", err)
			continue
		}
		b.Waiting = append(b.Waiting, w)
		b.judgeWaiting(w)
	}
	return nil
}

func (b *bench) watch(ctx context.Context, who wrapper) (waiting, error) {
	w := waiting{Name: who.name, Idle: b.scale.idlePer}
	as := contender{name: who.name, env: who.env, argv: func(c *cell, j job) ([]string, error) {
		return who.argv(c, j.command)
	}}
	err := b.inCell(ctx, time.Minute, func(ctx context.Context, c *cell) error {
		if err := c.launch(as, job{workers: 1, command: []string{b.tools.pause}}); err != nil {
			return err
		}
		if _, err := c.running(ctx, 1); err != nil {
			return err
		}
		if err := pause(ctx, settle); err != nil {
			return err
		}
		n, err := c.survivors()
		if err != nil {
			return err
		}
		if n != 1 {
			return fmt.Errorf("%d commands run in the cell, want 1", n)
		}
		return c.watchWrapper(ctx, &w)
	})
	return w, err
}

func (c *cell) watchWrapper(ctx context.Context, w *waiting) error {
	pids, err := c.supervisors()
	if err != nil {
		return err
	}
	before, err := c.box.cpu()
	if err != nil {
		return err
	}
	first, err := measure(pids)
	if err != nil {
		return err
	}
	if err := pause(ctx, w.Idle); err != nil {
		return err
	}
	after, err := c.box.cpu()
	if err != nil {
		return err
	}
	if w.Held, err = measure(pids); err != nil {
		return err
	}
	w.CPU, w.Switches = after-before, w.Held.Switches-first.Switches
	return w.split(c.proc.pid, pids)
}

// split finds what the helpers of the process main cost. A helper that lives in main's memory shows all of that as its
// own in /proc; it is counted once.
func (w *waiting) split(main int, pids []int) error {
	for _, pid := range pids {
		if pid == main {
			continue
		}
		w.Helpers++
		one, err := measureOne(pid)
		if err != nil {
			return err
		}
		shared, err := sharesMemory(main, pid)
		if err != nil {
			return err
		}
		if shared {
			w.Held.PSS -= one.PSS
		} else {
			w.Own += one.PSS
		}
	}
	return nil
}

// sharesMemory tells whether two processes live in one address space, as after clone(CLONE_VM).
func sharesMemory(one, other int) (bool, error) {
	const kcmpVM = 1 // KCMP_VM
	order, _, errno := unix.Syscall6(unix.SYS_KCMP, uintptr(one), uintptr(other), kcmpVM, 0, 0, 0)
	if errno != 0 {
		return false, fmt.Errorf("compare the memory of processes %d and %d: %w", one, other, errno)
	}
	return order == 0, nil
}

func (b *bench) judgeWaiting(w waiting) {
	if w.Name != product {
		return
	}
	b.addRow(row{
		ID: "1", Measure: "held while the command sleeps, guardian included",
		Pitvisor: fmt.Sprintf("%.2f MiB PSS, %d processes, %d threads, %d fds; %d KiB of it for the guardian alone",
			float64(w.Held.PSS)/mebibyte, w.Held.Processes, w.Held.Threads, w.Held.FDs, w.Own>>10),
		Target: "(no target of its own)", Verdict: "-",
	})
}

func (b *bench) waitingMarkdown(p func(string, ...any)) {
	if len(b.Waiting) == 0 {
		return
	}
	p("\nWhat a wrapper holds while its command sleeps, without the command; memory that two processes share is counted once. The")
	p("helper of pitvisor is its guardian.\n")
	p("| wrapper | processes | helpers | PSS MiB | PSS of the helpers alone, KiB | threads | fds | idle CPU ms/s | idle switches/s |")
	p("|---|---|---|---|---|---|---|---|---|")
	for _, w := range b.Waiting {
		seconds := w.Idle.Seconds()
		p("| %s | %d | %d | %.2f | %d | %d | %d | %.3f | %.1f |", w.Name, w.Held.Processes, w.Helpers,
			float64(w.Held.PSS)/mebibyte, w.Own>>10, w.Held.Threads, w.Held.FDs, milliseconds(w.CPU)/seconds, float64(w.Switches)/seconds)
	}
}
