package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/pitvisor/pitvisor/api"
	"github.com/pitvisor/pitvisor/internal/exit"
)

const statusLong = `Show how the workers of a running supervisor are: all of them, or those that are named.

A SELECTOR is a pool (web), a worker (web/3), one start of it (web/3.7), a label
(env=prod) or a pattern ('web/*').

Exit codes, as of an LSB init script:
    0   the supervisor runs, and the selected workers are ready or have completed. In a
        rollout a ready further worker of the pool, if it is selected, too, stands in for
        one that is being replaced. Further ones, and those that leave as their pool has
        become smaller, do not count
    3   no supervisor runs, or a selected worker is not ready
    4   it is not known: no such worker, not permitted, or no answer
    2   wrong flags`

func (a *app) statusCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "status [SELECTOR...]",
		Short:   "show how the workers of a running supervisor are",
		Long:    statusLong,
		Example: "  pitvisor status\n  pitvisor status 'web/*' --json",
	}
	t := a.askCommand(cmd, true)
	cmd.RunE = func(_ *cobra.Command, args []string) error { return statusCode(a.status(t, args, asJSON)) }
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// statusCode turns what other verbs call a wrong argument into unknown.
func statusCode(err error) error {
	var remote *api.Error
	if errors.As(err, &remote) && codeOf(remote) != exit.TimedOut {
		return fail(exitUnknown, err)
	}
	return err
}

func (a *app) status(t *target, selected []string, asJSON bool) error {
	return t.ask(func(ctx context.Context, c *api.Client) error {
		s, err := c.Status(ctx, selected...)
		if err != nil {
			return err
		}
		if asJSON {
			err = a.printJSON(s)
		} else {
			_, err = fmt.Fprint(a.stdout, a.statusText(s, time.Now()))
		}
		if err != nil {
			return err
		}
		if short(s.Workers) {
			return fail(exitNotRunning, nil)
		}
		return nil
	})
}

// short says whether ready workers are missing. While one is replaced a further one of its
// pool may stand in for it, but for none that was given up, was stopped or died.
func short(workers []api.Worker) bool {
	spare := map[string]int{} // by pool: further ones that are ready, less those that they stand in for
	for i := range workers {
		switch w := &workers[i]; {
		case w.Ready && w.Surge:
			spare[w.Pool]++
		case w.Ready, w.Surge, w.Leaving, w.State == api.StateCompleted:
		case w.Replaced:
			spare[w.Pool]--
		default:
			return true
		}
	}
	for _, n := range spare {
		if n < 0 {
			return true
		}
	}
	return false
}

// statusText is the status for people.
func (a *app) statusText(s *api.Status, now time.Time) string {
	paint := painter(a.colors(a.stdout))
	p := psPrinter{now: now}
	text := fmt.Sprintf("%s: run %s, up %s, process %s, tier %s\n", clean(s.Run.Name), s.Run.ID, p.age(s.Run.Started), s.Run.Owner, s.Run.Tier)
	pools := table{paint: paint}
	pools.head("POOL", "READY", "UP", "FAILED", "")
	for i := range s.Pools {
		pools.add(poolCells(&s.Pools[i])...)
	}
	workers := table{paint: paint}
	workers.head("WORKER", "STATE", "READY", "FOR", "START", "PID", "PORT", "FAILURES", "CAUSE")
	for i := range s.Workers {
		workers.add(workerCells(&s.Workers[i], p)...)
	}
	return text + pools.String() + workers.String()
}

func poolCells(p *api.Pool) []cell {
	ready, failed := styleGreen, styleDim
	if p.Ready+p.Completed < p.Size {
		ready = styleYellow
	}
	if p.Failed > 0 {
		failed = styleRed
	}
	note, noted := "", styleYellow
	switch {
	case p.Removed:
		note = "goes"
	case p.Waits != "":
		note = clean(p.Waits)
	case p.Pressure != "":
		note = clean(p.Pressure)
	case p.Rollout != nil && p.Rollout.Error != "":
		note = clean(p.Rollout.Error)
	case p.Rollout != nil:
		note = fmt.Sprintf("%s: %d left", p.Rollout.Reason, p.Rollout.Left)
	case p.Completed > 0:
		note, noted = fmt.Sprintf("%d completed", p.Completed), styleDim
	case len(p.Degraded) > 0:
		note = "works with less than asked"
	}
	return []cell{{p.Name, ""}, {fmt.Sprintf("%d/%d", p.Ready, p.Size), ready}, {fmt.Sprint(p.Up), ""}, {fmt.Sprint(p.Failed), failed}, {note, noted}}
}

// causeWords says how a worker has ended, and that this is past where it is no reason for how
// the worker is now.
func causeWords(w *api.Worker) string {
	if w.Cause != "" && (w.Ready || w.Stopped && w.State == api.StateDown) {
		return "before: " + w.Cause
	}
	return w.Cause
}

func workerCells(w *api.Worker, p psPrinter) []cell {
	ready := "no"
	if w.Ready {
		ready = "yes"
	}
	state := string(w.State)
	for _, note := range []struct {
		set  bool
		text string
	}{{w.Frozen, "frozen"}, {w.Held, "held"}, {w.Stopped && w.State == api.StateDown, "by command"}, {w.Surge, "surge"}, {w.Leaving, "leaving"}, {w.Replaced, "to be replaced"}, {w.Reloading, "reloading"}, {w.Announced, "by itself"}} {
		if note.set {
			state += " (" + note.text + ")"
		}
	}
	cause := styleDim
	if w.Failures > 0 {
		cause = styleRed
	}
	words := causeWords(w)
	if w.Ready && w.Status != "" {
		words = w.Status
	}
	return []cell{
		{w.Worker, ""},
		{state, stateStyle(w.State, w.Ready && !w.Frozen)},
		{ready, ""},
		{p.age(w.Since), ""},
		{fmt.Sprint(w.Start), ""},
		{numberOr(w.PID), ""},
		{numberOr(w.Port), ""},
		{numberOr(w.Failures), cause},
		{clean(words), cause},
	}
}
