package spawn

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/linuxtest"
	"golang.org/x/sys/unix"
)

// sayPID makes c a shell that prints the variables that begin with LISTEN_PID, and its
// own number.
func sayPID(c Cmd) Cmd {
	c.Path, c.Args = "/bin/sh", []string{"sh", "-c", `cat /proc/$$/environ | tr '\0' '\n' | grep ^LISTEN_PID; echo $$`}
	c.Env = []string{"PATH=" + os.Getenv("PATH"), "LISTEN_PID=1", "A=1", "LISTEN_PIDX=2", "LISTEN_PID=3"}
	c.OwnPID = "LISTEN_PID"
	return c
}

// said runs c, and returns what it printed and what became of it.
func said(c Cmd) (out string, p *Process, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return "", nil, err
	}
	defer func() { _ = r.Close() }()
	c.Stdout, c.Stderr = w, os.Stderr
	p, err = Start(&c)
	_ = w.Close()
	if err != nil {
		return "", nil, err
	}
	data, err := io.ReadAll(r)
	return string(data), p, errors.Join(err, bury(p))
}

// TestOwnPIDIsTheNumberThatTheProcessHas: what sd_listen_fds(3) compares LISTEN_PID with,
// and once in the environment, with the helper and without.
func TestOwnPIDIsTheNumberThatTheProcessHas(t *testing.T) {
	linuxtest.NoLeaks(t)
	leaf := newLeaf(t, testRoot(t), "leaf")
	for name, c := range map[string]Cmd{
		"plain": {}, "thread": {Umask: number(0o22)}, "autokill": {Autokill: true}, "weak": {Weak: true},
		"helper": {ForceHelper: true}, "limit": {Rlimits: []Rlimit{{Resource: unix.RLIMIT_CORE}}},
		"score": {OOMScoreAdj: number(500)},
	} {
		if !c.Weak {
			c.Leaf = leaf
		}
		c = sayPID(c)
		out, p, err := said(c)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if want := fmt.Sprintf("LISTEN_PIDX=2\nLISTEN_PID=%d\n%[1]d\n", p.PID()); out != want {
			t.Errorf("%s: the process says %q, want %q", name, out, want)
		}
		if want := c.ForceHelper || Clone3Refused(); p.byHelper != want {
			t.Errorf("%s: with the helper: %v, want %v", name, p.byHelper, want)
		}
	}
	c := Cmd{Leaf: leaf, Path: "/bin/true", OwnPID: "A=B"}
	if _, err := Start(&c); err == nil || !strings.Contains(err.Error(), `variable "A=B" has an equals sign in it`) {
		t.Errorf("Start with such a variable = %v, want its refusal", err)
	}
}

// TestOwnPIDsOfParallelStarts: none gets the number of another.
func TestOwnPIDsOfParallelStarts(t *testing.T) {
	linuxtest.NoLeaks(t)
	leaf := newLeaf(t, testRoot(t), "leaf")
	var group sync.WaitGroup
	for range linuxtest.Times(50, 20) {
		group.Go(func() {
			out, p, err := said(sayPID(Cmd{Leaf: leaf}))
			if err != nil {
				t.Error(err)
				return
			}
			if want := fmt.Sprintf("LISTEN_PIDX=2\nLISTEN_PID=%d\n%[1]d\n", p.PID()); out != want {
				t.Errorf("process %d says %q, want %q", p.PID(), out, want)
			}
		})
	}
	group.Wait()
	if !syscall.ForkLock.TryLock() {
		t.Fatal("ForkLock is still held")
	}
	syscall.ForkLock.Unlock()
}

// TestOwnPIDInANamespace: the process is told what it is called there, and not what it is
// called here, whether it is born in a PID namespace or goes into that of another.
func TestOwnPIDInANamespace(t *testing.T) {
	linuxtest.NeedAdmin(t, "to make namespaces")
	leaf, guest, main := besideRoom(t, "unshare", "-p", "-f", "--mount-proc", "sleep", "600")
	defer end(t, sleeper(t, leaf))
	c := Cmd{Leaf: guest, Env: []string{"LISTEN_PID=0"}, OwnPID: "LISTEN_PID"}
	out := sayBeside(t, Beside{Cmd: c, Process: main.Handle()}, `echo $LISTEN_PID; echo $$`)
	if told, own, _ := strings.Cut(out, "\n"); told+"\n" != own || len(told) > 3 {
		t.Errorf("beside: told and own number %q", out)
	}
	c.Path, c.Args = "/bin/sh", []string{"sh", "-c", `echo $LISTEN_PID $$`}
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWPID); err != nil {
			return err
		}
		out, p, err := said(c)
		if err == nil && (out != "1 1\n" || p.byHelper || p.PID() == 1) {
			t.Errorf("born there: process %d says %q, want 1 twice; by helper: %v", p.PID(), out, p.byHelper)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// ownPIDMode has clone3 fail, and starts something that wants to know its number.
func ownPIDMode(args []string) int {
	errno, err := strconv.Atoi(args[0])
	if err != nil {
		return complain(err)
	}
	leaf, err := cgroup.Open(args[1])
	if err != nil {
		return complain(err)
	}
	if err := forbid(unix.SYS_CLONE3, uint32(errno)); err != nil {
		return complain(err)
	}
	limits := []Rlimit{{Resource: unix.RLIMIT_CORE}}
	for _, c := range []Cmd{{Leaf: leaf}, {Weak: true}, {Leaf: leaf, Rlimits: limits}, {Leaf: leaf, OOMScoreAdj: number(500)}} {
		out, p, err := said(sayPID(c))
		if err != nil {
			return complain(err)
		}
		if want := fmt.Sprintf("LISTEN_PIDX=2\nLISTEN_PID=%d\n%[1]d\n", p.PID()); out != want || !p.byHelper {
			return complain(fmt.Errorf("process %d says %q, by helper: %v", p.PID(), out, p.byHelper))
		}
	}
	return printResult("good")
}

// TestOwnPIDWithoutClone3: a sandbox says the first two, a kernel before 5.7 the others.
func TestOwnPIDWithoutClone3(t *testing.T) {
	for _, errno := range []unix.Errno{unix.ENOSYS, unix.EPERM, unix.EINVAL, unix.E2BIG} {
		var got string
		inProcess(t, linuxtest.Command{}, &got, "own-pid", strconv.Itoa(int(errno)), newLeaf(t, testRoot(t), "leaf").Path())
		if got != "good" {
			t.Errorf("%v: %q", errno, got)
		}
	}
}

// BenchmarkOwnSteps takes turns between a plain start, those for which the steps are our
// own, and one with the helper: the time until the process runs, and what its start and
// end cost.
func BenchmarkOwnSteps(b *testing.B) {
	leaf := newLeaf(b, openRoot(b, linuxtest.Cgroup(b)), "leaf")
	c := Cmd{Path: tinyProgram(b), Leaf: leaf, Env: []string{"A=1"}, Thawed: true}
	names := []string{"plain", "own-pid", "limits", "helper"}
	cmds := []Cmd{c, c, c, c}
	cmds[1].OwnPID = "LISTEN_PID"
	for i := 2; i < len(cmds); i++ {
		cmds[i].Rlimits, cmds[i].OOMScoreAdj = []Rlimit{{Resource: unix.RLIMIT_CORE}}, number(500)
	}
	cmds[3].ForceHelper = true
	wall, cpu := make([]float64, len(cmds)), make([]float64, len(cmds))
	for b.Loop() {
		for i := range cmds {
			begin, before := time.Now(), cpuTime(b)
			benchSpawn(b, &cmds[i])
			wall[i] += float64(time.Since(begin).Microseconds())
			cpu[i] += float64(cpuTime(b)[1]-before[1]) / 1000
		}
	}
	for i, name := range names {
		b.ReportMetric(wall[i]/float64(b.N), name+"-us")
		b.ReportMetric(cpu[i]/float64(b.N), name+"-cpu-us")
		b.ReportMetric(cpu[i]/cpu[0], name+"-ratio")
	}
}
