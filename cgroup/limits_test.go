package cgroup

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/linuxtest"
)

func TestLimitsNeedTheirControllers(t *testing.T) {
	tests := []struct {
		l    Limits
		want []string
	}{
		{Limits{}, nil},
		{Limits{MemoryMax: 1, MemoryHigh: Unlimited, OOMGroup: true}, []string{"memory"}},
		{Limits{PIDsMax: 5, MemoryLow: 1}, []string{"memory", "pids"}},
		{Limits{CPUQuota: time.Millisecond, CPUs: "0", IOWeight: 10}, []string{"cpu", "cpuset", "io"}},
		{Limits{Mems: "0"}, []string{"cpuset"}},
	}
	for _, test := range tests {
		if got := test.l.Controllers(); !slices.Equal(got, test.want) {
			t.Errorf("Controllers of %+v = %q, want %q", test.l, got, test.want)
		}
		if got, want := test.l.IsZero(), test.want == nil; got != want {
			t.Errorf("IsZero of %+v = %v, want %v", test.l, got, want)
		}
	}
}

func TestLimitsAsTheKernelReadsThem(t *testing.T) {
	l := Limits{
		MemoryMax: 1 << 20, MemoryHigh: Unlimited, MemorySwapMax: Unlimited, PIDsMax: Unlimited,
		CPUQuota: 50 * time.Millisecond, CPUPeriod: 20 * time.Millisecond, CPUWeight: 7, IOWeight: 9,
		CPUs: "0-1", Mems: "0", OOMGroup: true,
	}
	got := map[string]string{}
	for _, s := range l.settings() {
		got[s.file] = s.value
	}
	want := map[string]string{
		"memory.max": "1048576", "memory.high": "max", "memory.swap.max": "max", "pids.max": "max",
		"cpu.max": "50000 20000", "cpu.weight": "7", "io.weight": "9",
		"cpuset.cpus": "0-1", "cpuset.mems": "0", "memory.oom.group": "1",
	}
	for file, value := range want {
		if got[file] != value {
			t.Errorf("%s = %q, want %q", file, got[file], value)
		}
	}
	if len(got) != len(want) {
		t.Errorf("settings = %q, want %q", got, want)
	}
	for l, want := range map[Limits]string{
		{CPUQuota: time.Duration(Unlimited)}: "max 100000",
		{CPUPeriod: 10 * time.Millisecond}:   "max 10000",
		{CPUQuota: 1500 * time.Microsecond}:  "1500 100000",
	} {
		if got := l.settings()[0].value; got != want {
			t.Errorf("cpu.max of %+v = %q, want %q", l, got, want)
		}
	}
}

// A limit that cannot be had is an error which names the controller and the cure.
func TestMissingControllerIsNamed(t *testing.T) {
	d := testDir(t)
	have, err := d.Controllers()
	if err != nil {
		t.Fatal(err)
	}
	for controller, l := range map[string]Limits{
		"memory": {MemoryMax: 1 << 30}, "pids": {PIDsMax: 10}, "cpu": {CPUWeight: 10}, "io": {IOWeight: 10}, "cpuset": {CPUs: "0"},
	} {
		if slices.Contains(have, controller) {
			continue
		}
		for call, err := range map[string]error{"SetLimits": d.SetLimits(l), "Enable": d.Enable(controller)} {
			var missing *ControllerError
			if !errors.As(err, &missing) {
				t.Errorf("%s = %v, want a *ControllerError", call, err)
				continue
			}
			wantErr(t, call, err, ErrNotSupported)
			if missing.Controller != controller || missing.File != "" || missing.Path != d.Path() {
				t.Errorf("%s: %+v, want the %s controller of %s", call, missing, controller, d.Path())
			}
			if missing.Hybrid != heldByV1(controller) {
				t.Errorf("%s: Hybrid = %v for %s", call, missing.Hybrid, controller)
			}
			wantText(t, call, err, "no "+controller+" controller in cgroup "+d.Path())
			cure := "Delegate=" + controller
			if missing.Hybrid {
				cure = "cgroup_no_v1=" + v1Name(controller)
			}
			if !strings.Contains(missing.Hint(), cure) {
				t.Errorf("%s: Hint = %q, want %q", call, missing.Hint(), cure)
			}
		}
	}
	err = d.Enable("no-such")
	var missing *ControllerError
	if !errors.As(err, &missing) || missing.Controller != "no-such" {
		t.Errorf("Enable(no-such) = %v, want a *ControllerError", err)
	}
}

func TestHintsAreForTheirCase(t *testing.T) {
	for _, test := range []struct {
		e    ControllerError
		want string
	}{
		{ControllerError{Controller: "io", Hybrid: true}, "cgroup_no_v1=blkio"},
		{ControllerError{Controller: "memory", File: "memory.swap.max"}, "swapaccount=1"},
		{ControllerError{Controller: "memory", File: "memory.high"}, "but not memory.high"},
		{ControllerError{Controller: "memory", Err: unix.EBUSY}, "move them to a leaf"},
		{ControllerError{Controller: "memory", Err: unix.EACCES}, "Delegate=yes"},
		{ControllerError{Controller: "pids", Err: unix.ENOENT}, "Delegate=pids"},
	} {
		if got := test.e.Hint(); !strings.Contains(got, test.want) {
			t.Errorf("Hint of %+v = %q, want %q", test.e, got, test.want)
		}
	}
}

func TestSetLimits(t *testing.T) {
	linuxtest.NeedCgroup2(t, "memory", "pids", "cpu")
	d := testDir(t)
	wantNil(t, "SetLimits", d.SetLimits(Limits{
		MemoryMax: 64 << 20, MemoryHigh: 32 << 20, PIDsMax: 5, CPUWeight: 50,
		CPUQuota: 20 * time.Millisecond, OOMGroup: true,
	}))
	wantFiles(t, d, map[string]string{
		"memory.max": "67108864", "memory.high": "33554432", "pids.max": "5",
		"cpu.weight": "50", "cpu.max": "20000 100000", "memory.oom.group": "1",
	})
	wantNil(t, "SetLimits", d.SetLimits(Limits{MemoryMax: Unlimited, PIDsMax: Unlimited, CPUQuota: time.Duration(Unlimited)}))
	wantFiles(t, d, map[string]string{
		"memory.max": "max", "memory.high": "33554432", "pids.max": "max", "cpu.max": "max 100000",
	})
	err := d.SetLimits(Limits{CPUWeight: 20000})
	wantErr(t, "SetLimits", err, unix.ERANGE)
	wantText(t, "SetLimits", err, "set cpu.weight=20000 of "+d.Path())
	above, err := Open(filepath.Dir(d.Path()))
	if err != nil {
		t.Fatal(err)
	}
	defer above.Close()
	wantFiles(t, above, map[string]string{"memory.max": "max", "pids.max": "max"})
}

func TestEnable(t *testing.T) {
	linuxtest.NeedCgroup2(t, "memory", "pids")
	d := testDir(t)
	wantNil(t, "Enable", d.Enable("memory", "pids"))
	wantNil(t, "Enable again", d.Enable("memory"))
	wantFiles(t, d, map[string]string{"cgroup.subtree_control": "memory pids"})
	leaf := child(t, d, "leaf")
	wantNil(t, "SetLimits", leaf.SetLimits(Limits{MemoryMax: 64 << 20}))
	sleeper(t, leaf)
	var busy *ControllerError
	if err := leaf.Enable("memory"); !errors.As(err, &busy) || !strings.Contains(busy.Hint(), "move them to a leaf") {
		t.Errorf("Enable beside a process = %v, want the cure", err)
	}
}

func TestUsage(t *testing.T) {
	d := testDir(t)
	p := helper(t, d, "flood")
	var u Usage
	linuxtest.Wait(t, waitTime, func() (bool, string) {
		var err error
		if u, err = d.Usage(); err != nil {
			t.Fatal(err)
		}
		return u.CPUUsage != nil && *u.CPUUsage > 0, "no CPU time was used"
	})
	if *u.CPUUsage > time.Minute {
		t.Errorf("CPUUsage = %v, want a little", *u.CPUUsage)
	}
	have, err := d.Controllers()
	if err != nil {
		t.Fatal(err)
	}
	memory, pids := slices.Contains(have, "memory"), slices.Contains(have, "pids")
	if got := u.MemoryCurrent != nil && *u.MemoryCurrent > 0; got != memory {
		t.Errorf("MemoryCurrent known = %v, want %v", got, memory)
	}
	if got := u.OOMKills != nil; got != memory {
		t.Errorf("OOMKills known = %v, want %v", got, memory)
	}
	if got := u.PIDs != nil; got != pids || got && *u.PIDs == 0 {
		t.Errorf("PIDs known = %v, want %v", got, pids)
	}
	if n, ok := d.MemoryCurrent(); ok != memory || ok != (n > 0) {
		t.Errorf("MemoryCurrent = %d, %v, want known = %v", n, ok, memory)
	}
	p.Kill(t)
}

func TestUsageOfAnOutOfMemoryKill(t *testing.T) {
	linuxtest.NeedCgroup2(t, "memory", "pids")
	d := testDir(t)
	wantNil(t, "SetLimits", d.SetLimits(Limits{MemoryMax: 32 << 20}))
	p := linuxtest.Command{Args: linuxtest.Helper(t, "alloc", "256"), Cgroup: d.Path()}.Start(t)
	p.Wait(t, waitTime)
	u, err := d.Usage()
	if err != nil || u.OOMKills == nil || *u.OOMKills == 0 {
		t.Errorf("Usage = %+v, %v, want an OOM kill", u, err)
	}
}

// The statistics of a cgroup that comes and goes are an answer or ErrGone, never a
// line on stderr: the library below us has a logger of its own.
func TestUsageIsQuietWhileCgroupsVanish(t *testing.T) {
	d := testDir(t)
	stderr := captureStderr(t)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	c := child(t, d, "web")
	for ctx.Err() == nil {
		done := make(chan error)
		go func() {
			var err error
			for err == nil {
				_, err = c.Usage()
			}
			done <- err
		}()
		wantNil(t, "RemoveChild", d.RemoveChild("web", c.ID()))
		wantErr(t, "Usage", <-done, ErrGone)
		c.Close()
		c = child(t, d, "web")
	}
	if got := stderr(); got != "" {
		t.Errorf("written to stderr: %q", got)
	}
}

// Linking containerd/cgroups must not start anything.
func TestNoGoroutineOfALibrary(t *testing.T) {
	buf := make([]byte, 1<<20)
	stacks := string(buf[:runtime.Stack(buf, true)])
	for _, library := range []string{"containerd", "cilium", "logrus", "godbus", "protobuf"} {
		if strings.Contains(stacks, library) {
			t.Errorf("a goroutine of %s runs:\n%s", library, stacks)
		}
	}
}

func wantFiles(t testing.TB, d *Dir, want map[string]string) {
	t.Helper()
	for name, value := range want {
		b, err := readAt(d.fd, name, nil)
		if got := strings.TrimSpace(string(b)); got != value || err != nil {
			t.Errorf("%s = %q, %v, want %q", name, got, err, value)
		}
	}
}

// captureStderr redirects descriptor 2 until the returned function is called, which
// returns what was written.
func captureStderr(t testing.TB) func() string {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "stderr")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	saved, err := unix.FcntlInt(2, unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Dup3(int(f.Fd()), 2, 0); err != nil {
		t.Fatal(err)
	}
	restore := func() {
		if saved >= 0 {
			_ = unix.Dup3(saved, 2, 0)
			_ = unix.Close(saved)
			saved = -1
		}
	}
	t.Cleanup(restore)
	return func() string {
		restore()
		b, err := os.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
}
