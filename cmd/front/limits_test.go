package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pitvisor/pitvisor/linuxtest"
)

// measured is what these tests read of a report.
type measured struct {
	Extra   []string       `json:"extra_outcomes"`
	Receipt map[string]any `json:"receipt"`
	OOM     *struct {
		Whose string `json:"whose"`
	} `json:"oom"`
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

func TestLimitOfTime(t *testing.T) {
	linuxtest.NeedCgroup2(t, "cpu")
	y := newYard(t)
	_, said, m := y.report(t, []string{"--limit", "CPUQuota=10%"}, "/bin/sh", "-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done")
	if n, ok := m.Receipt["throttled_periods"].(float64); !ok || n < 1 {
		t.Errorf("throttled_periods = %v, want some\n%s", m.Receipt["throttled_periods"], said)
	}
	y.nothingLeft(t)
}
