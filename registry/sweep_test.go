package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/linuxtest"
	"golang.org/x/sys/unix"
)

func TestSweepOfAnEmptyRoot(t *testing.T) {
	got := mustSweep(t, newRoot(t), SweepOptions{})
	if got.Swept != 0 || got.Runs != nil {
		t.Errorf("Sweep() = %+v, want nothing", got)
	}
}

// TestR05SweepCountsWhatItKilled: a worker that died before and whose number a stranger has now is not
// counted, and neither is a zombie.
func TestR05SweepCountsWhatItKilled(t *testing.T) {
	linuxtest.NeedChosenPID(t)
	r := newRoot(t)
	o := startOwner(t, r, 3, 4, sleeper...)
	dead := mustList(t, r)[0].Pools[0].Workers[0].Process
	victim, err := dead.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer victim.Close()
	if err := victim.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := victim.Wait(context.Background()); err != nil {
		t.Fatal(err)
	}
	o.crash(t)
	stranger := linuxtest.ReusePID(t, dead.PID, sleeper...)
	var seen []SweepEvent
	got := mustSweep(t, r, SweepOptions{Observe: func(e SweepEvent) { seen = append(seen, e) }})
	if got.Swept != 3 || got.Processes != 11 || got.Blocked+got.Foreign+got.Alive+got.Skipped != 0 {
		t.Errorf("Sweep() = %+v, want 3 runs with 11 processes and nothing else", got)
	}
	sum := 0
	for _, e := range seen {
		sum += e.Processes
		if e.Result != ResultSwept || e.Err != nil || e.Run.IsZero() || e.Elapsed <= 0 {
			t.Errorf("event %+v, want a swept run", e)
		}
	}
	if len(seen) != 3 || sum != 11 {
		t.Errorf("%d events with %d processes, want 3 with 11", len(seen), sum)
	}
	if !stranger.Alive() {
		t.Error("the stranger with the reused number is dead")
	}
	if again := mustSweep(t, r, SweepOptions{}); again.Swept != 0 || again.Processes != 0 {
		t.Errorf("second Sweep() = %+v, want nothing", again)
	}
}

// TestH39H46R06OwnersDoNotTouchEachOther: two owners live, each sweeps; then one crashes, and the other
// may take what it left.
func TestH39H46R06OwnersDoNotTouchEachOther(t *testing.T) {
	r := newRoot(t)
	a := startOwner(t, r, 2, 2, sleeper...)
	b := startOwner(t, r, 2, 2, sleeper...)
	before := workersOf(mustList(t, r))
	for _, o := range []*owner{a, b, a} {
		if got := o.sweep(t); got.Swept != 0 || got.Alive != 4 || len(got.Runs) != 0 {
			t.Errorf("sweep beside living owners = %+v, want 4 alive", got)
		}
	}
	if after := workersOf(mustList(t, r)); after != before {
		t.Errorf("workers changed from %s to %s", before, after)
	}
	a.crash(t)
	if got := b.sweep(t); got.Swept != 2 || got.Processes != 4 || got.Alive != 2 {
		t.Errorf("sweep after one owner crashed = %+v, want its 2 runs with 4 processes swept and 2 alive", got)
	}
	left := mustList(t, r)
	if len(left) != 2 || left[0].ID != b.runs[0] || left[1].ID != b.runs[1] || left[0].Processes != 2 {
		t.Errorf("List() = %+v, want the two runs of the living owner", left)
	}
	b.close(t)
	if left := runDirs(t, r); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// workersOf names each process by its identity.
func workersOf(views []RunView) string {
	var all []string
	for _, v := range views {
		for _, p := range v.Pools {
			for _, w := range p.Workers {
				for _, process := range w.Processes {
					all = append(all, fmt.Sprintf("%s/%d=%d:%d", v.ID, w.Slot, process.PID, process.Inode))
				}
			}
		}
	}
	return strings.Join(all, " ")
}

// TestH26RecordOutlivesTheProcess: at no moment is a worker alive whose record is gone, not even while
// its run is torn down.
func TestH26RecordOutlivesTheProcess(t *testing.T) {
	r := newRoot(t)
	o := startOwner(t, r, 1, 20, sleeper...)
	o.crash(t)
	pool := mustOpen(t, r, "run-"+o.runs[0].String(), "web")
	type watched struct {
		leaf   *cgroup.Dir
		record Worker
	}
	var all []watched
	for slot := range 20 {
		leaf := mustOpen(t, r, "run-"+o.runs[0].String(), "web", fmt.Sprintf("%d.1", slot))
		record, ok := readWorker(leaf)
		if !ok {
			t.Fatalf("slot %d has no record after the crash", slot)
		}
		if err := pool.RemoveChild(leaf.Name(), leaf.ID()); !errors.Is(err, cgroup.ErrPopulated) {
			t.Fatalf("RemoveChild(%s) with a process = %v, want ErrPopulated", leaf.Name(), err)
		}
		all = append(all, watched{leaf, record})
	}
	swept := make(chan SweepResult, 1)
	go func() { swept <- mustSweep(t, r, SweepOptions{}) }()
	for gone := 0; gone < len(all); {
		gone = 0
		for _, w := range all {
			there, err := w.leaf.Exists()
			if err != nil {
				t.Fatal(err)
			}
			if there {
				continue
			}
			gone++
			linuxtest.Wait(t, 5*time.Second, func() (bool, string) { // it leaves its cgroup just before it exits
				alive, err := w.record.Process.Alive()
				return err == nil && !alive, fmt.Sprintf("worker %d: record gone, process alive: %v, %v", w.record.Slot, alive, err)
			})
		}
	}
	if got := <-swept; got.Processes != 20 {
		t.Errorf("Sweep() = %+v, want 20 processes", got)
	}
}

func mustOpen(tb testing.TB, r *Registry, names ...string) *cgroup.Dir {
	tb.Helper()
	dir, err := cgroup.Open(filepath.Join(append([]string{r.Root().Path()}, names...)...))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = dir.Close() })
	return dir
}

// TestSweepOfZombies: a stale run whose processes all have exited, unreaped by a parent outside.
func TestSweepOfZombies(t *testing.T) {
	r := newRoot(t)
	o := startOwner(t, r, 1, 1)
	leaf := "run-" + o.runs[0].String() + "/web/0.1"
	zombie := startMember(t, r, leaf, "/bin/true")
	linuxtest.Wait(t, 5*time.Second, func() (bool, string) { return !zombie.Alive(), "no zombie yet" })
	o.crash(t)
	if got := mustSweep(t, r, SweepOptions{}); got.Swept != 1 || got.Processes != 0 {
		t.Errorf("Sweep() = %+v, want 1 run with 0 processes", got)
	}
	if left := runDirs(t, r); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// TestSweepsShareTheWork: each stale run is swept, counted and reported by one of many sweeps.
func TestSweepsShareTheWork(t *testing.T) {
	r := newRoot(t)
	n := linuxtest.Times(40, 20)
	o := startOwner(t, r, n, 1, sleeper...)
	o.crash(t)
	results := make([]SweepResult, 4)
	var all sync.WaitGroup
	for i := range results {
		all.Go(func() { results[i] = mustSweep(t, r, SweepOptions{}) })
	}
	all.Wait()
	swept, processes := 0, 0
	for _, got := range results {
		swept += got.Swept
		processes += got.Processes
		if got.Blocked != 0 {
			t.Errorf("Sweep() = %+v, want none blocked", got)
		}
	}
	if swept != n || processes != n {
		t.Errorf("4 sweeps swept %d runs with %d processes, want %d with %d", swept, processes, n, n)
	}
	if left := runDirs(t, r); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// TestSweepBesideCreate: many stale runs are swept while as many are being made. No new one is lost.
func TestSweepBesideCreate(t *testing.T) {
	r := newRoot(t)
	n := linuxtest.Times(100, 30)
	o := startOwner(t, r, n, 1, sleeper...)
	o.crash(t)
	var result SweepResult
	var sweeping sync.WaitGroup
	sweeping.Go(func() { result = mustSweep(t, r, SweepOptions{}) })
	young := startOwner(t, r, n, 1, sleeper...)
	sweeping.Wait()
	if result.Swept != n || result.Processes != n || result.Blocked+result.Skipped+result.Foreign != 0 {
		t.Errorf("Sweep() = %d runs with %d processes (%+v), want %d with %d", result.Swept, result.Processes, result, n, n)
	}
	views := mustList(t, r)
	if len(views) != n {
		t.Errorf("%d runs, want the %d new ones", len(views), n)
	}
	for _, v := range views {
		if v.State != RunRunning || v.Processes != 1 {
			t.Errorf("run %s is %s with %d processes, want running with 1", v.ID, v.State, v.Processes)
		}
	}
	young.close(t)
}

// TestDryRunChangesNothing compares everything that can be seen before and after.
func TestDryRunChangesNothing(t *testing.T) {
	r := newRoot(t)
	o := startOwner(t, r, 2, 2, sleeper...)
	o.crash(t)
	living := startOwner(t, r, 1, 1, sleeper...)
	half := runPrefix + NewRunID().String()
	mustMkdir(t, r, half)
	mustMkdir(t, r, "supervisor-old")
	stranger := startMember(t, r, "other", sleeper...)
	before := snapshot(t, r)
	got := mustSweep(t, r, SweepOptions{DryRun: true})
	if after := snapshot(t, r); after != before {
		t.Errorf("a dry run changed\n%s\nto\n%s", before, after)
	}
	wantEvents(t, got, map[string]string{
		"run-" + o.runs[0].String(): ResultWouldSweep, "run-" + o.runs[1].String(): ResultWouldSweep,
		half: ResultWouldSweep, "other": ResultForeign,
	})
	if got.Swept != 3 || got.Processes != 4 || got.Foreign != 1 || got.Alive != 1 {
		t.Errorf("dry run = %+v, want 3 runs with 4 processes, 1 foreign, 1 alive", got)
	}
	real := mustSweep(t, r, SweepOptions{})
	if real.Swept != got.Swept || real.Processes != got.Processes || real.Alive != got.Alive || real.Leaves != 1 {
		t.Errorf("Sweep() = %+v, want what the dry run said: %+v", real, got)
	}
	stranger.Kill(t)
	living.close(t)
}

func mustMkdir(tb testing.TB, r *Registry, name string) {
	tb.Helper()
	if err := os.Mkdir(filepath.Join(r.Root().Path(), name), 0o755); err != nil {
		tb.Fatal(err)
	}
}

// snapshot is every directory with its inode, labels and processes.
func snapshot(tb testing.TB, r *Registry) string {
	tb.Helper()
	var out strings.Builder
	err := filepath.WalkDir(r.Root().Path(), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		dir, err := cgroup.Open(path)
		if err != nil {
			return err
		}
		defer dir.Close()
		pids, err := dir.PIDs()
		fmt.Fprintf(&out, "%s %d %v", path, dir.ID(), pids)
		for _, name := range []string{xattrRun, xattrInfo, xattrPool, xattrWorker, xattrKilled} {
			value, _ := dir.Xattr(name)
			fmt.Fprintf(&out, " %q", value)
		}
		out.WriteByte('\n')
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	return out.String()
}

// TestSweepSkipsTheRunItIsIn: a sweep started from a shell in a stale run must not end itself.
func TestSweepSkipsTheRunItIsIn(t *testing.T) {
	r := newRoot(t)
	o := startOwner(t, r, 3, 1, sleeper...)
	o.crash(t)
	mine := "run-" + o.runs[1].String()
	got := sweepFrom(t, r, filepath.Join(r.Root().Path(), mine, "web", "0.1"))
	if got.Swept != 2 || got.Skipped != 1 || got.Processes != 2 || got.Blocked != 0 {
		t.Errorf("sweep from within a stale run = %+v, want 2 swept, 1 skipped", got)
	}
	if left := runDirs(t, r); len(left) != 1 || left[0] != mine {
		t.Errorf("left: %v, want %s", left, mine)
	}
	if got := mustSweep(t, r, SweepOptions{}); got.Swept != 1 || got.Processes != 1 {
		t.Errorf("Sweep() from outside = %+v, want the rest", got)
	}
}

// TestSweepAsAnotherUser: everything works in a delegated subtree without privileges.
func TestSweepAsAnotherUser(t *testing.T) {
	linuxtest.NeedRoot(t, "to become another user")
	r := newRoot(t)
	mustMkdir(t, r, "supervisor")
	leaf := filepath.Join(r.Root().Path(), "supervisor")
	for _, name := range []string{"", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads", "supervisor", "supervisor/cgroup.procs"} {
		if err := os.Chown(filepath.Join(r.Root().Path(), name), 65534, 65534); err != nil {
			t.Fatal(err)
		}
	}
	args := append([]string{"owner", r.Root().Path(), "3", "2"}, sleeper...)
	owner := linuxtest.Command{Args: linuxtest.Helper(t, "nobody", args...), Cgroup: leaf, Stderr: os.Stderr}
	startOwnerAs(t, owner, 3).crash(t)
	living := startOwnerAs(t, owner, 3)
	sweeper := linuxtest.Command{Args: linuxtest.Helper(t, "nobody", "sweeper", r.Root().Path()), Cgroup: leaf, Stderr: os.Stderr}
	got := parseSweep(t, sweeper.Output(t, 60*time.Second))
	if got.Swept != 3 || got.Processes != 6 || got.Alive != 3 || got.Blocked != 0 {
		t.Errorf("sweep as uid 65534 = %+v, want 3 runs with 6 processes, 3 alive", got)
	}
	living.close(t)
	if left := runDirs(t, r); len(left) != 1 {
		t.Errorf("left: %v, want only the supervisor's leaf", left)
	}
}

func TestSweepRemovesLeavesOfDeadSupervisors(t *testing.T) {
	r := newRoot(t)
	mine, err := r.CreateSupervisorLeaf()
	if err != nil {
		t.Fatal(err)
	}
	defer mine.Close()
	for _, name := range []string{"supervisor", "supervisor-dead", "supervisor-busy"} {
		mustMkdir(t, r, name)
	}
	busy := startMember(t, r, "supervisor-busy", sleeper...)
	got := mustSweep(t, r, SweepOptions{})
	if got.Leaves != 1 || len(got.Runs) != 0 || got.Alive != 0 {
		t.Errorf("Sweep() = %+v, want 1 leaf and no events", got)
	}
	want := []string{"supervisor", mine.Name(), "supervisor-busy"}
	if left := runDirs(t, r); len(left) != 3 || left[0] != want[0] {
		t.Errorf("left: %v, want %v", left, want)
	}
	if !busy.Alive() {
		t.Error("the process of a supervisor's leaf was killed")
	}
	busy.Kill(t)
}

func TestSweepEndsWithItsContext(t *testing.T) {
	r := newRoot(t)
	o := startOwner(t, r, 2, 1, sleeper...)
	o.crash(t)
	ctx, cancel := context.WithCancelCause(context.Background())
	why := errors.New("told to stop")
	cancel(why)
	if _, err := r.Sweep(ctx, SweepOptions{}); !errors.Is(err, why) {
		t.Errorf("Sweep() with an ended context = %v, want its cause", err)
	}
	mustSweep(t, r, SweepOptions{})
}

func TestSweepEventInJSON(t *testing.T) {
	e := SweepEvent{
		Run: RunID{15: 1}, Dir: "/x", Result: ResultBlocked, Elapsed: time.Second,
		Err: fmt.Errorf("end: %w", &cgroup.BlockedError{
			Path: "/x", Err: context.DeadlineExceeded, Total: 1,
			Blockers: []cgroup.Blocker{{PID: 7, Comm: "dd", State: "D", Wchan: "nfs_wait"}},
		}),
	}
	got, err := json.Marshal([]SweepEvent{e})
	want := `[{"run":"00000000000000000000000001","dir":"/x","result":"blocked","processes":0,"elapsed_ns":1000000000,`
	if err != nil || !bytes.HasPrefix(got, []byte(want)) || !bytes.HasSuffix(got, []byte(`"blockers":[{"pid":7,"comm":"dd","state":"D","wchan":"nfs_wait"}]}]`)) {
		t.Errorf("Marshal() = %s, %v", got, err)
	}
}
