package main

import (
	"cmp"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"

	"github.com/spf13/cobra"

	"github.com/pitvisor/pitvisor/internal/config"
	"github.com/pitvisor/pitvisor/spawn"
)

const upLong = `Start the pools of a configuration and keep them, in the foreground.

Each worker's output goes to stdout, prefixed with its name, and to files below
the state directory that survive the supervisor. The supervisor's own log goes
to stderr.

TERM, INT or QUIT stop everything gracefully; a second INT kills at once. HUP
reads the configuration again and changes only what has changed; one that is
wrong is refused, and nothing is touched. On a terminal HUP stops, as it says
that the terminal is gone.
Runs whose owner is gone are swept beside the start, which does not wait for
them.

Exit codes:
    0   every worker started, and everything stopped clean
    1   a worker did not start, or was given up
    2   wrong flags or configuration, or a setting of the systemd unit that
        leaves no cgroup to work in
    3   the stop was not clean: something was killed after its grace, or is
        still there (stderr names it)
  125   pitvisor itself could not work: no cgroup, no permission, no space`

type upFlags struct {
	source    sourceFlags
	logLevel  string
	logFormat string
	show      string
	quiet     bool
}

func (a *app) upCommand() *cobra.Command {
	var f upFlags
	cmd := &cobra.Command{
		Use:   "up [-f FILE]",
		Short: "start the pools of a configuration and keep them, in the foreground",
		Long:  upLong,
		Args:  takes(0, 0),
		RunE:  func(*cobra.Command, []string) error { return tellSystemd(a.up(f)) },
	}
	flags := cmd.Flags()
	f.source.add(cmd)
	flags.StringVar(&f.logLevel, "log-level", "", "least level of the supervisor's own log: debug, info, warn or error (default: [log] level)")
	flags.StringVar(&f.logFormat, "log-format", "", "the supervisor's own log: auto, text, json or journal (default: [log] format)")
	flags.StringVar(&f.show, "show", "", "the workers' output on stdout: text, json or none; it goes to the files anyway (default: [log] show)")
	flags.BoolVarP(&f.quiet, "quiet", "q", false, "--show=none")
	cmd.MarkFlagsMutuallyExclusive("show", "quiet")
	completeFlag(cmd, "log-level", "debug", "info", "warn", "error")
	completeFlag(cmd, "log-format", "auto", "text", "json", "journal")
	completeFlag(cmd, "show", "text", "json", "none")
	return cmd
}

func (a *app) up(f upFlags) error {
	a.passed = passedOn()
	defer closePassed(a.passed)
	spawn.KeepInherited() // workers get what their pool says
	// A crash ends by ABRT. By itself Go exits with 2, which would say that the
	// configuration is wrong and that no restart can help.
	debug.SetTraceback("crash")
	cfg, err := f.source.load()
	if err != nil {
		return err
	}
	levelName := cmp.Or(f.logLevel, cfg.Log.Level, "info")
	var level slog.Level
	if err := level.UnmarshalText([]byte(levelName)); err != nil {
		return fail(exitUsage, fmt.Errorf("--log-level %q is none of debug, info, warn, error", levelName))
	}
	log, err := a.newLogger(level, cmp.Or(f.logFormat, cfg.Log.Format, "auto"))
	if err != nil {
		return fail(exitUsage, err)
	}
	for _, file := range cfg.Files {
		if risk := configRisk(file); risk != "" {
			log.Warn(risk)
		}
	}
	show := cmp.Or(f.show, cfg.Log.Show)
	if f.quiet {
		show = config.ShowNone
	}
	if !slices.Contains([]string{config.ShowText, config.ShowJSON, config.ShowNone}, show) {
		return fail(exitUsage, fmt.Errorf("--show %q is none of text, json, none", show))
	}
	a.stateDir = cmp.Or(a.stateDir, cfg.StateDir)
	return a.superviseConfig(cfg, f.source.load, show, log)
}
