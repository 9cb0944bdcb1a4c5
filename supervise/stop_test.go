package supervise

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/pidfd"
)

// populous is ready when so many processes are in the leaf.
func populous(n int) rule {
	return func(ctx context.Context, _ StartInfo, _ *pidfd.Process, leaf *cgroup.Dir) (ReadyInfo, error) {
		return ReadyInfo{}, poll(ctx, func() bool {
			pids, err := leaf.PIDsRecursive()
			return err == nil && len(pids) >= n
		})
	}
}

// TestNothingOutlivesAStop is the row of detached grandchildren and fork bombs:
// none is left of 50 daemons that ignore SIGTERM and of 200 processes of a bomb (H-41).
func TestNothingOutlivesAStop(t *testing.T) {
	n := linuxtest.Times(50, 15)
	daemons := sh("daemons", n, `setsid sh -c 'trap "" TERM INT HUP; sleep 600' & wait`)
	daemons.Readiness = populous(2)
	daemons.Stop.Grace = 300 * time.Millisecond
	depth, crowd := "8", linuxtest.Times(200, 60)
	if linuxtest.Emulated() {
		depth, crowd = "5", 30 // a bigger one takes longer to die there than a stop may
	}
	bomb := helper(t, "bomb", 1, "fork-bomb", depth)
	bomb.Readiness = populous(crowd)
	bomb.Stop.Grace = 300 * time.Millisecond
	pools := []PoolSpec{daemons, bomb}
	for name, end := range map[string]func(*rig) error{
		"graceful": (*rig).halt,
		"at once":  func(r *rig) error { r.KillNow(); return r.wait() },
	} {
		t.Run(name, func(t *testing.T) {
			r := begin(t, pools...)
			r.await("ready", n+1, kind(EventReady))
			begin := time.Now()
			linuxtest.StopWithin(t, patience, r.registry.Root().Path(), func() error { return end(r) })
			t.Logf("stopped in %v", time.Since(begin))
		})
	}
}

// TestSecondStopKillsAtOnce: KillNow during the grace.
func TestSecondStopKillsAtOnce(t *testing.T) {
	n := linuxtest.Times(30, 10)
	p := sh("deaf", n, `trap '' TERM; while :; do sleep 1; done`)
	p.Stop.Grace = time.Hour
	p.Readiness = rule(trapsSignals)
	r := begin(t, p)
	r.await("ready", n, kind(EventReady))
	r.stop()
	r.await("stopping", n, kind(EventStopping))
	r.KillNow()
	if err := r.wait(); err != nil {
		t.Errorf("Run() = %v, want nil", err)
	}
	if got := r.Result().Escalated; got != n {
		t.Errorf("escalated = %d, want %d", got, n)
	}
}

// TestStopAllSignalsEveryMember: not only the main process.
func TestStopAllSignalsEveryMember(t *testing.T) {
	mark := t.TempDir() + "/mark"
	p := sh("web", 1, fmt.Sprintf(`(trap 'echo child >> %s; exit 0' TERM; touch %[1]s; while :; do sleep 0.05; done) &
		trap 'wait; echo main >> %[1]s; exit 0' TERM; while :; do sleep 0.05; done`, mark))
	p.Stop.All = true
	p.Readiness = rule(func(ctx context.Context, info StartInfo, p *pidfd.Process, leaf *cgroup.Dir) (ReadyInfo, error) {
		if err := poll(ctx, func() bool { return exists(mark) }); err != nil {
			return ReadyInfo{}, err
		}
		return trapsSignals(ctx, info, p, leaf)
	})
	r := begin(t, p)
	r.await("ready", 1, kind(EventReady))
	if err := r.halt(); err != nil {
		t.Errorf("Run() = %v, want nil", err)
	}
	if text, _ := os.ReadFile(mark); !strings.Contains(string(text), "child") || !strings.Contains(string(text), "main") {
		t.Errorf("marks = %q, want one of the child and one of the main process", text)
	}
	if e := r.await("stopped", 1, kind(EventStopped))[0]; e.Escalated {
		t.Errorf("%s: want no escalation", eventText(e))
	}
}

// TestOddWorkers: one that stops itself, one that floods, one without files and
// one that has left its leaf are supervised and stopped like any other.
func TestOddWorkers(t *testing.T) {
	elsewhere, err := cgroup.Open(linuxtest.Cgroup(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = elsewhere.Close() })
	stopped := helper(t, "stopped", 1, "stop-self")
	stopped.Readiness = rule(func(ctx context.Context, _ StartInfo, p *pidfd.Process, _ *cgroup.Dir) (ReadyInfo, error) {
		return ReadyInfo{}, poll(ctx, func() bool { return strings.HasPrefix(statusField(p.PID(), "State"), "T") })
	})
	bare := sh("bare", 1, "exec 0<&- 1>&- 2>&-; exec sleep 600")
	bare.Readiness = rule(func(ctx context.Context, _ StartInfo, p *pidfd.Process, _ *cgroup.Dir) (ReadyInfo, error) {
		return ReadyInfo{}, poll(ctx, func() bool {
			fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.PID()))
			return err == nil && len(fds) == 0 && statusField(p.PID(), "Name") == "sleep"
		})
	})
	runaway := helper(t, "runaway", 2, "move-cgroup", elsewhere.Path())
	runaway.Readiness = rule(func(ctx context.Context, _ StartInfo, _ *pidfd.Process, leaf *cgroup.Dir) (ReadyInfo, error) {
		return ReadyInfo{}, poll(ctx, func() bool {
			pids, err := leaf.PIDs()
			return err == nil && len(pids) == 0
		})
	})
	r := begin(t, stopped, bare, runaway, sh("flood", 1, "exec yes"))
	r.await("ready", 5, kind(EventReady))
	linuxtest.StableFor(t, 300*time.Millisecond, func() []linuxtest.Identity {
		return linuxtest.Identities(r.run.Dir().Path())
	})
	// A runaway that ignores the signal is beyond the kill of its leaf, but not of us.
	for _, w := range r.Status() {
		if w.Worker == (WorkerID{"runaway", 1}) {
			r.kill(w.PID, unix.SIGSTOP)
		}
	}
	if err := r.halt(); err != nil {
		t.Errorf("Run() = %v, want nil", err)
	}
	for _, e := range r.all(kind(EventStopped)) {
		if e.Escalated || e.Exit == nil || e.Exit.Signal != unix.SIGTERM {
			t.Errorf("%s: want an end by SIGTERM", eventText(e))
		}
	}
	linuxtest.NoProcessesLeft(t, elsewhere.Path())
}

// TestRunawayIsKilled: a worker that has left its leaf and ignores the signal.
func TestRunawayIsKilled(t *testing.T) {
	elsewhere := linuxtest.Cgroup(t)
	p := sh("runaway", 2, fmt.Sprintf(`trap '' TERM; echo 0 > %s/cgroup.procs; while :; do sleep 1; done`, elsewhere))
	p.Stop.Grace = 100 * time.Millisecond
	p.Readiness = rule(func(ctx context.Context, _ StartInfo, _ *pidfd.Process, leaf *cgroup.Dir) (ReadyInfo, error) {
		return ReadyInfo{}, poll(ctx, func() bool {
			pids, err := leaf.PIDs()
			return err == nil && len(pids) == 0
		})
	})
	linuxtest.AllowLeak(t) // the sleep of the shell is where it went, and nobody can know
	r := begin(t, p)
	r.await("ready", 2, kind(EventReady))
	if err := r.halt(); err != nil {
		t.Errorf("Run() = %v, want nil", err)
	}
	for _, e := range r.all(kind(EventStopped)) {
		if e.Exit == nil || e.Exit.Signal != unix.SIGKILL {
			t.Errorf("%s: want an end by SIGKILL", eventText(e))
		}
		if e.Elapsed >= killWait {
			t.Errorf("%s: want it killed with the others, not when its leaf is removed", eventText(e))
		}
	}
}
