package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pitvisor/pitvisor/api"
	"github.com/pitvisor/pitvisor/internal/exit"
)

const waitLong = `Wait until every selected worker is as --for says; all workers without a SELECTOR.

A worker that has completed, as a job does, counts as ready. It ends at once, with 1,
when what is waited for cannot come by itself any more: when the worker was given up
or stopped by a command, or when its pool waits for another one in vain. Down is who was
stopped by a command, was given up, or has completed.

With --json the status is printed as it is at the end, also when it was in vain.
` + askExits

// goal is something that can be waited for.
type goal struct {
	name  string
	done  func(*api.Worker) bool
	hopes func(*api.Worker) bool // false: it will not come by itself
}

func goals() []goal {
	ended := func(w *api.Worker) bool {
		return w.State == api.StateFailed || w.State == api.StateCompleted || w.State == api.StateDown && w.Stopped
	}
	always := func(*api.Worker) bool { return true }
	return []goal{
		{
			"ready", func(w *api.Worker) bool { return w.Ready && w.State == api.StateUp || w.State == api.StateCompleted },
			func(w *api.Worker) bool { return !ended(w) },
		},
		{"up", func(w *api.Worker) bool { return w.State == api.StateUp }, func(w *api.Worker) bool { return !ended(w) }},
		{
			"completed", func(w *api.Worker) bool { return w.State == api.StateCompleted },
			func(w *api.Worker) bool { return w.State == api.StateCompleted || !ended(w) },
		},
		{"down", ended, always},
	}
}

func goalList() []string {
	var names []string
	for _, g := range goals() {
		names = append(names, g.name)
	}
	return names
}

func goalNames() string { return strings.Join(goalList(), ", ") }

func (a *app) waitCommand() *cobra.Command {
	var what string
	var timeout time.Duration
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "wait [--for WHAT] [SELECTOR...]",
		Short:   "wait until workers are ready, up, completed or down",
		Long:    waitLong,
		Example: "  pitvisor wait --timeout 30s web\n  pitvisor wait --for completed migrate",
	}
	t := a.askCommand(cmd, true)
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		all := goals()
		i := slices.IndexFunc(all, func(g goal) bool { return g.name == what })
		if i < 0 {
			return fail(exitUsage, fmt.Errorf("--for %q is none of %s", what, goalNames()))
		}
		if timeout < 0 {
			return fail(exitUsage, fmt.Errorf("--timeout %s is less than 0", timeout))
		}
		return t.ask(func(ctx context.Context, c *api.Client) error {
			if timeout > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, timeout)
				defer cancel()
			}
			status, err := waitFor(ctx, c, &all[i], args)
			if asJSON && status != nil {
				if err := a.printJSON(status); err != nil {
					return err
				}
			}
			return err
		})
	}
	flags := cmd.Flags()
	flags.StringVar(&what, "for", "ready", "what to wait for: "+goalNames())
	flags.BoolVar(&asJSON, "json", false, "print JSON")
	completeFlag(cmd, "for", goalList()...)
	flags.DurationVar(&timeout, "timeout", 0, "how long to wait (default for ever)")
	return cmd
}

// waitsInVain says that a worker's pool was never started, and will not be.
func waitsInVain(s *api.Status, w *api.Worker) bool {
	i := slices.IndexFunc(s.Pools, func(p api.Pool) bool { return p.Name == w.Pool })
	return i >= 0 && s.Pools[i].InVain && w.State == api.StateDown
}

// waitFor waits, and names who is missing when it was in vain. It returns the last status,
// nil if there was none.
func waitFor(ctx context.Context, c *api.Client, g *goal, selected []string) (last *api.Status, err error) {
	var missing, lost []string
	_, err = c.WaitFor(ctx, func(s *api.Status) bool {
		last, missing, lost = s, nil, nil
		for i := range s.Workers {
			w := &s.Workers[i]
			if g.done(w) {
				continue
			}
			text := howItIs(w)
			missing = append(missing, text)
			if !g.hopes(w) || waitsInVain(s, w) {
				lost = append(lost, text)
			}
		}
		return len(missing) == 0 || len(lost) > 0
	}, selected...)
	const most = 5
	switch {
	case len(lost) > 0:
		return last, fail(exitFailed, fmt.Errorf("not %s: %s", g.name, strings.Join(lost[:min(most, len(lost))], ", ")))
	case errors.Is(err, context.DeadlineExceeded) && len(missing) == 0:
		return last, fail(exit.TimedOut, fmt.Errorf("the supervisor did not say in time who is %s: give it a longer --timeout", g.name))
	case errors.Is(err, context.DeadlineExceeded):
		return last, fail(exit.TimedOut, fmt.Errorf("%d not %s in time: %s", len(missing), g.name, strings.Join(missing[:min(most, len(missing))], ", ")))
	}
	return last, err
}

// howItIs says how a worker is that is not as it was waited for.
func howItIs(w *api.Worker) string {
	text := fmt.Sprintf("%s is %s", w.Worker, w.State)
	if w.Stopped && w.State == api.StateDown {
		text += " by command"
	}
	if cause := causeWords(w); cause != "" {
		text += " (" + clean(cause) + ")"
	}
	return text
}
