package supervise

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/linuxtest"
)

// rolled reloads a pool whose new workers become ready when the gate opens, and waits
// until the first of them is up.
func (r *rig) rolled(p PoolSpec, first string) (*Progress, gated) {
	r.Helper()
	gate := make(gated)
	p.Readiness = gate
	ups := len(r.all(kind(EventUp, first)))
	changes, err := r.Reload(r.Context(), []PoolSpec{p})
	if err != nil || len(changes.Rolling) != 1 {
		r.Fatalf("Reload = %+v, %v", changes, err)
	}
	r.await("up", ups+1, kind(EventUp, first))
	return changes.Rolling[0], gate
}

// TestStopDuringARollout: who is stopped before the rollout comes to it stays down, and has
// the new spec when it is started.
func TestStopDuringARollout(t *testing.T) {
	p := sleeper("web", 2)
	r := begin(t, p)
	r.ready("web", 0, 1)
	p.Command.Args = []string{"sleep", "700"}
	rollout, gate := r.rolled(p, "web/2")
	if _, err := r.Stop(t.Context(), only("web/1")); err != nil {
		t.Fatal(err)
	}
	r.await("stopped", 1, kind(EventStopped, "web/1"))
	close(gate)
	if err := rollout.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if w := r.Status()[1]; w.State != StateDown || !w.Stopped || w.Start != 1 {
		t.Errorf("web/1 is %v in start %d, want it to be down after the first", w.State, w.Start)
	}
	if _, err := r.Start(t.Context(), only("web/1")); err != nil {
		t.Fatal(err)
	}
	e := r.await("ready", 2, kind(EventReady, "web/1"))[1]
	linuxtest.Wait(t, patience, func() (bool, string) {
		args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", e.PID))
		return err == nil && string(args) == "sleep\x00700\x00", string(args)
	})
	if err := r.halt(); err != nil {
		t.Error(err)
	}
}

// TestCompletionDuringAReload: what completes before the rollout comes to it is not started
// again, with the exception of a restart, which starts what has completed.
func TestCompletionDuringAReload(t *testing.T) {
	for name, want := range map[string]uint64{"reload": 1, "restart": 2} {
		t.Run(name, func(t *testing.T) {
			done := filepath.Join(t.TempDir(), "done")
			p := sh("job", 2, `[ $0 = 1.1 ] || exec sleep 600; until [ -e `+done+` ]; do sleep 0.01; done`)
			p.Command.Args = append(p.Command.Args, "{slot}.{start}")
			p.Restart = RestartNever
			gate := make(gated, 3)
			gate <- struct{}{}
			gate <- struct{}{}
			p.Readiness = gate
			r := begin(t, p)
			r.await("ready", 2, kind(EventReady))
			var rollout *Progress
			if name == "reload" {
				p.Command.Env = []string{"ANOTHER=1"}
				changes, err := r.Reload(t.Context(), []PoolSpec{p})
				if err != nil || len(changes.Rolling) != 1 {
					t.Fatalf("Reload = %+v, %v", changes, err)
				}
				rollout = changes.Rolling[0]
			} else {
				begun, err := r.Restart(t.Context(), Everyone())
				if err != nil {
					t.Fatal(err)
				}
				rollout = begun[0]
			}
			r.await("replaced", 2, kind(EventUp, "job/0"))
			if err := os.WriteFile(done, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			r.await("completed", 1, kind(EventCompleted, "job/1"))
			close(gate)
			if err := rollout.Wait(t.Context()); err != nil {
				t.Fatal(err)
			}
			if w := r.Status()[1]; w.Start != want {
				t.Errorf("job/1 is %v in start %d, want %d", w.State, w.Start, want)
			}
			if err := r.halt(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestRolloutOfWorkersThatComplete: further workers that are done stand in for nobody, but
// keep nobody waiting. Those that had to stay ready for some time have failed.
func TestRolloutOfWorkersThatComplete(t *testing.T) {
	for name, proof := range map[string]time.Duration{"ends": 0, "fails": time.Hour} {
		t.Run(name, func(t *testing.T) {
			p := sleeper("web", 3)
			p.Restart = RestartOnFailure
			p.Rollout = Rollout{MaxSurge: 1, MinReady: proof}
			r := begin(t, p)
			r.ready("web", 0, 1, 2)
			p.Command = sh("web", 3, "exit 0").Command
			err := r.reloaded(p)
			var failed *RolloutError
			if proof == 0 && err != nil {
				t.Errorf("the rollout: %v", err)
			}
			if proof != 0 && (!errors.As(err, &failed) || failed.Worker.String() != "web/3" || !strings.HasSuffix(err.Error(), "web/3 did not become ready: completed before min_ready was over")) {
				t.Errorf("the rollout: %v, want it to have failed for web/3", err)
			}
			for _, w := range r.Status()[:3] {
				if kept := w.Start == 1 && w.Ready; kept != (proof != 0) {
					t.Errorf("%v is %v in start %d", w.Worker, w.State, w.Start)
				}
			}
			if err := r.halt(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestWhoComesBackHasNoPast: a worker that has left its pool, and comes again with another
// size, does not show why it had waited then.
func TestWhoComesBackHasNoPast(t *testing.T) {
	gate := make(gated)
	first, p := sleeper("db", 1), sleeper("web", 2)
	first.Readiness = gate
	p.After = []Dependency{{Pool: "db"}}
	r := begin(t, first, p)
	r.await("waiting", 1, kind(EventWaiting))
	if err := r.Scale(t.Context(), "web", 1); err != nil {
		t.Fatal(err)
	}
	linuxtest.Wait(t, patience, func() (bool, string) { return len(r.Status()) == 2, "another number of workers" })
	close(gate)
	r.ready("web", 0)
	if err := r.Scale(t.Context(), "web", 2); err != nil {
		t.Fatal(err)
	}
	r.ready("web", 0, 1)
	for _, w := range r.Status() {
		if w.Cause != "" {
			t.Errorf("%v: cause %q, want none", w.Worker, w.Cause)
		}
	}
	if err := r.halt(); err != nil {
		t.Error(err)
	}
}

// TestRestartOfWhatCompletes: a job does not have to stay ready to be done.
func TestRestartOfWhatCompletes(t *testing.T) {
	p := sh("job", 1, "exit 0")
	p.Restart = RestartOnFailure
	p.Rollout = Rollout{MaxSurge: 1, MinReady: time.Hour}
	r := begin(t, p, sleeper("web", 1))
	r.await("completed", 1, kind(EventCompleted, "job/0"))
	begun, err := r.Restart(t.Context(), only("job"))
	if err != nil {
		t.Fatal(err)
	}
	if err := begun[0].Wait(t.Context()); err != nil {
		t.Errorf("the rollout: %v", err)
	}
	r.await("completed again", 2, kind(EventCompleted, "job/0"))
	if err := r.halt(); err != nil {
		t.Error(err)
	}
}
