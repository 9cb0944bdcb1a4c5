package supervise

import (
	"os"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/linuxtest"
)

// BenchmarkRestart kills a worker and waits until the next one is ready, in turn
// with a floor that waits for its process and starts another.
func BenchmarkRestart(b *testing.B) {
	program := pauseProgram(b)
	floor := newFloorWorker(b, program)
	p := PoolSpec{Name: "web", Size: 1, Command: Command{Path: program}, Backoff: Backoff{Free: 1 << 30}}
	ready := make(chan int, 1)
	r := newRig(b, Options{Pools: []PoolSpec{p}})
	r.opts.Observe = func(e Event) {
		if e.Kind == EventReady {
			ready <- e.PID
		}
	}
	r.begin()
	pid := <-ready
	var ours, theirs []time.Duration
	for b.Loop() {
		begin := time.Now()
		floor.restart()
		theirs = append(theirs, time.Since(begin))
		begin = time.Now()
		r.kill(pid, unix.SIGKILL)
		pid = <-ready
		ours = append(ours, time.Since(begin))
	}
	b.ReportMetric(ratio(quantile(ours, 50), quantile(theirs, 50)), "p50/floor")
	b.ReportMetric(ratio(quantile(ours, 99), quantile(theirs, 99)), "p99/floor")
	b.ReportMetric(float64(quantile(ours, 50).Microseconds()), "p50-µs")
}

func quantile(all []time.Duration, percent int) time.Duration {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[(len(sorted)-1)*percent/100]
}

// floorWorker is the least that restarts a process: each start in a fresh cgroup.
type floorWorker struct {
	*testing.B
	program string
	root    *cgroup.Dir
	null    *os.File
	start   int
	pidfd   int
}

func newFloorWorker(b *testing.B, program string) *floorWorker {
	root, err := cgroup.Open(linuxtest.Cgroup(b))
	if err != nil {
		b.Fatal(err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		b.Fatal(err)
	}
	f := &floorWorker{B: b, program: program, root: root, null: null}
	f.begin()
	b.Cleanup(func() {
		f.end()
		_ = null.Close()
		_ = root.Close()
	})
	return f
}

func (f *floorWorker) restart() {
	f.end()
	f.begin()
}

func (f *floorWorker) begin() {
	f.start++
	leaf, err := f.root.Create(strconv.Itoa(f.start))
	if err != nil {
		f.Fatal(err)
	}
	defer leaf.Close()
	null := f.null.Fd()
	_, _, err = syscall.StartProcess(f.program, []string{f.program}, &syscall.ProcAttr{
		Files: []uintptr{null, null, null},
		Sys:   &syscall.SysProcAttr{Setsid: true, UseCgroupFD: true, CgroupFD: leaf.FD(), PidFD: &f.pidfd},
	})
	if err != nil {
		f.Fatal(err)
	}
}

func (f *floorWorker) end() {
	if err := unix.PidfdSendSignal(f.pidfd, unix.SIGKILL, nil, 0); err != nil {
		f.Fatal(err)
	}
	if err := unix.Waitid(unix.P_PIDFD, f.pidfd, nil, unix.WEXITED, nil); err != nil {
		f.Fatal(err)
	}
	if err := unix.Close(f.pidfd); err != nil {
		f.Fatal(err)
	}
	if err := f.root.RemoveChild(strconv.Itoa(f.start), 0); err != nil {
		f.Fatal(err)
	}
}
