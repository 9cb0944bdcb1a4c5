package main

import (
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pitvisor/pitvisor/internal/logfile"
	"github.com/pitvisor/pitvisor/internal/units"
)

const logsLong = `Show what workers have printed, of all of them in the order of time.

SELECTOR is a pool, as in web, or a worker, as in web/3; both may be patterns,
as in 'w*' or 'web/[0-3]'. Without one everything is shown.

The files are read directly, those that were rotated and compressed too, so it
works with and without a supervisor. Who may not read them asks the supervisor, which
tells members of its reading group and its workers what its own run has printed.

A line of stderr has a ! after its worker,
one of stdout a |. Times are those of writing, to about 20 milliseconds.

Without --run it is about the runs that live, or the newest if none does. With
-f new runs are followed as well: it goes on when the supervisor is restarted.

Times are given as in 10m (ago), 14:05 (today), 2026-11-29, "2026-11-29 14:05:30"
or 2026-11-29T14:05:30Z.

Exit codes:
    0   everything was shown
    1   something could not be read (stderr says what); the rest was shown
    2   wrong flags, or nothing fits the selectors
    4   the files may not be read, and the supervisor does not tell either
  125   pitvisor itself could not work`

type logsFlags struct {
	follow, asJSON, raw, stamps bool
	last                        int
	since, until, stream, run   string
	file, socket                string
}

func (a *app) logsCommand() *cobra.Command {
	var f logsFlags
	cmd := &cobra.Command{
		Use:   "logs [-f] [SELECTOR...]",
		Short: "show what workers have printed",
		Long:  logsLong,
		Example: `  pitvisor logs -n 50 web
  pitvisor logs -f --stream stderr 'web/*'
  pitvisor logs --since 10m --json | jq -r .message`,
		ValidArgsFunction: a.completeWorkers,
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.last < 0 && cmd.Flags().Changed("lines") {
				return fail(exitUsage, fmt.Errorf("-n %d is less than 0", f.last))
			}
			return a.logs(f, args)
		},
	}
	flags := cmd.Flags()
	flags.BoolVarP(&f.follow, "follow", "f", false, "go on with what is printed from now on, until interrupted")
	flags.IntVarP(&f.last, "lines", "n", -1, "only the last lines, of all workers together (default: all, with -f and without --since 10)")
	flags.Lookup("lines").DefValue = "0" // which is not printed; the text says it
	flags.StringVar(&f.since, "since", "", "only lines since then")
	flags.StringVar(&f.until, "until", "", "only lines before then")
	flags.StringVar(&f.stream, "stream", "", "only stdout or stderr")
	flags.BoolVar(&f.asJSON, "json", false, "print one JSON object a line")
	flags.BoolVar(&f.raw, "raw", false, "print lines as they are, without worker and mark")
	flags.BoolVarP(&f.stamps, "timestamps", "t", false, "print the time of each line")
	flags.StringVar(&f.run, "run", "", "only this run: its ID, the beginning or end of that, the name of its configuration, or all")
	flags.StringVar(&f.file, "config", "", "configuration whose state_dir is looked at")
	flags.StringVar(&f.socket, "socket", "", "ask here if the files may not be read: path of a unix socket (default: found by way of the cgroup tree)")
	cmd.MarkFlagsMutuallyExclusive("json", "raw")
	cmd.MarkFlagsMutuallyExclusive("json", "timestamps")
	cmd.MarkFlagsMutuallyExclusive("raw", "timestamps")
	cmd.MarkFlagsMutuallyExclusive("follow", "until")
	completeFlag(cmd, "stream", logfile.Stdout, logfile.Stderr)
	_ = cmd.RegisterFlagCompletionFunc("run", a.completeRuns)
	return cmd
}

func (a *app) logs(f logsFlags, selectors []string) error {
	q, err := f.query(time.Now())
	if err != nil {
		return fail(exitUsage, err)
	}
	root, err := a.logsRoot(f.file)
	if err != nil {
		return err
	}
	form := linesText
	switch {
	case f.asJSON:
		form = linesJSON
	case f.raw:
		form = linesRaw
	}
	l := &logReader{
		app: a, root: root, flags: f, query: q, selectors: selectors,
		runs: map[string]logfile.Run{}, print: a.newLinePrinter(a.stdout, form),
	}
	l.print.stamps = f.stamps
	l.merger = logfile.NewMerger(q, l.report)
	defer l.merger.Close()
	return l.show()
}

// query turns the flags into what is asked of the files.
func (f *logsFlags) query(now time.Time) (q logfile.Query, err error) {
	if f.stream != "" && f.stream != logfile.Stdout && f.stream != logfile.Stderr {
		return q, fmt.Errorf("--stream %q is none of stdout, stderr", f.stream)
	}
	q.Tail = f.last
	if f.follow && f.last < 0 && f.since == "" {
		q.Tail = 10
	}
	if q.Since, err = moment("--since", f.since, now); err != nil {
		return q, err
	}
	if q.Until, err = moment("--until", f.until, now); err != nil {
		return q, err
	}
	if f.since != "" && f.until != "" && !q.Since.Before(q.Until) {
		return q, fmt.Errorf("--until %q is not after --since %q: no line can be between them", f.until, f.since)
	}
	return q, nil
}

// moment parses a time as people write it; "" is no time.
func moment(flag, text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if d, err := units.Duration(strings.TrimSuffix(text, " ago")); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return t, nil
	}
	for _, form := range []string{"2006-01-02 15:04:05", "2006-01-02T15:04:05", "2006-01-02 15:04", "2006-01-02T15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(form, text, now.Location()); err == nil {
			return t, nil
		}
	}
	for _, form := range []string{"15:04:05", "15:04"} {
		if t, err := time.Parse(form, text); err == nil {
			return time.Date(now.Year(), now.Month(), now.Day(), t.Hour(), t.Minute(), t.Second(), 0, now.Location()), nil
		}
	}
	return time.Time{}, fmt.Errorf(`%s %q is no time: write one such as 10m, 14:05, 2026-11-29, "2026-11-29 14:05:30" or 2026-11-29T14:05:30Z`, flag, text)
}

// logsRoot is the directory of all runs' output.
func (a *app) logsRoot(config string) (string, error) {
	if config != "" && a.stateDir == "" {
		cfg, err := (&sourceFlags{file: config}).load()
		if err != nil {
			return "", err
		}
		a.stateDir = cfg.StateDir
	}
	state, err := a.stateRoot()
	return filepath.Join(state, "logs"), err
}

// wantedRuns chooses among the runs that there are.
func wantedRuns(all []logfile.Run, which string) []logfile.Run {
	if which == "" {
		live := slices.DeleteFunc(slices.Clone(all), func(r logfile.Run) bool { return !r.Live })
		if len(live) == 0 && len(all) > 0 {
			return all[len(all)-1:]
		}
		return live
	}
	return slices.DeleteFunc(slices.Clone(all), func(r logfile.Run) bool { return !isRun(r, which) })
}

func isRun(r logfile.Run, which string) bool {
	return which == "" || which == "all" || isMeant(which, r.ID, r.Name)
}

// selected says whether a worker is asked for; slot -1 asks for any of the pool.
func selected(selectors []string, pool string, slot int) bool {
	if len(selectors) == 0 {
		return true
	}
	for _, sel := range selectors {
		poolSel, slotSel, isWorker := strings.Cut(sel, "/")
		if ok, _ := path.Match(poolSel, pool); !ok {
			continue
		}
		if !isWorker || slot < 0 {
			return true
		}
		if ok, _ := path.Match(slotSel, fmt.Sprint(slot)); ok {
			return true
		}
	}
	return false
}

// checkSelectors refuses what can never fit.
func checkSelectors(selectors []string) error {
	for _, sel := range selectors {
		if _, err := path.Match(sel, ""); err != nil || strings.Count(sel, "/") > 1 || sel == "" {
			return fmt.Errorf("selector %q is not POOL or POOL/SLOT, or a pattern of one", sel)
		}
	}
	return nil
}

// completeWorkers completes selectors from the files of the runs.
func (a *app) completeWorkers(_ *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	var names []string
	root, err := a.logsRoot("")
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	all, _ := logfile.Runs(root)
	for _, r := range wantedRuns(all, "") {
		pools, _ := r.Pools()
		for _, pool := range pools {
			names = append(names, pool)
			streams, _ := r.Streams(pool)
			for _, s := range streams {
				names = append(names, fmt.Sprintf("%s/%d", pool, s.Slot))
			}
		}
	}
	return slices.Compact(names), cobra.ShellCompDirectiveNoFileComp
}

// completeRuns completes --run.
func (a *app) completeRuns(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	names := []string{"all"}
	if root, err := a.logsRoot(""); err == nil {
		all, _ := logfile.Runs(root)
		for _, r := range all {
			names = append(names, r.ID+"\t"+r.Name)
			if r.Name != "" && !slices.Contains(names, r.Name) {
				names = append(names, r.Name)
			}
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// errNoOutput says that there is nothing to show.
var errNoOutput = errors.New("no output")
