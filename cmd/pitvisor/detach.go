package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/internal/detach"
	"github.com/pitvisor/pitvisor/internal/exit"
	"github.com/pitvisor/pitvisor/internal/runverb"
	"github.com/pitvisor/pitvisor/spawn"
)

const detachLong = `Start a server that outlives the run it is started from.

A job that needs a server to last, such as a build daemon, starts it with this verb.
It gets a run of its own, with a name: it is listed by pitvisor ps, limited like any
run, and ended by its --ttl, by pitvisor end NAME, or, when its owner is killed, by
the next sweep. It is no leftover of the job, and nothing else escapes one.

Returns when the server runs. Its output is appended to a file. stdin is /dev/null.
The server's run ends with its last process, so a server that daemonises is held, too.

Exit codes: 0 it runs; 1 there is one of that name; 2 wrong flags; 125 pitvisor
itself could not work; 126 the command cannot be executed; 127 it does not exist.`

// ownerFlag makes the program the owner of a detached run; see package detach.
const ownerFlag = "owner"

func (a *app) detachCommand() *cobra.Command {
	var f runverb.Flags
	var owner bool
	cmd := &cobra.Command{
		Use:     "detach --name NAME [flags] [--] COMMAND [ARGUMENT...]",
		Short:   "start a server that outlives the run it is started from",
		Long:    detachLong,
		Example: "  pitvisor detach --name bazel --ttl 2h -- bazel-server --foreground",
		RunE: func(_ *cobra.Command, args []string) error {
			v := runverb.Verb{Flags: &f, Version: version(), Stderr: a.stderr, Extras: a.runExtras()}
			if owner {
				return a.ownDetached(&v, args)
			}
			return a.detach(&v, args)
		},
	}
	f.DefineDetach(cmd.Flags())
	cmd.Flags().BoolVar(&owner, ownerFlag, false, "be the owner (internal)")
	_ = cmd.Flags().MarkHidden(ownerFlag) // it was defined a line above
	return cmd
}

func (a *app) detach(v *runverb.Verb, args []string) error {
	spawn.KeepInherited() // a server that held a file of the job would hold up its readers
	root, err := a.detachRoot(v.Flags.Name)
	if err != nil {
		return fail(exitSelf, err)
	}
	defer root.Dir.Close()
	if err := v.CheckDetach(root.Dir, args); err != nil {
		return err
	}
	output, err := a.detachOutput(v.Flags)
	if err != nil {
		return exit.AsSelf(err)
	}
	defer output.Close()
	again := append([]string{"pitvisor", "--cgroup-root", root.Dir.Path(), "detach", "--" + ownerFlag}, afterVerb(os.Args)...)
	id, err := detach.Start(detach.Owner{Root: root.Dir, Args: again, Output: output})
	if err != nil {
		return exit.AsSelf(fmt.Errorf("start server %s: %w", v.Flags.Name, err))
	}
	fmt.Fprintf(a.stdout, "%s run-%s\n", v.Flags.Name, id)
	return nil
}

// detachRoot is where a server is started: a place that outlives the run that the
// caller may be in, from systemd if need be.
func (a *app) detachRoot(name string) (cgroup.Root, error) {
	root, err := cgroup.FindTopRoot(a.cgroupRoot)
	if err == nil || a.cgroupRoot != "" || os.Geteuid() == 0 || cgroup.InRun() {
		return root, err
	}
	if scopeErr := enterScope(name); scopeErr != nil {
		return root, fmt.Errorf("%w; and systemd gave none: %w", err, scopeErr)
	}
	return cgroup.FindTopRoot("")
}

// afterVerb is what was said behind the verb.
func afterVerb(args []string) []string {
	for i, arg := range args {
		if arg == "detach" {
			return args[i+1:]
		}
	}
	return nil
}

// detachOutput opens the file of the server's output.
func (a *app) detachOutput(f *runverb.Flags) (*os.File, error) {
	path := f.Output
	if path == "" {
		state, err := a.stateRoot()
		if err != nil {
			return nil, err
		}
		dir := filepath.Join(state, "detached")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, fmt.Errorf("make a place for the server's output: %w", err)
		}
		path = filepath.Join(dir, strings.ReplaceAll(f.Name, "/", "_")+".log")
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open the file of the server's output: %w", err)
	}
	return file, nil
}

// ownDetached is the owner's life.
func (a *app) ownDetached(v *runverb.Verb, args []string) error {
	voice := detach.OpenVoice()
	root, err := cgroup.FindRoot(a.cgroupRoot)
	if err == nil {
		defer root.Dir.Close()
		defer detach.Leave(root.Dir)
		err = v.Detached(root.Dir, args, voice)
	}
	if err != nil {
		voice.Failed(err)
	}
	return exit.AsSelf(err)
}

const endLong = `End servers that were started with pitvisor detach, by name or by run id.

Their owner stops them: stop signal, grace, kill. Returns when their cgroups are gone.

Exit codes: 0 all of them are gone; 1 there is none of that name, or one is still
there; 125 pitvisor itself could not work.`

func (a *app) endCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "end NAME...",
		Short: "end servers that were started with pitvisor detach",
		Long:  endLong,
		Args:  takes(1, -1),
		RunE:  func(_ *cobra.Command, args []string) error { return a.end(args) },
	}
}

func (a *app) end(names []string) error {
	all, err := a.places()
	if err != nil {
		return err
	}
	defer all.close()
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	var errs []error
	for _, name := range names {
		if err := all.end(ctx, name); err != nil {
			errs = append(errs, fmt.Errorf("end %s: %w", name, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fail(exitFailed, err)
	}
	return nil
}

// end ends every server of that name.
func (p places) end(ctx context.Context, name string) error {
	ended := 0
	var known []string
	var errs []error
	for _, reg := range p {
		found, names, err := detach.Find(ctx, reg, name)
		if err != nil {
			return err
		}
		known = append(known, names...)
		for _, run := range found {
			ended++
			errs = append(errs, detach.End(ctx, reg, run))
		}
	}
	if ended == 0 {
		return fmt.Errorf("%w below %s%s", detach.ErrUnknown, p, there(known))
	}
	return errors.Join(errs...)
}

// there lists what could have been meant.
func there(names []string) string {
	if len(names) == 0 {
		return ": there is none at all"
	}
	return ": there are " + strings.Join(names, ", ")
}
