package linuxtest

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestTreeGone(t *testing.T) {
	dir := Cgroup(t)
	p := startHelper(t, dir, "ignore-term")
	p.says(t, "ready")
	wantFailure(t, func(tb testing.TB) { TreeGone(tb, dir, 10*time.Millisecond) }, "alive after 10ms", "linuxtest-helper:ignore-term")
	wantFailure(t, func(tb testing.TB) { NoProcessesLeft(tb, dir) }, "linuxtest-helper:ignore-term")
	wantFailure(t, func(tb testing.TB) { CgroupGone(tb, dir, time.Millisecond) }, dir)
	p.Kill(t)
	wantPass(t, func(tb testing.TB) { TreeGone(tb, dir, soon) })
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	wantPass(t, func(tb testing.TB) {
		TreeGone(tb, dir, 0)
		CgroupGone(tb, dir, 0)
	})
}

func TestStopWithin(t *testing.T) {
	dir := Cgroup(t)
	p := startHelper(t, dir, "ignore-term")
	p.says(t, "ready")
	polite := func() error { return p.Signal(unix.SIGTERM) }
	wantFailure(t, func(tb testing.TB) { StopWithin(tb, soon, dir, polite) }, "left: process")
	wantFailure(t, func(tb testing.TB) {
		StopWithin(tb, soon, dir, func() error { return errors.New("no way") })
	}, "no way")
	kill := func() error {
		p.Kill(t)
		return nil
	}
	wantFailure(t, func(tb testing.TB) { StopWithin(tb, 0, dir, kill) }, "stop took")
	wantPass(t, func(tb testing.TB) { StopWithin(tb, soon, dir, kill) })
}

func TestOwnerDeath(t *testing.T) {
	dir := Cgroup(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	Command{Args: Helper(t, "cat"), Stdin: r, Cgroup: dir}.Start(t)
	_ = r.Close() // the helper has its own
	nothing := func() error { return nil }
	wantFailure(t, func(tb testing.TB) { OwnerDeath(tb, "nothing", nothing, dir, 0) }, "alive after")
	// The helper exits, and a clean-up reaps it: a zombie must be told apart.
	wantFailure(t, func(tb testing.TB) { OwnerDeath(tb, "closed stdin", w.Close, dir, 3*time.Second) }, "exited and not reaped")
	wantFailure(t, func(tb testing.TB) { OwnerDeath(tb, "nothing", nothing, dir, 0) }, "no process")
}

func TestExitChecks(t *testing.T) {
	killed, exited := unix.WaitStatus(15), unix.WaitStatus(143<<8)
	wantPass(t, func(tb testing.TB) {
		StoppedBy(tb, killed, unix.SIGTERM)
		ExitCause(tb, exited, 143)
	})
	wantFailure(t, func(tb testing.TB) { ExitCause(tb, killed, 143) }, "ended by signal 15")
	wantFailure(t, func(tb testing.TB) { StoppedBy(tb, exited, unix.SIGTERM) }, "exited with 143")
	wantFailure(t, func(tb testing.TB) { StoppedBy(tb, killed, unix.SIGKILL) }, "want signal 9")
}

func TestStableForSeesAReplacement(t *testing.T) {
	dir := Cgroup(t)
	first := startHelper(t, dir, "run")
	which := func() []Identity { return Identities(dir) }
	wantPass(t, func(tb testing.TB) { StableFor(tb, 60*time.Millisecond, which) })
	replaced := false
	wantFailure(t, func(tb testing.TB) {
		StableFor(tb, soon, func() []Identity {
			defer func() {
				if !replaced {
					replaced = true
					first.Kill(t)
					startHelper(t, dir, "run")
				}
			}()
			return which()
		})
	}, fmt.Sprintf("ended: pid %d", first.PID()), "started: pid ")
}

func TestUnaffectedSeesADeath(t *testing.T) {
	dir := Cgroup(t)
	p := startHelper(t, dir, "run")
	wantPass(t, func(tb testing.TB) { Unaffected(tb, dir) })
	wantFailure(t, func(tb testing.TB) {
		Unaffected(tb, dir)
		p.Kill(t)
	}, fmt.Sprintf("ended: pid %d", p.PID()))
	wantFailure(t, func(tb testing.TB) { Unaffected(tb, dir) }, "no process")
}

func TestBystander(t *testing.T) {
	run := Command{Args: Helper(t, "run")}
	wantPass(t, func(tb testing.TB) { Bystander(tb, run) })
	wantFailure(t, func(tb testing.TB) {
		p := Bystander(tb, run)
		_ = p.Signal(unix.SIGKILL) // its end is checked
		p.wait(soon)
	}, "should have been left alone; ended by signal 9")
}

func TestPorts(t *testing.T) {
	inside, outside := Cgroup(t), Cgroup(t)
	owner := startHelper(t, inside, "port-thief")
	owner.says(t, "listening on ")
	var port int
	data, err := os.ReadFile(owner.out)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscanf(string(data), "listening on %d", &port); err != nil {
		t.Fatal(err)
	}
	wantPass(t, func(tb testing.TB) {
		OwnsPort(tb, inside, port)
		NotSharedPort(tb, port)
	})
	wantFailure(t, func(tb testing.TB) { PortFree(tb, port) }, fmt.Sprintf("port %d is not free", port))
	wantFailure(t, func(tb testing.TB) { OwnsPort(tb, outside, port) }, "no process in "+outside)

	thief := startHelper(t, outside, "port-thief", fmt.Sprint(port))
	thief.says(t, "listening on ")
	wantFailure(t, func(tb testing.TB) { NotSharedPort(tb, port) }, "is shared by")
	wantFailure(t, func(tb testing.TB) { OwnsPort(tb, inside, port) }, "also listened on from outside", outside)

	honest := startHelper(t, "", "listen", fmt.Sprint(port))
	ExitCause(t, honest.Wait(t, soon), 125)
	owner.Kill(t)
	thief.Kill(t)
	wantPass(t, func(tb testing.TB) { PortFree(tb, port) })
}

// fakeWorker says what it is told to.
type fakeWorker struct {
	ready  bool
	stderr []string
}

func (w fakeWorker) Ready() (bool, string) { return w.ready, "exited with 1" }
func (w fakeWorker) Stderr() []string      { return w.stderr }

func TestReadyGivesCauseAndStderr(t *testing.T) {
	good := fakeWorker{ready: true}
	bad := fakeWorker{stderr: []string{"No module named grpc"}}
	wantPass(t, func(tb testing.TB) {
		Ready(tb, 0, good)
		AllReady(tb, 0, 2, []Worker{good, good})
	})
	wantFailure(t, func(tb testing.TB) { Ready(tb, time.Millisecond, bad) }, "exited with 1", "No module named grpc")
	wantFailure(t, func(tb testing.TB) { AllReady(tb, 0, 2, []Worker{good, bad}) }, "worker 2 of 2", "No module named grpc")
	wantFailure(t, func(tb testing.TB) { AllReady(tb, 0, 3, []Worker{good, good}) }, "2 workers, want 3")
}

func TestStartFails(t *testing.T) {
	got := Failure{Cause: "exited", Code: 3, Stderr: []string{"ImportError: grpc"}}
	wantPass(t, func(tb testing.TB) { StartFails(tb, got, "exited", 3, "^ImportError") })
	wantFailure(t, func(tb testing.TB) { StartFails(tb, got, "timeout", 3, "Import") }, "want \"timeout\"")
	wantFailure(t, func(tb testing.TB) { StartFails(tb, got, "exited", 1, "Import") }, "exit code 3")
	wantFailure(t, func(tb testing.TB) { StartFails(tb, got, "exited", 3, "Segmentation") }, "ImportError: grpc")
	wantFailure(t, func(tb testing.TB) { StartFails(tb, got, "exited", 3, "") }, "ImportError: grpc")
}

func TestCounts(t *testing.T) {
	n := 0
	grow := func() int { n++; return n }
	wantPass(t, func(tb testing.TB) { NoRestartStorm(tb, time.Millisecond, 1, grow) })
	wantFailure(t, func(tb testing.TB) { NoRestartStorm(tb, time.Millisecond, 0, grow) }, "1 starts in 1ms")
	wantPass(t, func(tb testing.TB) { CapacityBack(tb, 10, soon, grow) })
	wantFailure(t, func(tb testing.TB) { CapacityBack(tb, 3, time.Millisecond, func() int { return 2 }) }, "2 after 1ms, want 3")
}

func TestExactlyShowsTheFirstDifference(t *testing.T) {
	wantPass(t, func(tb testing.TB) { Exactly(tb, []string{"up", "ready"}, "up", "ready") })
	wantFailure(t, func(tb testing.TB) { Exactly(tb, []string{"up"}, "up", "ready") }, "event 2 of 2 is missing: ready")
	wantFailure(t, func(tb testing.TB) { Exactly(tb, []string{"up", "up"}, "up") }, "event 2 is too much: up")
	wantFailure(t, func(tb testing.TB) { Exactly(tb, []string{"ready", "up"}, "up", "ready") }, "event 1 = ready, want up")
}

func TestQuietLog(t *testing.T) {
	var log strings.Builder
	logger := slog.New(slog.NewJSONHandler(&log, nil))
	logger.Info("started")
	wantPass(t, func(tb testing.TB) { QuietLog(tb, []byte(log.String()), slog.LevelInfo) })
	logger.Warn("orphan found")
	wantFailure(t, func(tb testing.TB) { QuietLog(tb, []byte(log.String()), slog.LevelInfo) }, "orphan found")
	wantFailure(t, func(tb testing.TB) { QuietLog(tb, []byte("panic: x\n"), slog.LevelInfo) }, "panic: x")
}

func TestStateBounded(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "history"), make([]byte, 100), 0o600); err != nil {
		t.Fatal(err)
	}
	wantPass(t, func(tb testing.TB) { StateBounded(tb, dir, 100, 1) })
	wantFailure(t, func(tb testing.TB) { StateBounded(tb, dir, 99, 1) }, "100 bytes")
	wantFailure(t, func(tb testing.TB) { StateBounded(tb, dir, 100, 0) }, "1 entries", "history")
}

func TestTornState(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	if err := os.WriteFile(path, []byte("abcdefgh"), 0o600); err != nil {
		t.Fatal(err)
	}
	var seen []string
	TornState(t, path, 3, func(string) {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		seen = append(seen, string(data))
	})
	Exactly(t, seen, "", "abcd", "abcdefgh", "abcd\x9afgh")
	if data, err := os.ReadFile(path); err != nil || string(data) != "abcdefgh" {
		t.Errorf("the file is %q, %v afterwards, want it whole", data, err)
	}
}

func TestOutputTailKept(t *testing.T) {
	wantPass(t, func(tb testing.TB) { OutputTailKept(tb, []string{"a", "b"}, "b") })
	wantFailure(t, func(tb testing.TB) { OutputTailKept(tb, []string{"a"}, "b") }, "last line kept is not \"b\"")
	wantFailure(t, func(tb testing.TB) { OutputTailKept(tb, nil, "b") }, "nothing to stderr")
}

func TestStartLatency(t *testing.T) {
	measured := make([]time.Duration, 100)
	for i := range measured {
		measured[i] = time.Duration(i+1) * time.Millisecond
	}
	wantPass(t, func(tb testing.TB) { StartLatency(tb, 99*time.Millisecond, measured) })
	wantFailure(t, func(tb testing.TB) { StartLatency(tb, 98*time.Millisecond, measured) }, "p99 99ms")
	wantFailure(t, func(tb testing.TB) { StartLatency(tb, time.Hour, nil) }, "no start")
	wantFailure(t, func(tb testing.TB) { StartLatency(tb, 9, []time.Duration{1, 10}) }, "median 1ns, p99 10ns")
}

func TestLimitHit(t *testing.T) {
	dir := Cgroup(t)
	wantFailure(t, func(tb testing.TB) { LimitHit(tb, dir, "cgroup.events", "populated") }, "is 0")
	wantFailure(t, func(tb testing.TB) { LimitHit(tb, dir, "cgroup.events", "oom_kill") }, "no counter oom_kill")
	p := startHelper(t, dir, "run")
	wantPass(t, func(tb testing.TB) { LimitHit(tb, dir, "cgroup.events", "populated") })
	p.Kill(t)
}

func TestStormHitsOnlyItsCgroup(t *testing.T) {
	dir := Cgroup(t)
	outside := Bystander(t, Command{Args: Helper(t, "run")})
	for range 4 {
		startHelper(t, dir, "run")
	}
	killed := Storm{Kills: 3, Period: 20 * time.Millisecond, Seed: 7}.Rage(t, dir)
	if len(killed) != 3 {
		t.Errorf("killed %v, want 3 of them", killed)
	}
	for _, pid := range killed {
		if pid == outside.PID() {
			t.Errorf("killed the bystander %d", pid)
		}
	}
	Wait(t, soon, func() (bool, string) { n := len(Members(dir)); return n == 1, fmt.Sprintf("%d left, want 1", n) })
	AllowLeak(t)
}
