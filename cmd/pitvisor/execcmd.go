package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/api"
	"github.com/pitvisor/pitvisor/internal/exit"
	"github.com/pitvisor/pitvisor/internal/units"
)

const execLong = `Run a command inside a worker that runs: in its cgroup, so with its limits, and in the user,
mount, network, IPC, UTS, cgroup, PID and time namespaces that its main process and the children
of that have. It has the worker's user and groups, environment, directory, umask, nice, OOM score
and resource limits, as configured; what sockets and readiness rules add to the environment is
left out. A chroot and a seccomp filter of the worker's are not entered: to go into its root say
pitvisor exec WORKER -- chroot /proc/PID/root COMMAND.

WORKER is one worker (web/3), one start of it (web/3.7), its main process as PID:INODE, or
whatever else fits only one (a pool of one). COMMAND is looked for inside the worker.

Standard input, output and errors are those of pitvisor itself, not copies. With -t the command
has a terminal of its own, of the size of this one. HUP, INT, QUIT, TERM, USR1 and USR2 are
passed on to the command.

The command is no part of the worker: it makes it neither ready nor unready, and does not keep it
up. It is killed when the worker's start ends, and when pitvisor exec goes away, whatever ends
that; what it has left behind is killed when it ends. Only root and the user of the supervisor
may do this.

Exit codes:
    those of the command; 128+N if signal N ended it (137 also if the worker has ended)
    2   wrong flags or arguments
  125   pitvisor itself could not work: no such worker, not permitted, no supervisor
  126   the command cannot be executed
  127   the command does not exist`

type execFlags struct {
	tty, stdin bool
	env        []string
	dir        string
}

func (a *app) execCommand() *cobra.Command {
	var f execFlags
	cmd := &cobra.Command{
		Use:   "exec [FLAGS] WORKER [--] COMMAND [ARG...]",
		Short: "run a command inside a worker",
		Long:  execLong,
		Example: `  pitvisor exec web/3 -- ps x
  pitvisor exec -t web/3 sh
  pitvisor exec -e LANG=C -w /tmp web/3 sh -c 'kill -USR1 4711; cat dump' > dump`,
		Args: takes(1, -1),
	}
	t := a.askCommand(cmd, true)
	cmd.ValidArgsFunction = func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveDefault // a command and files
		}
		return workersOf(t.liveNames()), cobra.ShellCompDirectiveNoFileComp
	}
	cmd.RunE = func(_ *cobra.Command, args []string) error { return t.exec(f, args) }
	flags := cmd.Flags()
	flags.SetInterspersed(false) // what follows WORKER is the command's
	flags.BoolVarP(&f.tty, "tty", "t", false, "give the command a terminal of its own; needs one as standard input")
	flags.BoolVarP(&f.stdin, "stdin", "i", true, "pass standard input; -i=false gives the command /dev/null")
	flags.StringArrayVarP(&f.env, "env", "e", nil, "set NAME=value, or with NAME alone what it is here; may be repeated")
	flags.StringVarP(&f.dir, "workdir", "w", "", "run it in this directory of the worker's")
	return cmd
}

// workersOf leaves the pools out of names for completion.
func workersOf(names []string) []string {
	var workers []string
	for _, name := range names {
		if strings.Contains(name, "/") {
			workers = append(workers, name)
		}
	}
	return workers
}

// order is what is asked of the supervisor.
func (f *execFlags) order(args []string) (api.Exec, error) {
	e := api.Exec{Worker: args[0], Command: args[1:], Dir: f.dir, TTY: f.tty}
	if len(e.Command) > 0 && e.Command[0] == "--" {
		e.Command = e.Command[1:]
	}
	if len(e.Command) == 0 {
		return e, errors.New("no command: write pitvisor exec WORKER -- COMMAND")
	}
	if f.tty && !f.stdin {
		return e, errors.New("-t needs standard input")
	}
	for _, v := range f.env {
		if !strings.Contains(v, "=") {
			value, ok := os.LookupEnv(v)
			if !ok {
				continue // as it is not set here, it is not set there
			}
			v += "=" + value
		}
		e.Env = append(e.Env, v)
	}
	return e, nil
}

func (t *target) exec(f execFlags, args []string) error {
	order, err := f.order(args)
	if err != nil {
		return fail(exitUsage, err)
	}
	if f.tty && !isTerminal(os.Stdin) {
		return failHint(exitUsage, errors.New("standard input is no terminal"), "leave -t out")
	}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2)
	defer signal.Stop(signals)
	c, err := t.client()
	if err != nil {
		return execFailed(err)
	}
	defer c.Close()
	e, err := t.execute(c, order, f, signals)
	if err != nil {
		return execFailed(err)
	}
	if e.Over {
		fmt.Fprintln(t.app.stderr, "pitvisor: the worker has ended, and the command with it")
	}
	if code := exitCodeOf(e.Exit); code != exitOK {
		return fail(code, nil)
	}
	return nil
}

// execute runs the command to its end.
func (t *target) execute(c *api.Client, order api.Exec, f execFlags, signals <-chan os.Signal) (*api.ExecEvent, error) {
	stdin := os.Stdin
	if !f.stdin {
		null, err := os.Open(os.DevNull)
		if err != nil {
			return nil, err
		}
		defer func() { _ = null.Close() }() // read-only; nothing to lose
		stdin = null
	}
	if f.tty {
		return executeTTY(c, order, signals)
	}
	r, err := c.Exec(context.Background(), order, stdin, os.Stdout, os.Stderr)
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }() // it has ended
	defer passSignals(r, signals)()
	return r.Wait()
}

// passSignals passes signals on to the command until stop.
func passSignals(r *api.Running, signals <-chan os.Signal) (stop func()) {
	done := make(chan struct{})
	go func() {
		for {
			select {
			case sig := <-signals:
				_ = r.Signal(unix.SignalName(sig.(unix.Signal))) // it may have ended
			case <-done:
				return
			}
		}
	}()
	return func() { close(done) }
}

// exitCodeOf is the exit code that says how the command ended.
func exitCodeOf(e *api.Exit) int {
	if e.Signal == "" {
		return e.Code
	}
	sig, ok := units.Signal(e.Signal)
	if !ok {
		return exitSelf
	}
	return exit.Signalled(sig)
}

// execFailed gives what went wrong an exit code that is not the command's.
func execFailed(err error) error {
	code := exitSelf
	var remote *api.Error
	var coded *exit.Error
	switch {
	case errors.As(err, &remote) && remote.Code == api.CodeNoProgram:
		code = exit.NotFound
	case errors.As(err, &remote) && remote.Code == api.CodeNotExecutable:
		code = exit.NotExecutable
	case errors.As(err, &coded) && coded.Code == exitUsage:
		return err
	case brokenOff(err):
		return failHint(code, fmt.Errorf("the supervisor has ended, or is about to: %w", err),
			"if it was killed, the next pitvisor up or pitvisor sweep ends what the command has started")
	}
	return failHint(code, err, exit.Hint(askError(err)))
}
