package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/pitvisor/pitvisor/api"
)

const selectorHelp = `
A SELECTOR is a pool (web), a worker (web/3), one start of it (web/3.7, which does
nothing when another one runs by now), the main process of a worker as PID:INODE, a
label (env=prod) or a pattern ('web/*'; '*' is everybody). The number of a process alone
is refused: it may be another process's by now.
`

const signalLong = `Send a signal to the main process of workers, through its pidfd. A worker that ends by it
ends by itself, as far as its pool is concerned; the cause names who has sent it.
` + selectorHelp + askExits

const freezeLong = `Stop all processes of workers, without their knowing; done when they have stopped. They keep
what they have: memory, sockets, locks. A frozen worker is not checked for liveness, and a stop
reaches it when it is thawed or killed.
` + selectorHelp + askExits

const thawLong = `Let workers go on that were frozen.
` + selectorHelp + askExits

const killLong = `Kill all processes of workers at once, with their cgroup. The supervisor takes that for an
end of theirs and does what their pool says, which mostly is to start them again; pitvisor
stop --now is for good.
` + selectorHelp + askExits

// doing is an action of the client.
type doing func(*api.Client, context.Context, api.Action) (*api.Done, error)

func (a *app) signalCommand() *cobra.Command {
	var all, asJSON bool
	cmd := &cobra.Command{
		Use:     "signal SIGNAL SELECTOR...",
		Short:   "send a signal to workers",
		Long:    signalLong,
		Example: "  pitvisor signal HUP web\n  pitvisor signal --all USR1 web/3",
		Args:    takes(2, -1),
	}
	t := a.askCommand(cmd, true)
	cmd.ValidArgsFunction = func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) == 0 {
			return []string{"HUP", "INT", "TERM", "USR1", "USR2", "QUIT", "CONT", "STOP", "KILL"}, cobra.ShellCompDirectiveNoFileComp
		}
		return t.liveNames(), cobra.ShellCompDirectiveNoFileComp
	}
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		action := api.Action{Select: args[1:], Signal: args[0], All: all}
		return a.act(t, (*api.Client).Signal, action, asJSON, "signalled")
	}
	cmd.Flags().BoolVar(&all, "all", false, "signal every process of a worker, not only the main one")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func (a *app) actionCommand(name, short, long, done string, do doing) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     name + " SELECTOR...",
		Short:   short,
		Long:    long,
		Example: "  pitvisor " + name + " web/3",
		Args:    takes(1, -1),
	}
	t := a.askCommand(cmd, true)
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		return a.act(t, do, api.Action{Select: args}, asJSON, done)
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// act does something to workers, and says what became of it at each.
func (a *app) act(t *target, do doing, action api.Action, asJSON bool, done string) error {
	return t.ask(func(ctx context.Context, c *api.Client) error {
		out, err := do(c, ctx, action)
		if err != nil {
			return err
		}
		failed := 0
		for i := range out.Workers {
			if out.Workers[i].Error != "" {
				failed++
			}
		}
		if asJSON {
			if err := a.printJSON(out); err != nil {
				return err
			}
		} else {
			a.printOutcomes(out, done)
		}
		if failed > 0 {
			return fail(exitFailed, fmt.Errorf("not done for %d of %s", failed, count(len(out.Workers), "worker", "workers")))
		}
		return nil
	})
}

func (a *app) printOutcomes(out *api.Done, done string) {
	for i := range out.Workers {
		o := &out.Workers[i]
		if o.Error != "" {
			fmt.Fprintf(a.stderr, "pitvisor: %s: %s\n", o.Worker, clean(o.Error))
			continue
		}
		fmt.Fprintf(a.stdout, "%s.%d: %s %s\n", o.Worker, o.Start, done, count(o.Processes, "process", "processes"))
	}
}

// askCommands are the verbs that ask a supervisor that runs.
func (a *app) askCommands() []*cobra.Command {
	return []*cobra.Command{
		a.statusCommand(), a.eventsCommand(), a.waitCommand(), a.inspectCommand(), a.historyCommand(),
		a.startCommand(), a.stopCommand(), a.restartCommand(), a.reloadCommand(), a.scaleCommand(),
		a.signalCommand(), a.execCommand(),
		a.actionCommand("freeze", "stop all processes of workers without their knowing", freezeLong, "froze", (*api.Client).Freeze),
		a.actionCommand("thaw", "let frozen workers go on", thawLong, "thawed", (*api.Client).Thaw),
		a.actionCommand("kill", "kill all processes of workers; their pool decides what follows", killLong, "killed", (*api.Client).Kill),
	}
}
