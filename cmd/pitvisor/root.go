package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/internal/runverb"
	"github.com/pitvisor/pitvisor/registry"
)

// app is what every verb shares: where to print and the global flags.
type app struct {
	stdout, stderr io.Writer
	cgroupRoot     string
	stateDir       string
	runtimeDir     string
	color          string
}

const rootLong = `pitvisor keeps pools of workers on Linux.

Every run has its own cgroup, every worker is held by a pidfd, what a crash
left behind is swept as whole cgroups, and nothing is ever signalled by a PID
number.

Every flag has an environment twin: --state-dir is PITVISOR_STATE_DIR.`

// run executes one command line and returns the exit code.
func run(args []string, stdout, stderr io.Writer) int {
	a := &app{stdout: stdout, stderr: stderr}
	root := a.rootCommand()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	return printError(stderr, root.Execute())
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
	flags := root.PersistentFlags()
	flags.StringVar(&a.cgroupRoot, "cgroup-root", "", "cgroup v2 directory to work below (default: the delegated cgroup, else <mount>/pitvisor as root)")
	flags.StringVar(&a.stateDir, "state-dir", "", "logs and history (default: /var/lib/pitvisor as root, else $XDG_STATE_HOME/pitvisor)")
	flags.StringVar(&a.runtimeDir, "runtime-dir", "", "sockets and ready files (default: /run/pitvisor as root, else $XDG_RUNTIME_DIR/pitvisor)")
	flags.StringVar(&a.color, "color", "auto", "colours: auto, always or never; NO_COLOR is obeyed")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return failHint(exitUsage, err, "see `"+cmd.CommandPath()+" --help`")
	})
	root.AddCommand(a.upCommand(), a.runCommand(), a.detachCommand(), a.endCommand(), a.sweepCommand(), a.psCommand(), a.doctorCommand(), a.checkCommand(), a.versionCommand())
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

// registry finds the root of the cgroup tree and the runs in it, for the verbs
// that look at all of them. The caller closes the root.
func (a *app) registry() (cgroup.Root, *registry.Registry, error) {
	root, err := cgroup.FindTopRoot(a.cgroupRoot)
	if err != nil {
		return cgroup.Root{}, nil, fail(exitSelf, err)
	}
	return root, registry.New(root.Dir), nil
}
