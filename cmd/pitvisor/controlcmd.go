package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pitvisor/pitvisor/api"
)

const workersHelp = `
A SELECTOR is a pool (web), a worker (web/3), one start of it (web/3.7), a label
(env=prod) or a pattern ('web/*'; '*' is everybody).

It waits until that is done; --no-wait only asks for it.
`

const startLong = `Start workers that were stopped, were given up or have completed, and those that wait before
their next start; failures are forgotten. Workers that run are left alone.
` + workersHelp + askExits

const stopLong = `Stop workers as their pool says: signal, grace, kill. They stay down until start or restart
brings them back; scale brings back only whom it has removed before. The supervisor runs on,
also with nobody left.
` + workersHelp + askExits

const restartLong = `Replace workers by new ones, and start those that do not run. Each pool is a rollout: a new
worker is ready before an old one stops, as far as the pool's bounds allow, and when the new
ones do not become ready the rollout stops and the old ones serve on.
` + workersHelp + askExits

const scaleLong = `Give pools another size. Workers of the highest numbers go, with their grace. The file is not
changed: what is started or reloaded later has the size that stands there.

It waits until the workers are ready, or gone; --no-wait only asks for it.
` + askExits

// waiting is the flags of a command that waits.
type waiting struct {
	no      bool
	timeout time.Duration
	json    bool
}

func (w *waiting) define(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.BoolVar(&w.no, "no-wait", false, "do not wait until it is done")
	flags.DurationVar(&w.timeout, "timeout", 0, "how long to wait; what was asked for goes on (default and most: 1h)")
	flags.BoolVar(&w.json, "json", false, "print JSON")
}

func (w *waiting) check() error {
	if w.timeout < 0 || w.timeout > time.Hour {
		return fail(exitUsage, fmt.Errorf("--timeout %s must be 0s to 1h", w.timeout))
	}
	if w.no && w.timeout > 0 {
		return fail(exitUsage, errors.New("--timeout has no meaning with --no-wait"))
	}
	return nil
}

func (w *waiting) selected(args []string) api.Selected {
	return api.Selected{Select: args, Wait: !w.no, Timeout: w.timeout}
}

// change makes the call, and prints what it has changed.
func (a *app) change(t *target, w *waiting, done string, do func(context.Context, *api.Client) (*api.Changed, error)) error {
	if err := w.check(); err != nil {
		return err
	}
	return t.ask(func(ctx context.Context, c *api.Client) error {
		out, err := do(ctx, c)
		if err != nil {
			return err
		}
		if w.json {
			if err := a.printJSON(out); err != nil {
				return err
			}
		} else {
			printChanged(a.stdout, out, done, !w.no)
		}
		for _, r := range out.Rollouts {
			if r.Error != "" {
				return fail(exitFailed, fmt.Errorf("pool %s: the rollout has stopped, the old workers serve on: %s", r.Pool, clean(r.Error)))
			}
		}
		return nil
	})
}

func printChanged(w io.Writer, c *api.Changed, done string, waited bool) {
	for _, name := range c.Workers {
		fmt.Fprintf(w, "%s: %s\n", name, done)
	}
	for _, list := range []struct {
		pools []string
		text  string
	}{{c.Added, "added"}, {c.Removed, "removed"}, {c.Scaled, "scaled"}, {c.Updated, "updated"}} {
		for _, name := range list.pools {
			fmt.Fprintf(w, "%s: %s\n", name, list.text)
		}
	}
	if c.Run {
		fmt.Fprintln(w, "[run]: changed")
	}
	if c.Sockets {
		fmt.Fprintln(w, "sockets: changed")
	}
	for _, key := range c.Later {
		fmt.Fprintf(w, "%s: holds from the next start of pitvisor on\n", key)
	}
	if len(c.Workers)+len(c.Added)+len(c.Removed)+len(c.Scaled)+len(c.Updated)+len(c.Rollouts) == 0 && !c.Run {
		fmt.Fprintln(w, "no pool has changed")
	}
	for _, r := range c.Rollouts {
		switch {
		case r.Error != "":
		case waited:
			fmt.Fprintf(w, "%s: rolled out\n", r.Pool)
		default:
			fmt.Fprintf(w, "%s: rollout %d begins\n", r.Pool, r.ID)
		}
	}
}

func (a *app) startCommand() *cobra.Command {
	w := &waiting{}
	cmd := &cobra.Command{
		Use: "start SELECTOR...", Short: "start workers that were stopped, given up or have completed", Long: startLong,
		Example: "  pitvisor start web/3", Args: takes(1, -1),
	}
	t := a.askCommand(cmd, true)
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		return a.change(t, w, w.word("ready", "starts"), func(ctx context.Context, c *api.Client) (*api.Changed, error) { return c.Start(ctx, w.selected(args)) })
	}
	w.define(cmd)
	return cmd
}

// word is what is said when it was waited for, or else.
func (w *waiting) word(done, begun string) string {
	if w.no {
		return begun
	}
	return done
}

func (a *app) stopCommand() *cobra.Command {
	w := &waiting{}
	var now bool
	cmd := &cobra.Command{
		Use: "stop SELECTOR...", Short: "stop workers until a command starts them again", Long: stopLong,
		Example: "  pitvisor stop web/3\n  pitvisor stop --now 'batch/*'", Args: takes(1, -1),
	}
	t := a.askCommand(cmd, true)
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		return a.change(t, w, w.word("stopped", "stops"), func(ctx context.Context, c *api.Client) (*api.Changed, error) {
			return c.Stop(ctx, api.Stop{Selected: w.selected(args), Now: now})
		})
	}
	cmd.Flags().BoolVar(&now, "now", false, "kill them, without grace")
	w.define(cmd)
	return cmd
}

func (a *app) restartCommand() *cobra.Command {
	w := &waiting{}
	cmd := &cobra.Command{
		Use: "restart SELECTOR...", Short: "replace workers by new ones, one rollout a pool", Long: restartLong,
		Example: "  pitvisor restart web", Args: takes(1, -1),
	}
	t := a.askCommand(cmd, true)
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		return a.change(t, w, "restarted", func(ctx context.Context, c *api.Client) (*api.Changed, error) {
			return c.Restart(ctx, w.selected(args))
		})
	}
	w.define(cmd)
	return cmd
}

func (a *app) scaleCommand() *cobra.Command {
	w := &waiting{}
	cmd := &cobra.Command{
		Use: "scale POOL=SIZE...", Short: "give pools another size", Long: scaleLong,
		Example: "  pitvisor scale web=8 batch=0", Args: takes(1, -1),
	}
	t := a.askCommand(cmd, false)
	cmd.ValidArgsFunction = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		var pools []string
		for _, name := range t.liveNames() {
			if !strings.Contains(name, "/") {
				pools = append(pools, name+"=")
			}
		}
		return pools, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	}
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		sizes, err := parseSizes(args)
		if err != nil {
			return err
		}
		return a.change(t, w, "", func(ctx context.Context, c *api.Client) (*api.Changed, error) { return scaleAll(ctx, c, sizes, w) })
	}
	w.define(cmd)
	return cmd
}

func parseSizes(args []string) ([]api.Scale, error) {
	var sizes []api.Scale
	for _, arg := range args {
		pool, text, ok := strings.Cut(arg, "=")
		n, err := strconv.Atoi(text)
		if !ok || err != nil || n < 0 || pool == "" {
			return nil, failHint(exitUsage, fmt.Errorf("%q is not of the form POOL=SIZE", arg), "for example web=8")
		}
		sizes = append(sizes, api.Scale{Pool: pool, Size: &n})
	}
	return sizes, nil
}

// scaleAll asks for all sizes before it waits for any. One alone is asked for and waited for
// at once, so that the supervisor's log has it once.
func scaleAll(ctx context.Context, c *api.Client, sizes []api.Scale, w *waiting) (*api.Changed, error) {
	all := &api.Changed{}
	alone := len(sizes) == 1
	for _, s := range sizes {
		s.Wait, s.Timeout = alone && !w.no, w.timeout
		out, err := c.Scale(ctx, s)
		var refused *api.Error
		if errors.As(err, &refused) && len(all.Scaled) > 0 {
			return nil, failHint(exitFailed, fmt.Errorf("%w; scaled before that: %s", err, strings.Join(all.Scaled, ", ")), refused.Cure)
		}
		if err != nil {
			return nil, err
		}
		all.Scaled = append(all.Scaled, out.Scaled...)
	}
	if w.no || alone {
		return all, nil
	}
	deadline := time.Now().Add(w.timeout)
	for _, s := range sizes {
		s.Wait = true
		if w.timeout > 0 {
			s.Timeout = max(time.Until(deadline), 1) // one time for all of them
		}
		if _, err := c.Scale(ctx, s); err != nil {
			return nil, err
		}
	}
	return all, nil
}
