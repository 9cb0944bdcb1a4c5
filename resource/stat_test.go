package resource

import (
	"maps"
	"reflect"
	"strings"
	"testing"
	"time"
)

// What kernels have printed.
const (
	cpuStat510 = "usage_usec 1208\nuser_usec 1208\nsystem_usec 0\nnr_periods 0\nnr_throttled 0\nthrottled_usec 0\n"
	cpuStat618 = "usage_usec 5094321\nuser_usec 4000321\nsystem_usec 1094000\nnice_usec 0\ncore_sched.force_idle_usec 0\n" +
		"nr_periods 51\nnr_throttled 50\nthrottled_usec 4012345\nnr_bursts 0\nburst_usec 0\n"
	cpuStatNoController = "usage_usec 0\nuser_usec 0\nsystem_usec 0\nnice_usec 0\n"
	memoryEvents510     = "low 0\nhigh 12\nmax 345\noom 2\noom_kill 1\n"
	memoryEvents612     = "low 0\nhigh 0\nmax 41\noom 1\noom_kill 3\noom_group_kill 1\n"
	ioStat612           = "254:0 rbytes=1204224 wbytes=8388608 rios=29 wios=16 dbytes=0 dios=0\n254:16 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0\n"
	ioStatBroken        = "7:7 7:6 7:5 254:0 rbytes=100 wbytes=200 rios=3 wios=4 dbytes=0 dios=0\n253:0 \n8:0 rbytes=1 wbytes=1 rios=1 wios=1 dbytes=9 dios=9 cost.usage=77\n"
	cpuPressure510      = "some avg10=0.00 avg60=0.00 avg300=0.00 total=7011\n"
	ioPressure618       = "some avg10=1.50 avg60=0.98 avg300=3.04 total=106441609\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=8\n"
)

func TestParseStat(t *testing.T) {
	for _, test := range []struct {
		file, text string
		want       map[string]uint64
	}{
		{"cpu.stat", cpuStat510, map[string]uint64{
			"usage_usec": 1208, "user_usec": 1208, "system_usec": 0, "nr_periods": 0, "nr_throttled": 0, "throttled_usec": 0,
		}},
		{"cpu.stat", cpuStatNoController, map[string]uint64{"usage_usec": 0, "user_usec": 0, "system_usec": 0, "nice_usec": 0}},
		{"memory.events", memoryEvents510, map[string]uint64{"low": 0, "high": 12, "max": 345, "oom": 2, "oom_kill": 1}},
		{"memory.peak", "1208320\n", map[string]uint64{"": 1208320}},
		{"memory.peak", "18446744073709551615\n", map[string]uint64{"": 1<<64 - 1}},
		{"pids.max", "max\n", map[string]uint64{}},
		{"pids.events", "max 17\n", map[string]uint64{"max": 17}},
		{"memory.peak", "", map[string]uint64{}},

		{"io.stat", "", map[string]uint64{"rbytes": 0, "wbytes": 0, "rios": 0, "wios": 0}},
		{"io.stat", ioStat612, map[string]uint64{"rbytes": 1208320, "wbytes": 8388608, "rios": 30, "wios": 16}},
		{"io.stat", ioStatBroken, map[string]uint64{"rbytes": 101, "wbytes": 201, "rios": 4, "wios": 5}},

		{"cpu.pressure", cpuPressure510, map[string]uint64{"some": 7011}},
		{"io.pressure", ioPressure618, map[string]uint64{"some": 106441609, "full": 8}},
		{"io.pressure", "", map[string]uint64{}},
		{"io.pressure", "total=\ntotal=5\n\n some total=x", map[string]uint64{"total=5": 5}},
	} {
		if got := parseStat(test.file, test.text); !maps.Equal(got, test.want) {
			t.Errorf("parseStat(%q, %q) = %v, want %v", test.file, test.text, got, test.want)
		}
	}
}

// Every field of a receipt comes from its own value in its own unit.
func TestReceiptOfKernelTexts(t *testing.T) {
	texts := map[string]string{
		"cpu.stat": cpuStat618, "memory.current": "4096\n", "memory.peak": "8192\n", "memory.swap.peak": "0\n",
		"io.stat": ioStat612, "pids.peak": "12\n", "pids.events": "max 17\n",
		"cpu.pressure":    "some avg10=0.00 avg60=0.00 avg300=0.00 total=1\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=2\n",
		"memory.pressure": "some avg10=0.00 avg60=0.00 avg300=0.00 total=3\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=4\n",
		"io.pressure":     ioPressure618, "memory.events": memoryEvents612, "memory.events.local": "low 0\nhigh 0\nmax 0\noom 0\noom_kill 2\noom_group_kill 0\n",
	}
	var r Receipt
	for _, e := range r.entries() {
		n, ok := parseStat(e.file, texts[e.file])[e.key]
		if !ok {
			t.Fatalf("no %s in %s", e.key, e.file)
		}
		e.set(n)
	}
	n := func(n uint64) *uint64 { return &n }
	us := func(n int) *time.Duration { d := time.Duration(n) * time.Microsecond; return &d }
	want := Receipt{
		CPUUsage: us(5094321), CPUUser: us(4000321), CPUSystem: us(1094000), ThrottledPeriods: n(50), Throttled: us(4012345),
		MemoryCurrent: n(4096), MemoryPeak: n(8192), SwapPeak: n(0), MemoryHigh: n(0),
		IOReadBytes: n(1208320), IOWriteBytes: n(8388608), IOReads: n(30), IOWrites: n(16), PIDsPeak: n(12), PIDsRefused: n(17),
		CPUPressureSome: us(1), CPUPressureFull: us(2), MemoryPressureSome: us(3), MemoryPressureFull: us(4),
		IOPressureSome: us(106441609), IOPressureFull: us(8),
		OOMHits: n(1), OOMHitsOwn: n(0), OOMKills: n(3), OOMKillsOwn: n(2), OOMGroupKills: n(1),
	}
	if !reflect.DeepEqual(r, want) {
		t.Errorf("receipt = %+v, want %+v", r, want)
	}
}

// The name of a value is the one of its field.
func TestNamesOfTheReceipt(t *testing.T) {
	var r Receipt
	v := reflect.ValueOf(&r).Elem()
	entries := r.entries()
	for i := range v.NumField() - 1 { // the last is Unavailable
		entries[i].set(1)
		name := strings.ReplaceAll(entries[i].name, "_", "")
		if field := strings.ToLower(v.Type().Field(i).Name); v.Field(i).IsNil() || field != name {
			t.Errorf("value %d is %q, want the name of field %s", i, entries[i].name, v.Type().Field(i).Name)
		}
	}
	if got, want := len(entries), v.NumField()-1; got != want {
		t.Errorf("%d values for %d fields", got, want)
	}
}
