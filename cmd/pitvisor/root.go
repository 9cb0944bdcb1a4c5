package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/internal/exit"
	"github.com/pitvisor/pitvisor/internal/runverb"
	"github.com/pitvisor/pitvisor/internal/sockets"
	"github.com/pitvisor/pitvisor/internal/userscope"
	"github.com/pitvisor/pitvisor/registry"
)

// app is what every verb shares: where to print and the global flags.
type app struct {
	stdout, stderr io.Writer
	cgroupRoot     string
	stateDir       string
	runtimeDir     string
	color          string
	passed         sockets.Passed // by who has started us
}

const rootLong = `pitvisor keeps pools of workers on Linux.

Every run has its own cgroup, every worker is held by a pidfd, what a crash
left behind is swept as whole cgroups, and nothing is ever signalled by a PID
number.

Every flag has an environment twin: --state-dir is PITVISOR_STATE_DIR.`

// run executes one command line and returns the exit code.
func run(args []string, stdout, stderr io.Writer) int {
	out := &answer{Writer: stdout}
	a := &app{stdout: out, stderr: stderr}
	root := a.rootCommand()
	cobrasOwn(root)
	root.SetArgs(args)
	code := printError(stderr, out.unheard(unknownCommand(root, exclusive(root.Execute()))))
	lastWords()
	return code
}

func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:               "pitvisor",
		Short:             "the supervisor that cannot kill the wrong process and cannot leave one behind",
		Long:              rootLong,
		SilenceUsage:      true,
		SilenceErrors:     true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return a.settle(cmd.Flags()) },
	}
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	flags := root.PersistentFlags()
	flags.StringVar(&a.cgroupRoot, "cgroup-root", "", "cgroup v2 directory to work below (default: the delegated cgroup, else <mount>/pitvisor as root)")
	flags.StringVar(&a.stateDir, "state-dir", "", "logs and history (default: /var/lib/pitvisor as root, else $XDG_STATE_HOME/pitvisor)")
	flags.StringVar(&a.runtimeDir, "runtime-dir", "", "sockets and ready files (default: /run/pitvisor as root, else $XDG_RUNTIME_DIR/pitvisor)")
	flags.StringVar(&a.color, "color", "auto", "colours: auto, always or never; NO_COLOR is obeyed")
	completeFlag(root, "color", "auto", "always", "never")
	root.SetFlagErrorFunc(flagError)
	verbs := []*cobra.Command{a.upCommand(), a.runCommand(), a.detachCommand(), a.endCommand(), a.sweepCommand(), a.psCommand(), a.logsCommand(), a.doctorCommand(), a.checkCommand(), a.configCommand(), a.versionCommand(), a.genDocsCommand()}
	verbs = append(verbs, a.askCommands()...)
	for _, cmd := range verbs {
		completeSettled(cmd)
	}
	root.AddCommand(verbs...)
	return root
}

// settle fills flags from their environment twins and checks the global ones.
func (a *app) settle(flags *pflag.FlagSet) error {
	if err := runverb.Settle(flags); err != nil {
		return err
	}
	switch a.color {
	case "auto", "always", "never":
		return nil
	}
	return fail(exitUsage, fmt.Errorf("--color %q is none of auto, always, never", a.color))
}

// places are the cgroups that hold runs: the root of the tree, and the scopes that
// systemd has made for runs of ordinary users.
type places []*registry.Registry

// places finds the runs for the verbs that look at all of them. The caller closes it.
func (a *app) places() (places, error) {
	var all places
	root, err := cgroup.FindTopRoot(a.cgroupRoot)
	if err == nil {
		all = append(all, registry.New(root.Dir))
	}
	if a.cgroupRoot != "" || cgroup.InRun() {
		return all, exit.AsSelf(err)
	}
	mount, mountErr := cgroup.FindMount()
	if mountErr != nil {
		return all, exit.AsSelf(err)
	}
	for _, dir := range userscope.Find(mount.Path) {
		if err == nil && dir == root.Dir.Path() {
			continue
		}
		if d, openErr := cgroup.Open(dir); openErr == nil { // else it has ended meanwhile
			all = append(all, registry.New(d))
		}
	}
	if len(all) == 0 {
		return nil, exit.AsSelf(err)
	}
	return all, nil
}

// String names them for people.
func (p places) String() string {
	var paths []string
	for _, reg := range p {
		paths = append(paths, reg.Root().Path())
	}
	return strings.Join(paths, ", ")
}

func (p places) close() {
	for _, reg := range p {
		_ = reg.Root().Close() // was only used to look and to sweep
	}
}

// list describes the runs of all places.
func (p places) list(ctx context.Context) ([]registry.RunView, error) {
	runs := []registry.RunView{}
	for _, reg := range p {
		found, err := reg.List(ctx)
		if err != nil {
			return nil, exit.AsSelf(fmt.Errorf("list the runs below %s: %w", reg.Root().Path(), err))
		}
		runs = append(runs, found...)
	}
	return runs, nil
}
