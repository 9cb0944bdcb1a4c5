package resource

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/cgroup"
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
		{Limits{IOMax: []DiskLimit{}}, nil},
		{Limits{IOMax: []DiskLimit{{Disk: "8:0"}}}, nil},
		{Limits{IOMax: []DiskLimit{{Disk: "8:0", WriteOps: 1}}}, []string{"io"}},
	}
	for _, test := range tests {
		if got := test.l.Controllers(); !slices.Equal(got, test.want) {
			t.Errorf("Controllers of %+v = %q, want %q", test.l, got, test.want)
		}
		if got, want := test.l.IsZero(), test.want == nil; got != want {
			t.Errorf("IsZero of %+v = %v, want %v", test.l, got, want)
		}
		for _, c := range test.want {
			if got := test.l.Without(c).Controllers(); slices.Contains(got, c) || len(got) != len(test.want)-1 {
				t.Errorf("Controllers of %+v without %s = %q", test.l, c, got)
			}
		}
	}
}

// Every field belongs to a controller, so that Without can take it out.
func TestEveryLimitHasItsController(t *testing.T) {
	all := Limits{
		MemoryMax: 1, MemoryHigh: 1, MemoryLow: 1, MemoryMin: 1, MemorySwapMax: 1, PIDsMax: 1,
		CPUWeight: 1, CPUQuota: 1, CPUPeriod: 1, IOWeight: 1, IOMax: []DiskLimit{{Disk: "8:0", ReadOps: 1}},
		CPUs: "0", Mems: "0", OOMGroup: true, CPUIdle: true,
	}
	for i, v := 0, reflect.ValueOf(all); i < v.NumField(); i++ {
		if v.Field(i).IsZero() {
			t.Errorf("this test does not set %s", v.Type().Field(i).Name)
		}
	}
	rest := all
	for _, c := range all.Controllers() {
		rest = rest.Without(c)
	}
	if !rest.IsZero() || !reflect.DeepEqual(rest, Limits{}) {
		t.Errorf("left without any controller: %+v", rest)
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
	for want, l := range map[string]Limits{
		"max 100000":  {CPUQuota: time.Duration(Unlimited)},
		"max 10000":   {CPUPeriod: 10 * time.Millisecond},
		"1500 100000": {CPUQuota: 1500 * time.Microsecond},
		"8:0 rbps=1048576 wbps=max riops=7 wiops=9": {IOMax: []DiskLimit{
			{Disk: "8:16"}, {Disk: "8:0", ReadBytes: 1 << 20, WriteBytes: Unlimited, ReadOps: 7, WriteOps: 9},
		}},
	} {
		if all := l.settings(); len(all) != 1 || all[0].value != want {
			t.Errorf("settings of %+v = %+v, want %q", l, all, want)
		}
	}
}

// A limit that cannot be had is the error that enabling its controller gives.
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
		err := Set(d, l)
		wantErr(t, "Set", err, cgroup.ErrNotSupported)
		var got, want *cgroup.ControllerError
		if !errors.As(err, &got) || !errors.As(d.Enable(controller), &want) {
			t.Errorf("Set(%+v) = %v, want a *ControllerError", l, err)
			continue
		}
		if got.Error() != want.Error() || got.Hint() != want.Hint() {
			t.Errorf("Set(%+v) = %v (%s), want %v (%s)", l, got, got.Hint(), want, want.Hint())
		}
	}
}

func TestNothingOfACgroupThatIsGone(t *testing.T) {
	d := testDir(t)
	web := child(t, d, "web")
	wantNil(t, "RemoveChild", d.RemoveChild("web", web.ID()))
	child(t, d, "web")
	calls := map[string]func(Limits) error{
		"Set":  func(l Limits) error { return Set(web, l) },
		"Read": func(Limits) error { _, err := Read(web); return err },

		"ReadReceipt": func(Limits) error { _, err := ReadReceipt(web); return err },
	}
	for call, f := range calls {
		wantErr(t, call, f(Limits{PIDsMax: 5}), cgroup.ErrGone)
		wantErr(t, call, f(Limits{PIDsMax: Unlimited}), cgroup.ErrGone)
	}
	wantNil(t, "Close", web.Close())
	for call, f := range calls {
		wantErr(t, call+" after Close", f(Limits{PIDsMax: 5}), os.ErrClosed)
	}
}

func TestSet(t *testing.T) {
	linuxtest.NeedCgroup2(t, "memory", "pids", "cpu")
	d := testDir(t)
	wantNil(t, "Set", Set(d, Limits{
		MemoryMax: 64 << 20, MemoryHigh: 32 << 20, PIDsMax: 5, CPUWeight: 50,
		CPUQuota: 20 * time.Millisecond, OOMGroup: true,
	}))
	wantFiles(t, d, map[string]string{
		"memory.max": "67108864", "memory.high": "33554432", "pids.max": "5",
		"cpu.weight": "50", "cpu.max": "20000 100000", "memory.oom.group": "1",
	})
	wantNil(t, "Set", Set(d, Limits{MemoryMax: Unlimited, PIDsMax: Unlimited, CPUQuota: time.Duration(Unlimited)}))
	wantFiles(t, d, map[string]string{
		"memory.max": "max", "memory.high": "33554432", "pids.max": "max", "cpu.max": "max 100000",
	})
	err := Set(d, Limits{CPUWeight: 20000})
	wantErr(t, "Set", err, unix.ERANGE)
	wantText(t, "Set", err, "set cpu.weight=20000 of "+d.Path())
	above, err := cgroup.Open(filepath.Dir(d.Path()))
	if err != nil {
		t.Fatal(err)
	}
	defer above.Close()
	wantFiles(t, above, map[string]string{"memory.max": "max", "pids.max": "max"})
}

// What is idle has no weight, in the kernel and here; and it can be taken back.
func TestSetIdle(t *testing.T) {
	d := testDir(t)
	wantErr(t, "Set", Set(d, Limits{CPUIdle: true, CPUWeight: 50}), ErrIdleWeight)
	linuxtest.NeedCgroup2(t, "cpu")
	linuxtest.NeedKernel(t, 5, 15, "cpu.idle")
	wantNil(t, "Set", Set(d, Limits{CPUIdle: true}))
	wantFiles(t, d, map[string]string{"cpu.idle": "1"})
	wantErr(t, "Set", Set(d, Limits{CPUWeight: 50}), unix.EINVAL)
	wantNil(t, "WriteFile", d.WriteFile("cpu.idle", "0"))
	wantNil(t, "Set", Set(d, Limits{CPUWeight: 50}))
	wantFiles(t, d, map[string]string{"cpu.idle": "0", "cpu.weight": "50"})
}

func TestWithoutFile(t *testing.T) {
	all := Limits{
		MemoryMax: Unlimited, MemorySwapMax: 4096, PIDsMax: 7, CPUIdle: true, CPUQuota: 20 * time.Millisecond, CPUPeriod: 50 * time.Millisecond,
		IOMax: []DiskLimit{{Disk: "8:0", ReadOps: 1}, {Disk: "8:16", WriteBytes: Unlimited}}, CPUs: "0-1", OOMGroup: true,
	}
	files := []string{"memory.max", "memory.swap.max", "memory.oom.group", "pids.max", "cpuset.cpus", "cpu.idle", "cpu.max", "io.max"}
	if got := all.Files(); !slices.Equal(got, files) {
		t.Errorf("Files = %q, want %q", got, files)
	}
	if got := all.WithoutFile("cpu.weight"); !reflect.DeepEqual(got, all) {
		t.Errorf("without what is not set: %+v, want %+v", got, all)
	}
	for i, file := range files {
		if got, want := all.WithoutFile(file).Files(), slices.Delete(slices.Clone(files), i, i+1); !slices.Equal(got, want) {
			t.Errorf("without %s: %q, want %q", file, got, want)
		}
	}
}

func TestSetLimitsOfADisk(t *testing.T) {
	linuxtest.NeedCgroup2(t, "io")
	d := testDir(t)
	disk := anyDisk(t)
	wantNil(t, "Set", Set(d, Limits{IOMax: []DiskLimit{{Disk: disk, ReadBytes: 1 << 20, WriteOps: 120}}}))
	wantFiles(t, d, map[string]string{"io.max": disk + " rbps=1048576 wbps=max riops=max wiops=120"})
	wantNil(t, "Set", Set(d, Limits{IOMax: []DiskLimit{{Disk: disk, ReadBytes: Unlimited, WriteOps: Unlimited}}}))
	wantFiles(t, d, map[string]string{"io.max": ""})

	err := Set(d, Limits{IOMax: []DiskLimit{{Disk: "4095:7", ReadBytes: 1}}})
	wantErr(t, "Set", err, unix.ENODEV)
	wantText(t, "Set", err, "set io.max=4095:7 rbps=1 of "+d.Path()+": no such disk")
	if errors.Is(err, cgroup.ErrGone) {
		t.Errorf("Set of a disk that is none = %v, but the cgroup is there", err)
	}
}

// anyDisk returns the numbers of a disk, a real one if there is any.
func anyDisk(t *testing.T) string {
	t.Helper()
	entries, err := os.ReadDir("/sys/dev/block")
	if err != nil {
		t.Fatal(err)
	}
	any := ""
	for _, e := range entries {
		if _, err := os.Stat("/sys/dev/block/" + e.Name() + "/partition"); err == nil {
			continue
		}
		any = e.Name()
		if major, _, _ := strings.Cut(any, ":"); major != "1" && major != "7" {
			return any // neither a RAM disk nor a loop device
		}
	}
	if any == "" {
		linuxtest.Skip(t, "needs a disk")
	}
	return any
}
