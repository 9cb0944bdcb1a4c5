package main

import (
	"context"
	"fmt"
	"os/signal"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/internal/exit"
	"github.com/pitvisor/pitvisor/registry"
)

const sweepLong = `Kill and remove the runs whose owner is gone.

A run is stale when the kernel says so: the lock on its cgroup is free. Each
stale run is killed as a whole cgroup and removed; runs of living owners are
not touched, and neither is anything that pitvisor did not make.

Exit codes: 0 nothing stale is left; 1 a run would not die (it is named, with
the processes that block it); 125 pitvisor itself could not work.`

func (a *app) sweepCommand() *cobra.Command {
	var dryRun, asJSON bool
	var perRun time.Duration
	cmd := &cobra.Command{
		Use:   "sweep [--dry-run]",
		Short: "kill and remove the runs whose owner is gone",
		Long:  sweepLong,
		Args:  takes(0, 0),
		RunE:  func(*cobra.Command, []string) error { return a.sweep(dryRun, asJSON, perRun) },
	}
	cmd.Flags().BoolVarP(&dryRun, "dry-run", "n", false, "only say what would be swept")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().DurationVar(&perRun, "timeout", 10*time.Second, "how long one run may take to die before it is reported")
	return cmd
}

func (a *app) sweep(dryRun, asJSON bool, perRun time.Duration) error {
	if perRun <= 0 {
		return fail(exitUsage, fmt.Errorf("--timeout %s is not a positive time", perRun))
	}
	all, err := a.places()
	if err != nil {
		return err
	}
	defer all.close()
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	options := registry.SweepOptions{DryRun: dryRun, PerRun: perRun}
	if !asJSON {
		options.Observe = a.printSweepEvent
	}
	result, err := all.sweep(ctx, options)
	if err != nil {
		return err
	}
	if asJSON {
		if err := a.printJSON(result); err != nil {
			return err
		}
	} else {
		a.sweepSummary(result, dryRun)
	}
	if result.Blocked > 0 {
		return fail(exitFailed, fmt.Errorf("%d stale runs would not die", result.Blocked))
	}
	return nil
}

// sweep sweeps one place after the other and adds up what became of them.
func (p places) sweep(ctx context.Context, o registry.SweepOptions) (registry.SweepResult, error) {
	total := registry.SweepResult{Runs: []registry.SweepEvent{}}
	for _, reg := range p {
		r, err := reg.Sweep(ctx, o)
		if err != nil {
			return total, exit.AsSelf(fmt.Errorf("sweep below %s: %w", reg.Root().Path(), err))
		}
		total.Swept += r.Swept
		total.Blocked += r.Blocked
		total.Foreign += r.Foreign
		total.Alive += r.Alive
		total.Skipped += r.Skipped
		total.Leaves += r.Leaves
		total.Processes += r.Processes
		total.Elapsed += r.Elapsed
		total.Runs = append(total.Runs, r.Runs...)
	}
	return total, nil
}

// printSweepEvent prints what became of one directory.
func (a *app) printSweepEvent(e registry.SweepEvent) {
	line := fmt.Sprintf("%s: %s", filepath.Base(e.Dir), e.Result)
	if e.Processes > 0 {
		line += ", " + count(e.Processes, "process", "processes")
	}
	if e.Result == registry.ResultSwept || e.Result == registry.ResultBlocked {
		line += fmt.Sprintf(", %s", e.Elapsed.Round(time.Millisecond))
	}
	if e.Err != nil {
		line += ": " + e.Err.Error()
	}
	fmt.Fprintln(a.stdout, line)
}

func (a *app) sweepSummary(r registry.SweepResult, dryRun bool) {
	verb := "swept"
	if dryRun {
		verb = "would sweep"
	}
	fmt.Fprintf(a.stdout, "%s %s with %s in %s; %d alive, %d blocked, %d not ours\n",
		verb, count(r.Swept, "run", "runs"), count(r.Processes, "process", "processes"), r.Elapsed.Round(time.Millisecond), r.Alive, r.Blocked, r.Foreign)
}

// count says how many there are in words.
func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
