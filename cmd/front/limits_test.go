package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/linuxtest"
)

// measured is what these tests read of a report.
type measured struct {
	Extra   []string       `json:"extra_outcomes"`
	Receipt map[string]any `json:"receipt"`
	OOM     *whose         `json:"oom"`
	PIDs    *whose         `json:"pids"`
}

type whose struct {
	Whose  string `json:"whose"`
	Cgroup string `json:"cgroup"`
}

// number is a number of the receipt, or -1.
func (m *measured) number(name string) float64 {
	if n, ok := m.Receipt[name].(float64); ok {
		return n
	}
	return -1
}

// report runs pitvisor with flags and returns its exit code, what it said, and its
// report.
func (y yard) report(t *testing.T, flags []string, command ...string) (int, string, measured) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "report.json")
	args := append([]string{"run", "--stats", "--report", file}, flags...)
	cmd := exec.Command(filepath.Join(y.bin, "pitvisor"), append(append(args, "--"), command...)...)
	var errs bytes.Buffer
	cmd.Env, cmd.Stderr = y.env, &errs
	err := cmd.Run()
	if _, exited := err.(*exec.ExitError); err != nil && !exited {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v\n%s", err, errs.String())
	}
	var m measured
	if err := json.Unmarshal(text, &m); err != nil {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), errs.String(), m
}

// A run that uses more memory than it may is killed, and the report says by whose
// limit, and how much it had.
func TestLimitOfMemory(t *testing.T) {
	linuxtest.NeedCgroup2(t, "memory")
	y := newYard(t)
	code, said, m := y.report(t, []string{"--limit", "memory.max=32M", "--limit", "MemorySwapMax=0"}, linuxtest.Helper(t, "alloc", "200")...)
	if code != 137 || m.OOM == nil || m.OOM.Whose != "own" || len(m.Extra) != 1 || m.Extra[0] != "oom" {
		t.Errorf("exit code %d, report %+v, want 137 and a kill by the run's own limit\n%s", code, m, said)
	}
	if peak, ok := m.Receipt["memory_peak"].(float64); ok && (peak < 16<<20 || peak > 33<<20) {
		t.Errorf("memory_peak = %v, want about 32 MiB", peak)
	}
	y.nothingLeft(t)
}

func TestLimitOfProcesses(t *testing.T) {
	linuxtest.NeedCgroup2(t, "pids")
	y := newYard(t)
	code, said, m := y.report(t, []string{"--limit", "TasksMax=3"}, "/bin/sh", "-c", "for i in 1 2 3 4 5 6; do sleep 0.3 & done; wait")
	if code == 0 || !strings.Contains(said, "limit of processes was reached") || len(m.Extra) != 1 || m.Extra[0] != "pids-limit" {
		t.Errorf("exit code %d, report %+v, want a failure for the limit\n%s", code, m, said)
	}
	y.nothingLeft(t)
}

// Whoever sets a limit is told that it was hit, also without a report.
func TestLimitIsToldWithoutAReport(t *testing.T) {
	linuxtest.NeedCgroup2(t, "memory")
	y := newYard(t)
	said, code := y.said(t, "run", append([]string{"--limit", "memory.max=32M", "--"}, linuxtest.Helper(t, "alloc", "200")...)...)
	if code != 137 || !strings.Contains(said, "1 kill for want of memory, limit of "+y.root+"/run-") {
		t.Errorf("exit code %d, want 137 and whose limit it was\n%s", code, said)
	}
	y.nothingLeft(t)
}

// said runs pitvisor and returns its stderr and exit code.
func (y yard) said(t *testing.T, verb string, args ...string) (string, int) {
	t.Helper()
	cmd := exec.Command(filepath.Join(y.bin, "pitvisor"), append([]string{verb}, args...)...)
	var errs bytes.Buffer
	cmd.Env, cmd.Stderr = y.env, &errs
	err := cmd.Run()
	if _, exited := err.(*exec.ExitError); err != nil && !exited {
		t.Fatal(err)
	}
	return errs.String(), cmd.ProcessState.ExitCode()
}

// A limit above the run is named, too: of memory with certainty, of processes as
// far as the kernel tells.
func TestLimitOfAllRuns(t *testing.T) {
	linuxtest.NeedCgroup2(t, "memory", "pids")
	y := newYard(t)
	for file, value := range map[string]string{"memory.max": "64M", "pids.max": "12"} {
		if err := os.WriteFile(filepath.Join(y.root, file), []byte(value), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	_, said, m := y.report(t, nil, linuxtest.Helper(t, "alloc", "200")...)
	if m.OOM == nil || m.OOM.Whose != "ancestor" || m.OOM.Cgroup != y.root {
		t.Errorf("oom = %+v, want the limit of %s\n%s", m.OOM, y.root, said)
	}
	_, said, m = y.report(t, nil, "/bin/sh", "-c", "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do sleep 0.3 & done; wait")
	if m.PIDs == nil || m.PIDs.Whose != "ancestor" || m.PIDs.Cgroup != y.root {
		t.Errorf("pids = %+v, want the limit of %s\n%s", m.PIDs, y.root, said)
	}
	y.nothingLeft(t)
}

// All processes of the run go with the first: none is left half alive.
func TestOOMGroupEndsTheRun(t *testing.T) {
	linuxtest.NeedCgroup2(t, "memory")
	y := newYard(t)
	alloc := linuxtest.Helper(t, "alloc", "200")
	command := append([]string{"/bin/sh", "-c", `"$@"; sleep 1000`, "sh"}, alloc...)
	code, said, m := y.report(t, []string{"--limit", "memory.max=32M", "--limit", "memory.oom.group=1"}, command...)
	if code != 137 || m.OOM == nil || m.OOM.Whose != "own" {
		t.Errorf("exit code %d, report %+v, want 137: the shell is killed, too\n%s", code, m, said)
	}
	if n := m.number("oom_group_kills"); n != 1 && n != -1 { // Linux 5.17
		t.Errorf("oom_group_kills = %v, want 1", n)
	}
	y.nothingLeft(t)
}

// memory.high holds back and does not kill, and the kernel measures how long.
func TestLimitThatSlowsDown(t *testing.T) {
	linuxtest.NeedCgroup2(t, "memory")
	y := newYard(t)
	code, said, m := y.report(t, []string{"--limit", "memory.high=16M", "--timeout", "3s"}, linuxtest.Helper(t, "alloc", "24")...)
	if code != 124 || m.OOM != nil || m.number("memory_high") < 1 || m.number("memory_pressure_some") <= 0 {
		t.Errorf("exit code %d, report %+v, want a time-out without a kill, held back and under pressure\n%s", code, m, said)
	}
	y.nothingLeft(t)
}

func TestLimitOfCPUs(t *testing.T) {
	linuxtest.NeedCgroup2(t, "cpuset")
	linuxtest.NeedKernel(t, 6, 1, "a cpuset that holds for what is born in it") // not on 5.10
	y := newYard(t)
	file := filepath.Join(t.TempDir(), "status")
	_, said, _ := y.report(t, []string{"--limit", "AllowedCPUs=0"}, "/bin/cp", "/proc/self/status", file)
	text, err := os.ReadFile(file)
	if err != nil || !strings.Contains(string(text), "\nCpus_allowed_list:\t0\n") {
		t.Errorf("status %s, %v, want CPU 0 alone\n%s", text, err, said)
	}
	y.nothingLeft(t)
}

// A real disk: what a tmpfs or an overlay does is nobody's input and output.
func TestLimitOfADisk(t *testing.T) {
	linuxtest.NeedCgroup2(t, "io")
	disk := os.Getenv("LINUXTEST_SCRATCH_DISK")
	if disk == "" {
		linuxtest.Skip(t, "needs a disk to write to in LINUXTEST_SCRATCH_DISK")
	}
	y := newYard(t)
	begin := time.Now()
	code, said, m := y.report(t, []string{"--limit", "IOWriteBandwidthMax=" + disk + " 2M"},
		"/bin/dd", "if=/dev/zero", "of="+disk, "bs=512k", "count=12", "oflag=direct", "status=none")
	if code != 0 || m.number("io_write_bytes") != 6<<20 || m.number("io_pressure_some") <= 0 {
		t.Errorf("exit code %d, report %+v, want 6 MiB written, with waiting\n%s", code, m, said)
	}
	// 6 MiB at 2 MiB a second, of which the first moment may be free.
	if took := time.Since(begin); took < 2*time.Second {
		t.Errorf("6 MiB were written in %v, want 3s at 2 MiB a second", took)
	}
	y.nothingLeft(t)
}

// Where the controller is not handed down, as on hybrid hosts, the run does not
// start, and the message says what is missing, where, and what to do.
func TestLimitWithoutItsController(t *testing.T) {
	y := newYard(t)
	bare := filepath.Join(y.root, "bare")
	if err := os.MkdirAll(bare, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(bare); err != nil {
			t.Error(err)
		}
	})
	y.env = append(y.env, "PITVISOR_CGROUP_ROOT="+bare)
	mark := filepath.Join(t.TempDir(), "mark")
	for limit, controller := range map[string]string{
		"memory.max=1G": "memory", "TasksMax=10": "pids", "CPUQuota=50%": "cpu", "AllowedCPUs=0": "cpuset", "IOWeight=50": "io",
	} {
		said, code := y.said(t, "run", "--limit", limit, "--", "/bin/touch", mark)
		want := "no " + controller + " controller in cgroup " + bare
		if code != 125 || !strings.Contains(said, want) || !strings.Contains(said, "leave this limit out") {
			t.Errorf("%s: exit code %d, want 125, %q and the cure\n%s", limit, code, want, said)
		}
		if _, err := os.Stat(mark); err == nil {
			t.Fatalf("%s: the command ran without its limit", limit)
		}
	}
}

func TestLimitOfTime(t *testing.T) {
	linuxtest.NeedCgroup2(t, "cpu")
	y := newYard(t)
	_, said, m := y.report(t, []string{"--limit", "CPUQuota=10%"}, "/bin/sh", "-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done")
	if n, ok := m.Receipt["throttled_periods"].(float64); !ok || n < 1 {
		t.Errorf("throttled_periods = %v, want some\n%s", m.Receipt["throttled_periods"], said)
	}
	y.nothingLeft(t)
}
