package supervise

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/resource"
)

// liveLimit is a limit, and what the kernel's file says with it and without.
type liveLimit struct{ file, value, with, without string }

func liveLimits(t *testing.T) []liveLimit {
	all := []liveLimit{
		{"memory.max", "64M", "67108864", "max"},
		{"memory.high", "64M", "67108864", "max"},
		{"memory.low", "4M", "4194304", "0"},
		{"memory.min", "4M", "4194304", "0"},
		{"memory.swap.max", "8M", "8388608", "max"},
		{"memory.oom.group", "1", "1", "0"},
		{"pids.max", "500", "500", "max"},
		{"cpu.max", "50%", "50000 100000", "max 100000"},
		{"cpu.weight", "50", "50", "100"},
		{"cpu.idle", "1", "1", "0"},
		{"cpuset.cpus", "0", "0", ""},
		{"cpuset.mems", "0", "0", ""},
		{"io.weight", "50", "default 50", "default 100"},
	}
	if disk := os.Getenv("LINUXTEST_SCRATCH_DISK"); disk != "" {
		all = append(all, liveLimit{"io.max", disk + " 1M", "wbps=1000000", ""})
	}
	return all
}

// parsed reads the limit as a configuration has it.
func (l *liveLimit) parsed(t *testing.T) (limits resource.Limits) {
	t.Helper()
	key := l.file
	if key == "io.max" {
		key = "IOWriteBandwidthMax"
	}
	if err := resource.ParseLimit(key, l.value, &limits); err != nil {
		t.Fatal(err)
	}
	return limits
}

// Every limit can be set, changed and lifted for a worker, a pool and the run, while the
// worker runs on.
func TestLimitsAreLive(t *testing.T) {
	linuxtest.NeedCgroup2(t, "memory", "pids", "cpu", "cpuset", "io")
	plain := sleeper("web", 1)
	r := begin(t, plain)
	r.await("ready", 1, kind(EventReady))
	_, leaf := r.members("web/0")
	run := r.run.Dir().Path()
	places := []struct { // from above, as old kernels narrow no cpuset whose children have more
		path string
		spec func(l resource.Limits) (RunSpec, PoolSpec)
	}{
		{run, func(l resource.Limits) (RunSpec, PoolSpec) { return RunSpec{RunLimits: l}, plain }},
		{run + "/web", func(l resource.Limits) (RunSpec, PoolSpec) { p := plain; p.PoolLimits = l; return RunSpec{}, p }},
		{leaf, func(l resource.Limits) (RunSpec, PoolSpec) { p := plain; p.Limits = l; return RunSpec{}, p }},
	}
	set := 0
	for _, place := range places {
		path := place.path
		for _, l := range liveLimits(t) {
			says := func(want string) {
				t.Helper()
				linuxtest.Wait(t, patience, func() (bool, string) {
					text, err := os.ReadFile(path + "/" + l.file)
					got := strings.TrimSpace(string(text))
					if strings.HasPrefix(l.file, "cpuset.") && want == "" {
						want = wholeSet(t, l.file, got) // of what has processes older kernels make no empty set
					}
					return err == nil && (got == want || l.file == "io.max" && want != "" && strings.Contains(got, want)), fmt.Sprintf("%s/%s is %q, %v, want %q", path, l.file, got, err, want)
				})
			}
			rs, ps := place.spec(l.parsed(t))
			_, err := r.ReloadAll(t.Context(), rs, []PoolSpec{ps})
			var missing *cgroup.ControllerError
			if errors.As(err, &missing) && missing.File == l.file {
				t.Logf("this kernel has no %s", l.file)
				continue
			}
			if err != nil {
				t.Fatalf("%s of %s: %v", l.file, path, err)
			}
			set++
			says(l.with)
			if _, err := r.ReloadAll(t.Context(), RunSpec{}, []PoolSpec{plain}); err != nil {
				t.Fatalf("without %s of %s: %v", l.file, path, err)
			}
			says(l.without)
		}
	}
	if w := r.Status(); set < 3*10 || w[0].Start != 1 || !w[0].Ready {
		t.Errorf("%d limits were set, worker %+v, want the first start", set, w)
	}
	if d := r.all(kind(EventDegraded)); len(d) > 0 {
		t.Errorf("degraded: %s", eventText(d[0]))
	}
}

// What the kernel refuses for the run is refused, and what was before holds on.
func TestRunLimitsThatTheKernelRefuses(t *testing.T) {
	linuxtest.NeedCgroup2(t, "memory", "cpu")
	p := sleeper("web", 1)
	r := newRig(t, Options{Pools: []PoolSpec{p}, RunSpec: RunSpec{RunLimits: resource.Limits{MemoryMax: 64 << 20, CPUWeight: 50}}})
	r.begin()
	run := r.run.Dir()
	bad := RunSpec{RunLimits: resource.Limits{MemoryHigh: 32 << 20, CPUWeight: 20000}}
	if _, err := r.ReloadAll(t.Context(), bad, []PoolSpec{p}); !errors.Is(err, unix.ERANGE) || !strings.Contains(err.Error(), "limit the run: set cpu.weight=20000 of "+run.Path()) {
		t.Errorf("ReloadAll = %v", err)
	}
	if _, err := r.ReloadAll(t.Context(), RunSpec{RunLimits: resource.Limits{CPUIdle: true, CPUWeight: 5}}, []PoolSpec{p}); !errors.Is(err, resource.ErrIdleWeight) {
		t.Errorf("ReloadAll = %v", err)
	}
	for file, want := range map[string]string{"memory.max": "67108864", "memory.high": "max", "cpu.weight": "50"} {
		if text, err := run.ReadFile(file); err != nil || strings.TrimSpace(string(text)) != want {
			t.Errorf("%s = %q, %v, want %q", file, text, err, want)
		}
	}
	if _, err := New(Options{Run: r.run, Pools: []PoolSpec{sleeper("other", 1)}, RunSpec: bad}); !errors.Is(err, unix.ERANGE) {
		t.Errorf("New = %v", err)
	}
}

// A limit of the run whose controller is missing is refused, or told and done without.
func TestRunLimitsWithoutTheController(t *testing.T) {
	p := sleeper("web", 1)
	r := begin(t, p)
	have, err := r.run.Root().Controllers()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(strings.Join(have, " "), "memory") {
		linuxtest.Skip(t, "needs a host without the memory controller in cgroup v2")
	}
	spec := RunSpec{RunLimits: resource.Limits{MemoryMax: 64 << 20}}
	var missing *cgroup.ControllerError
	if _, err := r.ReloadAll(t.Context(), spec, []PoolSpec{p}); !errors.As(err, &missing) || missing.Controller != "memory" {
		t.Errorf("ReloadAll = %v, want a *ControllerError", err)
	}
	spec.BestEffort = true
	if c, err := r.ReloadAll(t.Context(), spec, []PoolSpec{p}); err != nil || !c.Run || c.Empty() {
		t.Errorf("ReloadAll = %+v, %v", c, err)
	}
	e := r.await("degraded", 1, kind(EventDegraded))[0]
	if !errors.As(e.Err, &missing) || e.Worker.Pool != "" {
		t.Errorf("degraded: %s", eventText(e))
	}
	if c, err := r.ReloadAll(t.Context(), spec, []PoolSpec{p}); err != nil || !c.Empty() {
		t.Errorf("the same once more: %+v, %v", c, err)
	}
}

// All limits of a pool that cannot be enforced are told, each once.
func TestEveryLimitThatIsMissingIsTold(t *testing.T) {
	p := sleeper("web", 1)
	r := begin(t, p)
	have, err := r.run.Root().Controllers()
	if err != nil {
		t.Fatal(err)
	}
	if text := strings.Join(have, " "); strings.Contains(text, "memory") || strings.Contains(text, "pids") {
		linuxtest.Skip(t, "needs a host without the memory and pids controllers in cgroup v2")
	}
	p.Limits = resource.Limits{MemoryMax: 64 << 20, PIDsMax: 7}
	_, err = r.ReloadAll(t.Context(), RunSpec{}, []PoolSpec{p})
	if text := fmt.Sprint(err); strings.Count(text, "no memory controller") != 1 || strings.Count(text, "no pids controller") != 1 || strings.Contains(text, "\n") {
		t.Errorf("ReloadAll: %s; want each controller once, in one line", text)
	}
	p.BestEffortLimits = true
	if _, err := r.ReloadAll(t.Context(), RunSpec{}, []PoolSpec{p}); err != nil {
		t.Fatal(err)
	}
	for _, e := range r.await("degraded", 2, kind(EventDegraded)) {
		if strings.Contains(e.Err.Error(), "\n") {
			t.Errorf("degraded: %v; want one line", e.Err)
		}
	}
	if pools := r.Pools(); len(pools[0].Degraded) != 2 {
		t.Errorf("Pools = %+v, want two that are not in force", pools)
	}
}

// wholeSet is how a lifted cpuset reads: empty, or all there is.
func wholeSet(t *testing.T, file, got string) string {
	t.Helper()
	if got == "" {
		return ""
	}
	text, err := os.ReadFile(map[string]string{"cpuset.cpus": "/sys/devices/system/cpu/possible", "cpuset.mems": "/sys/devices/system/node/has_memory"}[file])
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}
