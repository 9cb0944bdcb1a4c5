package supervise

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/registry"
	"github.com/pitvisor/pitvisor/spawn"
)

func TestPoolRunsAndStopsClean(t *testing.T) {
	r := begin(t, sleeper("web", 3), sleeper("api", 2))
	r.await("ready", 5, kind(EventReady))
	for _, w := range r.Status() {
		if w.State != StateUp || !w.Ready || w.Start != 1 || w.PID == 0 || w.Failures != 0 {
			t.Errorf("status = %+v, want an up and ready first start", w)
		}
	}
	if err := r.halt(); err != nil {
		t.Errorf("Run() = %v, want nil", err)
	}
	want := Result{Workers: 5, Started: 5, Ready: 5}
	if got := r.Result(); got != want {
		t.Errorf("Result() = %+v, want %+v", got, want)
	}
	linuxtest.NoProcessesLeft(t, r.registry.Root().Path())
}

// TestH31EndsAreKnownByCause: what we stopped is told as stopped, what ended by
// itself as exited, and never the one as the other.
func TestH31EndsAreKnownByCause(t *testing.T) {
	r := begin(t, sleeper("web", 20))
	r.await("ready", 20, kind(EventReady))
	victim := r.Status()[7]
	r.kill(victim.PID, unix.SIGKILL)
	exited := r.await("exited", 1, kind(EventExited))[0]
	if exited.Worker != victim.Worker || exited.Exit == nil || exited.Exit.Signal != unix.SIGKILL || exited.PID != victim.PID {
		t.Errorf("exited = %s, want %v by SIGKILL", eventText(exited), victim.Worker)
	}
	r.await("ready again", 21, kind(EventReady))
	if err := r.halt(); err != nil {
		t.Errorf("Run() = %v, want nil", err)
	}
	if got := r.all(kind(EventExited)); len(got) != 1 {
		t.Errorf("%d workers told as exited, want the one that was:\n%s", len(got), r.log())
	}
	stopped := r.all(kind(EventStopped))
	if len(stopped) != 20 {
		t.Errorf("%d workers told as stopped, want 20", len(stopped))
	}
	for _, e := range stopped {
		if e.Exit == nil || e.Exit.Signal != unix.SIGTERM || e.Escalated || e.Leftover != 0 || e.To != StateDown {
			t.Errorf("stopped = %s, want a clean end by SIGTERM", eventText(e))
		}
	}
}

// TestH20StopIsFinal: a worker that dies at the moment of the stop, or before
// it, does not come back.
func TestH20StopIsFinal(t *testing.T) {
	for range 10 {
		r := begin(t, sleeper("web", 4))
		r.await("ready", 4, kind(EventReady))
		r.kill(r.Status()[0].PID, unix.SIGKILL)
		r.kill(r.Status()[1].PID, unix.SIGTERM)
		if err := r.halt(); err != nil {
			t.Errorf("Run() = %v, want nil", err)
		}
		last := r.all(func(Event) bool { return true })
		for _, w := range r.Status() {
			if w.State != StateDown {
				t.Errorf("%v is %v after the stop, want down", w.Worker, w.State)
			}
		}
		if err := r.Run(t.Context()); err == nil {
			t.Error("a second Run works, want an error")
		}
		if now := r.all(func(Event) bool { return true }); len(now) != len(last) {
			t.Errorf("%d events came after the end of Run", len(now)-len(last))
		}
	}
}

// TestH25RunReturnsAfterTheLastProcess: also those that a worker has detached.
func TestH25RunReturnsAfterTheLastProcess(t *testing.T) {
	p := sh("web", 5, `setsid sh -c 'trap "" TERM; sleep 600 & sleep 600' & trap 'exit 0' TERM; wait`)
	p.Stop.Grace = patience // or they are killed where the exits are heard of late, and count for nothing
	r := begin(t, p)
	r.await("ready", 5, kind(EventReady))
	linuxtest.Wait(t, patience, func() (bool, string) {
		pids, _ := r.members("web/4")
		return len(pids) >= 4, "web/4 has not forked"
	})
	linuxtest.StopWithin(t, patience, r.registry.Root().Path(), r.halt)
	left := 0
	for _, e := range r.all(kind(EventStopped)) {
		left += e.Leftover
	}
	if left < 5 || r.Result().Leftover != left {
		t.Errorf("leftover = %d in events, %d in the result; want at least one each of 5 workers", left, r.Result().Leftover)
	}
}

// TestH29ZombiesAreDeadAndReaped: a worker that has ended is noticed and reaped,
// though its children live on; children of its own that it does not reap do not
// count as alive. H-38, too.
func TestH29ZombiesAreDeadAndReaped(t *testing.T) {
	r := begin(t, sh("web", 2, "sleep 600 & sleep 600 & exec sleep 600"), helper(t, "lazy", 1, "zombies", "5"))
	r.await("ready", 3, kind(EventReady))
	linuxtest.Wait(t, patience, func() (bool, string) {
		pids, _ := r.members("web/0")
		return len(pids) == 3, "web/0 has not forked"
	})
	victim := r.Status()[0].PID
	_, leaf := r.members("web/0")
	r.kill(victim, unix.SIGKILL)
	exited := r.await("exited", 1, kind(EventExited))[0]
	if exited.Leftover != 2 {
		t.Errorf("leftover = %d, want the 2 processes that the worker had started", exited.Leftover)
	}
	r.await("ready again", 4, kind(EventReady))
	linuxtest.CgroupGone(t, leaf, 0)
	if id, ok := linuxtest.Identify(victim); ok {
		t.Errorf("process %d is still there as %v", victim, id)
	}
	if err := r.halt(); err != nil {
		t.Errorf("Run() = %v, want nil", err)
	}
	linuxtest.TreeGone(t, r.registry.Root().Path(), patience) // orphans are init's to reap
}

// TestH32GraceIsPerPool: each pool has the grace that its workers need.
func TestH32GraceIsPerPool(t *testing.T) {
	slow := sh("slow", 2, `trap 'sleep 0.7; exit 0' TERM; echo; while :; do sleep 0.05; done`)
	slow.Stop.Grace = patience
	deaf := sh("deaf", 2, `trap '' TERM; while :; do sleep 0.05; done`)
	deaf.Stop.Grace = 200 * time.Millisecond
	odd := sh("odd", 1, `trap 'exit 7' USR1; trap '' TERM; while :; do sleep 0.05; done`)
	odd.Stop = Stop{Signal: unix.SIGUSR1, Grace: patience}
	for _, p := range []*PoolSpec{&slow, &deaf, &odd} {
		p.Readiness = rule(trapsSignals)
	}
	r := begin(t, slow, deaf, odd)
	r.await("ready", 5, kind(EventReady))
	if err := r.halt(); err != nil {
		t.Errorf("Run() = %v, want nil", err)
	}
	for _, e := range r.all(kind(EventStopped)) {
		switch e.Worker.Pool {
		case "slow":
			if e.Escalated || e.Exit == nil || e.Exit.Code != 0 || e.Exit.Signal != 0 || e.Elapsed < 700*time.Millisecond {
				t.Errorf("%s: want its own end after 0.7 s", eventText(e))
			}
		case "deaf":
			if !e.Escalated || e.Exit == nil || e.Exit.Signal != unix.SIGKILL || e.Elapsed < 200*time.Millisecond {
				t.Errorf("%s: want a kill after 0.2 s", eventText(e))
			}
		case "odd":
			if e.Escalated || e.Exit == nil || e.Exit.Code != 7 {
				t.Errorf("%s: want exit 7 by SIGUSR1", eventText(e))
			}
		}
	}
	if got := r.Result().Escalated; got != 2 {
		t.Errorf("escalated = %d, want 2", got)
	}
}

func TestCompletedAndGivenUpEndTheRun(t *testing.T) {
	done := sh("done", 2, "sleep 0.1")
	done.Restart = RestartOnFailure
	once := sh("once", 1, "sleep 0.1; exit 0")
	once.Restart = RestartNever
	r := begin(t, done, once)
	if err := r.wait(); err != nil {
		t.Errorf("Run() = %v, want nil", err)
	}
	if got, want := r.Result(), (Result{Workers: 3, Started: 3, Ready: 3, Completed: 3}); got.Completed != want.Completed || got.Started != 3 {
		t.Errorf("Result() = %+v, want %+v", got, want)
	}

	bad := sh("bad", 1, "exit 4")
	bad.Restart, bad.FailureLimit = RestartOnFailure, 3
	r = begin(t, bad)
	var failed *PoolError
	if err := r.wait(); !errors.As(err, &failed) || len(failed.Workers) != 1 || !strings.Contains(err.Error(), "bad/0 (exit 4)") {
		t.Errorf("Run() = %v, want a PoolError about bad/0", err)
	}
	gaveUp := r.all(kind(EventGaveUp))
	if len(gaveUp) != 1 || gaveUp[0].Err == nil || gaveUp[0].To != StateFailed || r.Result().Started != 3 {
		t.Errorf("given up: %v after %d starts, want once after 3", gaveUp, r.Result().Started)
	}
}

// TestUnexpectedExitZeroIsRestarted is H-11.
func TestH11UnexpectedExitZeroIsRestarted(t *testing.T) {
	r := begin(t, sh("web", 1, "exit 0"))
	r.await("exits", 3, func(e Event) bool { return e.Kind == EventExited && e.Exit != nil && e.Exit.Code == 0 })
	backoff := r.await("backoff", 3, kind(EventBackoff))
	if backoff[0].Delay > backoff[2].Delay || backoff[0].Delay != 20*time.Millisecond {
		t.Errorf("delays = %v, %v, %v; want growth from 20 ms", backoff[0].Delay, backoff[1].Delay, backoff[2].Delay)
	}
}

// TestTheObserverMayAsk: Status, Result and KillNow from within Observe.
func TestTheObserverMayAsk(t *testing.T) {
	root, err := cgroup.Open(linuxtest.Cgroup(t))
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	run, err := registry.New(root).Create(registry.Spec{Kind: "test"})
	if err != nil {
		t.Fatal(err)
	}
	defer run.Close(t.Context())
	var s *Supervisor
	s, err = New(Options{Run: run, Pools: []PoolSpec{sleeper("web", 3)}, Observe: func(Event) {
		if len(s.Status()) != 3 {
			t.Error("no status of three workers")
		}
		if s.Result().Ready == 3 {
			s.KillNow()
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Run(t.Context()); err != nil {
		t.Errorf("Run() = %v, want nil", err)
	}
}

func TestPingIsAnsweredByTheEngine(t *testing.T) {
	hold, held := make(chan struct{}), make(chan struct{})
	r := newRig(t, Options{})
	s, err := New(Options{Run: r.run, Pools: []PoolSpec{sleeper("web", 1)}, Observe: func(e Event) {
		if e.Kind == EventReady {
			close(held)
			<-hold // what an observer must not do
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { done <- s.Run(ctx) }()
	<-held
	short, end := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer end()
	if err := s.Ping(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Ping() = %v while the engine hangs, want no answer", err)
	}
	close(hold)
	if err := s.Ping(t.Context()); err != nil {
		t.Errorf("Ping() = %v, want nil", err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestForeignHandsOnTheTree: somebody destroys the whole pool from outside. The
// workers' ends are seen, and nothing hangs or panics.
func TestForeignHandsOnTheTree(t *testing.T) {
	p := sleeper("web", 3)
	r := begin(t, p)
	r.await("ready", 3, kind(EventReady))
	if err := r.run.Dir().Destroy(t.Context(), "web", 0); err != nil {
		t.Fatal(err)
	}
	r.await("exited", 3, kind(EventExited))
	for _, e := range r.await("failed", 3, kind(EventStartFailed)) {
		var start *spawn.Error
		if errors.As(e.Failure, &start) && start.Cause == spawn.CauseCgroupFrozen {
			continue // where there is no cgroup.kill it is frozen before it goes
		}
		if errors.Is(e.Failure, errKilledBeforeExec) {
			continue // born before the pool was killed once more
		}
		// The pool goes before the leaf is made, before that is opened (ErrNotExist), or
		// before the process is born in it.
		gone := errors.Is(e.Failure, cgroup.ErrGone) || errors.Is(e.Failure, fs.ErrNotExist)
		if e.Failure.Cause != CauseLeaf && e.Failure.Cause != CauseExec || !gone {
			t.Errorf("%s: want a leaf that is gone", eventText(e))
		}
	}
	if err := r.halt(); err != nil {
		t.Errorf("Run() = %v, want nil: all had been ready once", err)
	}
}

func TestRecordsAreForPs(t *testing.T) {
	failing := sh("failing", 1, "exit 9")
	failing.Backoff = Backoff{Min: time.Hour}
	probed := sleeper("probed", 1)
	probed.Readiness = rule(portRule)
	r := begin(t, sleeper("web", 1), probed, failing)
	r.await("ready", 2, kind(EventReady))
	r.await("backoff", 1, kind(EventBackoff))
	linuxtest.Wait(t, patience, func() (bool, string) {
		views, err := r.registry.List(t.Context())
		if err != nil || len(views) != 1 || len(views[0].Pools) != 3 {
			return false, "no three pools"
		}
		for _, p := range views[0].Pools {
			if p.Name == "failing" {
				if len(p.Waiting) != 1 || p.Waiting[0] != (registry.Slot{Slot: 0, State: "backoff", Cause: "exit 9"}) {
					return false, "failing is not waiting"
				}
				continue
			}
			if len(p.Workers) != 1 || p.Workers[0].State != "up" || !p.Workers[0].Ready || p.Workers[0].Start != 1 ||
				p.Workers[0].Process.PID == 0 || p.Name == "probed" && p.Workers[0].Port != 4711 {
				return false, "record of " + p.Name + " is not that of a ready worker"
			}
		}
		return true, ""
	})
}

// TestNothingLeaksIntoWorkers: a worker has its three descriptors and no more.
func TestNothingLeaksIntoWorkers(t *testing.T) {
	tails := newTails(t)
	r := newRig(t, Options{Pools: []PoolSpec{sleeper("web", 8)}, Output: tails.output, Spawners: 4})
	r.begin()
	r.await("ready", 8, kind(EventReady))
	for _, w := range r.Status() {
		linuxtest.Wait(t, patience, func() (bool, string) { // the loader opens some for a moment
			fds := openFiles(t, w.PID)
			return slices.Equal(fds, []string{"0", "1", "2"}), fmt.Sprintf("%v has descriptors %v, want 0, 1, 2", w.Worker, fds)
		})
	}
	if err := r.halt(); err != nil {
		t.Error(err)
	}
	tails.check(t)
}
