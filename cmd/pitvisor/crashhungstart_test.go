package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/registry"
)

// TestCrashInAStartThatHangs: somebody freezes a worker's cgroup right before the worker is
// made in it, so that the new process never comes to its program and keeps the lock of the
// supervisor, which hangs until it is killed. What is said of the run is true all the same,
// and the next one sweeps it and is ready.
func TestCrashInAStartThatHangs(t *testing.T) {
	linuxtest.NeedClone3(t) // else the process is made elsewhere, and moves there
	w := newWorld(t)
	linuxtest.Bystander(t, linuxtest.Command{Args: []string{"/bin/sleep", "1000"}, Cgroup: linuxtest.Cgroup(t)})
	config := w.config(sleepers("web", 1) + fmt.Sprintf("[api]\nmetrics = %q\n", freePort(t)))
	w.crashInAFrozenStart(config)

	left := w.wreck()
	if len(left.members) != 1 || left.frozen != 1 {
		t.Fatalf("the crash left processes %v and %d frozen cgroups, want one of each", left.members, left.frozen)
	}
	runs := w.runs()
	if len(runs) != 1 || runs[0].State != registry.RunStale || runs[0].Processes != 1 || !isLocked(t, runs[0].Dir) {
		t.Fatalf("ps = %+v, want one stale run with the process that hangs and holds the lock", runs)
	}
	if x := w.workers(registry.RunStale)["web/0"]; !x.Frozen || x.State != "starting" || len(x.Processes) != 1 || x.Processes[0].PID != left.members[0].PID {
		t.Errorf("ps says of web/0 %+v, want that it is starting and frozen, and process %d", x, left.members[0].PID)
	}
	if _, stderr, code := w.tool("status"); code != exitNotRunning || !strings.Contains(stderr, "no supervisor runs") {
		t.Errorf("status = %d\n%swant %d: no supervisor runs", code, stderr, exitNotRunning)
	}
	if out, stderr, code := w.tool("sweep", "--dry-run", "--json"); code != exitOK || !strings.Contains(out, `"would-sweep"`) || !strings.Contains(out, runs[0].Dir) {
		t.Errorf("sweep --dry-run = %d\n%s%swant that it would sweep %s", code, out, stderr, runs[0].Dir)
	}

	next := w.up(config)
	next.ready("web/0")
	next.said("swept what earlier owners left", 1)
	left.isGone()
	w.hasOneRun(left)
	next.endsClean(w)
}

// crashInAFrozenStart starts a supervisor, freezes the leaf of web/0 when its start is about to
// be made, and kills the supervisor when the new process is in it.
func (w *world) crashInAFrozenStart(config string) {
	w.tb.Helper()
	var mu sync.Mutex // guards leaf
	leaf := ""
	c := linuxtest.CrashTest{
		Command: func() linuxtest.Command {
			return linuxtest.Command{Args: w.argv("up", "-f", config, "--log-format", "json"), Stderr: os.Stderr}
		},
		Syscalls: []string{"clone3"},
		Match: func(linuxtest.Call) bool {
			mu.Lock()
			defer mu.Unlock()
			found, err := filepath.Glob(filepath.Join(w.root, "run-*", "web", "0.1"))
			if err == nil && len(found) == 1 && leaf == "" {
				leaf = found[0]
				err = os.WriteFile(filepath.Join(leaf, "cgroup.freeze"), []byte("1"), 0)
			}
			if err != nil {
				w.tb.Errorf("freeze web/0: %v", err)
			}
			return false // it goes on
		},
		Settled: func() bool {
			mu.Lock()
			defer mu.Unlock()
			return leaf != "" && len(linuxtest.Identities(leaf)) == 1
		},
	}
	c.At(w.tb, 1)
	if leaf == "" {
		w.tb.Fatal("no start was seen")
	}
}

// isLocked says whether somebody holds the lock of a run.
func isLocked(t *testing.T, dir string) bool {
	t.Helper()
	run, err := cgroup.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer run.Close()
	locked, err := run.Locked()
	if err != nil {
		t.Fatal(err)
	}
	return locked
}
