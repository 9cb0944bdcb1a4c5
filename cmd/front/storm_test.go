package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/pidfd"
	"github.com/pitvisor/pitvisor/registry"
)

// cycles is how often a run is killed; `make soak` asks for more.
var cycles = flag.Int("cycles", 1000, "kills in TestKilledAtRandomInstants and TestCancelledWhileForking, with -short at most 20")

// rounds is cycles, or fewer in a short run.
func rounds() int {
	return linuxtest.Times(*cycles, min(*cycles, 20))
}

// patience bounds waits for things that take milliseconds.
const patience = 2 * time.Minute

// within is how long a run may outlive a pitvisor that was killed. A short run does not
// hold it to that: other lanes keep the processor busy.
const within = time.Second

// slowly makes a time longer where everything takes longer.
func slowly(d time.Duration) time.Duration {
	if linuxtest.Emulated() {
		return 10 * d
	}
	return d
}

// yard is a place for runs of the installed program.
type yard struct {
	bin  string
	root string // cgroup
	env  []string
}

func newYard(t testing.TB) yard {
	t.Helper()
	bin, root := installed(t), linuxtest.Cgroup(t)
	return yard{bin: bin, root: root, env: append(os.Environ(), "PITVISOR_CGROUP_ROOT="+root)}
}

func (y yard) start(t testing.TB, stdout *os.File, args ...string) *linuxtest.Process {
	t.Helper()
	return linuxtest.Command{
		Args: append([]string{filepath.Join(y.bin, "pitvisor"), "run", "--quiet", "--"}, args...), Env: y.env, Stdout: stdout,
	}.Start(t)
}

// runs are the directories of runs that are there now.
func (y yard) runs(t testing.TB) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(y.root, "run-*"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestKilledAtRandomInstants kills pitvisor, its guardian or both with SIGKILL at a
// random instant of a run that leaves daemons. Nothing is left a second later, or
// after one sweep when both were killed, and nobody else was touched.
func TestKilledAtRandomInstants(t *testing.T) {
	y := newYard(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	canary := linuxtest.Bystander(t, linuxtest.Command{Args: []string{"/bin/sleep", "1000"}})
	reg := y.registry(t)
	var slowest time.Duration
	killed := map[string]int{}
	for range rounds() {
		p := y.start(t, nil, "/bin/sh", "-c", "setsid sleep 1000 & setsid sh -c 'sleep 1000 & sleep 1000' & sleep 1000")
		instant := time.NewTimer(time.Duration(rnd.Int64N(int64(slowly(25 * time.Millisecond)))))
		<-instant.C
		whom := []string{"run", "guardian", "both"}[rnd.IntN(3)]
		if whom != "run" && !killGuardian(t, p) {
			whom = "run" // there is none yet
		}
		killed[whom]++
		if whom == "guardian" && rnd.IntN(2) == 0 {
			y.endPolitely(t, p)
			continue
		}
		p.Kill(t)
		if whom == "run" {
			slowest = max(slowest, y.empty(t))
		}
		// Without a guardian it is the sweep that ends the run; and an empty directory
		// is what is left of a run whose maker was killed before it had a guardian.
		if _, err := reg.Sweep(context.Background(), registry.SweepOptions{}); err != nil {
			t.Fatal(err)
		}
		if left := y.runs(t); len(left) > 0 {
			t.Fatalf("after the kill of %s and a sweep there is %v", whom, left)
		}
	}
	linuxtest.SurvivesAs(t, canary)
	t.Logf("killed %v; the slowest end took %v", killed, slowest)
}

// Without its guardian, too, the command itself ends with pitvisor: by the kernel.
func TestCommandEndsWithoutTheGuardian(t *testing.T) {
	linuxtest.NeedKernel(t, 7, 1, "a kernel that kills the command itself")
	y := newYard(t)
	for range 20 {
		read, write, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		p := y.start(t, write, "/bin/sh", "-c", "echo ready; exec sleep 1000")
		_ = write.Close() // a copy that was only passed on
		if line, err := bufio.NewReader(read).ReadString('\n'); err != nil || line != "ready\n" {
			t.Fatalf("the command said %q, %v, want ready", line, err)
		}
		_ = read.Close() // was only read
		if !killGuardian(t, p) {
			t.Fatal("there is no guardian")
		}
		if members := linuxtest.Members(y.root); len(members) != 1 {
			t.Errorf("without a guardian the run holds %v, want the command", members)
		}
		p.Kill(t)
		y.empty(t)
	}
	if _, err := y.registry(t).Sweep(context.Background(), registry.SweepOptions{}); err != nil {
		t.Fatal(err)
	}
}

func (y yard) registry(t testing.TB) *registry.Registry {
	t.Helper()
	root, err := cgroup.Open(y.root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = root.Close() })
	return registry.New(root)
}

// empty waits until no run holds a process, and returns how long that took.
func (y yard) empty(t testing.TB) time.Duration {
	t.Helper()
	begin := time.Now()
	linuxtest.Wait(t, patience, func() (bool, string) {
		members := linuxtest.Members(y.root)
		return len(members) == 0, fmt.Sprintf("%v", members)
	})
	took := time.Since(begin)
	if took > slowly(within) && !testing.Short() {
		t.Errorf("the run had processes for %v after the kill of pitvisor, want at most %v", took, slowly(within))
	}
	return took
}

// endPolitely ends a run whose guardian is gone: that changes nothing for it.
func (y yard) endPolitely(t testing.TB, p *linuxtest.Process) {
	t.Helper()
	if err := p.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	linuxtest.ExitCause(t, p.Wait(t, patience), 128+int(unix.SIGTERM))
	if left := y.runs(t); len(left) > 0 {
		t.Errorf("runs left after an ordinary end without a guardian: %v", left)
	}
}

// killGuardian kills the guardian of a run; false if it has none.
func killGuardian(t testing.TB, run *linuxtest.Process) bool {
	t.Helper()
	children, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", run.PID()))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range children {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // the thread has ended
		}
		for pid := range strings.FieldsSeq(string(text)) {
			if killIfGuardian(pid, run.PID()) {
				return true
			}
		}
	}
	return false
}

// killIfGuardian kills the process that has the number, if it is the guardian of a
// run: while it is held, its name and its parent say so.
func killIfGuardian(pid string, run int) bool {
	n, err := strconv.Atoi(pid)
	if err != nil {
		return false
	}
	p, err := pidfd.Open(n)
	if err != nil {
		return false
	}
	defer p.Close()
	comm, err := os.ReadFile("/proc/" + pid + "/comm")
	if err != nil || string(comm) != "pitvisor-guard\n" {
		return false
	}
	info, err := p.Info()
	return err == nil && info.PPID == run && p.Signal(unix.SIGKILL) == nil
}

// TestCancelledWhileForking cancels a job that keeps forking into sessions of its
// own. When pitvisor has ended, the run's cgroup is gone: no waiting, no survivors.
func TestCancelledWhileForking(t *testing.T) {
	y := newYard(t)
	canary := linuxtest.Bystander(t, linuxtest.Command{Args: []string{"/bin/sleep", "1000"}})
	job := linuxtest.Helper(t, "fork-chain", "3")
	for range rounds() {
		read, write, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		p := y.start(t, write, job...)
		_ = write.Close() // a copy that was only passed on
		if line, err := bufio.NewReader(read).ReadString('\n'); err != nil || !strings.Contains(line, "ready") {
			t.Fatalf("the job said %q, %v, want ready", line, err)
		}
		_ = read.Close() // was only read
		if err := p.Signal(unix.SIGTERM); err != nil {
			t.Fatal(err)
		}
		p.Wait(t, patience)
		if left := y.runs(t); len(left) > 0 {
			t.Fatalf("pitvisor has ended and %v is there", left)
		}
	}
	linuxtest.SurvivesAs(t, canary)
	t.Log(strconv.Itoa(rounds()) + " jobs cancelled")
}
