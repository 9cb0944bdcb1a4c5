package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pitvisor/pitvisor/api"
	"github.com/pitvisor/pitvisor/internal/server"
)

const eventsLong = `Show the events of a running supervisor: every step in the life of its workers.

Without -f those that are still held are shown, the newest some 2,000; with -f also
what happens from now on, until the supervisor ends; 3 is the code then if it was
killed. Each event has a number; --since goes on after one. Events that are no longer
held are told as a gap.

With --json each event is one line.
` + askExits

type eventsFlags struct {
	follow bool
	since  uint64
	last   int
	kinds  []string
	json   bool
}

func (a *app) eventsCommand() *cobra.Command {
	var f eventsFlags
	cmd := &cobra.Command{
		Use:     "events [-f] [SELECTOR...]",
		Short:   "show what has happened to workers, and what happens",
		Long:    eventsLong,
		Example: "  pitvisor events -f web\n  pitvisor events --kind start-failed,exited --json",
	}
	t := a.askCommand(cmd, true)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if f.last < 0 {
			return fail(exitUsage, fmt.Errorf("-n %d is less than 0", f.last))
		}
		return t.ask(func(ctx context.Context, c *api.Client) error {
			return a.events(ctx, c, &f, args, cmd.Flags().Changed("lines"))
		})
	}
	flags := cmd.Flags()
	flags.BoolVarP(&f.follow, "follow", "f", false, "go on with what happens from now on")
	flags.Uint64Var(&f.since, "since", 0, "only events after this number")
	flags.IntVarP(&f.last, "lines", "n", 0, "only the newest so many of those that are held (default all)")
	flags.StringSliceVar(&f.kinds, "kind", nil, "only events of these kinds, such as start-failed,exited")
	flags.BoolVar(&f.json, "json", false, "print JSON, one event in a line")
	completeFlag(cmd, "kind", server.EventKinds()...)
	return cmd
}

func (a *app) events(ctx context.Context, c *api.Client, f *eventsFlags, selected []string, limited bool) error {
	o := api.EventOptions{Since: f.since, All: true, Select: selected, Kinds: f.kinds, NoWait: true, Cursor: &api.EventCursor{}}
	show := a.eventPrinter(f.json)
	var held []api.Event
	found := false
	keep := func(e *api.Event) error {
		found = true
		if !limited {
			return show(e)
		}
		if held = append(held, *e); len(held) > f.last {
			held = held[1:]
		}
		return nil
	}
	if err := readEvents(ctx, c, o, keep); err != nil {
		return err
	}
	for i := range held {
		if err := show(&held[i]); err != nil {
			return err
		}
	}
	if !found && len(selected) > 0 {
		if err := a.nobodyFits(ctx, c, selected, f.follow); err != nil {
			return err
		}
	}
	if !f.follow {
		return nil
	}
	o.NoWait = false
	err := readEvents(ctx, c, o, show)
	if errors.Is(err, context.Canceled) {
		return nil // Ctrl-C is how one stops to watch
	}
	return err
}

// nobodyFits says so of a selection of which there was no event. Who follows may wait for
// a pool that comes with a reload.
func (a *app) nobodyFits(ctx context.Context, c *api.Client, selected []string, follow bool) error {
	_, err := c.Status(ctx, selected...)
	var remote *api.Error
	if follow && errors.As(err, &remote) && remote.Code == api.CodeNotFound {
		fmt.Fprintf(a.stderr, "pitvisor: note: %s so far\n", remote.Cause)
		return nil
	}
	return err
}

// readEvents shows events. A stream that was lost is taken up where it was.
func readEvents(ctx context.Context, c *api.Client, o api.EventOptions, show func(*api.Event) error) error {
	for {
		lost := false
		for e, err := range c.Events(ctx, o) {
			if errors.Is(err, api.ErrStreamLost) {
				lost = true
				break
			}
			if err != nil {
				return err
			}
			if err := show(&e); err != nil {
				return err
			}
		}
		if !lost {
			return nil
		}
	}
}

// eventPrinter prints one event in a line.
func (a *app) eventPrinter(asJSON bool) func(*api.Event) error {
	if asJSON {
		enc := json.NewEncoder(a.stdout)
		enc.SetEscapeHTML(false)
		return func(e *api.Event) error { return enc.Encode(e) }
	}
	paint := painter(a.colors(a.stdout))
	return func(e *api.Event) error {
		name := e.Worker
		if e.Start > 0 {
			name = fmt.Sprintf("%s.%d", e.Worker, e.Start)
		}
		_, err := fmt.Fprintf(a.stdout, "%s %s %-14s %s%s\n", paint.paint(styleDim, e.At.Local().Format("15:04:05.000")),
			paint.paint(styleDim, fmt.Sprintf("%6d", e.Seq)), name, paint.paint(eventStyle(e.Kind), e.Kind), clean(eventText(e)))
		return err
	}
}

// eventStyle colours a kind of event.
func eventStyle(kind string) style {
	switch kind {
	case "ready", "completed", "rolled-out", "pressure-over", "starts-released", "thawed":
		return styleGreen
	case "start-failed", "exited", "gave-up", "blocked", "rollout-stopped", api.EventGap:
		return styleRed
	case "backoff", "escalated", "unhealthy", "degraded", "recycling", "waiting", "pressure", "pressure-timeout", "starts-held", "frozen":
		return styleYellow
	}
	return ""
}

// eventText is what there is to say beside the kind.
func eventText(e *api.Event) string {
	var parts []string
	add := func(format string, args ...any) { parts = append(parts, fmt.Sprintf(format, args...)) }
	switch {
	case e.Missing != nil:
		add("events %d to %d are no longer held", e.Missing.From, e.Missing.To)
	case e.Failure != nil:
		add("%s: %s", e.Failure.Phase, e.Failure.Cause)
	}
	if e.Exit != nil {
		add("%s", e.Exit.Text)
	}
	if e.Failure != nil && e.Failure.Error != "" {
		add("%s", e.Failure.Error)
	}
	if e.Error != "" {
		add("%s", e.Error)
	}
	if e.Size != nil && e.WasSize != nil {
		add("%d to %d workers", *e.WasSize, *e.Size)
	}
	if e.Reason != "" { // of what was said so far, so no comma comes before it
		reason := "(" + e.Reason + ")"
		if n := len(parts); n > 0 {
			parts[n-1] += " " + reason
		} else {
			add("%s", reason)
		}
	}
	for _, n := range []struct {
		set  bool
		text string
	}{
		{e.Delay != 0 && e.Kind == "stopping", "signal in " + e.Delay.Round(time.Millisecond).String()},
		{e.Delay != 0 && e.Kind != "stopping", "next start in " + e.Delay.Round(time.Millisecond).String()},
		{e.Escalated, "killed after its grace"},
		{e.Leftover > 0, fmt.Sprintf("%d left-over processes killed", e.Leftover)},
		{e.Elapsed != 0, "after " + e.Elapsed.Round(time.Millisecond).String()},
		{e.PID != 0 && e.Kind == "up", fmt.Sprintf("pid %d", e.PID)},
		{e.Port != 0 && e.Kind == "ready", fmt.Sprintf("port %d", e.Port)},
	} {
		if n.set {
			parts = append(parts, n.text)
		}
	}
	if len(parts) == 0 {
		return ""
	}
	return " " + strings.Join(parts, ", ")
}
