package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/pitvisor/pitvisor/api"
)

const inspectLong = `Show everything there is to know of one worker: its state, its command, its cgroup with
what it has used and may use, its processes, and its newest events.

WORKER is one worker (web/3), or whatever else fits only one (a pool of one).
` + askExits

func (a *app) inspectCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "inspect WORKER",
		Short:   "show everything about one worker",
		Long:    inspectLong,
		Example: "  pitvisor inspect web/3",
		Args:    takes(1, 1),
	}
	t := a.askCommand(cmd, true)
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		return t.ask(func(ctx context.Context, c *api.Client) error {
			worker, err := oneWorker(ctx, c, args[0])
			if err != nil {
				return err
			}
			in, err := c.Inspect(ctx, worker)
			if err != nil {
				return err
			}
			if asJSON {
				return a.printJSON(in)
			}
			_, err = fmt.Fprint(a.stdout, a.inspection(in, time.Now()))
			return err
		})
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// oneWorker is the worker that a selector fits.
func oneWorker(ctx context.Context, c *api.Client, selector string) (string, error) {
	s, err := c.Status(ctx, selector)
	if err != nil {
		return "", err
	}
	if len(s.Workers) == 0 {
		return "", failHint(exitUsage, fmt.Errorf("%q has no workers", selector), "pitvisor status shows which there are")
	}
	if len(s.Workers) > 1 {
		return "", failHint(exitUsage, fmt.Errorf("%q fits %s, and this is about one", selector, count(len(s.Workers), "worker", "workers")),
			fmt.Sprintf("name it, as in %s", s.Workers[0].Worker))
	}
	return s.Workers[0].Worker, nil
}

// inspection is an inspection for people.
func (a *app) inspection(in *api.Inspection, now time.Time) string {
	t := table{paint: painter(a.colors(a.stdout))}
	line := func(title, text string) {
		if text != "" {
			t.add(cell{title, styleDim}, cell{clean(text), ""})
		}
	}
	w := &in.Worker
	ready := "not ready"
	if w.Ready {
		ready = "ready"
	}
	t.add(cell{"worker", styleDim}, cell{w.Worker, ""})
	t.add(cell{"state", styleDim}, cell{fmt.Sprintf("%s, %s, for %s", w.State, ready, psPrinter{now: now}.age(w.Since)), stateStyle(w.State, w.Ready)})
	line("start", fmt.Sprintf("%d, %s in a row", w.Start, count(w.Failures, "failure", "failures")))
	line("cause", causeWords(w))
	line("status", w.Status)
	if w.Errno != 0 {
		line("error", syscall.Errno(w.Errno).Error())
	}
	if w.Port != 0 {
		line("port", fmt.Sprint(w.Port))
	}
	c := &in.Command
	line("command", strings.Join(c.Args, " "))
	line("directory", c.Directory)
	if c.UID != nil && c.GID != nil {
		line("user", fmt.Sprintf("uid %d gid %d", *c.UID, *c.GID))
	}
	line("restart", c.Restart)
	if c.Drain > 0 {
		line("drain", fmt.Sprintf("not ready for %s, then the stop", c.Drain))
	}
	line("stop", fmt.Sprintf("%s, then after %s the kill", c.StopSignal, c.StopGrace))
	leafLines(in.Leaf, line)
	for _, p := range in.Processes {
		line("process", fmt.Sprintf("%d:%d %s", p.PID, p.Inode, p.Name))
	}
	for i := range in.Events {
		e := &in.Events[i]
		line("event", fmt.Sprintf("%s #%d %s%s", e.At.Local().Format(time.DateTime), e.Seq, e.Kind, eventText(e)))
	}
	return t.String()
}

func leafLines(l *api.Leaf, line func(title, text string)) {
	if l == nil {
		return
	}
	line("cgroup", l.Path)
	if l.Frozen {
		line("frozen", "yes")
	}
	if l.MemoryBytes != nil {
		text := memory(l.MemoryBytes)
		if l.MemoryPeak != nil {
			text += ", at most " + memory(l.MemoryPeak)
		}
		line("memory", text)
	}
	if l.CPUNanoseconds != nil {
		line("cpu", time.Duration(*l.CPUNanoseconds).Round(time.Millisecond).String())
	}
	if l.PIDs != nil {
		line("pids", fmt.Sprint(*l.PIDs))
	}
	if l.OOMKills != nil && *l.OOMKills > 0 {
		line("oom kills", fmt.Sprint(*l.OOMKills))
	}
	for _, file := range slices.Sorted(maps.Keys(l.Limits)) {
		line(file, l.Limits[file])
	}
}
