package report

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/internal/leftover"
	"github.com/pitvisor/pitvisor/internal/sockdiag"
	"github.com/pitvisor/pitvisor/linuxtest"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { linuxtest.Main(m) }

func pointer[T any](v T) *T { return &v }

// sample is a report that has something of everything.
func sample() *Report {
	began := time.Date(2026, 5, 4, 10, 30, 0, 250e6, time.UTC)
	return &Report{
		RunID: "01jthc3p4vx0t7v9k2n8m5q6rs", Name: "integration", Labels: map[string]string{"job": "4711", "branch": "main"},
		Command: []string{"make", "test", "ARGS=-v -x"},
		Started: began, Ended: began.Add(12*time.Second + 345678*time.Microsecond),
		Outcome: Exited, Extra: []string{OOMKilled, PIDsLimit}, ExitCode: pointer(2), Code: 2,
		Tier: "A", Removed: false,
		Left: leftover.Found{Total: 4, Processes: []leftover.Process{
			{
				PID: 4711, Inode: 84423, PPID: 1, Session: 4711, Group: 4711, Comm: "redis-server",
				Args: []string{"redis-server *:6379"}, UID: 0, Started: began.Add(9 * time.Second), Age: 3345678 * time.Microsecond,
				State: "S", Cgroup: "job/0.1", Left: []leftover.Way{leftover.Setsid, leftover.Reparented},
				Listening: []sockdiag.Socket{
					{Addr: sockdiag.AddrFrom([]byte{127, 0, 0, 1}), Port: 6379, Inode: 7},
					{Addr: sockdiag.AddrFrom(make([]byte, 16)), Port: 6379, Inode: 8},
					{Proto: sockdiag.UDP, Addr: sockdiag.AddrFrom(make([]byte, 4)), Port: 53, Inode: 9},
					{Proto: sockdiag.Unix, Path: "/run/redis.sock", Inode: 10},
				},
				ListeningLeftOut: 2,
			},
			{
				PID: 4712, Inode: 84424, PPID: 4711, Session: 4700, Group: 4700, Comm: "sh",
				Args: []string{"sh", "-c", "sleep 100", ""}, ArgsCut: true, UID: 1000, Started: began.Add(10 * time.Second), Age: 65 * time.Second,
				State: "D", Cgroup: "job/0.1/run-01jthc4aaaaaaaaaaaaaaaaaaa/job/0.1", Run: "01jthc4aaaaaaaaaaaaaaaaaaa",
				Left: []leftover.Way{leftover.DoubleFork, leftover.OtherUser, leftover.SubCgroup},
			},
			{PID: 4713, Unknown: []leftover.Fact{
				leftover.FactState, leftover.FactUID, leftover.FactArgs, leftover.FactEnvironment, leftover.FactListening,
			}},
		}},
		Detached: []Run{{ID: "01jthc5bbbbbbbbbbbbbbbbbbb", Name: "cache"}},
		Blocked: &cgroup.BlockedError{
			Path: "/sys/fs/cgroup/pitvisor/run-01jthc3p4vx0t7v9k2n8m5q6rs", Total: 1, Err: unix.ETIMEDOUT,
			Blockers: []cgroup.Blocker{{PID: 4712, Comm: "sh", State: "D", Wchan: "nfs_wait_bit_killable"}},
		},
		Receipt: &Receipt{
			CPUUsage: pointer(9300 * time.Millisecond), CPUUser: pointer(7 * time.Second), CPUSystem: pointer(2300 * time.Millisecond),
			PIDsPeak: pointer(uint64(17)), PIDsRefused: pointer(uint64(1)), IOReadBytes: pointer(uint64(5 << 20)), IOReads: pointer(uint64(80)),
			CPUPressureSome: pointer(1500 * time.Microsecond), OOMKills: pointer(uint64(1)),
			Unavailable: map[string]string{
				"memory_peak":    "no memory controller in this cgroup: the one above does not hand it down",
				"memory_current": "no memory controller in this cgroup: the one above does not hand it down",
				"swap_peak":      "this kernel does not account swap",
			},
		},
		OOM:  &Hit{Count: 1, Whose: "own", Cgroup: "/sys/fs/cgroup/x", Sure: true, Words: "1 process killed for want of memory, limit of /sys/fs/cgroup/x"},
		PIDs: &Hit{Count: 1, Whose: "ancestor", Cgroup: "/sys/fs/cgroup/y", Words: "1 fork refused, limit of /sys/fs/cgroup/y, as far as can be told"},
	}
}

// clean is a report of a run that went as it should.
func clean() *Report {
	began := time.Date(2026, 5, 4, 10, 30, 0, 0, time.UTC)
	return &Report{
		RunID: "01jthc3p4vx0t7v9k2n8m5q6rs", Command: []string{"true"}, Started: began, Ended: began.Add(time.Millisecond),
		Outcome: Exited, ExitCode: pointer(0), Tier: "B", Removed: true,
	}
}

// golden compares a form with its file in testdata; PITVISOR_GOLDEN=1 writes it.
func golden(t *testing.T, file string, write func(io.Writer) error) {
	t.Helper()
	var got bytes.Buffer
	if err := write(&got); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("testdata", file)
	if os.Getenv("PITVISOR_GOLDEN") == "1" {
		if err := os.WriteFile(path, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != string(want) {
		t.Errorf("%s differs:\ngot:\n%s\nwant:\n%s", path, got.String(), want)
	}
}

func plainText(r *Report) func(io.Writer) error {
	return func(w io.Writer) error { return r.WriteText(w, false) }
}

func plainStats(r *Report) func(io.Writer) error {
	return func(w io.Writer) error { return r.WriteStats(w, false) }
}

func testCgroup(t *testing.T) *cgroup.Dir {
	t.Helper()
	dir, err := cgroup.Open(linuxtest.Cgroup(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dir.Close() })
	return dir
}
