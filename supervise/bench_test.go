package supervise

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/registry"
)

// The benchmarks compare the supervisor with a floor of the same run: a plain
// loop that makes a cgroup, starts a process in it and keeps its pidfd.
// Absolute times mean little on a shared machine; the ratios do.

func BenchmarkPoolStart100(b *testing.B)  { benchmarkPool(b, 100) }
func BenchmarkPoolStart1000(b *testing.B) { benchmarkPool(b, 1000) }

func benchmarkPool(b *testing.B, size int) {
	program := pauseProgram(b)
	root, err := cgroup.Open(linuxtest.Cgroup(b))
	if err != nil {
		b.Fatal(err)
	}
	defer root.Close()
	var floor, ours cost
	for b.Loop() {
		measureFloor(b, root, program, size, &floor)
		measurePool(b, root, program, size, &ours)
	}
	b.ReportMetric(ratio(ours.startCPU, floor.startCPU), "start-cpu/floor")
	b.ReportMetric(ratio(ours.startWall, floor.startWall), "start-wall/floor")
	b.ReportMetric(ratio(ours.stopCPU, floor.stopCPU), "kill-cpu/floor")
	b.ReportMetric(ratio(ours.stopWall, floor.stopWall), "kill-wall/floor")
	b.ReportMetric(float64(ours.startWall.Microseconds())/float64(b.N*size), "start-µs/worker")
	b.ReportMetric(float64(ours.fds-size), "fds-over-N")
	b.ReportMetric(float64(ours.threads), "threads")
}

// cost sums what the rounds have taken.
type cost struct {
	startCPU, startWall, stopCPU, stopWall time.Duration
	fds, threads                           int
}

func ratio(a, b time.Duration) float64 { return float64(a) / float64(b) }

// measurePool starts a pool, waits until all are ready, and kills it.
func measurePool(b *testing.B, root *cgroup.Dir, program string, size int, c *cost) {
	run, err := registry.New(root).Create(registry.Spec{Kind: "bench"})
	if err != nil {
		b.Fatal(err)
	}
	var ready atomic.Int64
	all := make(chan struct{})
	fds := len(openFiles(b, os.Getpid()))
	m := begins(b, root)
	s, err := New(Options{
		Run: run, Pools: []PoolSpec{{Name: "web", Size: size, Command: Command{Path: program}}},
		Observe: func(e Event) {
			if e.Kind == EventReady && ready.Add(1) == int64(size) {
				close(all)
			}
		},
	})
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- s.Run(context.Background()) }()
	<-all
	m.add(&c.startCPU, &c.startWall)
	c.fds = len(openFiles(b, os.Getpid())) - fds
	c.threads, _ = strconv.Atoi(statusField(os.Getpid(), "Threads"))
	m = begins(b, root)
	s.KillNow()
	if err := <-done; err != nil {
		b.Fatal(err)
	}
	if err := run.Close(context.Background()); err != nil {
		b.Fatal(err)
	}
	m.add(&c.stopCPU, &c.stopWall)
}

// measureFloor does the same with nothing but system calls.
func measureFloor(b *testing.B, root *cgroup.Dir, program string, size int, c *cost) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer null.Close()
	files := []uintptr{null.Fd(), null.Fd(), null.Fd()}
	pidfds := make([]int, size)
	m := begins(b, root)
	run, err := root.Create("floor")
	if err != nil {
		b.Fatal(err)
	}
	defer run.Close()
	for i := range pidfds {
		name := strconv.Itoa(i)
		if err := unix.Mkdirat(run.FD(), name, 0o755); err != nil {
			b.Fatal(err)
		}
		leaf, err := unix.Openat(run.FD(), name, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			b.Fatal(err)
		}
		_, _, err = syscall.StartProcess(program, []string{program}, &syscall.ProcAttr{
			Files: files,
			Sys:   &syscall.SysProcAttr{Setsid: true, UseCgroupFD: true, CgroupFD: leaf, PidFD: &pidfds[i]},
		})
		if err != nil {
			b.Fatal(err)
		}
		if err := unix.Close(leaf); err != nil {
			b.Fatal(err)
		}
	}
	m.add(&c.startCPU, &c.startWall)
	m = begins(b, root)
	killFloor(b, root, run, pidfds)
	m.add(&c.stopCPU, &c.stopWall)
}

// killFloor kills, reaps and removes everything.
func killFloor(b *testing.B, root, run *cgroup.Dir, pidfds []int) {
	if err := run.Kill(); err != nil {
		b.Fatal(err)
	}
	for i, fd := range pidfds {
		if err := unix.Waitid(unix.P_PIDFD, fd, nil, unix.WEXITED, nil); err != nil {
			b.Fatal(err)
		}
		if err := unix.Close(fd); err != nil {
			b.Fatal(err)
		}
		if err := unix.Unlinkat(run.FD(), strconv.Itoa(i), unix.AT_REMOVEDIR); err != nil {
			b.Fatal(err)
		}
	}
	if err := root.RemoveChild("floor", 0); err != nil {
		b.Fatal(err)
	}
}

// meter measures time, and the CPU time of this process and all workers.
type meter struct {
	b    *testing.B
	dir  string
	cpu  time.Duration
	wall time.Time
}

func begins(b *testing.B, root *cgroup.Dir) meter {
	m := meter{b: b, dir: filepath.Dir(root.Path()), wall: time.Now()}
	m.cpu = m.used()
	return m
}

func (m meter) add(cpu, wall *time.Duration) {
	*wall += time.Since(m.wall)
	*cpu += m.used() - m.cpu
}

// used reads what the cgroup of this test process, with all below, has used.
func (m meter) used() time.Duration {
	text, err := os.ReadFile(m.dir + "/cpu.stat")
	if err != nil {
		m.b.Fatal(err)
	}
	var us int64
	if _, err := fmt.Sscanf(string(text), "usage_usec %d", &us); err != nil {
		m.b.Fatal(err)
	}
	return time.Duration(us) * time.Microsecond
}

// The idle benchmarks hold so many workers and report what one costs.

func BenchmarkIdle1000(b *testing.B)  { benchmarkIdle(b, 1000) }
func BenchmarkIdle10000(b *testing.B) { benchmarkIdle(b, 10_000) }

func benchmarkIdle(b *testing.B, size int) {
	program := pauseProgram(b)
	root, err := cgroup.Open(linuxtest.Cgroup(b))
	if err != nil {
		b.Fatal(err)
	}
	defer root.Close()
	for b.Loop() {
		before := liveHeap()
		run, err := registry.New(root).Create(registry.Spec{Kind: "bench"})
		if err != nil {
			b.Fatal(err)
		}
		var ready atomic.Int64
		all := make(chan struct{})
		begin := time.Now()
		s, err := New(Options{
			Run: run, Pools: []PoolSpec{{Name: "web", Size: size, Command: Command{Path: program}}},
			Observe: func(e Event) {
				if e.Kind == EventReady && ready.Add(1) == int64(size) {
					close(all)
				}
			},
		})
		if err != nil {
			b.Fatal(err)
		}
		done := make(chan error)
		go func() { done <- s.Run(context.Background()) }()
		<-all
		b.ReportMetric(time.Since(begin).Seconds(), "start-s")
		b.ReportMetric(float64(liveHeap()-before)/float64(size), "heap-B/worker")
		b.ReportMetric(float64(len(openFiles(b, os.Getpid()))-size), "fds-over-N")
		threads, _ := strconv.Atoi(statusField(os.Getpid(), "Threads"))
		b.ReportMetric(float64(threads), "threads")
		b.ReportMetric(pss(b), "PSS-MiB")
		woken := switches(b)
		pause(5 * time.Second)
		b.ReportMetric(float64(switches(b)-woken)/5, "switches/s")
		begin = time.Now()
		s.KillNow()
		if err := <-done; err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(time.Since(begin).Seconds(), "kill-s")
		if err := run.Close(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
}

// liveHeap is the live heap with the stacks.
func liveHeap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

// pss is the proportional memory of this process in MiB.
func pss(b *testing.B) float64 {
	text, err := os.ReadFile("/proc/self/smaps_rollup")
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "Pss:"); ok {
			kb, _ := strconv.ParseFloat(strings.Fields(value)[0], 64)
			return kb / 1024
		}
	}
	b.Fatal("no Pss in smaps_rollup")
	return 0
}

// pauseProgram builds a static program that waits for ever: of a dynamic one the
// loader's page faults would be most of what is measured.
func pauseProgram(b *testing.B) string {
	cc, err := exec.LookPath("cc")
	if err != nil {
		linuxtest.Skip(b, "needs a C compiler for a static program that only waits")
	}
	path := filepath.Join(b.TempDir(), "pause")
	build := exec.Command(cc, "-x", "c", "-O2", "-static", "-o", path, "-")
	build.Stdin = bytes.NewBufferString("#include <unistd.h>\nint main(void) { for (;;) pause(); }\n")
	if out, err := build.CombinedOutput(); err != nil {
		b.Fatalf("build pause: %v\n%s", err, out)
	}
	return path
}
