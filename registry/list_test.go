package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/cgroup"
)

func TestListShowsTheTree(t *testing.T) {
	r := newRoot(t)
	first := startOwner(t, r, 1, 3, sleeper...)
	second := startOwner(t, r, 2, 0)
	foreign := startMember(t, r, "other", sleeper...)
	mustMkdir(t, r, "empty-and-not-ours")
	mustMkdir(t, r, "supervisor")
	first.crash(t)
	views := mustList(t, r)
	var got []string
	for _, v := range views {
		got = append(got, fmt.Sprintf("%s %s %d", v.ID, v.State, v.Processes))
	}
	want := []string{
		first.runs[0].String() + " stale 3", second.runs[0].String() + " running 0",
		second.runs[1].String() + " running 0", RunID{}.String() + " foreign 1",
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("List() = %q, want %q", got, want)
	}
	v := views[0]
	if v.Kind != "test" || v.Name != "ours" || v.Version != "0.1" || v.Owner.PID != first.PID() ||
		v.CgroupID == 0 || !strings.HasSuffix(v.Dir, "/run-"+v.ID.String()) {
		t.Errorf("run = %+v", v)
	}
	if len(v.Pools) != 1 || v.Pools[0].Name != "web" || v.Pools[0].Size != 3 || len(v.Pools[0].Workers) != 3 {
		t.Fatalf("pools = %+v, want web with 3 workers", v.Pools)
	}
	for slot, w := range v.Pools[0].Workers {
		if w.Slot != slot || w.Worker.Start != 1 || !w.Ready || w.State != "up" || w.Leaf != fmt.Sprintf("%d.1", slot) ||
			w.Age <= 0 || w.Age > time.Minute {
			t.Errorf("worker %d = %+v", slot, w)
		}
		if len(w.Processes) != 1 || w.Processes[0].PID != w.Process.PID || w.Processes[0].Comm != "sleep" ||
			w.Processes[0].Inode != w.Process.Inode || w.Processes[0].Start != w.Process.Start {
			t.Errorf("processes of worker %d = %+v, want sleep %s", slot, w.Processes, w.Process)
		}
	}
	mustSweep(t, r, SweepOptions{})
	foreign.Kill(t)
	second.close(t)
}

// TestListWithoutRecords: leaves and pools whose owner died before it could describe them.
func TestListWithoutRecords(t *testing.T) {
	r := newRoot(t)
	run, err := r.Create(Spec{Kind: "up", Name: "x", Version: "1"})
	if err != nil {
		t.Fatal(err)
	}
	base := run.Dir().Name()
	for _, dir := range []string{base + "/api", base + "/api/10.7", base + "/api/2.1", base + "/api/probe-2.1.1"} {
		mustMkdir(t, r, dir)
	}
	inPool := startMember(t, r, base+"/api", sleeper...)
	inProbe := startMember(t, r, base+"/api/probe-2.1.1", sleeper...)
	v := mustList(t, r)[0]
	if len(v.Pools) != 1 || v.Pools[0].Name != "api" || v.Processes != 2 {
		t.Fatalf("List() = %+v, want pool api and 2 processes", v)
	}
	workers := v.Pools[0].Workers
	if len(workers) != 2 || workers[0].Slot != 2 || workers[1].Slot != 10 || workers[1].Worker.Start != 7 || workers[1].Pool != "api" {
		t.Errorf("workers = %+v, want slots 2 and 10", workers)
	}
	if got := workers[0].Worker.State; got != "starting" {
		t.Errorf("state without a record = %q, want starting", got)
	}
	if err := run.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	inPool.Kill(t)
	inProbe.Kill(t)
}

func TestListInJSON(t *testing.T) {
	r := newRoot(t)
	o := startOwner(t, r, 1, 1, sleeper...)
	text, err := json.Marshal(mustList(t, r))
	if err != nil {
		t.Fatal(err)
	}
	var views []RunView
	if err := json.Unmarshal(text, &views); err != nil {
		t.Fatal(err)
	}
	if len(views) != 1 || views[0].ID != o.runs[0] || views[0].State != RunRunning ||
		views[0].Pools[0].Workers[0].Worker.Slot != 0 || len(views[0].Pools[0].Workers[0].Processes) != 1 {
		t.Errorf("List() as JSON and back = %+v", views)
	}
	for _, key := range []string{`"id":"`, `"state":"running"`, `"owner":{`, `"cgroup_id":`, `"age_ns":`, `"processes":1`} {
		if !strings.Contains(string(text), key) {
			t.Errorf("no %s in %s", key, text)
		}
	}
	o.close(t)
}

// TestListWhileRunsComeAndGo: whatever vanishes under it, a listing is no error, and never shows a run
// of a living owner as anything else.
func TestListWhileRunsComeAndGo(t *testing.T) {
	r := newRoot(t)
	ctx, cancel := context.WithCancel(context.Background())
	var churn sync.WaitGroup
	for i := range 6 {
		churn.Go(func() {
			for ctx.Err() == nil {
				run, err := ownRun(r, i%2*3, nil)
				if err != nil {
					t.Error(err)
					return
				}
				if err := run.Close(context.Background()); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	deadline := time.Now().Add(time.Second)
	lists := 0
	for ; time.Now().Before(deadline); lists++ {
		for _, v := range mustList(t, r) {
			// Between mkdir and flock a run looks half made, and says so.
			if v.State != RunRunning && v.State != RunStarting && v.State != RunHalfMade {
				t.Errorf("run %s of a living owner is %s", v.ID, v.State)
			}
		}
	}
	cancel()
	churn.Wait()
	t.Logf("%d listings", lists)
}

// TestWhatIsGoneIsNothing looks at directories that were removed after they were opened.
func TestWhatIsGoneIsNothing(t *testing.T) {
	r := newRoot(t)
	run, err := ownRun(r, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	name := run.Dir().Name()
	dir, pool := mustOpen(t, r, name), mustOpen(t, r, name, "web")
	if err := run.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	if _, state, err := classify(dir); state != "" || err != nil {
		t.Errorf("classify() of a removed run = %q, %v, want nothing", state, err)
	}
	s := &sweep{root: r.root, options: SweepOptions{DryRun: true}}
	if got := s.look(dir); got != (verdict{}) {
		t.Errorf("look() at a removed run = %+v, want nothing", got)
	}
	if pools, n, err := viewPools(context.Background(), dir); len(pools) != 0 || n != 0 || err != nil {
		t.Errorf("viewPools() of a removed run = %v, %d, %v", pools, n, err)
	}
	if view, n, err := viewPool(context.Background(), pool); len(view.Workers) != 0 || n != 0 || err != nil {
		t.Errorf("viewPool() of a removed pool = %v, %d, %v", view, n, err)
	}
}

func TestListStopsWithItsContext(t *testing.T) {
	r := newRoot(t)
	mustMkdir(t, r, "run-x")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := r.List(ctx); err == nil {
		t.Error("List() with an ended context = nil")
	}
}

func TestSlotAndStart(t *testing.T) {
	tests := []struct {
		name  string
		slot  int
		start uint64
		ok    bool
	}{
		{"0.1", 0, 1, true},
		{"12.345", 12, 345, true},
		{"0", 0, 0, false},
		{".1", 0, 1, false},
		{"-1.2", -1, 2, false},
		{"1.2.3", 1, 0, false},
		{"probe-1.2.3", 0, 0, false},
		{"1.-2", 1, 0, false},
	}
	for _, test := range tests {
		slot, start, ok := slotAndStart(test.name)
		if ok != test.ok || ok && (slot != test.slot || start != test.start) {
			t.Errorf("slotAndStart(%q) = %d, %d, %v, want %d, %d, %v", test.name, slot, start, ok, test.slot, test.start, test.ok)
		}
	}
}

// TestRecordsOfOtherVersions: what cannot be read is shown as far as it can.
func TestRecordsOfOtherVersions(t *testing.T) {
	r := newRoot(t)
	run, err := ownRun(r, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer run.Close(context.Background())
	pool := mustOpen(t, r, run.Dir().Name(), "web")
	leaf := mustOpen(t, r, run.Dir().Name(), "web", "0.1")
	for _, set := range []struct {
		dir  *cgroup.Dir
		name string
		text string
	}{
		{run.Dir(), xattrInfo, `{"id":"` + run.ID().String() + `","name":"x","new":{"a":1}}`},
		{pool, xattrPool, "\x00\xff"},
		{leaf, xattrWorker, `{"slot":"text"}`},
	} {
		if err := set.dir.SetXattr(set.name, []byte(set.text)); err != nil {
			t.Fatal(err)
		}
	}
	v := mustList(t, r)[0]
	if v.Name != "x" || v.State != RunRunning || len(v.Pools) != 1 || v.Pools[0].Name != "web" || len(v.Pools[0].Workers) != 1 {
		t.Errorf("List() = %+v", v)
	}
	if got := v.Pools[0].Workers[0].Worker.State; got != "" {
		t.Errorf("state with a record that cannot be read = %q, want none", got)
	}
	if err := run.Dir().SetXattr(xattrInfo, []byte("not JSON")); err != nil {
		t.Fatal(err)
	}
	if v := mustList(t, r)[0]; v.ID != run.ID() || v.State != RunRunning || v.Started.IsZero() {
		t.Errorf("List() = %+v", v)
	}
}
