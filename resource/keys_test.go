package resource

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestParseLimit(t *testing.T) {
	for _, test := range []struct {
		key, value string
		want       Limits
	}{
		{"memory.max", "512M", Limits{MemoryMax: 512 << 20}},
		{"memory_max", "1GiB", Limits{MemoryMax: 1 << 30}},
		{"MemoryMax", " 1.5G ", Limits{MemoryMax: 3 << 29}},
		{"MemoryMax", "infinity", Limits{MemoryMax: Unlimited}},
		{"memory.high", "1024", Limits{MemoryHigh: 1024}},
		{"memory.low", "max", Limits{MemoryLow: Unlimited}},
		{"memory.low", "0", Limits{}},
		{"MemoryMin", "4K", Limits{MemoryMin: 4096}},
		{"memory.swap.max", "0", Limits{MemorySwapMax: 1}},
		{"MemorySwapMax", "max", Limits{MemorySwapMax: Unlimited}},
		{"memory.oom.group", "1", Limits{OOMGroup: true}},
		{"memory_oom_group", "0", Limits{}},
		{"pids.max", "64", Limits{PIDsMax: 64}},
		{"TasksMax", "infinity", Limits{PIDsMax: Unlimited}},

		{"cpu.max", "50000 100000", Limits{CPUQuota: 50 * time.Millisecond, CPUPeriod: 100 * time.Millisecond}},
		{"cpu.max", "50000", Limits{CPUQuota: 50 * time.Millisecond, CPUPeriod: 100 * time.Millisecond}},
		{"cpu.max", "1000 1000000", Limits{CPUQuota: time.Millisecond, CPUPeriod: time.Second}},
		{"cpu.max", "max", Limits{CPUQuota: time.Duration(Unlimited), CPUPeriod: 100 * time.Millisecond}},
		{"cpu.max", "max 20000", Limits{CPUQuota: time.Duration(Unlimited), CPUPeriod: 20 * time.Millisecond}},
		{"CPUQuota", "150%", Limits{CPUQuota: 150 * time.Millisecond, CPUPeriod: 100 * time.Millisecond}},
		{"CPUQuota", "12.5%", Limits{CPUQuota: 12500 * time.Microsecond, CPUPeriod: 100 * time.Millisecond}},
		{"cpu.weight", "10000", Limits{CPUWeight: 10000}},
		{"CPUWeight", "idle", Limits{CPUIdle: true}},
		{"cpu.idle", "1", Limits{CPUIdle: true}},
		{"cpu_idle", "0", Limits{}},
		{"IOWeight", "1", Limits{IOWeight: 1}},
		{"io.weight", "default 100", Limits{IOWeight: 100}},
		{"cpuset.cpus", "0-3,6", Limits{CPUs: "0-3,6"}},
		{"AllowedCPUs", "0 2-3", Limits{CPUs: "0,2-3"}},
		{"AllowedMemoryNodes", "0", Limits{Mems: "0"}},

		{"io.max", "8:0 rbps=1048576 wiops=120", Limits{IOMax: []DiskLimit{{Disk: "8:0", ReadBytes: 1 << 20, WriteOps: 120}}}},
		{"io.max", "8:0 rbps=1M wbps=max riops=9\n8:16 wbps=2", Limits{IOMax: []DiskLimit{
			{Disk: "8:0", ReadBytes: 1 << 20, WriteBytes: Unlimited, ReadOps: 9}, {Disk: "8:16", WriteBytes: 2},
		}}},
		{"IOReadBandwidthMax", "8:0 1M", Limits{IOMax: []DiskLimit{{Disk: "8:0", ReadBytes: 1_000_000}}}},
		{"IOWriteBandwidthMax", "8:0 1.5K", Limits{IOMax: []DiskLimit{{Disk: "8:0", WriteBytes: 1500}}}},
		{"IOReadIOPSMax", "8:0 1K", Limits{IOMax: []DiskLimit{{Disk: "8:0", ReadOps: 1000}}}},
		{"IOWriteIOPSMax", "8:0 infinity", Limits{IOMax: []DiskLimit{{Disk: "8:0", WriteOps: Unlimited}}}},
	} {
		var got Limits
		if err := ParseLimit(test.key, test.value, &got); err != nil || !reflect.DeepEqual(got, test.want) {
			t.Errorf("ParseLimit(%q, %q) = %+v, %v, want %+v", test.key, test.value, got, err, test.want)
		}
	}
}

func TestParseLimitSaysWhatIsWrong(t *testing.T) {
	for _, test := range []struct{ key, value, want string }{
		{"memory.maxx", "1G", `unknown limit "memory.maxx": did you mean "memory.max"?`},
		{"tasksmax", "1", `unknown limit "tasksmax": did you mean "TasksMax"?`},
		{"xyzzy", "1", `unknown limit "xyzzy": allowed are memory.max, memory.high, `},
		{"", "1", `unknown limit "": allowed are `},
		{"memory.max", "", `memory.max is "": it is empty: write a size such as 512M`},
		{"MemoryMax", "512MB", `MemoryMax is "512MB": unknown unit "MB", write "M": write a size such as 512M or 1GiB (K is 1024), a share of the machine's memory such as 50%, or max`},
		{"memory.max", "0", `memory.max is "0": must be 1 to 1152921504606846976 bytes`},
		{"memory.max", "-1", `memory.max is "-1": it does not begin with a number`},
		{"memory.max", "1.5", `memory.max is "1.5": half a byte does not exist`},
		{"memory.max", "0%", `memory.max is "0%": a share must be above 0% and at most 100%`},
		{"memory.max", "101%", `memory.max is "101%": a share must be above 0%`},
		{"memory.max", "NaN%", `memory.max is "NaN%": a share must be above 0%`},
		{"memory.max", "9999P", `memory.max is "9999P": it is larger than any memory`},
		{"memory.oom.group", "yes", `memory.oom.group is "yes": it is neither: write 1 or 0`},
		{"pids.max", "0", `pids.max is "0": must be 1 to 4194304`},
		{"pids.max", "99999999999999999999", `pids.max is "99999999999999999999": must be 1 to 4194304`},
		{"pids.max", "many", `pids.max is "many": it is not a whole number: write a number 1 to 4194304, or max`},
		{"TasksMax", "10%", `TasksMax is "10%": shares of the machine's processes are not understood`},
		{"pids.max", strings.Repeat("9é", 40), `pids.max is "` + strings.Repeat("9é", 30) + `"... (120 bytes): it is not`},
		{"cpu.max", "%", `cpu.max is "%": must be 1% to 1000000%`},
		{"cpu.max", "0.5%", `cpu.max is "0.5%": must be 1% to`},
		{"cpu.max", "NaN%", `cpu.max is "NaN%": must be 1% to`},
		{"cpu.max", "999", `cpu.max is "999": it is neither a percentage nor a quota of at least 1000 microseconds: write a percentage of one CPU such as 150%`},
		{"cpu.max", "1 2 3", `cpu.max is "1 2 3": it is neither a percentage nor quota and period`},
		{"cpu.max", "5000 10", `cpu.max is "5000 10": the period must be 1000 to 1000000 microseconds`},
		{"cpu.max", "5000 2000000", `cpu.max is "5000 2000000": the period`},
		{"cpu.max", "x y", `cpu.max is "x y": the period`},
		{"cpu.weight", "0", `cpu.weight is "0": must be 1 to 10000`},
		{"IOWeight", "idle", `IOWeight is "idle": idle is not understood: write a number 1 to 10000`},
		{"io.weight", "8:0 100", `io.weight is "8:0 100": it is not a whole number`},
		{"cpuset.cpus", " , ", `cpuset.cpus is " , ": it is empty: write numbers and ranges such as 0-3,6`},
		{"cpuset.cpus", "3-1", `cpuset.cpus is "3-1": "3-1" is neither a number nor a range`},
		{"cpuset.mems", "0,x", `cpuset.mems is "0,x": "x" is neither`},

		{"io.max", "", `io.max is "": it is empty: write disks and what they may do each second, such as "8:0 rbps=`},
		{"io.max", "rbps=1", `io.max is "rbps=1": it does not begin with a disk but with "rbps=1"`},
		{"io.max", "8:0", `io.max is "8:0": disk 8:0 has no limit`},
		{"io.max", "8:0 8:16 rbps=1", `disk 8:0 has no limit`},
		{"io.max", "8:0 rbps=1 8:16", `disk 8:16 has no limit`},
		{"io.max", "8:0 bps=1", `"bps" is none of rbps, wbps, riops, wiops`},
		{"io.max", "8:0 rbps=0", `rbps must be 1 to`},
		{"io.max", "8:0 rbps=", `rbps: it does not begin with a number`},
		{"io.max", "8:0 riops=4294967296", `riops must be 1 to 4294967295`},
		{"io.max", "8: rbps=1", `"8:" is neither a disk such as 8:0 nor a path`},
		{"io.max", "sda rbps=1", `"sda" is neither a disk such as 8:0 nor a path`},
		{"io.max", "8:99999999 rbps=1", `"8:99999999" is neither`},
		{"io.max", "/no/such rbps=1", `look at "/no/such": no such file or directory`},
		{"IOReadBandwidthMax", "/dev/null 1M", `"/dev/null" is neither a disk nor a file on one`},
		{"IOReadBandwidthMax", "/proc/self/stat 1M", `"/proc/self/stat" is on no disk`},
		{"IOReadBandwidthMax", "8:0", `it is not a disk and a number: write a disk and bytes a second, such as "/dev/sda 10M" (K is 1000)`},
		{"IOReadBandwidthMax", "8:0 0", `"0" must be 1 to`},
		{"IOReadBandwidthMax", "8:0 1e3", `"1e3" is not a number`},
		{"IOReadBandwidthMax", "8:0 1KiB", `"1KiB" is not a number`},
		{"IOReadIOPSMax", "", `it is empty: write a disk and operations a second`},
	} {
		l := Limits{PIDsMax: 7, IOMax: []DiskLimit{{Disk: "8:0", ReadBytes: 3}}}
		err := ParseLimit(test.key, test.value, &l)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("ParseLimit(%q, %q) = %v, want %q", test.key, test.value, err, test.want)
		}
		if want := (Limits{PIDsMax: 7, IOMax: []DiskLimit{{Disk: "8:0", ReadBytes: 3}}}); !reflect.DeepEqual(l, want) {
			t.Errorf("ParseLimit(%q, %q) left %+v, want %+v", test.key, test.value, l, want)
		}
		var wrong *LimitError
		if !errors.As(err, &wrong) || wrong.Key != test.key || wrong.Value != test.value || wrong.Why == "" || wrong.Hint == "" {
			t.Errorf("ParseLimit(%q, %q) = %+v", test.key, test.value, wrong)
		}
	}
}

// A second limit of a disk joins the first, and no limits that were copied before
// learn of it.
func TestLimitsOfDisksAddUp(t *testing.T) {
	var l Limits
	wantNil(t, "ParseLimit", ParseLimit("io.max", "8:0 rbps=1 8:16 rbps=2", &l))
	before := l
	wantNil(t, "ParseLimit", ParseLimit("IOWriteIOPSMax", "8:0 3", &l))
	wantNil(t, "ParseLimit", ParseLimit("io.max", "8:32 wbps=4", &l))
	want := []DiskLimit{{Disk: "8:0", ReadBytes: 1, WriteOps: 3}, {Disk: "8:16", ReadBytes: 2}, {Disk: "8:32", WriteBytes: 4}}
	if !slices.Equal(l.IOMax, want) {
		t.Errorf("IOMax = %+v, want %+v", l.IOMax, want)
	}
	if want := []DiskLimit{{Disk: "8:0", ReadBytes: 1}, {Disk: "8:16", ReadBytes: 2}}; !slices.Equal(before.IOMax, want) {
		t.Errorf("IOMax of the copy = %+v, want %+v", before.IOMax, want)
	}
}

func TestShareOfTheMemory(t *testing.T) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		t.Fatal(err)
	}
	all := int64(info.Totalram) * int64(info.Unit)
	var l Limits
	wantNil(t, "ParseLimit", ParseLimit("MemoryMax", "12.5%", &l))
	wantNil(t, "ParseLimit", ParseLimit("MemoryLow", "33.3%", &l))
	wantNil(t, "ParseLimit", ParseLimit("memory.high", "100%", &l))
	if l.MemoryMax > all/8 || l.MemoryMax < all/8-4096 || l.MemoryLow%4096 != 0 {
		t.Errorf("MemoryMax of 12.5%% = %d and MemoryLow of 33.3%% = %d, of %d", l.MemoryMax, l.MemoryLow, all)
	}
	if l.MemoryHigh > all || l.MemoryHigh < all-4096 {
		t.Errorf("MemoryHigh of 100%% = %d of %d", l.MemoryHigh, all)
	}
}

func TestEveryKeyTakesItsExample(t *testing.T) {
	seen := map[string]bool{}
	for _, k := range Keys() {
		for _, name := range append([]string{k.Name}, k.Also...) {
			if seen[name] {
				t.Errorf("two limits are called %s", name)
			}
			seen[name] = true
			var l Limits
			if err := ParseLimit(name, k.Example, &l); err != nil || l.IsZero() {
				t.Errorf("ParseLimit(%q, %q) = %+v, %v", name, k.Example, l, err)
			}
		}
		if k.Accepts == "" || k.Meaning == "" {
			t.Errorf("%s is not explained: %+v", k.Name, k)
		}
	}
}
