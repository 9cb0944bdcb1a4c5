package supervise

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/resource"
)

// limited is a rig whose supervisor was made when the limits were there: of the
// leaf, the pool, the run or the root, by level.
func limited(t *testing.T, level int, l resource.Limits, p PoolSpec) *rig {
	t.Helper()
	r := newRig(t, Options{})
	done, cancel := context.WithCancel(context.Background())
	cancel()
	if err := r.Run(done); err != nil { // it has no pool
		t.Fatal(err)
	}
	var err error
	switch level {
	case 0:
		p.Limits = l
	case 1:
		p.PoolLimits = l
	case 2:
		err = errors.Join(r.run.Root().Enable(l.Controllers()...), resource.Set(r.run.Dir(), l))
	default:
		err = resource.Set(r.run.Root(), l)
	}
	if err != nil {
		t.Fatal(err)
	}
	if r.Supervisor, err = New(Options{Run: r.run, Observe: r.observe, Pools: []PoolSpec{p}}); err != nil {
		t.Fatal(err)
	}
	r.begin()
	return r
}

// blamed checks what a failed start says about the limit of a level.
func (r *rig) blamed(level int, cause FailureCause, file string) {
	r.Helper()
	f := r.await("failed", 1, kind(EventStartFailed))[0].Failure
	dirs := []string{f.Error(), r.run.Dir().Path() + "/web", r.run.Dir().Path(), r.run.Root().Path()}
	want := []string{"its own limit", "the limit of its pool", "the limit of the run", "the limit of all runs"}[level] + ", " + file + " of "
	if level > 0 {
		want += dirs[level]
	}
	if f.Cause != cause || !strings.Contains(f.Error(), want) || level > 0 && strings.Contains(f.Error(), want+"/") {
		r.Errorf("failure = %v, want %v with %q", f, cause, want)
	}
}

func TestKillForMemoryIsBlamedOnTheLimit(t *testing.T) {
	linuxtest.NeedCgroup2(t, "memory")
	for level := range 4 {
		hog := helper(t, "web", 1, "alloc", "200")
		hog.Restart, hog.Readiness = RestartNever, rule(never)
		r := limited(t, level, resource.Limits{MemoryMax: 48 << 20}, hog)
		r.blamed(level, CauseOOM, "memory.max")
		r.await("gave up", 1, kind(EventGaveUp))
	}
}

// A child that is killed and takes the main process with it by its exit code.
func TestKilledChildIsBlamedOnTheLimit(t *testing.T) {
	linuxtest.NeedCgroup2(t, "memory")
	hog := helper(t, "web", 1, "alloc", "200")
	hog.Command.Args = append([]string{"sh", "-c", `"$@"`, "sh"}, hog.Command.Args...)
	hog.Command.Path = "/bin/sh"
	hog.Restart, hog.Readiness = RestartNever, rule(never)
	r := limited(t, 0, resource.Limits{MemoryMax: 48 << 20}, hog)
	r.blamed(0, CauseOOM, "memory.max")
}

func TestRefusedForkIsBlamedOnTheLimit(t *testing.T) {
	linuxtest.NeedCgroup2(t, "pids")
	for level := range 4 {
		p := sh("web", 1, "sleep 1000 & sleep 1000 & sleep 1000 & sleep 1000 & sleep 1000 & wait")
		p.Restart, p.Readiness = RestartNever, rule(never)
		r := limited(t, level, resource.Limits{PIDsMax: 3}, p)
		r.blamed(level, CauseLimit, "pids.max")
		r.await("gave up", 1, kind(EventGaveUp))
	}
}

// The limit leaves no room for the worker itself: clone is refused.
func TestRefusedStartIsBlamedOnTheLimit(t *testing.T) {
	linuxtest.NeedCgroup2(t, "pids")
	p := sleeper("web", 3)
	r := limited(t, 1, resource.Limits{PIDsMax: 2}, p)
	r.await("ready", 2, kind(EventReady))
	r.blamed(1, CauseLimit, "pids.max")
	if n := len(r.all(kind(EventReady))); n != 2 {
		t.Errorf("%d workers ready with room for 2", n)
	}
}

// Somebody else's refused forks are not the reason for an end.
func TestEarlierRefusalIsNotBlamed(t *testing.T) {
	linuxtest.NeedCgroup2(t, "pids")
	p := sh("web", 1, "exit 3")
	p.Restart = RestartNever
	p.Readiness = rule(never)
	p.PoolLimits = resource.Limits{PIDsMax: 2}
	r := newRig(t, Options{Pools: []PoolSpec{p}})
	leaf, err := r.pools[0].dir.Create("other")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = leaf.Close() }()
	other := linuxtest.Command{Args: []string{"/bin/sh", "-c", "sleep 0 & sleep 0 & sleep 0 & wait"}, Cgroup: leaf.Path()}.Start(t)
	other.Wait(t, patience)
	linuxtest.Wait(t, patience, func() (bool, string) {
		members := linuxtest.Members(leaf.Path())
		return len(members) == 0, fmt.Sprint(members)
	})
	if n := resource.PIDsHits(r.pools[0].dir); n == 0 && refusedBefore611(leaf) == 0 {
		t.Fatal("no fork was refused")
	}
	r.begin()
	f := r.await("failed", 1, kind(EventStartFailed))[0].Failure
	if f.Cause != CauseExited {
		t.Errorf("failure = %v, want a plain exit", f)
	}
}

// refusedBefore611 is what kernels before Linux 6.11 count in the leaf.
func refusedBefore611(leaf *cgroup.Dir) uint64 {
	u, err := resource.Read(leaf)
	if err != nil || u.PIDsRefused == nil {
		return 0
	}
	return *u.PIDsRefused
}
