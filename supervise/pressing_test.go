package supervise

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/internal/pressure"
	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/pidfd"
)

// needPressure skips where the kernel keeps no pressure, or lets nobody watch it.
func needPressure(t *testing.T) {
	t.Helper()
	dir, err := cgroup.Open(linuxtest.Cgroup(t))
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if err := tryPressure(dir, &Pressure{IOFull: 1, For: leastPressure, CalmFor: leastPressure, Calm: 1}); err != nil {
		linuxtest.Skip(t, "needs triggers of the kernel's pressure stall information")
	}
}

// wind is pressure that the test makes up: samples of what nobody waits for here, with
// times of their own.
type wind struct {
	*rig
	at, total time.Duration
}

// calm is a rig in which nobody else takes samples.
func calm(t *testing.T, pools ...PoolSpec) *wind {
	t.Helper()
	r := newRig(t, Options{Pools: pools})
	r.pressing.sampling = true
	r.begin()
	return &wind{rig: r}
}

// under is a policy for the test's wind.
func under(action PressureAction) PressurePolicy {
	return PressurePolicy{Action: action, Pressure: Pressure{Where: PressureOfRun, IOFull: 0.9, For: 10 * time.Second, CalmFor: 20 * time.Second}}
}

// blow lets a share of the time be lost for some seconds.
func (w *wind) blow(seconds int, share float64) {
	w.Helper()
	for range seconds {
		w.at = max(w.at, w.now()) + time.Second
		w.total += time.Duration(share * float64(time.Second))
		at, total := w.at, w.total
		w.inbox.post(message{do: func() {
			var samples []sampled
			for _, g := range w.pressing.gauges {
				samples = append(samples, sampled{gauge: g, at: at, total: total})
			}
			w.takeSamples(samples)
		}})
	}
	if err := w.Ping(w.Context()); err != nil {
		w.Fatal(err)
	}
}

func (w *wind) pool(name string) PoolStatus {
	w.Helper()
	for _, p := range w.Pools() {
		if p.Name == name {
			return p
		}
	}
	w.Fatalf("no pool %s", name)
	return PoolStatus{}
}

// frozen waits until the kernel says that a worker's leaf is frozen, or is not.
func (w *wind) frozen(worker string, want bool) {
	w.Helper()
	_, leaf := w.members(worker)
	linuxtest.Wait(w, patience, func() (bool, string) {
		text, err := os.ReadFile(leaf + "/cgroup.events")
		return err == nil && strings.Contains(string(text), "frozen 1") == want, fmt.Sprintf("%s, %v", text, err)
	})
}

func TestHoldStarts(t *testing.T) {
	needPressure(t)
	p := sleeper("web", 3)
	p.Pressure = under(PressureHold)
	w := calm(t, p)
	w.await("ready", 3, kind(EventReady))

	w.blow(12, 1)
	e := w.await("pressure", 1, kind(EventPressure))[0]
	if got := *e.Pressure; got != (PressureInfo{Where: PressureOfRun, Resource: "io", Kind: "full", Share: 1, Over: 10 * time.Second}) {
		t.Errorf("pressure %+v", got)
	}
	if e := w.await("held", 1, kind(EventHeld))[0]; e.Reason != ReasonPressure || e.Err == nil || e.Err.Error() != "all programs of the run waited for io 100% of 10s" {
		t.Errorf("held: %s", eventText(e))
	}
	for _, worker := range []string{"web/0", "web/1"} {
		pids, _ := w.members(worker)
		w.kill(pids[0], unix.SIGKILL)
		w.await("starting again", 2, kind(EventStarting, worker))
	}
	if got := w.pool("web"); got.Held != 2 || got.Pressure != "starts are held: all programs of the run waited for io 100% of 10s" {
		t.Errorf("pool %+v, want two starts held", got)
	}
	if got := w.Status(); !got[0].Held || got[0].State != StateStarting || got[2].Held || !got[2].Ready {
		t.Errorf("workers %+v, want web/0 held and web/2 ready", got)
	}
	linuxtest.Wait(t, patience, func() (bool, string) { // what ps reads
		runs, err := w.registry.List(t.Context())
		if err != nil || len(runs) != 1 || len(runs[0].Pools) != 1 {
			return false, fmt.Sprint(runs, err)
		}
		p := runs[0].Pools[0]
		return p.Size == 3 && strings.HasPrefix(p.Pressure, "starts are held: ") && len(p.Waiting) == 2 && p.Waiting[0].Cause == "held", fmt.Sprintf("%+v", p)
	})
	// Who is stopped meanwhile does not come back.
	one, _ := ParseSelector("web/1")
	if _, err := w.Stop(t.Context(), one); err != nil {
		t.Fatal(err)
	}
	w.await("stopped", 1, kind(EventStopped, "web/1"))
	w.blow(25, 0)
	w.await("over", 1, kind(EventPressureOver))
	w.await("released", 1, kind(EventReleased))
	w.await("ready again", 2, kind(EventReady, "web/0"))
	if got := w.pool("web"); got.Held != 0 || got.Pressure != "" {
		t.Errorf("pool %+v afterwards", got)
	}
	if got := w.Status(); got[1].State != StateDown {
		t.Errorf("web/1 is %v, want down", got[1].State)
	}
	if err := w.halt(); err != nil {
		t.Error(err)
	}
}

func TestShrink(t *testing.T) {
	needPressure(t)
	p := sleeper("web", 8)
	p.Pressure = under(PressureShrink)
	p.Pressure.MinSize = 3
	w := calm(t, p)
	w.await("ready", 8, kind(EventReady))
	sizes := func(want ...int) {
		t.Helper()
		events := w.await("scaled", len(want), kind(EventScaled))
		var got []int
		for _, e := range events {
			got = append(got, e.Size)
			if e.Reason != ReasonPressure && e.Reason != ReasonCommand {
				t.Errorf("scaled for %v", e.Reason)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("sizes %v, want %v", got, want)
		}
	}
	w.blow(12, 1)
	sizes(6)
	w.await("gone", 2, kind(EventStopped))
	w.blow(40, 1)
	sizes(6, 4, 3)
	w.await("gone", 5, kind(EventStopped))
	if got := w.pool("web"); got.Size != 8 || got.Withheld != 5 || !strings.HasPrefix(got.Pressure, "shrunk: ") {
		t.Errorf("pool %+v, want 5 of 8 withheld", got)
	}
	// Another size is what is wanted when it is over: until then nobody starts or stops for it.
	for _, size := range []int{12, 4, 6} {
		if err := w.Scale(t.Context(), "web", size); err != nil {
			t.Fatal(err)
		}
		if got := w.pool("web"); got.Size != size || got.Withheld != size-3 || got.Ready != 3 {
			t.Errorf("pool %+v at size %d, want 3 ready", got, size)
		}
	}
	w.blow(200, 0)
	w.await("all back", 8+3, kind(EventReady))
	if got := w.pool("web"); got.Size != 6 || got.Withheld != 0 || got.Ready != 6 || got.Pressure != "" {
		t.Errorf("pool %+v afterwards, want 6 ready", got)
	}
	if err := w.halt(); err != nil {
		t.Error(err)
	}
}

// The least important pool is frozen first and thawed last, and what is frozen can be
// stopped, killed and shut down.
func TestFreeze(t *testing.T) {
	needPressure(t)
	var pools []PoolSpec
	for i, name := range []string{"low", "high"} {
		p := sh(name, 3, `trap 'echo bye; exit 0' TERM; while :; do sleep 0.01; done`)
		p.Pressure = under(PressureFreeze)
		p.Pressure.Priority = i
		pools = append(pools, p)
	}
	w := calm(t, pools...)
	w.await("ready", 6, kind(EventReady))
	for i := range 3 { // until the trap is set
		linuxtest.Wait(t, patience, func() (bool, string) {
			pids, _ := w.members(fmt.Sprintf("low/%d", i))
			return len(pids) > 1, fmt.Sprint(pids)
		})
	}
	w.blow(12, 1)
	w.await("frozen", 1, kind(EventFrozen, "low/-1"))
	for i := range 3 {
		w.frozen(fmt.Sprintf("low/%d", i), true)
		w.frozen(fmt.Sprintf("high/%d", i), false)
	}
	w.blow(10, 1)
	w.await("frozen", 1, kind(EventFrozen, "high/-1"))
	w.frozen("high/2", true)
	if got := w.pool("low"); got.Frozen != 3 || !strings.HasPrefix(got.Pressure, "frozen: ") {
		t.Errorf("pool %+v, want three frozen", got)
	}
	// A stop thaws, so that the worker can obey; a kill need not.
	stop, _ := ParseSelector("low/0")
	if _, err := w.Stop(t.Context(), stop); err != nil {
		t.Fatal(err)
	}
	if e := w.await("stopped", 1, kind(EventStopped, "low/0"))[0]; e.Escalated || e.Exit == nil || !e.Exit.Success() {
		t.Errorf("a frozen worker was stopped like this: %s", eventText(e))
	}
	kill, _ := ParseSelector("low/1")
	if _, err := w.Kill(t.Context(), kill); err != nil {
		t.Fatal(err)
	}
	w.await("killed", 1, kind(EventStopped, "low/1"))
	w.blow(25, 0)
	w.await("thawed", 1, kind(EventThawed, "high/-1"))
	w.frozen("high/0", false)
	w.frozen("low/2", true)
	w.blow(25, 0)
	w.await("thawed", 1, kind(EventThawed, "low/-1"))
	w.frozen("low/2", false)
	w.blow(12, 1)
	w.frozen("low/2", true)
	if err := w.halt(); err != nil {
		t.Error(err)
	}
	if e := w.await("stopped", 1, kind(EventStopped, "low/2"))[0]; e.Escalated || e.Exit == nil || !e.Exit.Success() {
		t.Errorf("a frozen worker was shut down like this: %s", eventText(e))
	}
}

// A worker that is not ready is frozen when it is; one that somebody thaws stays so.
func TestFreezeWhoIsReady(t *testing.T) {
	needPressure(t)
	p := sleeper("web", 2)
	p.Pressure = under(PressureFreeze)
	open := make(chan struct{})
	p.Readiness = rule(func(ctx context.Context, info StartInfo, _ *pidfd.Process, _ *cgroup.Dir) (ReadyInfo, error) {
		if info.Worker.Slot == 1 {
			<-open
		}
		return ReadyInfo{}, nil
	})
	w := calm(t, p)
	w.await("ready", 1, kind(EventReady, "web/0"))
	w.blow(12, 1)
	w.frozen("web/0", true)
	w.frozen("web/1", false)
	close(open)
	w.await("ready", 1, kind(EventReady, "web/1"))
	w.frozen("web/1", true)

	_, leaf := w.members("web/0")
	if err := os.WriteFile(leaf+"/cgroup.freeze", []byte("0"), 0); err != nil {
		t.Fatal(err)
	}
	w.Spare(WorkerID{Pool: "web"}, 1)
	w.blow(10, 1)
	w.frozen("web/0", false)
	if got := w.Status(); got[0].Frozen || !got[1].Frozen {
		t.Errorf("workers %+v, want web/1 frozen alone", got)
	}
}

// Another policy holds at once, and costs no worker its life.
func TestReloadPressure(t *testing.T) {
	needPressure(t)
	p := sleeper("web", 2)
	p.Pressure = under(PressureFreeze)
	w := calm(t, p)
	w.await("ready", 2, kind(EventReady))
	w.blow(12, 1)
	w.frozen("web/0", true)
	for i, action := range []PressureAction{PressureHold, 0} {
		p.Pressure = PressurePolicy{}
		if action != 0 {
			p.Pressure = under(action)
		}
		changes, err := w.Reload(t.Context(), []PoolSpec{p})
		if err != nil || !slices.Equal(changes.Updated, []string{"web"}) {
			t.Fatalf("Reload = %+v, %v", changes, err)
		}
		w.await("thawed", 1, kind(EventThawed))
		w.await("held instead", 1, kind(EventHeld))
		w.frozen("web/0", false)
		if i == 1 {
			w.await("released", 1, kind(EventReleased))
		}
		if got := w.pool("web").Pressure; strings.HasPrefix(got, "starts are held") != (i == 0) {
			t.Errorf("with %v the pool says %q", action, got)
		}
	}
	w.await("over", 1, kind(EventPressureOver))
	w.inbox.post(message{do: func() {
		if n := len(w.pressing.gauges); n != 0 {
			t.Errorf("%d triggers are still open", n)
		}
	}})
	bad := p
	bad.Pressure = under(PressureHold)
	bad.Pressure.IOFull = 2
	if _, err := w.Reload(t.Context(), []PoolSpec{bad}); err == nil || !strings.Contains(err.Error(), "io full pressure 2 is not within 0 and 1") {
		t.Errorf("Reload = %v", err)
	}
	if got := w.Status(); got[0].Start != 1 || got[1].Start != 1 {
		t.Errorf("workers %+v, want their first starts", got)
	}
}

// Pressure that cannot be watched is refused, or told and done without.
func TestPressureThatCannotBeWatched(t *testing.T) {
	needPressure(t)
	plain := sleeper("web", 1)
	r := begin(t, plain)
	if err := os.WriteFile(r.run.Dir().Path()+"/cgroup.pressure", []byte("0"), 0); err != nil {
		linuxtest.Skip(t, "needs cgroup.pressure")
	}
	p := plain
	p.Pressure = under(PressureHold)
	_, err := r.Reload(t.Context(), []PoolSpec{p})
	var failed *pressure.Error
	if !errors.As(err, &failed) || failed.Hint() == "" || !strings.Contains(err.Error(), "watch pressure for pool web: watch the io full pressure: ") {
		t.Errorf("Reload = %v", err)
	}
	spec := RunSpec{Watch: []Pressure{under(0).Pressure}}
	if _, err = r.setRun(runSpec{}, spec); !errors.As(err, &failed) {
		t.Errorf("setRun = %v", err)
	}
	p.BestEffortLimits, spec.BestEffort = true, true
	if _, err := r.Reload(t.Context(), []PoolSpec{p}); err != nil {
		t.Error(err)
	}
	if e := r.await("degraded", 1, kind(EventDegraded, "web/-1"))[0]; !errors.As(e.Err, &failed) {
		t.Errorf("degraded: %s", eventText(e))
	}
	if got, err := r.setRun(runSpec{}, spec); err != nil || len(got.Watch) != 0 || len(got.degraded) != 1 {
		t.Errorf("setRun = %+v, %v", got, err)
	}
}

// From the kernel's trigger to the event, and to what follows, with programs that really
// wait for a processor.
func TestRealPressure(t *testing.T) {
	needPressure(t)
	busy := sh("busy", 3, "exec taskset 1 /bin/sh -c 'while :; do :; done'")
	web := sleeper("web", 1)
	rule := Pressure{Where: PressureOfRun, CPU: 0.3, For: 2 * time.Second, CalmFor: 2 * time.Second}
	web.Pressure = PressurePolicy{Action: PressureHold, Pressure: rule}
	r := newRig(t, Options{Pools: []PoolSpec{busy, web}, RunSpec: RunSpec{Watch: []Pressure{rule}}})
	r.begin()
	r.await("held", 1, kind(EventHeld, "web/-1"))
	for _, e := range r.await("pressure", 2, kind(EventPressure)) {
		if p := e.Pressure; p == nil || p.Resource != "cpu" || p.Kind != "some" || p.Share < 0.3 || p.Share > 1.01 {
			t.Errorf("pressure: %s, %+v", eventText(e), p)
		}
	}
	all, _ := ParseSelector("busy")
	if _, err := r.Kill(t.Context(), all); err != nil {
		t.Fatal(err)
	}
	r.await("released", 1, kind(EventReleased, "web/-1"))
	r.await("over", 2, kind(EventPressureOver))
	// It ends taking samples by itself.
	linuxtest.Wait(t, patience, func() (bool, string) {
		r.Supervisor.mu.Lock()
		defer r.Supervisor.mu.Unlock()
		return !r.pressing.sampling, "samples are still taken"
	})
	if err := r.halt(); err != nil {
		t.Error(err)
	}
}

// Memory that the kernel has to take back all the time is pressure as well.
func TestRealMemoryPressure(t *testing.T) {
	needPressure(t)
	linuxtest.NeedCgroup2(t, "memory")
	hog := helper(t, "hog", 1, "alloc", "24")
	hog.Limits.MemoryHigh = 16 << 20
	hog.Stop.Grace = 0
	r := newRig(t, Options{Pools: []PoolSpec{hog}, RunSpec: RunSpec{Watch: []Pressure{{Where: PressureOfRun, Memory: 0.1, For: 2 * time.Second, CalmFor: 2 * time.Second}}}})
	r.begin()
	e := r.await("pressure", 1, kind(EventPressure))[0]
	if p := e.Pressure; p == nil || p.Resource != "memory" || p.Where != PressureOfRun || p.Share < 0.1 || e.Worker.Pool != "" {
		t.Errorf("pressure: %s, %+v", eventText(e), p)
	}
}
