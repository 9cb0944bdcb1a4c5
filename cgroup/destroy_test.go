package cgroup

import (
	"context"
	"errors"
	"io/fs"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/linuxtest"
)

func wantGone(t testing.TB, d *Dir) {
	t.Helper()
	if there, err := d.Exists(); there || err != nil {
		t.Errorf("%s: Exists = %v, %v, want false", d.Path(), there, err)
	}
}

func TestDestroyOfNothingIsDone(t *testing.T) {
	d := testDir(t)
	wantNil(t, "Destroy", d.Destroy(t.Context(), "web", 0))
	wantNil(t, "Destroy with an id", d.Destroy(t.Context(), "web", 7))
}

// Nothing outlives its cgroup: daemons, sessions of their own, whoever ignores
// TERM, whoever forks all the time, cgroups that a worker made for itself.
func TestDestroyEndsEverything(t *testing.T) {
	d := testDir(t)
	web := child(t, d, "web")
	sub := child(t, web, "made-by-worker")
	deep := child(t, child(t, sub, "a"), "b")
	child(t, web, "empty")
	processes := []*linuxtest.Process{
		helper(t, web, "double-fork", "stay"),
		helper(t, web, "setsid-storm", "20"),
		helper(t, web, "ignore-term"),
		helper(t, web, "fork-chain", "4"),
		helper(t, sub, "stop-self"),
		sleeper(t, deep),
	}
	wantNil(t, "Destroy", d.Destroy(within(t, waitTime), "web", web.ID()))
	wantGone(t, web)
	wantGone(t, deep)
	for _, p := range processes {
		if status := p.Wait(t, waitTime); status.Signal() != unix.SIGKILL {
			t.Errorf("process %d: wait status %#x, want killed", p.PID(), status)
		}
	}
	if names, err := d.Children(); err != nil || len(names) != 0 {
		t.Errorf("Children = %q, %v, want none", names, err)
	}
}

func TestDestroyOfAFrozenCgroup(t *testing.T) {
	d := testDir(t)
	web := child(t, d, "web")
	sleeper(t, web)
	wantNil(t, "Freeze", web.Freeze(within(t, waitTime)))
	wantNil(t, "Destroy", d.Destroy(within(t, waitTime), "web", web.ID()))
}

// A worker may nest cgroups deeper than a process may have files open.
func TestDestroyHoldsFewDescriptors(t *testing.T) {
	d := testDir(t)
	web := child(t, d, "web")
	dir := web
	for range 40 {
		dir = child(t, dir, "deeper")
	}
	p := sleeper(t, dir)
	got := call(t, "", "few-fds", "12", "destroy", d.Path(), "web")
	if got != "<nil> false" {
		t.Errorf("Destroy with 12 descriptors: %s", got)
	}
	wantGone(t, web)
	p.Wait(t, waitTime) // it leaves its cgroup just before it exits
}

func TestDestroyTouchesNoOtherCgroup(t *testing.T) {
	d := testDir(t)
	web := child(t, d, "web")
	p := sleeper(t, web)
	err := d.Destroy(within(t, waitTime), "web", web.ID()+1)
	wantErr(t, "Destroy with another id", err, ErrGone)
	if !p.Alive() {
		t.Error("the process of the other cgroup died")
	}
}

// Promise 1, and H-46: whoever asks, neither the caller nor its ancestors are hit.
func TestDestroyRefusesSelf(t *testing.T) {
	d := testDir(t)
	mine := child(t, d, "mine")
	leaf := child(t, mine, "leaf")
	for _, name := range []string{"mine", "leaf"} {
		parent := map[string]*Dir{"mine": d, "leaf": mine}[name]
		got := call(t, leaf.Path(), "destroy", parent.Path(), name)
		if !strings.HasSuffix(got, " true") {
			t.Errorf("Destroy of %s from inside: %s, want ErrSelf", name, got)
		}
	}
	if there, err := leaf.Exists(); err != nil || !there {
		t.Errorf("Exists = %v, %v, want true", there, err)
	}
}

func TestDestroyRefusesAnAncestor(t *testing.T) {
	d := testDir(t)
	parents, elsewhere := child(t, d, "parents"), child(t, d, "elsewhere")
	// The parent's parent is in it: it started a child, which started the caller.
	got := call(t, parents.Path(), "child", elsewhere.Path(), "child", elsewhere.Path(), "destroy", d.Path(), "parents")
	if !strings.HasSuffix(got, " true") {
		t.Errorf("Destroy of the ancestor's cgroup: %s, want ErrSelf", got)
	}
}

func TestNothingHitsSelf(t *testing.T) {
	leaf := child(t, testDir(t), "leaf")
	out := call(t, leaf.Path(), "each", leaf.Path())
	for _, method := range []string{"Kill", "KillEach", "Freeze", "Signal"} {
		if got := field(out, method); got != "true" {
			t.Errorf("%s on ourselves is ErrSelf: %q, want true", method, got)
		}
	}
}

func TestHoldsSelf(t *testing.T) {
	d := testDir(t)
	sleeper(t, d)
	if held, err := d.HoldsSelf(); held || err != nil {
		t.Errorf("HoldsSelf of a child's cgroup = %v, %v, want false", held, err)
	}
	self, err := SelfPath()
	if err != nil {
		t.Fatal(err)
	}
	own, err := Open(self)
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	if held, err := own.HoldsSelf(); !held || err != nil {
		t.Errorf("HoldsSelf of our own cgroup = %v, %v, want true", held, err)
	}
}

// What does not die blocks only itself, and is named.
func TestWhatDoesNotDieIsNamed(t *testing.T) {
	d := testDir(t)
	web, tracers, other := child(t, d, "web"), child(t, d, "tracers"), child(t, d, "other")
	sleeper(t, web)
	sleeper(t, other)
	tracer := helper(t, tracers, "call", "hold-dying", web.Path())

	cause := errors.New("enough waited")
	linuxtest.Wait(t, waitTime, func() (bool, string) {
		ctx, cancel := context.WithTimeoutCause(t.Context(), 300*time.Millisecond, cause)
		defer cancel()
		err := d.Destroy(ctx, "web", web.ID())
		var blocked *BlockedError
		if !errors.As(err, &blocked) || !errors.Is(err, cause) || len(blocked.Blockers) == 0 {
			t.Fatalf("Destroy = %v, want a *BlockedError with the cause", err)
		}
		wantText(t, "Destroy", err, web.Path(), " left (", blocked.Blockers[0].String())
		b := blocked.Blockers[0]
		// On a busy machine the other one may not be gone yet.
		return blocked.Total == 1 && b.PID > 0 && b.Comm == "sleep" && b.State == "t", err.Error()
	})
	if there, err := web.Exists(); err != nil || !there {
		t.Errorf("Exists = %v, %v, want true", there, err)
	}
	wantNil(t, "Destroy of another", d.Destroy(within(t, waitTime), "other", other.ID()))

	tracer.Kill(t)
	wantNil(t, "Destroy after the tracer's end", d.Destroy(within(t, waitTime), "web", web.ID()))
	wantNil(t, "blocked of a gone cgroup", web.blocked(cause))
}

func TestBlockedErrorIsShort(t *testing.T) {
	e := &BlockedError{Path: "/cg/web", Total: 40, Err: context.DeadlineExceeded}
	for range maxBlockers {
		e.Blockers = append(e.Blockers, Blocker{PID: 1, Comm: "dd", State: "D", Wchan: "nfs_wait"})
	}
	want := "end cgroup /cg/web: 40 processes left (1 dd D nfs_wait, 1 dd D nfs_wait, 1 dd D nfs_wait, ...): context deadline exceeded"
	if got := e.Error(); got != want {
		t.Errorf("Error = %q, want %q", got, want)
	}
	e = &BlockedError{Path: "/cg/web", Err: context.DeadlineExceeded}
	if got, want := e.Error(), "remove cgroup /cg/web: context deadline exceeded"; got != want {
		t.Errorf("Error = %q, want %q", got, want)
	}
}

// Somebody who keeps starting processes in it does not keep it: they are killed
// again and again until the directory is gone, and with it the way in.
func TestDestroyBesideOneWhoStartsMore(t *testing.T) {
	d := testDir(t)
	web, starters := child(t, d, "web"), child(t, d, "starters")
	starter := helper(t, starters, "call", "keep-starting", web.Path())
	wantNil(t, "Destroy", d.Destroy(within(t, waitTime), "web", web.ID()))
	wantGone(t, web)
	if status := starter.Wait(t, waitTime); status.ExitStatus() != 0 {
		t.Errorf("starter: wait status %#x", status)
	}
}

// Two sweepers that meet: each of them is told that the cgroup is gone.
func TestManyDestroyTheSame(t *testing.T) {
	d := testDir(t)
	for range 20 {
		web := child(t, d, "web")
		for _, name := range []string{"a", "b", "c"} {
			child(t, child(t, web, name), "leaf")
		}
		p := sleeper(t, web)
		done := make(chan error)
		for range 4 {
			go func() { done <- d.Destroy(within(t, waitTime), "web", web.ID()) }()
		}
		for range 4 {
			if err := <-done; err != nil {
				t.Errorf("Destroy = %v, want nil", err)
			}
		}
		p.Wait(t, waitTime)
	}
}

// Looking at a tree whose cgroups come and go is no error.
func TestWalkBesideVanishingCgroups(t *testing.T) {
	d := testDir(t)
	stop := make(chan struct{})
	done := make(chan error)
	for _, name := range []string{"a", "b", "c"} {
		go func() { done <- comeAndGo(d, name, stop) }()
	}
	for range linuxtest.Times(200, 50) {
		if _, err := d.PIDsRecursive(); err != nil {
			t.Errorf("PIDsRecursive = %v", err)
			break
		}
		if _, err := d.Contains(1); err != nil {
			t.Errorf("Contains = %v", err)
			break
		}
	}
	close(stop)
	for range 3 {
		wantNil(t, "comeAndGo", <-done)
	}
}

// comeAndGo makes and removes a cgroup with one below it until stop is closed.
func comeAndGo(d *Dir, name string, stop <-chan struct{}) error {
	for {
		select {
		case <-stop:
			return nil
		default:
		}
		c, err := d.Create(name)
		if err != nil {
			return err
		}
		below, err := c.Create("below")
		if err != nil {
			return err
		}
		below.Close()
		c.Close()
		if err := d.Destroy(context.Background(), name, c.ID()); err != nil {
			return err
		}
	}
}

func TestContains(t *testing.T) {
	d := testDir(t)
	below, beside := child(t, child(t, d, "a"), "b"), child(t, testDir(t), "c")
	for dir, want := range map[*Dir]bool{d: true, below: true, beside: false} {
		if got, err := d.Contains(dir.ID()); got != want || err != nil {
			t.Errorf("Contains(%s) = %v, %v, want %v", dir.Path(), got, err, want)
		}
	}
}

func TestDestroyOfManyLeaves(t *testing.T) {
	d := testDir(t)
	run := child(t, d, "run")
	start := time.Now()
	for _, pool := range []string{"a", "b", "c"} {
		dir := child(t, run, pool)
		for i := range linuxtest.Times(100, 30) {
			leaf, err := dir.Create(string(rune('a'+i%26)) + string(rune('a'+i/26)))
			if err != nil {
				t.Fatal(err)
			}
			leaf.Close()
		}
		sleeper(t, dir)
	}
	made := time.Since(start)
	start = time.Now()
	wantNil(t, "Destroy", d.Destroy(within(t, waitTime), "run", run.ID()))
	t.Logf("made in %v, destroyed in %v", made, time.Since(start))
	_, err := d.OpenChild("run")
	wantErr(t, "OpenChild", err, fs.ErrNotExist)
}
