package main

import (
	"github.com/spf13/cobra"

	"github.com/pitvisor/pitvisor/internal/runverb"
)

const runLong = `Run one command in a cgroup of its own: nothing that it starts outlives it, and
what it would have left behind is named.

The command's exit code passes through. TERM, INT, HUP, QUIT, USR1, USR2, WINCH,
TSTP and CONT are forwarded to it; on a terminal it keeps the terminal, and Ctrl-C
and Ctrl-Z reach it as they would without pitvisor. stdin, stdout and stderr are its
own: nothing is copied.

When the command ends, whatever is left in its cgroup is killed and named on stderr:
daemons, double forks, other sessions, scrubbed environments. If pitvisor itself is
killed, a guardian process ends the run within a second; if that is killed, too, the
next sweep of anyone does.

Inside a run, pitvisor run makes a run within it, which ends with it. To start a
server that outlives the run, use pitvisor detach.

Exit codes:
  the command's own, or 128+n when signal n ended it
  123   it left processes behind (only with --fail-on-leak)
  124   it was stopped by --timeout
  125   pitvisor itself could not work
  126   the command cannot be executed
  127   the command does not exist
    2   wrong flags`

func (a *app) runCommand() *cobra.Command {
	var f runverb.Flags
	cmd := &cobra.Command{
		Use:     "run [flags] [--] COMMAND [ARGUMENT...]",
		Short:   "run one command that leaves nothing behind",
		Long:    runLong,
		Example: "  pitvisor run -- make test\n  pitvisor run --timeout 10m --fail-on-leak --report leaks.json -- ./integration.sh",
		RunE: func(_ *cobra.Command, args []string) error {
			f.CgroupRoot, f.Color = a.cgroupRoot, a.color
			v := runverb.Verb{Flags: &f, Version: version(), Stderr: a.stderr, Extras: a.runExtras()}
			code, err := v.Run(args)
			if err != nil {
				return err
			}
			if code != 0 {
				return fail(code, nil)
			}
			return nil
		},
	}
	f.Define(cmd.Flags())
	return cmd
}
