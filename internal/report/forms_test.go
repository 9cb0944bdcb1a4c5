package report

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/internal/leftover"
	"github.com/pitvisor/pitvisor/internal/sockdiag"
	"github.com/pitvisor/pitvisor/resource"
	"golang.org/x/sys/unix"
)

func TestForms(t *testing.T) {
	r := sample()
	golden(t, "text.txt", plainText(r))
	golden(t, "color.txt", func(w io.Writer) error { return r.WriteText(w, true) })
	golden(t, "stats.txt", plainStats(r))
	golden(t, "report.json", r.WriteJSON)
	golden(t, "junit.xml", r.WriteJUnit)
	golden(t, "github.txt", r.WriteGitHub)
}

func TestFormsOfACleanRun(t *testing.T) {
	r := clean()
	var said bytes.Buffer
	if err := r.WriteText(&said, true); err != nil || said.Len() > 0 {
		t.Errorf("WriteText of a clean run = %q, %v, want nothing", &said, err)
	}
	if err := r.WriteGitHub(&said); err != nil || said.Len() > 0 {
		t.Errorf("WriteGitHub of a clean run = %q, %v, want nothing", &said, err)
	}
	golden(t, "clean.json", r.WriteJSON)
	golden(t, "clean.xml", r.WriteJUnit)
	golden(t, "clean-stats.txt", plainStats(r))
}

func TestTimesAreUTC(t *testing.T) {
	j := &js{}
	j.time(time.Date(2026, 5, 4, 1, 30, 0, 0, time.FixedZone("", 2*60*60)))
	if got, want := string(j.b), `"2026-05-03T23:30:00Z"`; got != want {
		t.Errorf("time is %s, want %s", got, want)
	}
}

// What keeps a run from being clean is said, whatever it is.
func TestTextOfUncleanRuns(t *testing.T) {
	for _, c := range []struct {
		change func(*Report)
		want   string
	}{
		{func(r *Report) { r.Removed = false }, "pitvisor: not clean: the cgroup of run 01jthc3p4vx0t7v9k2n8m5q6rs is still there\n"},
		{func(r *Report) { r.Removed, r.RunID = false, "" }, ""},
		{func(r *Report) { r.Removed, r.Weak = false, true }, "pitvisor: weak: this ran without a cgroup, so what escaped is not known\n"},
		{func(r *Report) { r.Blocked = &cgroup.BlockedError{Path: "/x", Err: unix.EBUSY} }, "pitvisor: not clean: cgroup /x cannot be removed: device or resource busy\n"},
		{
			func(r *Report) {
				r.Blocked = &cgroup.BlockedError{Path: "/x", Total: 2, Err: unix.ETIMEDOUT, Blockers: []cgroup.Blocker{{PID: 1, Comm: "a\n", State: "D"}}}
			},
			"pitvisor: not clean: 2 processes left in cgroup /x: connection timed out\n  1 a\\n D\n  and 1 more process\n",
		},
		{func(r *Report) { r.Left.Total = 1 }, "pitvisor: left behind by the command and killed: 1 process\n  and 1 more process\n"},
	} {
		r := clean()
		c.change(r)
		var b bytes.Buffer
		if err := r.WriteText(&b, false); err != nil || b.String() != c.want {
			t.Errorf("WriteText = %q, %v, want %q", &b, err, c.want)
		}
	}
}

func TestManySocketsInALine(t *testing.T) {
	p := leftover.Process{Listening: make([]sockdiag.Socket, textSockets+3), ListeningLeftOut: 4}
	if got := sockets(p); strings.Count(got, ",") != textSockets || !strings.HasSuffix(got, ", 7 more") {
		t.Errorf("sockets = %q, want %d and 7 more", got, textSockets)
	}
}

func TestCleanIsProven(t *testing.T) {
	for name, spoil := range map[string]func(*Report){
		"leftovers":   func(r *Report) { r.Left.Total = 1 },
		"unlisted":    func(r *Report) { r.LeftErr = errors.New("x") },
		"blockers":    func(r *Report) { r.Blocked = sample().Blocked },
		"not removed": func(r *Report) { r.Removed = false },
		"weak":        func(r *Report) { r.Weak = true },
	} {
		r := clean()
		if !r.Clean() {
			t.Fatal("a clean run is not clean")
		}
		if spoil(r); r.Clean() {
			t.Errorf("%s: the run is said to be clean", name)
		}
	}
}

// A list that could not be made is no clean list.
func TestUnlistedIsSaid(t *testing.T) {
	r := clean()
	r.LeftErr = errors.New("list\nfailed")
	const want = `what the command left behind is not known, but killed: list\nfailed`
	for form, write := range map[string]func(io.Writer) error{
		"pitvisor: " + want + "\n":                             plainText(r),
		"::error title=not clean::" + want + "\n":              r.WriteGitHub,
		"    \"error\": \"list\\nfailed\",\n    \"processes\"": r.WriteJSON,
	} {
		var b bytes.Buffer
		if err := write(&b); err != nil || !strings.Contains(b.String(), form) {
			t.Errorf("%s, %v, want %q in it", &b, err, form)
		}
	}
}

// junitCases maps the cases of a JUnit file to their kinds and messages.
func junitCases(t *testing.T, r *Report) map[string]string {
	t.Helper()
	var b bytes.Buffer
	if err := r.WriteJUnit(&b); err != nil {
		t.Fatal(err)
	}
	type result struct {
		Message string `xml:"message,attr"`
	}
	var file struct {
		Suite struct {
			Tests    int `xml:"tests,attr"`
			Failures int `xml:"failures,attr"`
			Errors   int `xml:"errors,attr"`
			Skipped  int `xml:"skipped,attr"`
			Cases    []struct {
				Name    string  `xml:"name,attr"`
				Failure *result `xml:"failure"`
				Error   *result `xml:"error"`
				Skipped *result `xml:"skipped"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(b.Bytes(), &file); err != nil {
		t.Fatalf("%v in %s", err, &b)
	}
	cases, failures, errors, skipped := map[string]string{}, 0, 0, 0
	for _, c := range file.Suite.Cases {
		switch {
		case c.Failure != nil:
			failures++
			cases[c.Name] = "failure: " + c.Failure.Message
		case c.Error != nil:
			errors++
			cases[c.Name] = "error: " + c.Error.Message
		case c.Skipped != nil:
			skipped++
			cases[c.Name] = "skipped: " + c.Skipped.Message
		default:
			cases[c.Name] = "passed"
		}
	}
	if s := file.Suite; s.Tests != 3 || s.Failures != failures || s.Errors != errors || s.Skipped != skipped {
		t.Errorf("the suite counts %d tests, %d failures, %d errors, %d skipped, want 3, %d, %d, %d",
			s.Tests, s.Failures, s.Errors, s.Skipped, failures, errors, skipped)
	}
	return cases
}

func TestJUnitCases(t *testing.T) {
	for _, c := range []struct {
		change func(*Report)
		want   map[string]string
	}{
		{func(*Report) {}, nil},
		{func(r *Report) { r.ExitCode = pointer(3) }, map[string]string{"exit": "failure: exited: exit code 3"}},
		{func(r *Report) { r.ExitCode, r.Outcome, r.Signal, r.Core = nil, Signalled, "SIGSEGV", true }, map[string]string{"exit": "failure: signalled: SIGSEGV, core dumped"}},
		{func(r *Report) { r.Outcome = TimedOut }, map[string]string{"exit": "failure: timed-out: exit code 0"}},
		{func(r *Report) { r.ExitCode, r.Extra = pointer(1), []string{OOMKilled} }, map[string]string{"exit": "failure: exited: exit code 1 (oom)"}},
		{func(r *Report) { r.Outcome, r.RunID, r.Error = NotStarted, "", "no\nsuch \x1b file" }, map[string]string{"exit": "error: not-started: no\nsuch \\x1b file", "removed": "skipped: no run was made"}},
		{func(r *Report) { r.Left = sample().Left }, map[string]string{"leaks": "failure: left behind by the command and killed: 4 processes"}},
		{func(r *Report) { r.LeftErr = errors.New("no\x1b") }, map[string]string{"leaks": `error: what the command left behind is not known, but killed: no\x1b`}},
		{func(r *Report) { r.Removed = false }, map[string]string{"removed": "failure: the cgroup of the run is still there"}},
		{func(r *Report) { r.Blocked, r.Removed = sample().Blocked, false }, map[string]string{"removed": "failure: " + sample().Blocked.Error()}},
		{func(r *Report) { r.Weak, r.Removed = true, false }, map[string]string{"removed": "skipped: weak: this ran without a cgroup"}},
	} {
		r := clean()
		c.change(r)
		got := junitCases(t, r)
		for _, name := range []string{"exit", "leaks", "removed"} {
			want := c.want[name]
			if want == "" {
				want = "passed"
			}
			if got[name] != want {
				t.Errorf("case %s is %q, want %q", name, got[name], want)
			}
		}
	}
}

// However many processes a fork bomb leaves, a person gets one screen.
func TestManyLeftovers(t *testing.T) {
	r := clean()
	r.Left.Total = 5000
	for i := range leftover.MaxProcesses {
		r.Left.Processes = append(r.Left.Processes, leftover.Process{PID: i + 1, Args: []string{"sleep", "1"}})
	}
	for _, c := range []struct {
		write func(io.Writer) error
		lines int
		last  string
	}{
		{plainText(r), 1 + textProcesses + 1, "  and 4950 more processes"},
		{r.WriteGitHub, githubMost, "::warning title=left behind by true::and 4991 more processes"},
	} {
		var b bytes.Buffer
		if err := c.write(&b); err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
		if len(lines) != c.lines || lines[len(lines)-1] != c.last {
			t.Errorf("%d lines and at last %q, want %d and %q", len(lines), lines[len(lines)-1], c.lines, c.last)
		}
	}
	for n, want := range map[int]int{9: 9, 10: 10, 11: 10} {
		r.Left = leftover.Found{Total: n, Processes: r.Left.Processes[:n:n]}
		var b bytes.Buffer
		if err := r.WriteGitHub(&b); err != nil || strings.Count(b.String(), "\n") != want {
			t.Errorf("%d annotations of %d processes, %v, want %d", strings.Count(b.String(), "\n"), n, err, want)
		}
		r.Left.Processes = append(r.Left.Processes, make([]leftover.Process, 20)...)
	}
}

// What a receipt lacks is explained, and is not a number.
func TestUnavailableIsNeverZero(t *testing.T) {
	r := clean()
	r.Receipt = &Receipt{Unavailable: map[string]string{"memory_peak": "no memory controller: x"}}
	var b bytes.Buffer
	if err := r.WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	var file struct{ Receipt map[string]any }
	if err := json.Unmarshal(b.Bytes(), &file); err != nil {
		t.Fatal(err)
	}
	why, _ := file.Receipt["unavailable"].(map[string]any)
	if len(file.Receipt) != 1 || len(why) != len(r.Receipt.values()) {
		t.Errorf("the receipt is %v, want nothing but what is unavailable", file.Receipt)
	}
	if why["memory_peak"] != "no memory controller: x" || why["cpu_usage"] != "not measured" {
		t.Errorf("unavailable = %v", why)
	}
	b.Reset()
	if err := r.WriteStats(&b, false); err != nil || !strings.Contains(b.String(), "memory_peak: no memory controller: x\n") || strings.Contains(b.String(), " 0") && !strings.Contains(b.String(), "0.001 s") {
		t.Errorf("WriteStats = %s, %v", &b, err)
	}
}

// The receipt of package resource is converted field by field, and calls them by the
// same names.
func TestReceiptIsThatOfPackageResource(t *testing.T) {
	dir := testCgroup(t)
	measured, err := resource.ReadReceipt(dir)
	if err != nil {
		t.Fatal(err)
	}
	r := Receipt(measured)
	for _, v := range r.values() {
		if why := r.Unavailable[v.name]; v.known() == (why != "") {
			t.Errorf("%s is known: %v, and unavailable for %q", v.name, v.known(), why)
		}
		delete(r.Unavailable, v.name)
	}
	if len(r.Unavailable) > 0 {
		t.Errorf("these are no fields: %v", r.Unavailable)
	}
}

func TestAge(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0ms", 999 * time.Millisecond: "999ms", 3*time.Second + 900*time.Millisecond: "3s", 65 * time.Second: "1m5s",
		2*time.Hour + 59*time.Second: "2h0m", 49 * time.Hour: "2d1h",
	} {
		if got := age(d); got != want {
			t.Errorf("age(%v) = %s, want %s", d, got, want)
		}
	}
}

func TestSize(t *testing.T) {
	for n, want := range map[uint64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.00 KiB", 10 << 10: "10.0 KiB", 1000 << 10: "0.98 MiB", 5 << 20: "5.00 MiB",
		123 << 30: "123 GiB", 1 << 63: "8.00 EiB",
	} {
		if got := size(n); got != want {
			t.Errorf("size(%d) = %s, want %s", n, got, want)
		}
	}
}
