package resource

import (
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/linuxtest"
)

// These tests show that the kernel does what a limit says, by its own counters:
// seconds say little on a busy machine.

// count reads a number from a flat-keyed file.
func count(t *testing.T, d *cgroup.Dir, file, key string) int64 {
	t.Helper()
	text, err := d.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == key {
			n, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("no %s in %s:\n%s", key, file, text)
	return 0
}

func TestMemoryHighSlowsDownAndDoesNotKill(t *testing.T) {
	linuxtest.NeedCgroup2(t, "memory")
	d := testDir(t)
	wantNil(t, "Set", Set(d, Limits{MemoryHigh: 16 << 20}))
	// It may never come to its end: what is over the limit gets slower and slower.
	p := linuxtest.Command{Args: linuxtest.Helper(t, "alloc", "24"), Cgroup: d.Path()}.Start(t)
	linuxtest.Wait(t, waitTime, func() (bool, string) {
		return count(t, d, "memory.events", "high") > 0, "nothing was slowed down"
	})
	if !p.Alive() || count(t, d, "memory.events", "oom_kill") != 0 {
		t.Error("memory.high has killed it")
	}
}

// One kill takes all processes of the cgroup, and none beside it.
func TestOOMGroupTakesAll(t *testing.T) {
	linuxtest.NeedCgroup2(t, "memory")
	d := testDir(t)
	wantNil(t, "Enable", d.Enable("memory"))
	hog, other := child(t, d, "hog"), child(t, d, "other")
	wantNil(t, "Set", Set(hog, Limits{MemoryMax: 32 << 20, OOMGroup: true}))
	innocent := helper(t, hog, "alloc", "1")
	neighbour := helper(t, other, "alloc", "1")
	guilty := linuxtest.Command{Args: linuxtest.Helper(t, "alloc", "256"), Cgroup: hog.Path()}.Start(t)
	for name, p := range map[string]*linuxtest.Process{"guilty": guilty, "innocent": innocent} {
		if status := p.Wait(t, waitTime); !status.Signaled() || status.Signal() != unix.SIGKILL {
			t.Errorf("%s ended with %#x, want SIGKILL", name, uint32(status))
		}
	}
	if !neighbour.Alive() {
		t.Error("the neighbour was killed, too")
	}
}

func TestCPUsetKeepsProcessesOnTheirCPUs(t *testing.T) {
	linuxtest.NeedCgroup2(t, "cpuset")
	linuxtest.NeedKernel(t, 6, 1, "a cpuset that holds for what is born in it") // not on 5.10
	d := testDir(t)
	wantNil(t, "Set", Set(d, Limits{CPUs: "0"}))
	out := linuxtest.Command{Args: []string{"/bin/grep", "Cpus_allowed_list", "/proc/self/status"}, Cgroup: d.Path()}.Output(t, waitTime)
	if f := strings.Fields(out); len(f) != 2 || f[1] != "0" {
		t.Errorf("%q, want CPU 0 only", out)
	}
}

func TestCPUMaxThrottles(t *testing.T) {
	linuxtest.NeedCgroup2(t, "cpu")
	d := testDir(t)
	wantNil(t, "Set", Set(d, Limits{CPUQuota: 10 * time.Millisecond}))
	linuxtest.Command{Args: []string{"/bin/sh", "-c", "while :; do :; done"}, Cgroup: d.Path()}.Start(t)
	linuxtest.Wait(t, waitTime, func() (bool, string) {
		return count(t, d, "cpu.stat", "nr_throttled") >= 3, "it was not throttled three times"
	})
}

func TestPIDsMaxRefusesForks(t *testing.T) {
	linuxtest.NeedCgroup2(t, "pids")
	linuxtest.AllowLeak(t) // the shell ends at the refusal
	d := testDir(t)
	wantNil(t, "Set", Set(d, Limits{PIDsMax: 3}))
	linuxtest.Command{Args: []string{"/bin/sh", "-c", "sleep 60 & sleep 60 & sleep 60 & sleep 60 & wait"}, Cgroup: d.Path()}.Start(t)
	linuxtest.Wait(t, waitTime, func() (bool, string) {
		return count(t, d, "pids.events", "max") > 0, "no fork was refused"
	})
	if n := len(linuxtest.Members(d.Path())); n > 3 {
		t.Errorf("%d processes, want 3 at most", n)
	}
}

// A real disk: what a tmpfs or an overlay does is nobody's input and output.
func TestIOMaxHoldsBackADisk(t *testing.T) {
	linuxtest.NeedCgroup2(t, "io")
	disk := os.Getenv("LINUXTEST_SCRATCH_DISK")
	if disk == "" {
		linuxtest.Skip(t, "needs a disk to write to in LINUXTEST_SCRATCH_DISK")
	}
	numbers, err := diskNumbers(disk)
	if err != nil {
		t.Fatal(err)
	}
	d := testDir(t)
	wantNil(t, "Set", Set(d, Limits{IOMax: []DiskLimit{{Disk: numbers, WriteBytes: 2 << 20}}}))
	begin := time.Now()
	linuxtest.Command{
		Args: []string{"/bin/dd", "if=/dev/zero", "of=" + disk, "bs=512k", "count=12", "oflag=direct", "status=none"}, Cgroup: d.Path(),
	}.Output(t, time.Minute)
	// 6 MiB at 2 MiB a second, of which the first moment may be free.
	if took := time.Since(begin); took < 2*time.Second {
		t.Errorf("6 MiB were written in %v, want 3s at 2 MiB a second", took)
	}
	if text, err := d.ReadFile("io.stat"); err != nil || !strings.Contains(string(text), "wbytes=6291456") {
		t.Errorf("io.stat = %q, %v, want 6 MiB written", text, err)
	}
}
