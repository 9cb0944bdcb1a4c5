package ci_test

import (
	"encoding/xml"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/pidfd"
)

// TestJobs runs the same jobs on all CI systems.
func TestJobs(t *testing.T) {
	linuxtest.NeedRoot(t)
	bin := installed(t)
	for _, s := range systems() {
		t.Run(s.name, func(t *testing.T) {
			t.Run("cancelled", func(t *testing.T) { testCancelled(t, s, newMachine(t, bin)) })
			t.Run("killed", func(t *testing.T) { testKilled(t, s, newMachine(t, bin)) })
			t.Run("swept before", func(t *testing.T) { testSweptBefore(t, s, newMachine(t, bin)) })
			t.Run("leaky", func(t *testing.T) { testLeaky(t, s, newMachine(t, bin)) })
			t.Run("clean", func(t *testing.T) { testClean(t, s, newMachine(t, bin)) })
			t.Run("failed", func(t *testing.T) { testFailed(t, s, newMachine(t, bin)) })
			t.Run("other user", func(t *testing.T) { testOtherUser(t, s, newMachine(t, bin)) })
			t.Run("without pitvisor", func(t *testing.T) { testMissing(t, s, newMachine(t, bin)) })
		})
	}
	t.Run("commands of buildkite", func(t *testing.T) { testBuildkiteCommands(t, bin) })
}

// canary is somebody else's process on the machine, in a session and cgroup of its own.
func canary(t *testing.T) *linuxtest.Process {
	t.Helper()
	return linuxtest.Bystander(t, linuxtest.Command{Args: []string{"/bin/sleep", "1000"}, Cgroup: linuxtest.Cgroup(t)})
}

// testCancelled cancels a job that keeps forking into sessions of its own. When the CI
// system sees the end of the job, its cgroup has been empty and is removed.
func testCancelled(t *testing.T, s system, m *machine) {
	stranger := canary(t)
	if code := s.before(t, m); code != 0 {
		t.Fatalf("before the job: exit code %d, want 0", code)
	}
	j := m.start(t, s.argv(t, m, linuxtest.Helper(t, "fork-chain", "2"))...)
	s.cancel(t, m, j)
	code, said := j.end(t)
	m.empty(t)
	if code != 128+int(unix.SIGTERM) || !strings.Contains(said, "left behind by the command and killed") {
		t.Errorf("cancelled job: exit code %d, said %q, want 143 and what was left", code, said)
	}
	leaks := readCases(t, s.junit(t, m))
	if leaks["leaks"] == "" || leaks["removed"] != "" {
		t.Errorf("JUnit cases that failed = %q, want leaks and not removed", leaks)
	}
	if code, said := s.after(t, m); code != 0 || strings.Contains(said, "swept") {
		t.Errorf("after the job: exit code %d, said %q, want 0 and nothing swept", code, said)
	}
	linuxtest.SurvivesAs(t, stranger)
}

// testKilled kills pitvisor and its guardian while the job forks, as a runner does that
// kills the tree of a job. What comes after the job sweeps, or what comes before the next.
func testKilled(t *testing.T, s system, m *machine) {
	stranger := canary(t)
	s.before(t, m)
	stale(t, m)
	code, said := s.after(t, m)
	if s.name == "jenkins" { // there is nothing after a job on the machine
		code, said, _ = m.run(t, s.argv(t, m, linuxtest.Helper(t, "print", "done"))...)
	}
	m.empty(t)
	if code != 0 || !strings.Contains(said, ": swept, ") {
		t.Errorf("after the job: exit code %d, said %q, want 0 and what was swept", code, said)
	}
	linuxtest.SurvivesAs(t, stranger)
}

// testSweptBefore begins a job on a machine where an earlier one was killed.
func testSweptBefore(t *testing.T, s system, m *machine) {
	stale(t, m)
	s.before(t, m)
	if s.name != "jenkins" { // its sweep is in the step, as testKilled shows
		m.empty(t)
		return
	}
	code, _, _ := m.run(t, s.argv(t, m, linuxtest.Helper(t, "print", "done"))...)
	if m.empty(t); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}

// stale leaves a run that nobody owns and that keeps forking.
func stale(t *testing.T, m *machine) {
	t.Helper()
	j := m.start(t, append([]string{strings.Split(m.env["PATH"], ":")[0] + "/pitvisor", "run", "-q", "--"}, linuxtest.Helper(t, "fork-chain", "1")...)...)
	if !killGuardian(t, j.PID()) {
		t.Fatal("the run has no guardian")
	}
	j.Kill(t)
	linuxtest.Wait(t, patience, func() (bool, string) {
		return len(m.glob(t, m.root, "run-*")) == 1 && len(linuxtest.Members(m.root)) > 0, "no stale run was left"
	})
}

// killGuardian kills the guardian of a run: while it is held, its name and its parent
// say that it is.
func killGuardian(t *testing.T, run int) bool {
	t.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", run))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range threads {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // the thread has ended
		}
		for word := range strings.FieldsSeq(string(text)) {
			number, err := strconv.Atoi(word)
			if err != nil {
				t.Fatal(err)
			}
			p, err := pidfd.Open(number)
			if err != nil {
				continue
			}
			defer p.Close()
			comm, err := os.ReadFile("/proc/" + word + "/comm")
			if info, e := p.Info(); err == nil && e == nil && string(comm) == "pitvisor-guard\n" && info.PPID == run {
				return p.Signal(unix.SIGKILL) == nil
			}
		}
	}
	return false
}

// testLeaky: a job that succeeds and leaves a daemon fails, and the daemon is named
// where people look.
func testLeaky(t *testing.T, s system, m *machine) {
	daemon := linuxtest.Helper(t, "double-fork")
	named := strings.Join(daemon, " ") + " uid 0 age "
	s.before(t, m)
	code, out, said := m.runJob(t, s, daemon)
	m.empty(t)
	if code != 123 || !strings.Contains(said, named) {
		t.Errorf("exit code %d, said %q, want 123 and %q", code, said, named)
	}
	if text := readCases(t, s.junit(t, m))["leaks"]; !strings.Contains(text, named) {
		t.Errorf("JUnit case leaks = %q, want %q", text, named)
	}
	if json := readFile(t, strings.TrimSuffix(s.junit(t, m), "xml")+"json"); !strings.Contains(json, `"clean": false`) {
		t.Errorf("report:\n%s\nwant clean false", json)
	}
	after, shown := s.after(t, m)
	if after != 0 {
		t.Errorf("after the job: exit code %d, want 0", after)
	}
	section := "### pitvisor: the job was not clean\n\n```text\nleft behind by the command and killed: 1 process\n  "
	switch s.name {
	case "github":
		if want := "::warning title=left behind by build::"; !strings.Contains(out, want) {
			t.Errorf("annotations:\n%s\nwant %q", out, want)
		}
		if !strings.Contains(shown, section) || !strings.Contains(shown, named) {
			t.Errorf("summary:\n%s\nwant %q and %q", shown, section, named)
		}
		if outputs := readFile(t, m.env["GITHUB_OUTPUT"]); !strings.Contains(outputs, "clean=false\n") || !strings.Contains(outputs, "junit="+s.junit(t, m)+"\n") {
			t.Errorf("outputs:\n%s\nwant clean=false and the report", outputs)
		}
	case "buildkite":
		first := "buildkite-agent annotate --style warning --context pitvisor-0190-job\n[The job](#0190-job)\n\n" + section
		last := "```\nbuildkite-agent artifact upload pitvisor.*\npitvisor.json\npitvisor.xml\n"
		if !strings.HasPrefix(shown, first) || !strings.Contains(shown, named) || !strings.HasSuffix(shown, last) {
			t.Errorf("the agent was asked for:\n%s\nwant %q, %q, %q", shown, first, named, last)
		}
		if left := m.glob(t, m.temp, "pitvisor.*"); len(left) > 0 {
			t.Errorf("left in TMPDIR: %v", left)
		}
	}
}

// runJob runs a job without a runner that could cancel it.
func (m *machine) runJob(t *testing.T, s system, job []string) (code int, stdout, stderr string) {
	t.Helper()
	argv := s.argv(t, m, job)
	if strings.HasSuffix(argv[1], "runner.sh") {
		argv = argv[2:]
	}
	return m.run(t, argv...)
}

// testClean: nothing is said of a clean job. Its variables are its own: none is
// changed by a script, nor one of pitvisor's passed on that was for the script.
func testClean(t *testing.T, s system, m *machine) {
	s.before(t, m)
	ordinary := strings.Fields("name here directory reports options script file command temp title more shell code")
	for _, name := range ordinary {
		m.env[name] = "the job's own"
	}
	code, out, said := m.runJob(t, s, []string{"env"})
	if m.empty(t); code != 0 || strings.Contains(said, "pitvisor") && s.name != "jenkins" || strings.Contains(out, "::") {
		t.Errorf("exit code %d, stdout %q, stderr %q, want 0 and nothing of pitvisor's", code, out, said)
	}
	for _, name := range ordinary {
		if !strings.Contains("\n"+out, "\n"+name+"=the job's own\n") {
			t.Errorf("variable %s was changed for the job:\n%s", name, out)
		}
	}
	if strings.Contains(out, "PITVISOR_CI_RUN") {
		t.Errorf("the job sees its own script among its variables:\n%s", out)
	}
	if failed := readCases(t, s.junit(t, m)); len(failed) > 0 {
		t.Errorf("JUnit cases that failed = %q, want none", failed)
	}
	if code, shown := s.after(t, m); code != 0 || shown != "" {
		t.Errorf("after the job: exit code %d, said %q, want 0 and nothing", code, shown)
	}
	if s.name == "github" {
		if outputs := readFile(t, m.env["GITHUB_OUTPUT"]); !strings.Contains(outputs, "clean=true\n") {
			t.Errorf("outputs:\n%s\nwant clean=true", outputs)
		}
	}
}

func testFailed(t *testing.T, s system, m *machine) {
	s.before(t, m)
	code, _, _ := m.runJob(t, s, linuxtest.Helper(t, "exit", "7"))
	if m.empty(t); code != 7 {
		t.Errorf("exit code %d, want the job's own, 7", code)
	}
}

// testOtherUser: the options of pitvisor run can be given as variables.
func testOtherUser(t *testing.T, s system, m *machine) {
	s.before(t, m)
	m.env["PITVISOR_UID"] = "nobody"
	code, out, said := m.runJob(t, s, []string{"id", "-un"})
	if m.empty(t); code != 0 || !strings.HasSuffix(out, "nobody\n") {
		t.Errorf("exit code %d, printed %q, said %q, want 0 and nobody", code, out, said)
	}
}

// testMissing: a machine without pitvisor runs the job and says so, or refuses to where
// it is required.
func testMissing(t *testing.T, s system, m *machine) {
	m.env["PITVISOR_CI_PROGRAM"] = "no-such-pitvisor"
	if code := s.before(t, m); code != 0 {
		t.Errorf("before the job: exit code %d, want 0", code)
	}
	code, out, said := m.runJob(t, s, linuxtest.Helper(t, "print", "done"))
	if want := "there is no no-such-pitvisor: the job runs without it"; code != 0 || !strings.Contains(out, "done") || !strings.Contains(said, want) {
		t.Errorf("exit code %d, printed %q, said %q, want 0, done, %q", code, out, said, want)
	}
	if code, _ := s.after(t, m); code != 0 {
		t.Errorf("after the job: exit code %d, want 0", code)
	}
	m.env["PITVISOR_CI_REQUIRED"], m.inputs["required"] = "true", "true"
	if code := s.before(t, m); code != 125 && s.name != "jenkins" {
		t.Errorf("before a job that requires it: exit code %d, want 125", code)
	}
	if code, out, _ := m.runJob(t, s, linuxtest.Helper(t, "print", "done")); code != 125 || strings.Contains(out, "done") {
		t.Errorf("job that requires it: exit code %d, printed %q, want 125 and nothing", code, out)
	}
}

// readCases returns the cases of a JUnit report that did not pass, with what they say.
// The case exit is the job's business.
func readCases(t *testing.T, path string) map[string]string {
	t.Helper()
	type words struct {
		Message string `xml:"message,attr"`
		Text    string `xml:",chardata"`
	}
	var report struct {
		Cases []struct {
			Name    string  `xml:"name,attr"`
			Failure []words `xml:"failure"`
			Error   []words `xml:"error"`
		} `xml:"testsuite>testcase"`
	}
	if err := xml.Unmarshal([]byte(readFile(t, path)), &report); err != nil {
		t.Fatalf("JUnit report %s: %v", path, err)
	}
	if len(report.Cases) != 3 {
		t.Fatalf("JUnit report %s has %d cases, want 3", path, len(report.Cases))
	}
	failed := map[string]string{}
	for _, c := range report.Cases {
		for _, w := range append(c.Failure, c.Error...) {
			if c.Name != "exit" {
				failed[c.Name] = w.Message + "\n" + w.Text
			}
		}
	}
	return failed
}
