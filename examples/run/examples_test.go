// Package run_test runs the examples of pitvisor run as a user would: with the
// programs in PATH as they are installed.
package run_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/linuxtest"
)

func TestMain(m *testing.M) { linuxtest.Main(m) }

// patience bounds waits for things that take milliseconds, and a second where an
// interpreter starts: it is reached only when something is broken.
const patience = 30 * time.Second

// second is how long a run may outlive what it is tied to. In short runs other lanes keep
// the processor busy.
func second() time.Duration {
	if testing.Short() {
		return patience
	}
	return time.Second
}

// installed builds both programs into a directory, laid out as a package has them.
func installed(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	linuxtest.Build(t, "../../cmd/front", filepath.Join(dir, "bin", "pitvisor"))
	linuxtest.Build(t, "../../cmd/pitvisor", filepath.Join(dir, "libexec", "pitvisor", "pitvisor"))
	return filepath.Join(dir, "bin")
}

func TestExamples(t *testing.T) {
	linuxtest.NeedRoot(t)
	bin := installed(t)
	t.Run("parent.py", func(t *testing.T) { testParent(t, bin, "python3", "parent.py") })
	t.Run("parent.mjs", func(t *testing.T) { testParent(t, bin, "node", "parent.mjs") })
	t.Run("erlang_port.erl", func(t *testing.T) { testParent(t, bin, "escript", "erlang_port.erl") })
	t.Run("ci-job.sh", func(t *testing.T) { testCIJob(t, bin) })
	t.Run("slurm-step.sh", func(t *testing.T) { testSlurmStep(t, bin) })
	t.Run("crontab", func(t *testing.T) { testCrontab(t, bin) })
	t.Run("docs/run.md", func(t *testing.T) { testPage(t, bin) })
}

// place is where the runs of one example are made, and what its programs see.
type place struct {
	root string // cgroup
	dir  string // for files
	env  []string
}

func newPlace(t *testing.T, bin string) place {
	t.Helper()
	p := place{root: linuxtest.Cgroup(t), dir: t.TempDir()}
	p.env = slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "PATH=") || strings.HasPrefix(v, "PITVISOR_")
	})
	p.env = append(p.env, "PATH="+bin+":"+os.Getenv("PATH"), "PITVISOR_CGROUP_ROOT="+p.root, "REPORTS="+p.dir)
	return p
}

// run returns how an example ended, and what it said.
func (p place) run(t *testing.T, argv ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env, cmd.Stdout, cmd.Stderr = p.env, &out, &errs
	err := cmd.Run()
	var exited *exec.ExitError
	if err != nil && !errors.As(err, &exited) {
		t.Fatalf("run %q: %v", argv, err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// empty fails the test if a process or a run is left.
func (p place) empty(t *testing.T) {
	t.Helper()
	linuxtest.NoProcessesLeft(t, p.root)
	if runs, err := filepath.Glob(filepath.Join(p.root, "run-*")); err != nil || len(runs) > 0 {
		t.Errorf("runs left: %v, %v, want none", runs, err)
	}
}

// testParent kills a parent and expects its worker, and the daemon that the worker
// has left in a session of its own, to be gone, and nobody else.
func testParent(t *testing.T, bin, interpreter, script string) {
	linuxtest.NeedCommand(t, interpreter)
	program, err := exec.LookPath(interpreter)
	if err != nil {
		t.Fatal(err)
	}
	p := newPlace(t, bin)
	start := func(worker []string) (*linuxtest.Process, *bufio.Reader) {
		read, write := pipe(t)
		parent := linuxtest.Command{
			Args: append([]string{program, script}, worker...), Env: p.env, Stdout: write, Stderr: os.Stderr,
		}.Start(t)
		_ = write.Close() // a copy that was only passed on
		return parent, bufio.NewReader(read)
	}

	t.Run("killed", func(t *testing.T) {
		stranger := linuxtest.Bystander(t, linuxtest.Command{
			Args: linuxtest.Helper(t, "double-fork", "stay"), Cgroup: linuxtest.Cgroup(t),
		})
		linuxtest.AllowLeak(t) // the stranger's daemon
		parent, out := start(linuxtest.Helper(t, "double-fork", "stay"))
		if line, err := out.ReadString('\n'); line != "ready\n" {
			t.Fatalf("first line of the worker = %q, %v, want ready", line, err)
		}
		tree := linuxtest.Identities(p.root)
		if len(tree) != 2 {
			t.Fatalf("processes in the run = %v, want a worker and its daemon", linuxtest.Members(p.root))
		}
		parent.Kill(t)
		linuxtest.Wait(t, second(), func() (bool, string) {
			for _, id := range tree {
				if now, ok := linuxtest.Identify(id.PID); ok && now == id {
					return false, "the parent is dead and its worker's tree lives: " + describe(linuxtest.Members(p.root))
				}
			}
			return true, ""
		})
		linuxtest.SurvivesAs(t, stranger)
		linuxtest.Wait(t, second(), func() (bool, string) {
			runs, err := filepath.Glob(filepath.Join(p.root, "run-*"))
			return err == nil && len(runs) == 0, "runs left: " + strings.Join(runs, " ")
		})
	})
	t.Run("exit code", func(t *testing.T) {
		parent, out := start(linuxtest.Helper(t, "exit", "7"))
		if _, err := io.Copy(io.Discard, out); err != nil {
			t.Fatal(err)
		}
		linuxtest.ExitCause(t, parent.Wait(t, patience), 7)
		p.empty(t)
	})
}

// pipe reads what a program prints; the reader gives up when something is broken.
func pipe(t *testing.T) (read, write *os.File) {
	t.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = read.Close() }) // was only read
	if err := read.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return read, write
}

func describe(all []linuxtest.Proc) string {
	var lines []string
	for _, p := range all {
		lines = append(lines, p.String())
	}
	return strings.Join(lines, "; ")
}

// testCIJob: a job that leaves a daemon fails and names it in both reports, one
// that does not passes, and one that fails keeps its exit code.
func testCIJob(t *testing.T, bin string) {
	p := newPlace(t, bin)
	job := func(argv []string) (int, string, []byte, []byte) {
		t.Helper()
		code, _, said := p.run(t, append([]string{"./ci-job.sh"}, argv...)...)
		p.empty(t)
		return code, said, readFile(t, p.dir, "pitvisor.json"), readFile(t, p.dir, "pitvisor.xml")
	}

	leaky := linuxtest.Helper(t, "double-fork")
	code, said, report, junit := job(leaky)
	if code != 123 || !strings.Contains(said, "left behind") {
		t.Errorf("job that leaves a daemon: exit code %d, said %q, want 123 and its name", code, said)
	}
	r := parse(t, report)
	if r.Clean || r.Leaks.Total != 1 || !slices.Equal(r.Leaks.Processes[0].Args, leaky) {
		t.Errorf("report does not name the one daemon %q:\n%s", leaky, report)
	}
	if failures(t, junit) == 0 {
		t.Errorf("JUnit report has no failure:\n%s", junit)
	}
	code, said, report, junit = job(linuxtest.Helper(t, "print", "done"))
	if code != 0 || said != "" {
		t.Errorf("clean job: exit code %d, said %q, want 0 and nothing", code, said)
	}
	if r = parse(t, report); !r.Clean || r.Leaks.Total != 0 || failures(t, junit) != 0 {
		t.Errorf("reports of a clean job:\n%s\n%s", report, junit)
	}
	if code, _, _, _ = job(linuxtest.Helper(t, "exit", "7")); code != 7 {
		t.Errorf("job that fails: exit code %d, want 7", code)
	}
}

// runReport is the part of a report that the tests look at.
type runReport struct {
	Clean bool
	Leaks struct {
		Total     int
		Processes []struct{ Args []string }
	}
}

func parse(t *testing.T, report []byte) runReport {
	t.Helper()
	var r runReport
	if err := json.Unmarshal(report, &r); err != nil {
		t.Fatalf("report: %v\n%s", err, report)
	}
	return r
}

// failures counts the failed test cases of a JUnit report.
func failures(t *testing.T, junit []byte) int {
	t.Helper()
	n := 0
	in := xml.NewDecoder(bytes.NewReader(junit))
	for {
		token, err := in.Token()
		if errors.Is(err, io.EOF) {
			return n
		}
		if err != nil {
			t.Fatalf("JUnit report: %v\n%s", err, junit)
		}
		if e, ok := token.(xml.StartElement); ok && (e.Name.Local == "failure" || e.Name.Local == "error") {
			n++
		}
	}
}

func readFile(t *testing.T, parts ...string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(parts...))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// testSlurmStep runs the script with the variables that srun sets.
func testSlurmStep(t *testing.T, bin string) {
	p := newPlace(t, bin)
	p.env = append(p.env, "SLURM_JOB_ID=4711", "SLURM_STEP_ID=0", "SLURM_PROCID=3")
	code, _, said := p.run(t, append([]string{"./slurm-step.sh"}, linuxtest.Helper(t, "double-fork")...)...)
	if code != 0 || !strings.Contains(said, "left") {
		t.Errorf("exit code %d, said %q, want 0 and what was left", code, said)
	}
	report := readFile(t, p.dir, "pitvisor-4711.0.3.json")
	if r := parse(t, report); r.Leaks.Total != 1 {
		t.Errorf("report does not name the one daemon:\n%s", report)
	}
	p.empty(t)
}

// testCrontab runs the line of the crontab as cron does: by sh, from the home
// directory, with a small environment.
func testCrontab(t *testing.T, bin string) {
	p := newPlace(t, bin)
	if err := os.Mkdir(filepath.Join(p.dir, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	script := "#!/bin/sh\nnice\nexec " + strings.Join(linuxtest.Helper(t, "double-fork"), " ") + "\n"
	if err := os.WriteFile(filepath.Join(p.dir, "bin", "fetch-feeds"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	var env []string
	var command string
	for line := range strings.Lines(string(readFile(t, "crontab"))) {
		line = strings.TrimSpace(line)
		name, value, assigns := strings.Cut(line, "=")
		switch fields := strings.Fields(line); {
		case line == "" || line[0] == '#':
		case assigns && !strings.Contains(name, " "):
			env = append(env, name+"="+value)
		default:
			command = strings.Join(fields[5:], " ")
		}
	}
	path := slices.IndexFunc(env, func(v string) bool { return strings.HasPrefix(v, "PATH=") })
	if path < 0 || command == "" {
		t.Fatalf("crontab has environment %q and command %q", env, command)
	}
	env[path] = strings.Replace(env[path], "/usr/local/bin", bin, 1)
	p.env = append(env, "HOME="+p.dir, "PITVISOR_CGROUP_ROOT="+p.root)
	code, out, said := p.run(t, "/bin/sh", "-c", command)
	if code != 0 || out != "10\nready\n" || !strings.Contains(said, "left") {
		t.Errorf("exit code %d, printed %q, said %q, want 0, the niceness 10, and what was left", code, out, said)
	}
	p.empty(t)
}
