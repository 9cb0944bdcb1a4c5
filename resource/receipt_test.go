package resource

import (
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/linuxtest"
)

func receipt(t *testing.T, d *cgroup.Dir) Receipt {
	t.Helper()
	r, err := ReadReceipt(d)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// What is always there is told, and every other value is told or explained.
func TestReceipt(t *testing.T) {
	d := testDir(t)
	helper(t, child(t, d, "leaf"), "flood")
	var r Receipt
	linuxtest.Wait(t, waitTime, func() (bool, string) {
		r = receipt(t, d)
		return r.CPUUsage != nil && *r.CPUUsage > 0, "no CPU time was used"
	})
	if r.CPUUser == nil || r.CPUSystem == nil || *r.CPUUser+*r.CPUSystem == 0 || *r.CPUUser+*r.CPUSystem > time.Minute {
		t.Errorf("CPU time user %v, system %v, want some", r.CPUUser, r.CPUSystem)
	}
	v := reflect.ValueOf(r)
	explained := 0
	for i, e := range r.entries() {
		why, ok := r.Unavailable[e.name]
		if v.Field(i).IsNil() != ok || ok && why == "" {
			t.Errorf("%s is known %v, and explained as %q", e.name, !v.Field(i).IsNil(), why)
		}
		if ok {
			explained++
		}
	}
	if explained != len(r.Unavailable) {
		t.Errorf("Unavailable = %q has names of no value", r.Unavailable)
	}
	if _, err := os.Stat("/proc/pressure/cpu"); err == nil && (r.CPUPressureSome == nil || r.MemoryPressureFull == nil || r.IOPressureFull == nil) {
		t.Errorf("no pressure: %q", r.Unavailable)
	}
}

// Whatever controller is missing is named, and why.
func TestReceiptWithoutControllers(t *testing.T) {
	d := child(t, testDir(t), "bare") // nothing is handed down to it
	r := receipt(t, d)
	for controller, names := range map[string][]string{
		"cpu": {"throttled_periods", "throttled"}, "io": {"io_read_bytes", "io_write_bytes", "io_reads", "io_writes"},
		"pids":   {"pids_peak", "pids_refused"},
		"memory": {"memory_current", "memory_peak", "swap_peak", "memory_high", "oom_hits", "oom_hits_own", "oom_kills", "oom_kills_own", "oom_group_kills"},
	} {
		want := "no " + controller + " controller in this cgroup: the one above does not hand it down"
		if heldByV1(t, controller) {
			want = "no " + controller + " controller in this cgroup: it is bound to cgroup v1 on this host"
		}
		for _, name := range names {
			if got := r.Unavailable[name]; got != want {
				t.Errorf("%s: %q, want %q", name, got, want)
			}
		}
	}
}

// heldByV1 looks for "4:cpu,cpuacct:/path".
func heldByV1(t *testing.T, controller string) bool {
	t.Helper()
	if controller == "io" {
		controller = "blkio"
	}
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if slices.Contains(strings.Split(strings.SplitN(line, ":", 3)[1], ","), controller) {
			return true
		}
	}
	return false
}

// What an old kernel or the root cgroup lacks is said so, for a file and for a key.
func TestReceiptSaysWhatTheKernelLacks(t *testing.T) {
	d := testDir(t)
	missing := read(d, "no.such").err
	nothing := func() map[string]string { return nil }
	for _, test := range []struct {
		e    entry
		err  error
		want string
	}{
		{entry{file: "memory.peak", since: "5.19"}, missing, "this kernel has no memory.peak, which came with Linux 5.19"},
		{entry{file: "memory.swap.peak", since: "6.5"}, missing, "this kernel has no memory.swap.peak, which came with Linux 6.5, or it does not account swap"},
		{entry{file: "memory.events", key: "oom_group_kill", since: "5.17"}, nil, "this kernel has no oom_group_kill in memory.events, which came with Linux 5.17"},
		{entry{file: "cpu.pressure", key: "full", since: "5.13"}, nil, "this kernel has no full in cpu.pressure, which came with Linux 5.13"},
		{entry{file: "memory.current"}, missing, "this kernel has no memory.current"},
		{entry{file: "memory.current"}, os.ErrPermission, "permission denied"},
		{entry{file: "io.pressure"}, missing, "pressure"},
	} {
		if got := test.e.why(d, test.err, nothing); !strings.HasPrefix(got, test.want) {
			t.Errorf("why of %+v = %q, want %q", test.e, got, test.want)
		}
	}
	mount, err := cgroup.FindMount()
	if err != nil {
		t.Fatal(err)
	}
	root, err := cgroup.Open(mount.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if _, err := root.ReadFile("cgroup.type"); err == nil {
		linuxtest.Skip(t, "needs the real root cgroup")
	}
	if got := (entry{file: "memory.peak", since: "5.19"}).why(root, missing, nothing); got != "the root cgroup has no memory.peak" {
		t.Errorf("why in the root cgroup = %q", got)
	}
}

// Pressure that is switched off for a cgroup is told so.
func TestReceiptWithoutPressure(t *testing.T) {
	d := testDir(t)
	if err := d.WriteFile("cgroup.pressure", "0"); err != nil {
		linuxtest.Skip(t, "needs cgroup.pressure")
	}
	want := "pressure is switched off for this cgroup (cgroup.pressure), or needs psi=1 at boot"
	if got := receipt(t, d).Unavailable["io_pressure_some"]; got != want {
		t.Errorf("io_pressure_some: %q, want %q", got, want)
	}
}

func TestReceiptOfControllers(t *testing.T) {
	linuxtest.NeedCgroup2(t, ReceiptControllers()...)
	d := testDir(t)
	helper(t, child(t, d, "leaf"), "alloc", "32")
	r := receipt(t, d)
	if r.MemoryCurrent == nil || *r.MemoryCurrent < 32<<20 {
		t.Errorf("MemoryCurrent = %v, want at least 32 MB", r.MemoryCurrent)
	}
	if r.MemoryPeak != nil && *r.MemoryPeak < 32<<20 {
		t.Errorf("MemoryPeak = %d, want at least 32 MB", *r.MemoryPeak)
	}
	if r.PIDsPeak != nil && *r.PIDsPeak == 0 {
		t.Error("PIDsPeak = 0")
	}
	for name, n := range map[string]*uint64{
		"PIDsRefused": r.PIDsRefused, "OOMHits": r.OOMHits, "OOMHitsOwn": r.OOMHitsOwn, "OOMKills": r.OOMKills,
		"OOMKillsOwn": r.OOMKillsOwn, "ThrottledPeriods": r.ThrottledPeriods,
	} {
		if n == nil || *n != 0 {
			t.Errorf("%s = %v, want 0", name, n)
		}
	}
	if r.IOReads == nil || r.IOWrites == nil || r.IOReadBytes == nil || r.IOWriteBytes == nil {
		t.Errorf("no IO: %q", r.Unavailable)
	}
	for name, why := range r.Unavailable {
		if !slices.Contains([]string{"memory_peak", "swap_peak", "pids_peak", "cpu_pressure_full", "oom_group_kills"}, name) &&
			!strings.Contains(why, "pressure") {
			t.Errorf("%s: %s", name, why)
		}
	}
}

func TestReceiptOfThrottling(t *testing.T) {
	linuxtest.NeedCgroup2(t, "cpu")
	d := testDir(t)
	wantNil(t, "Set", Set(d, Limits{CPUQuota: 5 * time.Millisecond, CPUPeriod: 50 * time.Millisecond}))
	helper(t, child(t, d, "leaf"), "flood")
	linuxtest.Wait(t, waitTime, func() (bool, string) {
		r := receipt(t, d)
		return r.ThrottledPeriods != nil && *r.ThrottledPeriods > 0 && r.Throttled != nil && *r.Throttled > 0, "nothing was throttled"
	})
}

// The forks that a limit refused are counted in the cgroup that has it, although
// the processes are in one below.
func TestReceiptOfRefusedForks(t *testing.T) {
	linuxtest.NeedCgroup2(t, "pids")
	d := testDir(t)
	wantNil(t, "Enable", d.Enable("pids"))
	wantNil(t, "Set", Set(d, Limits{PIDsMax: 20}))
	leaf := child(t, d, "leaf")
	linuxtest.Command{Args: linuxtest.Helper(t, "fork-bomb", "6"), Cgroup: leaf.Path()}.Start(t)
	linuxtest.Wait(t, waitTime, func() (bool, string) {
		r := receipt(t, d)
		return r.PIDsRefused != nil && *r.PIDsRefused > 0 && (r.PIDsPeak == nil || *r.PIDsPeak >= 10), "no fork was refused"
	})
	wantNil(t, "KillEach", leaf.KillEach(t.Context()))
	wantNil(t, "WaitEmpty", leaf.WaitEmpty(t.Context()))
}
