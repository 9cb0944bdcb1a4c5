package supervise

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// reloaded gives a pool another command, and returns how the rollout went.
func (r *rig) reloaded(p PoolSpec) error {
	r.Helper()
	changes, err := r.Reload(r.Context(), []PoolSpec{p})
	if err != nil || len(changes.Rolling) != 1 {
		r.Fatalf("Reload = %+v, %v", changes, err)
	}
	return changes.Rolling[0].Wait(r.Context())
}

// An old worker goes only when a new one has stayed ready for long enough.
func TestRolloutWaitsForProof(t *testing.T) {
	const proof = 200 * time.Millisecond
	p := sleeper("web", 3)
	p.Rollout = Rollout{MaxSurge: 1, MinReady: proof}
	r := begin(t, p)
	r.await("ready", 3, kind(EventReady))
	p.Command.Args = []string{"sleep", "700"}
	if err := r.reloaded(p); err != nil {
		t.Fatal(err)
	}
	var last time.Time // when somebody became ready whose time is not used up
	stops := 0
	for _, e := range r.all(func(e Event) bool { return e.Kind == EventReady || e.Kind == EventStopping }) {
		if e.Kind == EventReady {
			last = e.At
			continue
		}
		if e.Reason != ReasonReload {
			continue
		}
		// The engine's clock began a little before the event's.
		if stops++; e.At.Sub(last) < proof-20*time.Millisecond {
			t.Errorf("%v is stopped %v after the last one was ready, want %v", e.Worker, e.At.Sub(last), proof)
		}
	}
	if stops != 3 {
		t.Errorf("%d workers were replaced, want 3; events:\n%s", stops, r.log())
	}
	if err := r.halt(); err != nil {
		t.Error(err)
	}
}

// One that is ready and ends soon after that stops the rollout, and the old ones serve.
func TestRolloutOfWorkersThatDoNotStay(t *testing.T) {
	p := sleeper("web", 2)
	p.Rollout = Rollout{MaxSurge: 1, MinReady: time.Minute}
	r := begin(t, p)
	r.await("ready", 2, kind(EventReady))
	bad := sh("web", 2, "sleep 0.05; exit 3")
	bad.Rollout = p.Rollout
	err := r.reloaded(bad)
	var failed *RolloutError
	if !errors.As(err, &failed) || failed.Worker.String() != "web/2" || !strings.Contains(err.Error(), "web/2 did not become ready: exit 3") {
		t.Errorf("the rollout: %v", err)
	}
	for _, w := range r.Status() {
		if w.Worker.Slot < 2 && (w.Start != 1 || !w.Ready) {
			t.Errorf("worker %+v, want the first start", w)
		}
	}
	if err := r.halt(); err != nil {
		t.Error(err)
	}
}

// A rollout that does not get on is stopped, and the old ones serve.
func TestRolloutThatDoesNotGetOn(t *testing.T) {
	p := sleeper("web", 2)
	p.Rollout = Rollout{MaxSurge: 1, Progress: 300 * time.Millisecond}
	r := begin(t, p)
	r.await("ready", 2, kind(EventReady))
	hangs := p
	hangs.Command.Args = []string{"sleep", "700"}
	hangs.Readiness = rule(never)
	err := r.reloaded(hangs)
	var failed *RolloutError
	if !errors.As(err, &failed) || err.Error() != "rollout 1 of pool web stopped: no new worker has come to count for 300ms" {
		t.Errorf("the rollout: %v", err)
	}
	r.await("gone", 1, kind(EventStopped, "web/2"))
	for _, w := range r.Status() {
		if w.Start != 1 || !w.Ready {
			t.Errorf("worker %+v, want the first start", w)
		}
	}
	if err := r.halt(); err != nil {
		t.Error(err)
	}
}

// A worker that is to be stopped has no more work sent to it for some time, and then
// gets the signal.
func TestDrain(t *testing.T) {
	const drain = 150 * time.Millisecond
	p := sleeper("web", 2)
	p.Stop.Drain = drain
	r := begin(t, p)
	r.await("ready", 2, kind(EventReady))
	one, _ := ParseSelector("web/0")
	if _, err := r.Stop(t.Context(), one); err != nil {
		t.Fatal(err)
	}
	e := r.await("stopping", 1, kind(EventStopping, "web/0"))[0]
	if e.Ready || e.Delay != drain {
		t.Errorf("stopping: %s, ready %v, want it to drain", eventText(e), e.Ready)
	}
	if e := r.await("stopped", 1, kind(EventStopped, "web/0"))[0]; e.Escalated || e.Elapsed < drain {
		t.Errorf("stopped after %v, escalated %v", e.Elapsed, e.Escalated)
	}
	// A kill does not wait.
	p.Stop.Drain = time.Hour
	if changes, err := r.Reload(t.Context(), []PoolSpec{p}); err != nil || len(changes.Updated) != 1 {
		t.Fatalf("Reload = %+v, %v", changes, err)
	}
	other, _ := ParseSelector("web/1")
	if _, err := r.Stop(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	r.await("stopping", 1, kind(EventStopping, "web/1"))
	if _, err := r.Kill(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	if e := r.await("stopped", 1, kind(EventStopped, "web/1"))[0]; e.Escalated {
		t.Errorf("stopped: %s, escalated", eventText(e))
	}
}
