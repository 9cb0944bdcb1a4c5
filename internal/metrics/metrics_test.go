package metrics

import (
	"context"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/pidfd"
	"github.com/pitvisor/pitvisor/registry"
	"github.com/pitvisor/pitvisor/spawn"
	"github.com/pitvisor/pitvisor/supervise"
)

func TestMain(m *testing.M) {
	spawn.HelperMain()
	linuxtest.Main(m)
}

const patience = 30 * time.Second

// begin runs a supervisor of the pools that is counted, and returns what scrapes it.
func begin(t *testing.T, pools ...supervise.PoolSpec) (*supervise.Supervisor, func() map[string]float64) {
	t.Helper()
	root, err := cgroup.Open(linuxtest.Cgroup(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = root.Close() })
	run, err := registry.New(root).Create(registry.Spec{Kind: "up", Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	m := New("1.2.3", "go9")
	sup, err := supervise.New(supervise.Options{Run: run, Pools: pools, Observe: m.Observe})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = sup.Run(ctx) // what became of workers is in the numbers
	}()
	t.Cleanup(func() {
		sup.KillNow()
		cancel()
		<-done
		if err := run.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	h := m.Handler(run, sup)
	return sup, func() map[string]float64 {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
		data, err := io.ReadAll(w.Result().Body)
		if err != nil || w.Code != 200 {
			t.Fatalf("scrape = %d, %v\n%s", w.Code, err, data)
		}
		return parse(t, string(data))
	}
}

// parse reads numbers by their names with labels.
func parse(t *testing.T, text string) map[string]float64 {
	t.Helper()
	all := map[string]float64{}
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		i := strings.LastIndexByte(line, ' ')
		v, err := strconv.ParseFloat(strings.TrimSpace(line[i+1:]), 64)
		if err != nil {
			t.Fatalf("line %q: %v", line, err)
		}
		all[line[:i]] = v
	}
	return all
}

func pool(t *testing.T, name string, size int, mode ...string) supervise.PoolSpec {
	argv := linuxtest.Helper(t, mode[0], mode[1:]...)
	return supervise.PoolSpec{Name: name, Size: size, Command: supervise.Command{Path: argv[0], Args: argv}}
}

func expect(t *testing.T, got map[string]float64, want map[string]float64) {
	t.Helper()
	for name, v := range want {
		if n, ok := got[name]; !ok || n != v {
			t.Errorf("%s = %v (there: %v), want %v", name, n, ok, v)
		}
	}
}

func TestLifeInNumbers(t *testing.T) {
	bad := pool(t, "bad", 1, "exit", "3")
	bad.Restart, bad.Readiness = supervise.RestartNever, never{}
	sup, scrape := begin(t, pool(t, "web", 2, "run"), bad)
	linuxtest.Wait(t, patience, func() (bool, string) {
		n := scrape()
		return n[`pitvisor_pool_ready{pool="web"}`] == 2 && n[`pitvisor_pool_workers{pool="bad",state="failed"}`] == 1, fmt.Sprint(n)
	})
	n := scrape()
	expect(t, n, map[string]float64{
		`pitvisor_build_info{goversion="go9",version="1.2.3"}`:                              1,
		`pitvisor_pool_size{pool="web"}`:                                                    2,
		`pitvisor_pool_workers{pool="web",state="up"}`:                                      2,
		`pitvisor_pool_workers{pool="web",state="backoff"}`:                                 0,
		`pitvisor_worker_starts_total{pool="web",reason="boot"}`:                            2,
		`pitvisor_worker_ready_seconds_count{pool="web"}`:                                   2,
		`pitvisor_worker_start_failures_total{cause="exited",phase="readiness",pool="bad"}`: 1,
		`pitvisor_run_processes`:                                                            2,
	})
	if _, there := n[`pitvisor_cgroup_cpu_seconds_total{mode="user",pool="web",worker="web/0"}`]; !there {
		t.Errorf("no CPU time of web/0 in %v", n)
	}
	if n["pitvisor_run_start_time_seconds"] < 1e9 {
		t.Errorf("run started at %v", n["pitvisor_run_start_time_seconds"])
	}
	sel, _ := supervise.ParseSelector("web/1")
	if _, err := sup.Signal(context.Background(), sel, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	linuxtest.Wait(t, patience, func() (bool, string) {
		n = scrape()
		return n[`pitvisor_worker_restarts_total{pool="web",reason="exited",worker="web/1"}`] == 1, fmt.Sprint(n)
	})
	expect(t, n, map[string]float64{`pitvisor_worker_exits_total{how="signal",pool="web"}`: 1})
	if _, there := n[`pitvisor_worker_restarts_total{pool="web",reason="exited",worker="web/0"}`]; there {
		t.Error("web/0 was not restarted")
	}
	if _, err := sup.Stop(context.Background(), sel); err != nil {
		t.Fatal(err)
	}
	linuxtest.Wait(t, patience, func() (bool, string) {
		n = scrape()
		return n[`pitvisor_worker_stop_seconds_count{killed="no",pool="web"}`]+n[`pitvisor_worker_stop_seconds_count{killed="yes",pool="web"}`] == 1, fmt.Sprint(n)
	})
}

// never is a readiness rule that does not hold.
type never struct{}

func (never) Prepare(supervise.StartInfo, supervise.Output) (supervise.Attempt, error) {
	return never{}, nil
}
func (never) Env() []string     { return nil }
func (never) Files() []*os.File { return nil }
func (never) Close() error      { return nil }

func (never) Wait(ctx context.Context, _ *pidfd.Process, _ *cgroup.Dir) (supervise.ReadyInfo, error) {
	<-ctx.Done()
	return supervise.ReadyInfo{}, context.Cause(ctx)
}

// short is a supervisor that does what pools do under pressure.
type short struct{}

func (short) Status() []supervise.WorkerStatus { return nil }
func (short) Pools() []supervise.PoolStatus {
	return []supervise.PoolStatus{{Name: "web", Size: 9, Ready: 4, Held: 2, Frozen: 4, Withheld: 3, Pressure: "frozen: of something"}}
}

func TestPressureInNumbers(t *testing.T) {
	root, err := cgroup.Open(linuxtest.Cgroup(t))
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	run, err := registry.New(root).Create(registry.Spec{Kind: "up", Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = run.Close(context.Background()) }() // empty
	w := httptest.NewRecorder()
	m := New("", "")
	for range 2 {
		m.Observe(supervise.Event{Worker: supervise.WorkerID{Pool: "web", Slot: -1}, Kind: supervise.EventPressureTimeout})
	}
	m.Handler(run, short{}).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	got := parse(t, w.Body.String())
	expect(t, got, map[string]float64{
		`pitvisor_pool_size{pool="web"}`: 9, `pitvisor_pool_held_starts{pool="web"}`: 2,
		`pitvisor_pool_frozen_workers{pool="web"}`: 4, `pitvisor_pool_withheld_workers{pool="web"}`: 3,
		`pitvisor_pool_pressure_timeouts_total{pool="web"}`: 2,
	})
	if _, err := run.Dir().ReadFile("cpu.pressure"); err != nil {
		linuxtest.Skip(t, "needs the kernel's pressure stall information")
	}
	for _, name := range []string{
		`pitvisor_pressure_ratio{kind="some",resource="memory",where="host"}`, `pitvisor_pressure_ratio{kind="full",resource="io",where="run"}`,
		`pitvisor_pressure_ratio{kind="some",resource="cpu",where="run"}`,
	} {
		if share, ok := got[name]; !ok || share < 0 || share > 1 {
			t.Errorf("%s = %v, %v", name, share, ok)
		}
	}
}

func TestSweeps(t *testing.T) {
	m := New("", "")
	m.Swept(registry.SweepEvent{Result: registry.ResultSwept, Processes: 3, Elapsed: time.Second})
	m.Swept(registry.SweepEvent{Result: registry.ResultSkipped})
	families, err := m.all.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, one := range f.Metric {
			name := f.GetName()
			for _, l := range one.Label {
				name += "," + l.GetValue()
			}
			got[name] = one.GetCounter().GetValue() + one.GetHistogram().GetSampleSum()
		}
	}
	expect(t, got, map[string]float64{
		"pitvisor_gc_runs_total,swept": 1, "pitvisor_gc_runs_total,skipped": 1, "pitvisor_gc_killed_processes_total": 3, "pitvisor_gc_run_seconds": 1,
	})
}

func BenchmarkObserve(b *testing.B) {
	m := New("", "")
	e := supervise.Event{Worker: supervise.WorkerID{Pool: "web", Slot: 3}, Kind: supervise.EventStarting, Start: 2}
	for b.Loop() {
		m.Observe(e)
	}
}

// TestNotifyIsCounted: each result is a line of its own, read when somebody asks.
func TestNotifyIsCounted(t *testing.T) {
	m := New("1", "go")
	n := uint64(0)
	m.CountNotify(Count{"received", func() uint64 { return n }}, Count{"ignored", func() uint64 { return 0 }})
	n = 7
	families, err := m.all.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		if f.GetName() == "pitvisor_notify_messages_total" {
			for _, one := range f.GetMetric() {
				got[one.GetLabel()[0].GetValue()] = one.GetCounter().GetValue()
			}
		}
	}
	if len(got) != 2 || got["received"] != 7 || got["ignored"] != 0 {
		t.Errorf("counts %v, want 7 received and 0 ignored", got)
	}
}
