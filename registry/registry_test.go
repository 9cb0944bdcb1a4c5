package registry

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/linuxtest"
	"golang.org/x/sys/unix"
)

func TestCreateDescribesAndLocksTheRun(t *testing.T) {
	r := newRoot(t)
	before := time.Now()
	run, err := r.Create(Spec{Kind: "up", Name: "pitvisor.toml", Version: "1.2.3"})
	if err != nil {
		t.Fatal(err)
	}
	defer run.Close(context.Background())
	if got, want := run.Dir().Name(), "run-"+run.ID().String(); got != want {
		t.Errorf("Dir().Name() = %q, want %q", got, want)
	}
	mark, err := run.Dir().Xattr(xattrRun)
	if err != nil || string(mark) != run.ID().String() {
		t.Errorf("mark = %q, %v, want %q", mark, err, run.ID())
	}
	info, err := readInfo(run.Dir())
	if err != nil {
		t.Fatal(err)
	}
	if info.Kind != "up" || info.Name != "pitvisor.toml" || info.Version != "1.2.3" || info.ID != run.ID() {
		t.Errorf("readInfo() = %+v", info)
	}
	if info.Started.Before(before) || info.Owner.PID != os.Getpid() || info.Boot == "" || info.PIDNS == 0 {
		t.Errorf("readInfo() = %+v: wrong start or owner", info)
	}
	if locked, err := run.Dir().Locked(); err != nil || !locked {
		t.Errorf("Locked() = %v, %v, want true", locked, err)
	}
	views := mustList(t, r)
	if len(views) != 1 || views[0].ID != run.ID() || views[0].State != RunRunning {
		t.Errorf("List() = %+v, want one running run", views)
	}
}

func TestCloseKillsAndRemoves(t *testing.T) {
	r := newRoot(t)
	run, err := ownRun(r, 3, sleeper)
	if err != nil {
		t.Fatal(err)
	}
	defer reapAll(t, 3)
	for range 2 {
		if err := run.Close(context.Background()); err != nil {
			t.Fatalf("Close() = %v", err)
		}
	}
	if left := runDirs(t, r); len(left) != 0 {
		t.Errorf("left after Close: %v", left)
	}
}

// reapAll reaps the children that ownRun started in this very process.
func reapAll(tb testing.TB, n int) {
	tb.Helper()
	for range n {
		if _, err := unix.Wait4(-1, nil, 0, nil); err != nil {
			tb.Errorf("reap: %v", err)
		}
	}
}

func TestReleaseLeavesTheRunToASweep(t *testing.T) {
	r := newRoot(t)
	run, err := ownRun(r, 2, sleeper)
	if err != nil {
		t.Fatal(err)
	}
	defer reapAll(t, 2)
	if got := mustSweep(t, r, SweepOptions{}); got.Swept != 0 || got.Alive != 1 || got.Elapsed > time.Second {
		t.Errorf("sweep while owned = %+v, want 1 alive, at once", got)
	}
	if err := run.Release(); err != nil {
		t.Fatal(err)
	}
	if err := run.Close(context.Background()); err != nil {
		t.Errorf("Close() after Release() = %v", err)
	}
	if got := mustSweep(t, r, SweepOptions{}); got.Swept != 1 || got.Processes != 2 {
		t.Errorf("sweep after release = %+v, want 1 swept with 2 processes", got)
	}
}

func TestCreateSaysWhatIsWrong(t *testing.T) {
	r := newRoot(t)
	if err := os.WriteFile(r.Root().Path()+"/cgroup.max.descendants", []byte("0"), 0); err != nil {
		t.Fatal(err)
	}
	_, err := r.Create(Spec{Kind: "up", Name: "x", Version: "1"})
	if err == nil || !strings.Contains(err.Error(), "create run: ") || errors.Is(err, errLostRace) {
		t.Errorf("Create() below a limit of 0 = %v", err)
	}
	path := linuxtest.Cgroup(t)
	gone := openRoot(t, path)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := gone.Create(Spec{Kind: "up", Name: "x", Version: "1"}); !errors.Is(err, cgroup.ErrGone) {
		t.Errorf("Create() below a removed root = %v, want ErrGone", err)
	}
}

func TestCreateLeavesNothingWhenTheRecordDoesNotFit(t *testing.T) {
	r := newRoot(t)
	_, err := r.Create(Spec{Kind: "up", Name: strings.Repeat("n", 1<<17), Version: "1"})
	if err == nil {
		t.Fatal("Create() with a name of 128 KiB = nil")
	}
	if left := runDirs(t, r); len(left) != 0 {
		t.Errorf("left after a failed Create: %v (%v)", left, err)
	}
}

// TestCreateBesideSweepsAndProbes hammers the root with sweeps and with lock probes such as those of ps
// while runs are made: none may fail, and none may be lost.
func TestCreateBesideSweepsAndProbes(t *testing.T) {
	r := newRoot(t)
	ctx, cancel := context.WithCancel(context.Background())
	var hammers sync.WaitGroup
	for range 2 {
		hammers.Go(func() {
			for ctx.Err() == nil {
				if _, err := r.Sweep(ctx, SweepOptions{}); err != nil && ctx.Err() == nil {
					t.Error(err)
				}
			}
		})
		hammers.Go(func() {
			for ctx.Err() == nil {
				if _, err := r.List(ctx); err != nil && ctx.Err() == nil {
					t.Error(err)
				}
			}
		})
	}
	var runs []*Run
	for i := range linuxtest.Times(300, 60) {
		run, err := r.Create(Spec{Kind: "up", Name: fmt.Sprint(i), Version: "1"})
		if err != nil {
			t.Errorf("Create() = %v", err)
			break
		}
		runs = append(runs, run)
	}
	for _, run := range runs {
		if there, err := run.Dir().Exists(); err != nil || !there {
			t.Errorf("run %s: Exists() = %v, %v: a sweep took it from its living owner", run.ID(), there, err)
		}
	}
	cancel()
	hammers.Wait()
	for _, run := range runs {
		if err := run.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}
	if left := runDirs(t, r); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// TestCreateLosesEveryRaceItCan: a hostile sweep takes new directories between mkdir and flock.
func TestCreateLosesEveryRaceItCan(t *testing.T) {
	r := newRoot(t)
	var taken atomic.Int64
	ctx, cancel := context.WithCancel(context.Background())
	var hammers sync.WaitGroup
	for range 2 {
		hammers.Go(func() {
			for ctx.Err() == nil {
				taken.Add(int64(takeHalfMade(r)))
			}
		})
	}
	for begin := time.Now(); taken.Load() < 5 && time.Since(begin) < 10*time.Second; {
		run, err := r.Create(Spec{Kind: "up", Name: "x", Version: "1"})
		if err != nil {
			t.Errorf("Create() = %v", err)
			break
		}
		if there, err := run.Dir().Exists(); err != nil || !there {
			t.Errorf("run %s: Exists() = %v, %v", run.ID(), there, err)
		}
		if err := run.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}
	cancel()
	hammers.Wait()
	if taken.Load() == 0 {
		t.Error("no race happened, the test is void")
	}
}

// takeHalfMade is a sweep for half-made runs in a tight loop.
func takeHalfMade(r *Registry) (taken int) {
	names, err := r.root.Children()
	if err != nil {
		return 0
	}
	for _, name := range names {
		dir, err := r.root.OpenChild(name)
		if err != nil {
			continue
		}
		if flockExclusive(dir) == nil {
			if _, err := readInfo(dir); err == errNoRecord && os.Remove(dir.Path()) == nil {
				taken++
			}
		}
		_ = dir.Close()
	}
	return taken
}

func TestPoolRecordIsBounded(t *testing.T) {
	r := newRoot(t)
	dir, err := r.Root().Create("pool")
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	pool := Pool{Name: "web", Size: 100_000}
	for i := range pool.Size {
		pool.Waiting = append(pool.Waiting, Slot{Slot: i, State: "backoff", Cause: strings.Repeat("x", 500)})
	}
	if err := SetPool(dir, pool); err != nil {
		t.Fatal(err)
	}
	got, ok := readPool(dir)
	if !ok || len(got.Waiting) == 0 || len(got.Waiting)+got.Omitted != pool.Size {
		t.Errorf("readPool() = %d waiting and %d omitted, %v, want %d in all", len(got.Waiting), got.Omitted, ok, pool.Size)
	}
}
