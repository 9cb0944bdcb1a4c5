package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/linuxtest/vm"
	"golang.org/x/sys/unix"
)

// kernel is the one that these tests boot.
const kernel = "6.1"

func TestMain(m *testing.M) {
	linuxtest.Main(m)
}

// program builds the command, which must be static, and skips where its guests
// cannot run without a download.
func program(t *testing.T) string {
	t.Helper()
	linuxtest.NeedCommand(t, "qemu-system-x86_64", "go")
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(cache, "pitvisor-linuxtest", "kernel-bookworm.json")); err != nil {
		linuxtest.Skip(t, "needs the kernels that make test-vm downloads")
	}
	return build(t, ".")
}

func build(t *testing.T, pkg string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "program")
	cmd := exec.Command("go", "build", "-o", path, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", pkg, err, out)
	}
	return path
}

// guest builds a program for the guest.
func guest(t *testing.T, body string) string {
	t.Helper()
	dir := t.TempDir()
	text := "package main\n\nimport (\n\t\"fmt\"\n\t\"os\"\n\t\"time\"\n)\n\nfunc main() {\n\t_, _, _ = fmt.Print, os.Args, time.Hour\n" + body + "\n}\n"
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return build(t, filepath.Join(dir, "main.go"))
}

// call runs the command to its end and returns its output and exit code, and the
// report on the one kernel.
func call(t *testing.T, args ...string) (string, int, vm.Report) {
	t.Helper()
	report := filepath.Join(t.TempDir(), "report.json")
	cmd := exec.Command(program(t), append([]string{"vm", "-kernel", kernel, "-json", report}, args...)...)
	out, err := cmd.CombinedOutput()
	if _, exited := err.(*exec.ExitError); err != nil && !exited {
		t.Fatal(err)
	}
	var reports []vm.Report
	text, err := os.ReadFile(report)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := json.Unmarshal(text, &reports); err != nil || len(reports) != 1 {
		t.Fatalf("report %s: %v", text, err)
	}
	return string(out), cmd.ProcessState.ExitCode(), reports[0]
}

func TestPackagesAreTestedInTheGuest(t *testing.T) {
	skips := filepath.Join(t.TempDir(), "skips")
	if err := os.WriteFile(skips, []byte("all needs something\n<6.1 is lazy\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	out, code, r := call(t, "-skips", skips, "./testdata/guest")
	if code != 1 || r.OK() || len(r.Programs) != 1 {
		t.Fatalf("exit code %d, report %+v\n%s", code, r, out)
	}
	if !strings.HasPrefix(r.Release, kernel+".") || r.Tier != "C" || !slices.Contains(r.Controllers, "pids") || r.Boot <= 0 || r.Error != "" {
		t.Errorf("report %+v", r)
	}
	p := r.Programs[0]
	if p.OK || p.Why != "exit code 1" || p.Tests == nil || p.Tests.Passed != 3 {
		t.Fatalf("outcome %+v, tests %+v", p, p.Tests)
	}
	if f := p.Tests.Failed; len(f) != 1 || f[0].Test != "TestFails" || !strings.Contains(f[0].Output, "as it should") {
		t.Errorf("failed %+v", f)
	}
	if want := []vm.Skip{{Test: "TestSkips/forbidden", Reason: "is lazy"}}; len(p.Tests.Skipped) != 2 || !slices.Equal(p.Unexplained, want) {
		t.Errorf("skipped %v, unexplained %v, want %v", p.Tests.Skipped, p.Unexplained, want)
	}
	if len(p.Left) != 1 || !strings.Contains(p.Left[0], " (s") { // setsid on its way to be sleep
		t.Errorf("left behind %q, want the daemon", p.Left)
	}
	for _, want := range []string{"as it should", "must not be skipped: TestSkips/forbidden: is lazy", "1 is lazy", "left behind: process ", "6.1: FAIL"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in the output:\n%s", want, out)
		}
	}
}

func TestProgramRunsInTheGuest(t *testing.T) {
	argv := []string{"-env", "A=b c", "--", guest(t, `fmt.Println("got", os.Args[1:], os.Getenv("A"))`), "x", "y"}
	out, code, r := call(t, argv...)
	if code != 0 || !r.OK() || !strings.Contains(out, "got [x y] b c\n") {
		t.Errorf("exit code %d, report %+v\n%s", code, r, out)
	}
}

func TestProgramThatTakesTooLong(t *testing.T) {
	out, code, r := call(t, "-timeout", "2s", "--", guest(t, `<-time.After(time.Hour)`))
	if code != 1 || len(r.Programs) != 1 || r.Programs[0].Why != "took too long" || !strings.Contains(out, "SIGQUIT") {
		t.Errorf("exit code %d, report %+v\n%s", code, r, out)
	}
}

// A guest whose kernel panics did not do its job, and says why.
func TestGuestThatPanics(t *testing.T) {
	out, code, r := call(t, "--", guest(t, `fmt.Println(os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0))`))
	if code != 1 || !strings.Contains(r.Error, "the guest ended while we waited for") || !strings.Contains(r.Error, "panic") {
		t.Errorf("exit code %d, report %+v\n%s", code, r, out)
	}
	if len(r.Programs) != 1 || r.Programs[0].OK || r.Programs[0].Why != "did not end" || len(r.Complaints) == 0 {
		t.Errorf("outcome %+v, complaints %q", r.Programs, r.Complaints)
	}
}

// running starts the command with a program that never ends, and waits for that
// to run in the guest.
func running(t *testing.T, group string) (*linuxtest.Process, func() string) {
	t.Helper()
	argv := []string{program(t), "vm", "-kernel", kernel, "--", guest(t, `fmt.Println("runs"); <-time.After(time.Hour)`)}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p := linuxtest.Command{Args: argv, Cgroup: group, Stdout: w, Stderr: w}.Start(t)
	_ = w.Close() // the command has it
	var mu sync.Mutex
	var said bytes.Buffer
	up := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() { _ = r.Close() }() // was only read
		for lines := bufio.NewScanner(r); lines.Scan(); {
			mu.Lock()
			fmt.Fprintln(&said, lines.Text())
			mu.Unlock()
			if lines.Text() == "runs" {
				close(up)
			}
		}
	}()
	t.Cleanup(func() { <-done })
	text := func() string {
		mu.Lock()
		defer mu.Unlock()
		return said.String()
	}
	select {
	case <-up:
	case <-done:
		t.Fatalf("it ended:\n%s", text())
	case <-time.After(time.Minute):
		t.Fatalf("it does not run:\n%s", text())
	}
	return p, text
}

// empty waits until the cgroup has no process.
func empty(t *testing.T, group string) {
	t.Helper()
	linuxtest.Wait(t, 10*time.Second, func() (bool, string) {
		members := linuxtest.Members(group)
		return len(members) == 0, fmt.Sprint(members)
	})
}

func TestNothingOutlivesAKilledCommand(t *testing.T) {
	group := linuxtest.Cgroup(t)
	p, _ := running(t, group)
	if n := len(linuxtest.Members(group)); n < 2 {
		t.Fatalf("%d processes, want the command and QEMU", n)
	}
	p.Kill(t)
	empty(t, group)
}

func TestSignalEndsTheCommandInOrder(t *testing.T) {
	group := linuxtest.Cgroup(t)
	p, text := running(t, group)
	if err := p.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if status := p.Wait(t, 20*time.Second); status.ExitStatus() != 1 {
		t.Errorf("wait status %#x, want exit code 1", uint32(status))
	}
	empty(t, group)
	if !strings.Contains(text(), "terminated") {
		t.Errorf("it said:\n%s", text())
	}
}

func TestWrongCalls(t *testing.T) {
	for _, args := range [][]string{{}, {"boot"}, {"vm"}, {"vm", "-nonsense", "./x"}} {
		if code := run(t.Context(), args); code != 2 {
			t.Errorf("run(%q) = %d, want 2", args, code)
		}
	}
	for _, args := range [][]string{
		{"vm", "-kernel", "0.1", "--", "/bin/true"}, {"vm", "--", "/no/such/program"}, {"vm", "-skips", "/no/such/file", "--", "/bin/true"},
	} {
		if code := run(t.Context(), append([]string{args[0], "-cache", t.TempDir()}, args[1:]...)); code != 1 {
			t.Errorf("run(%q) = %d, want 1", args, code)
		}
	}
}
