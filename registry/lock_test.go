package registry

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/pidfd"
	"golang.org/x/sys/unix"
)

// modeStuck owns a run and starts a process into a frozen leaf: the child stays between clone and exec
// and this process in vfork, with the lock open in both.
func modeStuck(args []string) int {
	root, err := cgroup.Open(args[0])
	if err != nil {
		return fail(err)
	}
	run, err := ownRun(New(root), 1, nil)
	if err != nil {
		return fail(err)
	}
	leaf, err := cgroup.Open(run.Dir().Path() + "/web/0.1")
	if err != nil {
		return fail(err)
	}
	if err := os.WriteFile(leaf.Path()+"/cgroup.freeze", []byte("1"), 0); err != nil {
		return fail(err)
	}
	fmt.Println(run.ID())
	_, err = startIn(leaf, sleeper)
	return fail(fmt.Errorf("came back from a frozen cgroup: %w", err))
}

func startStuck(tb testing.TB, r *Registry) *owner {
	tb.Helper()
	c := linuxtest.Command{Args: linuxtest.Helper(tb, "stuck", r.Root().Path()), Stderr: os.Stderr}
	o := startOwnerAs(tb, c, 1)
	linuxtest.Wait(tb, 10*time.Second, func() (bool, string) {
		return mustList(tb, r)[0].Processes == 1, "no child in the frozen leaf"
	})
	return o
}

// TestBreaksTheLockOfAChildBeforeExec is the one case in which a held lock is not believed.
func TestBreaksTheLockOfAChildBeforeExec(t *testing.T) {
	linuxtest.NeedClone3(t) // the child is stuck between clone and exec
	r := newRoot(t)
	o := startStuck(t, r)
	if got := mustSweep(t, r, SweepOptions{}); got.Alive != 1 || len(got.Runs) != 0 {
		t.Fatalf("Sweep() while the owner lives = %+v, want 1 alive", got)
	}
	o.crash(t)
	views := mustList(t, r)
	if len(views) != 1 || views[0].Processes != 1 || views[0].State != RunStale {
		t.Fatalf("List() after the crash = %+v, want 1 stale run with the stuck child", views)
	}
	if locked, err := mustOpen(t, r, "run-"+o.runs[0].String()).Locked(); err != nil || !locked {
		t.Fatalf("Locked() = %v, %v: the stuck child does not hold the lock, the test is void", locked, err)
	}
	results := make([]SweepResult, 3)
	var all sync.WaitGroup
	for i := range results { // several at once: one breaks, the others must come to an end too
		// The frozen leaf says enough. Nobody has the patience that is asked for here.
		all.Go(func() { results[i] = mustSweep(t, r, SweepOptions{patience: time.Hour}) })
	}
	all.Wait()
	swept, processes, blocked := 0, 0, 0
	for _, got := range results {
		swept, processes, blocked = swept+got.Swept, processes+got.Processes, blocked+got.Blocked
	}
	if swept != 1 || processes != 1 || blocked != 0 {
		t.Errorf("3 sweeps = %+v, want 1 swept with 1 process", results)
	}
	if left := runDirs(t, r); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// TestBreaksTheLockOfAMember: nothing is frozen, so that only patience tells.
func TestBreaksTheLockOfAMember(t *testing.T) {
	r := newRoot(t)
	o := startOwner(t, r, 1, 1, sleeper...)
	o.crash(t)
	run := mustOpen(t, r, "run-"+o.runs[0].String())
	if err := run.Lock(); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.FcntlInt(uintptr(run.FD()), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	lock := os.NewFile(uintptr(fd), "lock")
	holder := linuxtest.Command{Args: sleeper, Cgroup: run.Path() + "/web/0.1", Extra: []*os.File{lock}}.Start(t)
	if err := errors.Join(lock.Close(), run.Close()); err != nil {
		t.Fatal(err)
	}
	if got := mustSweep(t, r, SweepOptions{patience: 50 * time.Millisecond}); got.Swept != 1 || got.Processes != 2 {
		t.Errorf("Sweep() = %+v, want 1 swept with 2 processes", got)
	}
	holder.Wait(t, 10*time.Second)
}

// TestLockHeldFromOutsideIsReported: the owner is dead, but the lock is held by a process that no kill
// of the run reaches. The run is reported, and others are swept meanwhile.
func TestLockHeldFromOutsideIsReported(t *testing.T) {
	r := newRoot(t)
	o := startOwner(t, r, 2, 1, sleeper...)
	o.crash(t)
	held := mustOpen(t, r, "run-"+o.runs[0].String())
	if err := held.Lock(); err != nil {
		t.Fatal(err)
	}
	got := mustSweep(t, r, SweepOptions{PerRun: lockPatience + 500*time.Millisecond})
	if got.Swept != 1 || got.Blocked != 1 {
		t.Fatalf("Sweep() = %+v, want 1 swept, 1 blocked", got)
	}
	last := got.Runs[len(got.Runs)-1]
	if last.Result != ResultBlocked || last.Processes != 1 || !strings.Contains(fmt.Sprint(last.Err), "owner is dead") {
		t.Errorf("event = %+v, want blocked with the reason", last)
	}
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
	if got := mustSweep(t, r, SweepOptions{}); got.Swept != 1 || got.Processes != 1 {
		t.Errorf("Sweep() afterwards = %+v, want 1 swept with the 1 process that the first sweep killed", got)
	}
}

// TestProbesDoNotHideAStaleRun: programs that list runs all the time do not keep them from being swept.
func TestProbesDoNotHideAStaleRun(t *testing.T) {
	r := newRoot(t)
	o := startOwner(t, r, 20, 0)
	o.crash(t)
	ctx, cancel := context.WithCancel(context.Background())
	var probes sync.WaitGroup
	for range 4 {
		probes.Go(func() {
			for ctx.Err() == nil {
				_, _ = r.List(ctx) // ends with ctx
			}
		})
	}
	got := mustSweep(t, r, SweepOptions{})
	cancel()
	probes.Wait()
	if got.Swept != 20 || got.Alive != 0 {
		t.Errorf("Sweep() beside probes = %+v, want 20 swept", got)
	}
}

// TestSlowProbeDoesNotHideAStaleRun holds a shared lock for much longer than a probe does.
func TestSlowProbeDoesNotHideAStaleRun(t *testing.T) {
	r := newRoot(t)
	o := startOwner(t, r, 1, 1, sleeper...)
	o.crash(t)
	probe := mustOpen(t, r, "run-"+o.runs[0].String())
	if err := flockShared(probe); err != nil {
		t.Fatal(err)
	}
	done := make(chan SweepResult, 1)
	go func() { done <- mustSweep(t, r, SweepOptions{}) }()
	timer := time.NewTimer(500 * time.Millisecond)
	defer timer.Stop()
	select {
	case got := <-done:
		t.Errorf("Sweep() = %+v though the lock was held", got)
		return
	case <-timer.C:
	}
	if err := probe.Close(); err != nil {
		t.Fatal(err)
	}
	if got := <-done; got.Swept != 1 || got.Alive != 0 {
		t.Errorf("Sweep() = %+v, want 1 swept", got)
	}
}

// TestStoppedCreatorIsLeftAlone: a directory that is locked but has no record yet belongs to somebody
// who is making a run, however slowly.
func TestStoppedCreatorIsLeftAlone(t *testing.T) {
	r := newRoot(t)
	id, dir, err := r.claim(runPrefix)
	if err != nil {
		t.Fatal(err)
	}
	if views := mustList(t, r); len(views) != 1 || views[0].State != RunStarting || views[0].ID != id {
		t.Errorf("List() = %+v, want 1 starting run", views)
	}
	if got := mustSweep(t, r, SweepOptions{}); got.Alive != 1 || len(got.Runs) != 0 {
		t.Errorf("Sweep() = %+v, want 1 alive", got)
	}
	if err := dir.Close(); err != nil {
		t.Fatal(err)
	}
	if views := mustList(t, r); len(views) != 1 || views[0].State != RunHalfMade {
		t.Errorf("List() = %+v, want 1 half-made run", views)
	}
	if got := mustSweep(t, r, SweepOptions{}); got.Swept != 1 || got.Processes != 0 {
		t.Errorf("Sweep() = %+v, want 1 swept", got)
	}
}

func TestOwnerDeadOnlyWithProof(t *testing.T) {
	var self Info
	if err := self.fill(&Spec{Kind: "up", Name: "x", Version: "1"}); err != nil {
		t.Fatal(err)
	}
	child := linuxtest.Start(t, "/bin/true")
	held, err := pidfd.Open(child.PID())
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	id, err := held.Identity()
	if err != nil {
		t.Fatal(err)
	}
	child.Wait(t, 10*time.Second)
	exited := self
	exited.Owner = id
	otherBoot := self
	otherBoot.Boot = "00000000-0000-0000-0000-000000000000"
	otherNamespace := exited
	otherNamespace.PIDNS++
	tests := []struct {
		name string
		info Info
		want bool
	}{
		{"alive", self, false},
		{"exited", exited, true},
		{"of another boot", otherBoot, true},
		{"of another PID namespace", otherNamespace, false},
		{"unknown", Info{ID: NewRunID(), PIDNS: self.PIDNS}, false},
	}
	for _, test := range tests {
		if got := test.info.ownerDead(); got != test.want {
			t.Errorf("ownerDead() of an owner that is %s = %v, want %v", test.name, got, test.want)
		}
	}
}

// TestSweepFromAnotherPIDNamespace: there a living owner cannot be seen, and must not be taken for dead.
func TestSweepFromAnotherPIDNamespace(t *testing.T) {
	linuxtest.NeedAdmin(t, "to make a PID namespace")
	r := newRoot(t)
	o := startOwner(t, r, 1, 1, sleeper...)
	dead := startOwner(t, r, 1, 1, sleeper...)
	dead.crash(t)
	c := linuxtest.Command{Args: linuxtest.Helper(t, "sweeper", r.Root().Path()), Stderr: os.Stderr}
	said, out := pipe(t)
	c.Stdout = out
	sweeper := linuxtest.PIDNamespace(t, c)
	got := parseSweep(t, readLines(t, said, 1)[0])
	sweeper.Wait(t, 10*time.Second)
	want := SweepResult{Swept: 1, Alive: 1}
	if _, err := os.Stat(r.Root().Path() + "/cgroup.kill"); err != nil {
		// Before Linux 5.14 they are killed one by one, and have no number there.
		want = SweepResult{Blocked: 1, Alive: 1}
	}
	if got.Swept != want.Swept || got.Alive != want.Alive || got.Blocked != want.Blocked {
		t.Errorf("sweep from another PID namespace = %+v, want %+v", got, want)
	}
	if swept := mustSweep(t, r, SweepOptions{}); swept.Swept != want.Blocked {
		t.Errorf("sweep from here = %+v, want %d swept", swept, want.Blocked)
	}
	if views := mustList(t, r); len(views) != 1 || views[0].ID != o.runs[0] || views[0].Processes != 1 {
		t.Errorf("List() = %+v, want the living run untouched", views)
	}
	o.close(t)
}

func TestEndingIsReadFromProc(t *testing.T) {
	const head = "7 (a) b (c)) "
	for stat, want := range map[string]bool{
		head + "D 1 7 7 0 -1 4194564 0 0": true, head + "S 1 7 7 0 -1 4194560 0 0": false, head: false, "": false,
	} {
		if got := exiting([]byte(stat)); got != want {
			t.Errorf("exiting(%q) = %v, want %v", stat, got, want)
		}
	}
	for status, want := range map[string]bool{
		"SigPnd:\t0000000000000100\nShdPnd:\t0000000000000000\n": true,
		"SigPnd:\t0000000000000000\nShdPnd:\t0000000000000100\n": true,
		"SigPnd:\t0000000000004000\nSigBlk:\t0000000000000100\n": false,
		"SigPnd:\tnonsense\n": false, "": false,
	} {
		if got := killPending(status); got != want {
			t.Errorf("killPending(%q) = %v, want %v", status, got, want)
		}
	}
}
