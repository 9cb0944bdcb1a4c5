package supervise

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/registry"
	"github.com/pitvisor/pitvisor/resource"
)

func TestBackoffDelay(t *testing.T) {
	const ms = time.Millisecond
	tests := []struct {
		name     string
		b        Backoff
		failures int
		rnd      float64
		want     time.Duration
	}{
		{"none", Backoff{}, 0, 0, 0},
		{"zero value", Backoff{}, 1, 0.9, 100 * ms},
		{"doubles", Backoff{}, 4, 0, 800 * ms},
		{"is capped", Backoff{}, 50, 0, 30 * time.Second},
		{"never overflows", Backoff{}, 1 << 30, 0, 30 * time.Second},
		{"cap below the default min", Backoff{Min: time.Minute}, 9, 0, time.Minute},
		{"factor", Backoff{Min: ms, Factor: 10}, 3, 0, 100 * ms},
		{"free", Backoff{Free: 2}, 2, 0, 0},
		{"after the free ones", Backoff{Free: 2}, 3, 0, 100 * ms},
		{"jitter shortens", Backoff{Jitter: 0.5}, 1, 0.5, 75 * ms},
		{"jitter shortens the cap too", Backoff{Max: time.Second, Jitter: 0.5}, 99, 0.5, 750 * ms},
	}
	for _, test := range tests {
		if got := test.b.Delay(test.failures, test.rnd); got != test.want {
			t.Errorf("%s: Delay(%d, %v) = %v, want %v", test.name, test.failures, test.rnd, got, test.want)
		}
	}
}

func TestPlaceholdersAndEnvironment(t *testing.T) {
	run := registry.NewRunID()
	e := newExpander(Command{
		Path: "/bin/w",
		Args: []string{"w", "--name={pool}-{slot}", "{worker}", "{start}", "{run}", "{other}", "{{slot}}"},
		Env:  []string{"A=1", "NOTIFY_SOCKET=/systemd", "PITVISOR_POOL=outer", "W={worker}", "POOLS="},
	})
	args, env := e.expand(run, WorkerID{"web", 7}, 12, []string{"NOTIFY_SOCKET=/ours"})
	wantArgs := []string{"w", "--name=web-7", "web/7", "12", run.String(), "{other}", "{7}"}
	if !slices.Equal(args, wantArgs) {
		t.Errorf("args = %q, want %q", args, wantArgs)
	}
	wantEnv := []string{
		"A=1", "W=web/7", "POOLS=", "NOTIFY_SOCKET=/ours", "PITVISOR_RUN_ID=" + run.String(),
		"PITVISOR_POOL=web", "PITVISOR_SLOT=7", "PITVISOR_WORKER=web/7", "PITVISOR_START=12",
	}
	if !slices.Equal(env, wantEnv) {
		t.Errorf("env = %q, want %q", env, wantEnv)
	}
	plain := newExpander(Command{Path: "/bin/w", Env: []string{"PITVISOR_SLOT=9", "A=1"}})
	args, env = plain.expand(run, WorkerID{"web", 0}, 1, []string{"A=2"})
	if !slices.Equal(args, []string{"/bin/w"}) {
		t.Errorf("args without Args = %q, want the path", args)
	}
	wantEnv = []string{
		"A=2", "PITVISOR_RUN_ID=" + run.String(),
		"PITVISOR_POOL=web", "PITVISOR_SLOT=0", "PITVISOR_WORKER=web/0", "PITVISOR_START=1",
	}
	if !slices.Equal(env, wantEnv) {
		t.Errorf("env without placeholders = %q, want %q", env, wantEnv)
	}
}

func TestBadPoolsAreRefused(t *testing.T) {
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
	tests := map[string]func(*PoolSpec){
		"name is not":             func(p *PoolSpec) { p.Name = "../web" },
		`pool "": name`:           func(p *PoolSpec) { p.Name = "" },
		"is there twice":          func(p *PoolSpec) { p.Name = "twin" },
		"size 0":                  func(p *PoolSpec) { p.Size = 0 },
		"size 9999999":            func(p *PoolSpec) { p.Size = 9999999 },
		"1048577 workers":         func(p *PoolSpec) { p.Size = 1 << 20 },
		"no command":              func(p *PoolSpec) { p.Command.Path = "" },
		"failure limit -1":        func(p *PoolSpec) { p.FailureLimit = -1 },
		"stop signal 65":          func(p *PoolSpec) { p.Stop.Signal = 65 },
		"stop grace -1s":          func(p *PoolSpec) { p.Stop.Grace = -time.Second },
		"start timeout -1s":       func(p *PoolSpec) { p.StartTimeout = -time.Second },
		"backoff min -1s":         func(p *PoolSpec) { p.Backoff.Min = -time.Second },
		"max 1s is less than min": func(p *PoolSpec) { p.Backoff = Backoff{Min: time.Minute, Max: time.Second} },
		"backoff factor 0.5":      func(p *PoolSpec) { p.Backoff.Factor = 0.5 },
		"backoff jitter 2":        func(p *PoolSpec) { p.Backoff.Jitter = 2 },
		"-1 free restarts":        func(p *PoolSpec) { p.Backoff.Free = -1 },
		"restart policy":          func(p *PoolSpec) { p.Restart = 9 },
		"way to track":            func(p *PoolSpec) { p.Track = 9 },
	}
	for want, spoil := range tests {
		p := sleeper("web", 1)
		spoil(&p)
		_, err := New(Options{Run: run, Pools: []PoolSpec{sleeper("twin", 1), p}})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("New() = %v, want an error with %q", err, want)
		}
	}
}

// TestFailedNewLeavesNothing: the second pool's cgroup cannot be made.
func TestFailedNewLeavesNothing(t *testing.T) {
	r := newRig(t, Options{})
	web, err := r.run.Dir().Create("web")
	if err != nil {
		t.Fatal(err)
	}
	defer web.Close()
	if _, err := New(Options{Run: r.run, Pools: []PoolSpec{sleeper("first", 1), sleeper("web", 1)}}); err == nil {
		t.Error("New() works though the pool's cgroup is there, want an error")
	}
	if names, err := r.run.Dir().Children(); err != nil || !slices.Equal(names, []string{"web"}) {
		t.Errorf("cgroups after a failed New = %v, %v; want none of its own", names, err)
	}
}

// TestMissingControllerIsAnError, and with best effort an event.
func TestMissingControllerIsAnError(t *testing.T) {
	p := sleeper("web", 1)
	p.Limits, p.PoolLimits = resource.Limits{MemoryMax: 1 << 30}, resource.Limits{PIDsMax: 100}
	bare := filepath.Join(linuxtest.Cgroup(t), "bare") // nothing is handed down to it
	if err := os.Mkdir(bare, 0o755); err != nil {
		t.Fatal(err)
	}
	r := newRigIn(t, bare, Options{})
	dir := r.run.Dir()
	var missing *cgroup.ControllerError
	if _, err := New(Options{Run: r.run, Pools: []PoolSpec{p}}); !errors.As(err, &missing) || missing.Controller != "pids" {
		t.Errorf("New() = %v, want a ControllerError about pids", err)
	}
	if names, err := dir.Children(); err != nil || len(names) > 0 {
		t.Errorf("cgroups after a failed New = %v, %v; want none", names, err)
	}
	p.BestEffortLimits = true
	r = newRigIn(t, bare, Options{Pools: []PoolSpec{p}})
	r.begin()
	r.await("ready", 1, kind(EventReady))
	degraded := r.all(kind(EventDegraded))
	if len(degraded) != 2 || degraded[0].Worker != (WorkerID{"web", -1}) || !errors.As(degraded[1].Err, &missing) || missing.Controller != "memory" {
		t.Errorf("degraded = %v, want one each for pids and memory", degraded)
	}
	if err := r.halt(); err != nil {
		t.Errorf("Run() = %v, want nil", err)
	}
}

// TestLimitsAreSetOnLeafAndPool, with whatever controller this host has.
func TestLimitsAreSetOnLeafAndPool(t *testing.T) {
	linuxtest.NeedCgroup2(t, "memory", "pids")
	p := sleeper("web", 1)
	p.Limits, p.PoolLimits = resource.Limits{MemoryMax: 1 << 26}, resource.Limits{PIDsMax: 50}
	hog := helper(t, "hog", 1, "alloc", "200")
	hog.Limits, hog.Restart = resource.Limits{MemoryMax: 1 << 26, MemorySwapMax: 0}, RestartNever
	hog.Readiness = rule(never)
	r := begin(t, p, hog)
	failed := r.await("failed", 1, kind(EventStartFailed, "hog/0"))[0]
	if failed.Failure.Cause != CauseOOM {
		t.Errorf("%s: want oom", eventText(failed))
	}
}

// TestTimersKeepTheirOrder against a plain list.
func TestTimersKeepTheirOrder(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	slots := make([]slot, 50)
	for i := range slots {
		slots[i].timer = noTimer
	}
	ts := timers{slots: slots}
	for range 20_000 {
		i := int32(random.IntN(len(slots)))
		slots[i].due = time.Duration(random.IntN(30)) // 0 takes it out
		ts.update(i)
		want := time.Duration(0)
		for k := range slots {
			if d := slots[k].due; d != 0 && (want == 0 || d < want) {
				want = d
			}
		}
		if _, got, _ := ts.next(); got != want {
			t.Fatalf("next due = %v, want %v", got, want)
		}
	}
}

func TestWordsOfEnums(t *testing.T) {
	var words []string
	for s := StateDown; s <= StateCompleted; s++ {
		words = append(words, s.String())
	}
	for k := EventStarting; k <= EventDegraded; k++ {
		words = append(words, k.String())
	}
	for c := CauseUnknown; c <= CauseLeaf; c++ {
		words = append(words, c.String())
	}
	words = append(words,
		PhasePrepare.String(), PhaseExec.String(), PhaseReadiness.String(), RestartAlways.String(),
		RestartOnFailure.String(), RestartNever.String(), TrackMain.String(), TrackLeaf.String())
	for _, w := range words {
		if w == "" || strings.ContainsAny(w, "() _") || strings.ToLower(w) != w {
			t.Errorf("word %q, want kebab case", w)
		}
	}
}
