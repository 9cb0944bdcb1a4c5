package vm

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func rules(t *testing.T, text string) (*Rules, error) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "skips")
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return ReadRules(name)
}

func TestRulesAllowSkipsByKernelAndReason(t *testing.T) {
	rs, err := rules(t, "# comment\n\n<6.9\tneeds pidfs\nall  needs (bash|zsh)\n>=6.12 new .*\n")
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		release, reason string
		allowed         bool
	}{
		{"5.10.0-32-cloud-amd64", "needs pidfs", true},
		{"6.8.12", "needs pidfs", true},
		{"6.9", "needs pidfs", false},
		{"7.3.4+deb13-cloud-amd64", "needs pidfs", false},
		{"6.1", "it needs pidfs", false},
		{"6.1", "needs pidfs!", false},
		{"7.3", "needs zsh", true},
		{"6.1", "new thing", false},
		{"6.12.117+deb13", "new thing", true},
		{"7.0", "new thing", true},
		{"7.0", "something else", false},
		{"strange", "needs bash", false},
	}
	for _, test := range tests {
		skips := []Skip{{"TestX", test.reason}}
		if got := len(rs.unexplained(skips, test.release)) == 0; got != test.allowed {
			t.Errorf("on %s %q: allowed = %v, want %v", test.release, test.reason, got, test.allowed)
		}
	}
}

func TestWrongRulesAreNamedWithTheirLine(t *testing.T) {
	for text, want := range map[string]string{
		"all x\nneeds":   `skips:2: "needs" is not kernels and a reason`,
		"6.1 needs root": `skips:1: kernels "6.1": want all, <6.9 or >=6.9`,
		"<new x":         `skips:1: read the kernel version "new": `,
		"all (":          "skips:1: error parsing regexp",
	} {
		_, err := rules(t, text)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ReadRules(%q) = %v, want %s", text, err, want)
		}
	}
}

func TestWhatAKernelMustHave(t *testing.T) {
	all := map[string]bool{}
	for name := range since() {
		all[name] = true
	}
	old := map[string]bool{"cgroup.kill": false, "pidfs": false, "memory.max": true}
	for name, from := range since() {
		if old[name] = old[name] || !(version{5, 10}).before(from); name == "cpu.max" {
			old[name] = false
		}
	}
	tests := []struct {
		release  string
		features map[string]bool
		want     []string
	}{
		{"7.3.4+deb13-cloud-amd64", all, nil},
		{"5.10.0-32-cloud-amd64", all, nil}, // backports are no fault
		{"5.10.0-32-cloud-amd64", old, []string{"cpu.max (there since 4.15)"}},
		{"6.1", old, []string{
			"cgroup.kill (there since 5.14)", "cgroup.pressure (there since 6.1)", "cpu.max (there since 4.15)",
			"memory.peak (there since 5.19)", "memory.reclaim (there since 5.19)", "pids.peak (there since 6.1)",
		}},
	}
	for _, test := range tests {
		got, err := lacking(&Guest{Release: test.release, Features: test.features}, nil)
		if !slices.Equal(got, test.want) || err != nil {
			t.Errorf("lacking of %s = %q, %v, want %q", test.release, got, err, test.want)
		}
	}
}

func TestTiers(t *testing.T) {
	f := map[string]bool{}
	for _, step := range []struct{ feature, tier string }{
		{"", "E"}, {"clone into cgroup", "D"}, {"cgroup.kill", "C"}, {"pidfs", "B"}, {"pidfd file handle", "B"}, {"PIDFD_INFO_EXIT", "A"},
	} {
		f[step.feature] = true
		if got := (&Guest{Features: f}).tier(); got != step.tier {
			t.Errorf("with %q: tier = %s, want %s", step.feature, got, step.tier)
		}
	}
}

func TestOutcomeOfAProgram(t *testing.T) {
	passing := "\x16=== RUN   TestA\n\x16--- PASS: TestA (0.00s)\nPASS\n"
	skipping := "\x16=== RUN   TestA\n    x_test.go:1: no reason\n\x16--- SKIP: TestA (0.00s)\nPASS\n"
	tests := []struct {
		name, output string
		exit         Exit
		err, why     string
	}{
		{"passed", passing, Exit{}, "", ""},
		{"failed after its tests", passing + "left behind\n", Exit{Code: 1}, "", "exit code 1"},
		{"killed", passing, Exit{Code: -1, Signal: "SIGKILL"}, "", "ended by SIGKILL"},
		{"late", passing, Exit{Code: 2, Late: true}, "", "took too long"},
		{"skipped", skipping, Exit{}, "", "1 skips that must not be"},
		{"cannot be cleaned up", passing, Exit{}, "cannot be killed: 7 (x, D)", "cannot be killed: 7 (x, D)"},
	}
	for _, test := range tests {
		var o Outcome
		var said Tests
		_, _ = said.Write([]byte(test.output)) // never fails
		o.finish(Event{Exit: &test.exit, Err: test.err}, &said, &tail{}, &Rules{}, "6.1")
		if o.Why != test.why || o.OK != (test.why == "") {
			t.Errorf("%s: OK = %v, Why = %q, want %q", test.name, o.OK, o.Why, test.why)
		}
	}
}

// Nothing may be missing from a report that says ok.
func TestReportIsOKOnlyWhenAllIs(t *testing.T) {
	good := Outcome{Name: "x", OK: true}
	for name, r := range map[string]Report{
		"guest failed":   {Programs: []Outcome{good}, Error: "x"},
		"feature lacks":  {Programs: []Outcome{good}, Lacking: []string{"x"}},
		"program failed": {Programs: []Outcome{good, {Name: "y"}}},
	} {
		if r.OK() {
			t.Errorf("%s: OK() = true", name)
		}
	}
	if r := (Report{Programs: []Outcome{good}}); !r.OK() {
		t.Errorf("OK() = false of %+v", r)
	}
}

func TestConsoleKeepsItsEndAndTheComplaints(t *testing.T) {
	var c tail
	line := strings.Repeat("x", 100) + "\n"
	for range 3 * 2 * mostTail / len(line) {
		_, _ = c.Write([]byte(line)) // never fails
	}
	_, _ = c.Write([]byte("[ 1.0] WARN")) // never fails
	_, _ = c.Write([]byte("ING: CPU: 0 PID: 7 at kernel/x.c\r\nthe end\n"))
	if got := c.String(); len(got) > 3*mostTail || !strings.HasSuffix(got, "the end\n") {
		t.Errorf("kept %d bytes, ending with %q", len(got), got[len(got)-10:])
	}
	if got, want := c.found(), []string{"[ 1.0] WARNING: CPU: 0 PID: 7 at kernel/x.c"}; !slices.Equal(got, want) {
		t.Errorf("complaints = %q, want %q", got, want)
	}
}
