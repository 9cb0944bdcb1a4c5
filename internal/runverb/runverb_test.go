package runverb

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/internal/exit"
	"github.com/pitvisor/pitvisor/internal/leftover"
	"github.com/pitvisor/pitvisor/internal/oneshot"
	"github.com/pitvisor/pitvisor/internal/report"
	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/spawn"
)

func TestMain(m *testing.M) { linuxtest.Main(m) }

// parse parses a command line of pitvisor run.
func parse(t testing.TB, args ...string) (*Flags, []string) {
	t.Helper()
	var f Flags
	set := pflag.NewFlagSet("run", pflag.ContinueOnError)
	set.SetOutput(io.Discard)
	f.Define(set)
	if err := set.Parse(args); err != nil {
		t.Fatal(err)
	}
	return &f, set.Args()
}

// The short way around the flags must mean what the flags mean.
func TestNoneIsLikeNoFlags(t *testing.T) {
	noTwins(t)
	for _, test := range []struct {
		args []string
		ok   bool
	}{
		{[]string{"--", "make", "test"}, true},
		{[]string{"make", "-j4"}, true},
		{[]string{"--", "--odd-name"}, true},
		{[]string{"--"}, true},
		{[]string{"--quiet", "--", "make"}, false},
		{[]string{"-q", "make"}, false},
		{[]string{"-", "make"}, false},
		{nil, false},
	} {
		command, ok := None(test.args)
		if ok != test.ok {
			t.Errorf("None(%q) = %v, want %v", test.args, ok, test.ok)
		}
		if !ok {
			continue
		}
		f, want := parse(t, test.args...)
		if !slices.Equal(command, want) {
			t.Errorf("None(%q) = %q, want %q", test.args, command, want)
		}
		got := Default()
		got.set, got.own = f.set, f.own
		if gotText, wantText := got.text(), f.text(); gotText != wantText {
			t.Errorf("Default() = %s, want what no flags give: %s", gotText, wantText)
		}
	}
	t.Setenv("PITVISOR_TIMEOUT", "1s")
	if _, ok := None([]string{"make"}); ok {
		t.Error("None is true with a flag in the environment, want false")
	}
}

// noTwins takes flags out of the environment for one test.
func noTwins(t testing.TB) {
	t.Helper()
	for _, v := range os.Environ() {
		name, value, _ := strings.Cut(v, "=")
		if !strings.HasPrefix(name, twinPrefix) {
			continue
		}
		if err := os.Unsetenv(name); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.Setenv(name, value) }) // it was just so
	}
}

// text shows the flags that have a value.
func (f *Flags) text() string {
	f.Color = ""
	out := ""
	set := pflag.NewFlagSet("run", pflag.ContinueOnError)
	copied := *f
	f.Define(set)
	*f = copied
	set.VisitAll(func(flag *pflag.Flag) { out += flag.Name + "=" + flag.Value.String() + " " })
	return out
}

func TestEnvironment(t *testing.T) {
	file := filepath.Join(t.TempDir(), "vars")
	if err := os.WriteFile(file, []byte("A=file\nB='two words'\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv("KEPT", "kept")
	own := []string{"A=own", "Z=own", "PITVISOR_TIMEOUT=5s", "PITVISOR_CGROUP_ROOT=/x", "PITVISOR_RUN_ID=outer"}
	for _, test := range []struct {
		args, want []string
	}{
		{nil, []string{"A=own", "Z=own", "PITVISOR_CGROUP_ROOT=/x", "PITVISOR_RUN_ID=outer"}},
		{[]string{"--env", "A=flag"}, []string{"A=flag", "Z=own", "PITVISOR_CGROUP_ROOT=/x", "PITVISOR_RUN_ID=outer"}},
		{[]string{"--clear-env", "--env-file", file, "--env", "B=flag"}, []string{"A=file", "B=flag"}},
		{[]string{"--clear-env", "--env", "KEPT", "--env", "GONE"}, []string{"KEPT=kept"}},
		{[]string{"--clear-env", "--env", "EMPTY="}, []string{"EMPTY="}},
	} {
		f, _ := parse(t, test.args...)
		got, err := f.environment(f.withoutTwins(slices.Clone(own)))
		if err != nil || !slices.Equal(got, test.want) {
			t.Errorf("environment(%q) = %q, %v, want %q", test.args, got, err, test.want)
		}
	}
	f, _ := parse(t, "--env", "=x")
	if got, err := f.environment(nil); err == nil {
		t.Errorf("environment(--env =x) = %q, want an error", got)
	}
}

// TestExitCodes: what the command, its run and pitvisor did, as one number.
func TestExitCodes(t *testing.T) {
	left := leftover.Found{Total: 1}
	for _, test := range []struct {
		name    string
		out     Outcome
		flags   Flags
		want    int
		outcome report.Outcome
	}{
		{"success", Outcome{Result: &oneshot.Result{}}, Flags{}, 0, report.Exited},
		{"code", Outcome{Result: &oneshot.Result{Exit: spawn.Exit{Code: 7}}}, Flags{}, 7, report.Exited},
		{"signal", Outcome{Result: &oneshot.Result{Exit: spawn.Exit{Code: -1, Signal: unix.SIGKILL}}}, Flags{}, 137, report.Signalled},
		{"time limit", Outcome{Result: &oneshot.Result{Cause: oneshot.CauseTimeout, Exit: spawn.Exit{Code: -1, Signal: unix.SIGTERM}}}, Flags{}, 124, report.TimedOut},
		{"lifeline", Outcome{Result: &oneshot.Result{Cause: oneshot.CauseLifeline, Exit: spawn.Exit{Code: 3}}}, Flags{}, 3, report.Lifeline},
		{"leftovers", Outcome{Result: &oneshot.Result{Left: left}}, Flags{}, 0, report.Exited},
		{"leftovers that count", Outcome{Result: &oneshot.Result{Left: left}}, Flags{FailOnLeak: true}, 123, report.Exited},
		{"leftovers of a failure", Outcome{Result: &oneshot.Result{Left: left, Exit: spawn.Exit{Code: 5}}}, Flags{FailOnLeak: true}, 5, report.Exited},
		{"blocked", Outcome{Result: &oneshot.Result{Blocked: &cgroup.BlockedError{}}}, Flags{}, 125, report.Exited},
		{"not found", Outcome{Result: &oneshot.Result{}, Err: &spawn.Error{Cause: spawn.CauseNotFound}}, Flags{}, 127, report.NotStarted},
		{"not executable", Outcome{Result: &oneshot.Result{}, Err: &spawn.Error{Cause: spawn.CauseBadFormat}}, Flags{}, 126, report.NotStarted},
		{"no directory", Outcome{Result: &oneshot.Result{}, Err: &spawn.Error{Cause: spawn.CauseBadDir}}, Flags{}, 125, report.NotStarted},
		{"own failure", Outcome{Result: &oneshot.Result{PID: 7}, Err: errors.New("no space")}, Flags{}, 125, report.Failed},
		{"coded failure", Outcome{Result: &oneshot.Result{}, Err: exit.Fail(exit.Usage, errors.New("nonsense"))}, Flags{}, 2, report.NotStarted},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := test.flags.code(&test.out); got != test.want {
				t.Errorf("code = %d, want %d", got, test.want)
			}
			if got := test.out.outcome(); got != test.outcome {
				t.Errorf("outcome = %s, want %s", got, test.outcome)
			}
		})
	}
}

func TestLabelsOfCIMachines(t *testing.T) {
	for _, name := range []string{"GITHUB_RUN_ID", "CI_JOB_ID", "BUILDKITE_JOB_ID", "BUILD_TAG"} {
		t.Setenv(name, "")
	}
	t.Setenv("CI_JOB_ID", "99")
	f, _ := parse(t, "--label", "team=core", "--label", "note=a=b")
	got, err := f.labels()
	if err != nil || len(got) != 3 || got["ci_job_id"] != "99" || got["team"] != "core" || got["note"] != "a=b" {
		t.Errorf("labels = %v, %v, want those of the job and the two given", got, err)
	}
}
