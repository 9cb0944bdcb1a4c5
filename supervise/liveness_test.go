package supervise

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/pidfd"
)

// watcher is a liveness rule made of one function; it counts what is open.
type watcher struct {
	watch func(ctx context.Context, info StartInfo, ready ReadyInfo) error
	open  atomic.Int64
}

func (w *watcher) Prepare(info StartInfo, _ Output) (Vigil, error) {
	w.open.Add(1)
	return &vigil{w, info}, nil
}

type vigil struct {
	*watcher
	info StartInfo
}

func (v *vigil) Env() []string { return []string{"VIGIL=" + v.info.Worker.String()} }
func (v *vigil) Close() error  { v.open.Add(-1); return nil }
func (v *vigil) Watch(ctx context.Context, p *pidfd.Process, leaf *cgroup.Dir, ready ReadyInfo) error {
	if populated, err := leaf.Events(); err != nil || !populated.Populated || p.PID() == 0 {
		return fmt.Errorf("watched leaf: %+v, %v", populated, err)
	}
	return v.watch(ctx, v.info, ready)
}

// TestUnwellIsRestarted: by the liveness rule of this very start, and no other one.
func TestUnwellIsRestarted(t *testing.T) {
	sick := errors.New("does not answer")
	w := &watcher{watch: func(ctx context.Context, info StartInfo, ready ReadyInfo) error {
		if info.Worker.Slot == 1 && info.Start < 3 {
			return fmt.Errorf("port %d: %w", ready.Port, sick)
		}
		<-ctx.Done()
		return sick // nobody may listen any more
	}}
	p := sleeper("web", 3)
	p.Readiness, p.Liveness = rule(portRule), w
	r := begin(t, p)
	r.await("ready", 5, kind(EventReady))
	for i, e := range r.await("unhealthy", 2, kind(EventUnhealthy)) {
		if e.Worker.String() != "web/1" || e.Start != uint64(i+1) || !errors.Is(e.Err, sick) || e.Err.Error() != "port 4711: does not answer" || e.Ready {
			t.Errorf("%s, want web/1 not answering on its port", eventText(e))
		}
	}
	for _, e := range r.all(kind(EventStopped)) {
		if e.Reason != ReasonUnhealthy || e.Worker.String() != "web/1" {
			t.Errorf("%s for %v, want only the one that is unhealthy", eventText(e), e.Reason)
		}
	}
	r.ready("web", 0, 1, 2)
	if n := r.Result().Unhealthy; n != 2 {
		t.Errorf("Result().Unhealthy = %d, want 2", n)
	}
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", r.pids("web")[2]))
	if err != nil || !slices.Contains(splitNull(env), "VIGIL=web/2") {
		t.Errorf("environment of web/2 = %q, %v; want VIGIL=web/2 in it", env, err)
	}
	r.kill(r.pids("web")[2], unix.SIGKILL)
	r.await("ready", 6, kind(EventReady))
	if err := r.halt(); err != nil {
		t.Errorf("Run() = %v, want nil", err)
	}
	if n := w.open.Load(); n != 0 {
		t.Errorf("%d vigils are still open", n)
	}
}

func splitNull(text []byte) []string {
	var all []string
	for len(text) > 0 {
		end := slices.Index(text, 0)
		if end < 0 {
			end = len(text) - 1
		}
		all = append(all, string(text[:end]))
		text = text[end+1:]
	}
	return all
}

// TestVigilOfWhatNeverWasReady is closed, too.
func TestVigilOfWhatNeverWasReady(t *testing.T) {
	w := &watcher{watch: func(context.Context, StartInfo, ReadyInfo) error { return errors.New("was asked") }}
	p := sh("web", 2, "exit 1")
	p.Readiness, p.Liveness, p.Restart = rule(never), w, RestartNever
	bad := p
	bad.Name, bad.Command.Path = "bad", "/nonexistent"
	r := begin(t, p, bad)
	_ = r.wait()
	if n := w.open.Load(); n != 0 || len(r.all(kind(EventUnhealthy))) > 0 {
		t.Errorf("%d vigils are still open; unhealthy: %v", n, r.all(kind(EventUnhealthy)))
	}
}

// TestRecyclingByAgeAndCount is surge-first.
func TestRecyclingByAgeAndCount(t *testing.T) {
	web, api := sleeper("web", 2), sleeper("api", 1)
	web.Recycle = Recycle{Age: 300 * time.Millisecond, AgeJitter: 0.5}
	api.Recycle = Recycle{Count: 1000}
	r := begin(t, web, api)
	for i, e := range r.await("rolled out", 3, func(e Event) bool { return e.Kind == EventRolledOut && e.Worker.Pool == "web" }) {
		if e.Reason != ReasonAge || e.Rollout != uint64(i+1) {
			t.Errorf("%s for %v, want the rollouts of what has its age", eventText(e), e.Reason)
		}
	}
	for _, e := range r.all(kind(EventRecycling)) {
		if e.Worker.Pool != "web" || e.Reason != ReasonAge || e.Err == nil {
			t.Errorf("%s for %v, want only web to age", eventText(e), e.Reason)
		}
	}
	id := WorkerID{"api", 0}
	r.Count(id, 1, 999)
	r.Count(id, 2, 5000) // of a start that is not
	r.Count(WorkerID{"api", 7}, 1, 5000)
	r.Count(WorkerID{"nobody", 0}, 1, 5000)
	if err := r.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := r.all(kind(EventRecycling, "api/0")); len(got) > 0 {
		t.Errorf("recycled below its count: %v", got)
	}
	for range 1000 {
		r.Count(id, 1, 1000)
	}
	r.await("rolled out", 1, func(e Event) bool { return e.Kind == EventRolledOut && e.Worker.Pool == "api" })
	if got := r.all(kind(EventRecycling, "api/0")); len(got) != 1 || got[0].Err.Error() != "counted 1000, at most 1000 are meant" {
		t.Errorf("recycling of api/0: %v, want one", got)
	}
	stopping, surge := r.all(kind(EventStopping, "api/0")), r.all(kind(EventReady, "api/1"))
	if len(stopping) != 1 || len(surge) != 1 || stopping[0].Seq < surge[0].Seq {
		t.Errorf("api/0 was stopped before api/1 was ready:\n%s", r.log())
	}
	if err := r.halt(); err != nil {
		t.Errorf("Run() = %v, want nil", err)
	}
}

func TestRecyclingByMemory(t *testing.T) {
	linuxtest.NeedCgroup2(t, "memory")
	hog := helper(t, "hog", 1, "alloc", "64")
	hog.Recycle = Recycle{Memory: 48 << 20, MemoryEvery: 50 * time.Millisecond}
	r := begin(t, hog, sleeper("web", 1))
	e := r.await("recycling", 1, kind(EventRecycling))[0]
	if e.Worker.String() != "hog/0" || e.Reason != ReasonMemory || e.Err == nil {
		t.Errorf("%s for %v, want hog/0 for its memory", eventText(e), e.Reason)
	}
	r.await("rolled out", 1, kind(EventRolledOut))
	if err := r.halt(); err != nil {
		t.Errorf("Run() = %v, want nil", err)
	}
}

// TestStartsTakeTurns: with MaxStarting no more than so many are on their way to
// ready at a time; one that hangs keeps nobody waiting for ever, and a stop does not
// wait for its turn.
func TestStartsTakeTurns(t *testing.T) {
	var now, most atomic.Int64
	gate := make(chan struct{})
	p := sleeper("web", 12)
	p.Readiness = rule(func(ctx context.Context, info StartInfo, _ *pidfd.Process, _ *cgroup.Dir) (ReadyInfo, error) {
		most.Store(max(most.Load(), now.Add(1)))
		defer now.Add(-1)
		select {
		case <-gate:
			return ReadyInfo{}, nil
		case <-ctx.Done():
			return ReadyInfo{}, context.Cause(ctx)
		}
	})
	r := newRig(t, Options{Pools: []PoolSpec{p, sleeper("plain", 3)}, MaxStarting: 3})
	r.begin()
	r.await("up", 6, kind(EventUp)) // three, and those without a rule
	if _, err := r.Stop(t.Context(), only("web/11")); err != nil {
		t.Fatal(err)
	}
	if e := r.await("stopped", 1, kind(EventStopped))[0]; e.Worker.String() != "web/11" || e.PID != 0 {
		t.Errorf("%s, want web/11, which never was up", eventText(e))
	}
	if n := len(r.all(kind(EventUp))); n != 6 {
		t.Errorf("%d are up, want the first 3 of web and 3 of plain", n)
	}
	close(gate)
	r.await("ready", 14, kind(EventReady))
	if n := most.Load(); n > 3 {
		t.Errorf("%d were on their way at a time, want 3", n)
	}
	if err := r.halt(); err != nil {
		t.Errorf("Run() = %v, want nil", err)
	}
}

// TestSlowStartsLetOthersPass, after a while.
func TestSlowStartsLetOthersPass(t *testing.T) {
	p := sleeper("web", 3)
	p.Readiness = rule(never)
	r := newRig(t, Options{Pools: []PoolSpec{p}, MaxStarting: 1})
	r.begin()
	r.await("up", 1, kind(EventUp))
	r.Supervisor.mu.Lock()
	for k := range r.launches.flights {
		r.launches.flights[k].at -= slowStart
	}
	r.Supervisor.mu.Unlock()
	if err := r.Ping(t.Context()); err != nil { // lets the engine look again
		t.Fatal(err)
	}
	r.await("up", 2, kind(EventUp))
	if err := r.halt(); err != nil {
		t.Errorf("Run() = %v, want nil: that they were stopped is no failure", err)
	}
}

// TestEventsAreResumable: whoever was cut off goes on where it was, and who comes too
// late is told how much is missing.
func TestEventsAreResumable(t *testing.T) {
	r := newRig(t, Options{Pools: []PoolSpec{sleeper("web", 30)}, EventRing: 16})
	r.begin()
	r.await("ready", 30, kind(EventReady))
	if err := r.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	all := r.all(func(Event) bool { return true })
	last := all[len(all)-1].Seq
	var seen []uint64
	for e, err := range r.Events(ctx, 0) {
		if err != nil {
			var lost *LostError
			if !errors.As(err, &lost) || lost.After != 0 || lost.Count != last-16 || len(seen) > 0 {
				t.Errorf("Events: %v after %d events, want %d that are lost, first", err, len(seen), last-16)
			}
			continue
		}
		seen = append(seen, e.Seq)
		if e.Seq == last {
			break
		}
	}
	if len(seen) != 16 || seen[0] != last-15 {
		t.Errorf("numbers of the events = %v, want the last 16 up to %d", seen, last)
	}
	// A slow one who is always there misses nothing that is kept.
	done := make(chan []uint64)
	go func() {
		var got []uint64
		for e, err := range r.Events(context.Background(), last) {
			var lost *LostError
			if errors.As(err, &lost) {
				continue // there were more at once than are kept
			}
			got = append(got, e.Seq)
		}
		done <- got
	}()
	r.kill(r.pids("web")[3], unix.SIGKILL)
	r.await("ready", 31, kind(EventReady))
	r.KillNow()
	r.stop()
	<-r.done
	got := <-done
	for i, seq := range got {
		if seq <= last || i > 0 && seq <= got[i-1] {
			t.Errorf("event %d comes after event %d", seq, got[max(0, i-1)])
		}
	}
	if all := r.all(func(Event) bool { return true }); got[len(got)-1] != all[len(all)-1].Seq {
		t.Errorf("last event = %d, want %d", got[len(got)-1], all[len(all)-1].Seq)
	}
}

func TestWaitUntilEverybodyIsWhereTheyShouldBe(t *testing.T) {
	gate := make(chan struct{})
	web := sleeper("web", 2)
	web.Readiness = rule(func(ctx context.Context, _ StartInfo, _ *pidfd.Process, _ *cgroup.Dir) (ReadyInfo, error) {
		select {
		case <-gate:
			return ReadyInfo{}, nil
		case <-ctx.Done():
			return ReadyInfo{}, context.Cause(ctx)
		}
	})
	bad := sh("bad", 1, "exit 2")
	bad.Restart, bad.Readiness = RestartNever, rule(never)
	r := begin(t, web, bad, sleeper("api", 1))
	var failed *PoolError
	if err := r.Supervisor.Wait(t.Context(), only("bad")); !errors.As(err, &failed) || failed.Workers[0].Worker.String() != "bad/0" {
		t.Errorf("Wait(bad) = %v, want a PoolError about bad/0", err)
	}
	if err := r.Supervisor.Wait(t.Context(), only("api")); err != nil {
		t.Errorf("Wait(api) = %v, want nil", err)
	}
	if err := r.Supervisor.Wait(t.Context(), only("nobody")); !errors.Is(err, ErrNoMatch) {
		t.Errorf("Wait(nobody) = %v, want ErrNoMatch", err)
	}
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := r.Supervisor.Wait(short, only("web")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Wait(web) = %v though it is not ready", err)
	}
	close(gate)
	if err := r.Supervisor.Wait(t.Context(), only("web")); err != nil {
		t.Errorf("Wait(web) = %v, want nil", err)
	}
}
