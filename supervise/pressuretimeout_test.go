package supervise

import (
	"errors"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/linuxtest"
)

// killMain kills a worker that is one process.
func (w *wind) killMain(worker string) {
	w.Helper()
	pids, _ := w.members(worker)
	w.kill(pids[0], unix.SIGKILL)
}

// Pressure that does not end holds starts for MaxFor, then nothing for as long, and so on.
// Each time that is told, with what is still short.
func TestHoldStartsHasAnEnd(t *testing.T) {
	needPressure(t)
	p := sleeper("web", 2)
	p.Pressure = under(PressureHold)
	p.Pressure.MaxFor = 5 * time.Minute
	w := calm(t, p)
	w.await("ready", 2, kind(EventReady))
	w.blow(12, 1)
	w.await("held", 1, kind(EventHeld))
	w.killMain("web/0")
	w.await("starting again", 2, kind(EventStarting, "web/0"))
	w.blow(280, 1)
	if got := w.pool("web"); got.Held != 1 {
		t.Errorf("pool %+v after less than MaxFor, want a start held", got)
	}
	w.blow(20, 1)
	const short = "all programs of the run waited for io 100% of 10s"
	e := w.await("timeout", 1, kind(EventPressureTimeout))[0]
	if e.Worker.Pool != "web" || e.Reason != ReasonPressure || e.Err == nil || e.Err.Error() != "what was done for 5m0s, the most that is allowed, is undone, and nothing is done for as long again: "+short {
		t.Errorf("timeout: %s", eventText(e))
	}
	if e := w.await("released", 1, kind(EventReleased))[0]; e.Reason != ReasonPressure {
		t.Errorf("released: %s", eventText(e))
	}
	w.await("ready again", 2, kind(EventReady, "web/0"))
	if got := w.pool("web"); got.Held != 0 || got.Ready != 2 || got.Pressure != "nothing is done for now: "+short {
		t.Errorf("pool %+v in its rest", got)
	}
	w.blow(270, 1)
	w.killMain("web/1")
	w.await("ready again", 2, kind(EventReady, "web/1"))
	w.blow(40, 1)
	w.await("held again", 2, kind(EventHeld))
	w.blow(300, 1)
	w.await("a second timeout", 2, kind(EventPressureTimeout))
	w.blow(25, 0)
	w.await("over", 1, kind(EventPressureOver))
	if got := w.pool("web").Pressure; got != "" {
		t.Errorf("the pool says %q afterwards", got)
	}
	w.blow(12, 1)
	w.await("held by the next pressure", 3, kind(EventHeld))
	// Another policy does not answer for that one.
	w.blow(300, 1)
	w.await("a third timeout", 3, kind(EventPressureTimeout))
	p.Pressure.MaxFor = time.Hour
	if _, err := w.Reload(t.Context(), []PoolSpec{p}); err != nil {
		t.Fatal(err)
	}
	w.await("held after a reload", 4, kind(EventHeld))
	p.Pressure.MaxFor = time.Millisecond
	if _, err := w.Reload(t.Context(), []PoolSpec{p}); err == nil || !strings.Contains(err.Error(), "longest time under pressure 1ms is less than 2s") {
		t.Errorf("Reload = %v", err)
	}
	if err := w.halt(); err != nil {
		t.Error(err)
	}
}

// What is shrunk or frozen comes back although the pressure goes on.
func TestShrunkAndFrozenComeBack(t *testing.T) {
	needPressure(t)
	var pools []PoolSpec
	for i, action := range []PressureAction{PressureShrink, PressureFreeze, PressureFreeze} {
		p := sleeper([]string{"small", "low", "high"}[i], 4)
		p.Pressure = under(action)
		p.Pressure.Priority, p.Pressure.MaxFor = i*toInt(action == PressureFreeze), 5*time.Minute
		pools = append(pools, p)
	}
	w := calm(t, pools...)
	w.await("ready", 12, kind(EventReady))
	w.blow(60, 1)
	w.await("gone", 3, kind(EventStopped))
	w.frozen("low/3", true)
	w.frozen("high/3", true)
	w.blow(400, 1)
	w.await("timeouts", 3, kind(EventPressureTimeout))
	w.await("thawed", 2, kind(EventThawed))
	w.frozen("low/3", false)
	w.frozen("high/3", false)
	w.await("all are back", 15, kind(EventReady))
	for _, p := range w.Pools() {
		if p.Size != 4 || p.Ready != 4 || p.Withheld != 0 || p.Frozen != 0 {
			t.Errorf("pool %+v, want four ready workers", p)
		}
	}
	if err := w.halt(); err != nil {
		t.Error(err)
	}
}

// Pressure that cannot be measured any more is over, and not there for ever.
func TestPressureThatCannotBeMeasuredAnyMore(t *testing.T) {
	needPressure(t)
	p := sleeper("web", 1)
	p.Pressure = under(PressureHold)
	w := calm(t, p)
	w.await("ready", 1, kind(EventReady))
	w.blow(12, 1)
	w.await("held", 1, kind(EventHeld))
	w.inbox.post(message{do: func() {
		g := w.pressing.gauges[0]
		for range 2 {
			w.takeSamples([]sampled{{gauge: g, at: w.at, err: unix.EOPNOTSUPP}})
		}
		if !w.calm() {
			t.Error("samples are still wanted of what gives none")
		}
	}})
	if e := w.await("degraded", 1, kind(EventDegraded))[0]; !errors.Is(e.Err, unix.EOPNOTSUPP) {
		t.Errorf("degraded: %s", eventText(e))
	}
	if e := w.await("over", 1, kind(EventPressureOver, "web/-1"))[0]; e.Err == nil || e.Err.Error() != "it is not measured any more; at last all programs of the run waited for io 100% of 10s" {
		t.Errorf("over: %s", eventText(e))
	}
	w.await("released", 1, kind(EventReleased))
	if got := w.pool("web").Pressure; got != "" {
		t.Errorf("the pool says %q", got)
	}
	if err := w.halt(); err != nil {
		t.Error(err)
	}
}

// The whole way with programs that wait for a processor for ever: starts are held, released
// and held again.
func TestRealPressureThatDoesNotEnd(t *testing.T) {
	needPressure(t)
	linuxtest.NeedCommand(t, "taskset")
	busy := sh("busy", 3, "exec taskset 1 /bin/sh -c 'while :; do :; done'")
	web := sleeper("web", 1)
	web.Pressure = PressurePolicy{Action: PressureHold, MaxFor: 2 * time.Second, Pressure: Pressure{Where: PressureOfRun, CPU: 0.3, For: 2 * time.Second}}
	r := newRig(t, Options{Pools: []PoolSpec{busy, web}})
	r.begin()
	r.await("held again", 2, kind(EventHeld, "web/-1"))
	var did []string
	for _, e := range r.await("events", 1, func(e Event) bool { return e.Worker.String() == "web/-1" }) {
		switch e.Kind {
		case EventHeld, EventReleased, EventPressureTimeout, EventPressureOver:
			did = append(did, e.Kind.String())
		default:
		}
	}
	want := "starts-held pressure-timeout starts-released starts-held"
	if got := strings.Join(did, " "); !strings.HasPrefix(got, want) {
		t.Errorf("it did %s, want %s", got, want)
	}
	if err := r.halt(); err != nil {
		t.Error(err)
	}
}
