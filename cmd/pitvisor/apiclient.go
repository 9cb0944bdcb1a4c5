package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/api"
	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/internal/exit"
	"github.com/pitvisor/pitvisor/registry"
)

// The exit codes of the verbs that ask a supervisor.
const (
	exitNotRunning = 3
	exitUnknown    = 4
)

const askExits = `
Exit codes:
    0   done
    1   not done, or not for every worker (stderr says why)
    2   wrong flags or arguments, or no such worker
    3   no supervisor runs
    4   the supervisor cannot be asked: not permitted, or it does not answer
  124   it was not done in time
  125   pitvisor itself could not work`

// target says which supervisor a verb is about.
type target struct {
	app       *app
	socket    string
	run       string
	tokenFile string
}

// askCommand adds to a verb the flags that say whom to ask, and the completion of
// live names.
func (a *app) askCommand(cmd *cobra.Command, complete bool) *target {
	t := &target{app: a}
	flags := cmd.Flags()
	flags.StringVar(&t.socket, "socket", "", "ask here: path of a unix socket, or http://ADDRESS:PORT (default: found by way of the cgroup tree)")
	flags.StringVar(&t.run, "run", "", "ask the supervisor of this run: its ID, the beginning or end of that, or the name of its configuration")
	flags.StringVar(&t.tokenFile, "token-file", "", "file with the token, for http")
	_ = cmd.RegisterFlagCompletionFunc("run", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		var names []string
		runs, _, _ := a.livingRuns() // what goes wrong completes nothing
		for _, run := range runs {
			names = append(names, run.Name, run.ID.String()+"\t"+run.Name)
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}) // the flag exists
	if complete {
		cmd.ValidArgsFunction = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return t.liveNames(), cobra.ShellCompDirectiveNoFileComp
		}
	}
	return t
}

// completeTime bounds what a person who presses the tab key waits for.
const completeTime = time.Second

// liveNames are pools and workers, for completion. What goes wrong completes nothing.
func (t *target) liveNames() []string {
	ctx, cancel := context.WithTimeout(context.Background(), completeTime)
	defer cancel()
	c, err := t.client()
	if err != nil {
		return nil
	}
	defer c.Close()
	status, err := c.Status(ctx)
	if err != nil {
		return nil
	}
	var names []string
	for i := range status.Pools {
		names = append(names, status.Pools[i].Name)
	}
	for i := range status.Workers {
		w := &status.Workers[i]
		names = append(names, w.Worker+"\t"+string(w.State))
	}
	return names
}

// ask calls f with a client and a context that INT and TERM end.
func (t *target) ask(f func(context.Context, *api.Client) error) error {
	c, err := t.client()
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	return askError(whyBroken(ctx, c, f(ctx, c)))
}

// whyBroken finds out whether a call has had no answer because the supervisor was killed:
// then nobody listens any more. While it goes it may let go of another caller.
func whyBroken(ctx context.Context, c *api.Client, err error) error {
	again := err
	for range 3 {
		if !brokenOff(again) {
			break
		}
		_, again = c.Whoami(ctx)
	}
	if nobodyListens(again) {
		return again
	}
	return err
}

// brokenOff says that a connection ended before the answer.
func brokenOff(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

func nobodyListens(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)
}

// client finds the supervisor.
func (t *target) client() (*api.Client, error) {
	address := t.socket
	switch {
	case t.run == "" || address == "":
	case !fromTwin("SOCKET", t.socket):
		if !fromTwin("RUN", t.run) {
			return nil, fail(exitUsage, errors.New("--run and --socket both say which supervisor is meant: leave one of them out"))
		}
	case !fromTwin("RUN", t.run):
		address = "" // a worker asks another supervisor than its own
	}
	if address == "" {
		run, err := t.find()
		if err != nil {
			return nil, err
		}
		address = run.Socket
	}
	c := api.NewClient(address)
	if t.tokenFile != "" {
		if !strings.HasPrefix(address, "http") {
			return nil, fail(exitUsage, errors.New("--token-file has no meaning for a unix socket: the kernel says who calls"))
		}
		token, err := readToken(t.tokenFile)
		if err != nil {
			return nil, err
		}
		c.Token = token
	}
	return c, nil
}

// fromTwin says that a flag has its value from the environment.
func fromTwin(name, value string) bool { return os.Getenv("PITVISOR_"+name) == value }

// find looks through the cgroup tree for the one run that is meant.
func (t *target) find() (*registry.RunView, error) {
	var asked, silent []registry.RunView
	runs, looked, lookErr := t.app.livingRuns()
	for _, run := range runs {
		switch {
		case t.run != "" && !isMeant(t.run, run.ID.String(), run.Name):
		case run.Socket == "":
			silent = append(silent, run)
		default:
			asked = append(asked, run)
		}
	}
	switch {
	case len(asked) == 1:
		return &asked[0], nil
	case len(asked) > 1:
		var names []string
		for _, run := range asked {
			names = append(names, fmt.Sprintf("%s (%s)", run.ID, run.Name))
		}
		return nil, failHint(exitUsage, fmt.Errorf("%d supervisors run: %s", len(asked), strings.Join(names, ", ")), "say which with --run or --socket")
	case t.run != "" && len(silent) > 0:
		return nil, failHint(exitUnknown, fmt.Errorf("run %s cannot be asked: it is no `pitvisor up`, or its configuration says socket = \"none\"", t.run), "pitvisor ps shows it")
	case lookErr != nil:
		return nil, fail(exitUnknown, fmt.Errorf("look for a supervisor: %w", lookErr))
	case t.run != "":
		return nil, failHint(exitNotRunning, fmt.Errorf("no supervisor runs as %q below %s", t.run, looked), "pitvisor ps shows what runs")
	}
	return nil, failHint(exitNotRunning, fmt.Errorf("no supervisor runs below %s", looked), "start one with pitvisor up; or name its socket with --socket, or where it runs with --cgroup-root")
}

// isMeant says whether a run is the one that a person names: by its configuration, or by its
// ID as ps, history or status print it, whole or in part.
func isMeant(which, id, name string) bool {
	part := strings.TrimPrefix(which, "run-")
	return which == name || len(part) >= 4 && (strings.HasPrefix(id, part) || strings.HasSuffix(id, part))
}

// livingRuns are the runs whose owner lives, of all places that can be seen; looked names
// these. It is an error if that is none.
func (a *app) livingRuns() (found []registry.RunView, looked string, err error) {
	var seen []string
	add := func(p places) {
		defer p.close()
		runs, listErr := p.list(context.Background())
		if listErr != nil {
			err = errors.Join(err, listErr)
			return
		}
		seen = append(seen, p.String())
		for _, run := range runs {
			known := slices.ContainsFunc(found, func(r registry.RunView) bool { return r.ID == run.ID })
			if run.State == registry.RunRunning && run.Kind == "up" && !known {
				found = append(found, run)
			}
		}
	}
	all, placesErr := a.places()
	if placesErr == nil {
		add(all)
	}
	if len(found) == 0 && (placesErr != nil || a.cgroupRoot == "") {
		for _, reg := range a.othersPlaces() {
			add(places{reg})
		}
	}
	if len(seen) > 0 {
		return found, strings.Join(slices.Compact(seen), ", "), nil // what cannot be seen cannot be asked
	}
	if placesErr != nil {
		err = placesErr
	}
	return found, "", err
}

// othersPlaces are those where others keep their runs: to look into them nobody has to own
// them. The caller closes them.
func (a *app) othersPlaces() places {
	dirs := publicRoots()
	if a.cgroupRoot != "" {
		dirs = []string{a.cgroupRoot}
	}
	var all places
	for _, dir := range dirs {
		if d, err := cgroup.Open(dir); err == nil {
			all = append(all, registry.New(d))
		}
	}
	return all
}

// publicRoots are where root's supervisors keep their runs, for others to see.
func publicRoots() []string {
	mount, err := cgroup.FindMount()
	if err != nil {
		return nil
	}
	dirs := []string{filepath.Join(mount.Path, "pitvisor")}
	for _, pattern := range []string{"system.slice/pitvisor.service", "system.slice/system-pitvisor.slice/pitvisor@*.service"} {
		for _, leaf := range []string{"", "supervisor"} { // ProtectControlGroups=private: see userscope.Find
			more, _ := filepath.Glob(filepath.Join(mount.Path, pattern, leaf)) // the pattern is a good one
			dirs = append(dirs, more...)
		}
	}
	return dirs
}

// askError gives what went wrong the exit code it means.
func askError(err error) error {
	var coded *exit.Error
	var remote *api.Error
	switch {
	case err == nil, errors.As(err, &coded):
		return err
	case errors.As(err, &remote):
		return fail(codeOf(remote), err)
	case errors.Is(err, context.DeadlineExceeded):
		return fail(exit.TimedOut, errors.New("not done in time"))
	case errors.Is(err, context.Canceled):
		return fail(exitFailed, errors.New("interrupted"))
	case errors.Is(err, api.ErrEnded):
		return fail(exitNotRunning, err)
	case nobodyListens(err):
		return failHint(exitNotRunning, err, "no supervisor runs there; start one with pitvisor up")
	}
	return fail(exitUnknown, err)
}

func codeOf(e *api.Error) int {
	switch e.Code {
	case api.CodeBadRequest, api.CodeNotFound:
		return exitUsage
	case api.CodeForbidden, api.CodeToken:
		return exitUnknown
	case api.CodeTimeout:
		return exit.TimedOut
	case api.CodeOtherRun:
		return exitNotRunning
	}
	return exitFailed
}

// stateStyle colours a state: green is well, yellow is on its way, red needs a person.
func stateStyle(state api.State, ready bool) style {
	switch state {
	case api.StateUp:
		if ready {
			return styleGreen
		}
		return styleYellow
	case api.StateFailed:
		return styleRed
	case api.StateStarting, api.StateStopping, api.StateKilling, api.StateBackoff:
		return styleYellow
	case api.StateDown, api.StateCompleted:
	}
	return styleDim
}

// clean makes text of workers safe for a terminal.
func clean(text string) string { return string(printable([]byte(text))) }

// numberOr is a number, or a dash for none.
func numberOr(n int) string {
	if n == 0 {
		return "-"
	}
	return fmt.Sprint(n)
}
