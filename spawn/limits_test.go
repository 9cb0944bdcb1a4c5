package spawn

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/linuxtest"
	"golang.org/x/sys/unix"
)

// tries is what a mode has seen of a number of starts.
type tries struct {
	Causes  map[string]int // "ok" or the cause
	Leaked  int            // descriptors
	Zombies bool
	Last    string
}

// try starts c to its end and counts what happened.
func (r *tries) try(c *Cmd) {
	p, err := Start(c)
	var e *Error
	switch {
	case err == nil:
		_ = readable(p.Handle().FD()) // Wait may want a descriptor, of which there may be none
		exit, waitErr := p.Wait(context.Background())
		if errors.Join(waitErr, p.Close()) != nil || !exit.Success() {
			r.Causes["failed"]++
		}
		r.Causes["ok"]++
	case errors.As(err, &e):
		r.Causes[e.Cause.String()]++
		r.Last = err.Error()
	default:
		r.Causes[err.Error()]++
	}
}

// allWays are those of package syscall, of the helper, and twice of our own steps.
func allWays() []Cmd { return []Cmd{{}, {ForceHelper: true}, {OwnPID: wayOwnPID}, ownLimits()} }

func openFiles() int {
	n := 0
	for fd := range 100 {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil {
			n++
		}
	}
	return n
}

// noFilesMode starts with no descriptor left, then with one, and so on.
func noFilesMode(args []string) int {
	root, err := cgroup.Open(args[0])
	if err != nil {
		return complain(err)
	}
	leaf, err := root.Create("leaf")
	if err != nil {
		return complain(err)
	}
	// The runtime opens its own files before they run out.
	warm, ways := tries{Causes: map[string]int{}}, allWays()
	for _, c := range ways {
		c.Path, c.Leaf = args[1], leaf
		warm.try(&c)
	}
	if warm.Causes["ok"] != len(ways) {
		return complain(fmt.Errorf("before the test: %v: %s", warm.Causes, warm.Last))
	}
	limit := unix.Rlimit{Cur: 64, Max: 64}
	if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, &limit, nil); err != nil {
		return complain(err)
	}
	got := tries{Causes: map[string]int{}}
	var held []int
	for fd, err := openNull(); err == nil; fd, err = openNull() {
		held = append(held, fd)
	}
	for len(held) > 0 {
		for _, c := range ways {
			before := openFiles()
			c.Path, c.Leaf = args[1], leaf
			got.try(&c)
			c.Path = "/no/such/program"
			_, _ = Start(&c) // cannot
			got.Leaked += openFiles() - before
		}
		_ = unix.Close(held[0])
		held = held[1:]
	}
	if got.Zombies, err = ChildLeft(); err != nil {
		return complain(err)
	}
	return printResult(got)
}

func TestOutOfFiles(t *testing.T) {
	var got tries
	inProcess(t, linuxtest.Command{}, &got, "no-files", linuxtest.Cgroup(t), tinyProgram(t))
	if n := len(got.Causes); n != 2 || got.Causes["ok"] == 0 || got.Causes["too-many-files"] < 4 {
		t.Errorf("causes %v, want ok and too-many-files: %s", got.Causes, got.Last)
	}
	if got.Leaked != 0 {
		t.Errorf("%d descriptors leaked", got.Leaked)
	}
	if got.Zombies {
		t.Error("there are zombies of starts that failed")
	}
}

// somebody is a user that has no processes.
const somebody = 64321

// noProcessesMode becomes a user without privileges and runs out of processes.
func noProcessesMode(args []string) int {
	err := errors.Join(syscall.Setgroups(nil), syscall.Setgid(somebody), syscall.Setuid(somebody))
	if err != nil {
		return complain(err)
	}
	root, err := cgroup.Open(args[0])
	if err != nil {
		return complain(err)
	}
	leaf, err := root.Create("leaf")
	if err != nil {
		return complain(err)
	}
	got, ways := map[string]*tries{}, allWays()
	run := func(name string, c Cmd) {
		r := &tries{Causes: map[string]int{}}
		got[name] = r
		for _, way := range ways {
			c.Path, c.ForceHelper, c.OwnPID, c.Rlimits = args[1], way.ForceHelper, way.OwnPID, way.Rlimits
			if c.Leaf == nil {
				c.Leaf = leaf
			}
			r.try(&c)
		}
	}
	run("plain", Cmd{})
	run("root", Cmd{Credential: &Credential{}})
	run("nice", Cmd{Nice: number(-5)})
	run("netns", Cmd{NetNS: true})
	run("score", Cmd{OOMScoreAdj: number(-900)})
	run("higher score", Cmd{OOMScoreAdj: number(900)}) // our own file belongs to root
	foreign, err := cgroup.Open(args[2])
	if err != nil {
		return complain(err)
	}
	run("foreign", Cmd{Leaf: foreign})
	limit := unix.Rlimit{Cur: 1, Max: 1}
	if err := unix.Prlimit(0, unix.RLIMIT_NPROC, &limit, nil); err != nil {
		return complain(err)
	}
	run("full", Cmd{})
	return printResult(got)
}

// delegated gives a cgroup to somebody, who sits in a leaf of it.
func delegated(t *testing.T) (root, self string) {
	t.Helper()
	root = linuxtest.Cgroup(t)
	self = filepath.Join(root, "self")
	if err := os.Mkdir(self, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{root, root + "/cgroup.procs", root + "/cgroup.subtree_control", self, self + "/cgroup.procs"} {
		if err := os.Chown(path, somebody, somebody); err != nil {
			t.Fatal(err)
		}
	}
	return root, self
}

// H-18: out of processes is an error with its own cause, and so is each thing that
// a user without privileges may not do.
func TestH18WithoutPrivilegesAndOutOfProcesses(t *testing.T) {
	linuxtest.NeedRoot(t, "to become another user")
	root, self := delegated(t)
	foreign := linuxtest.Cgroup(t)
	var got map[string]tries
	inProcess(t, linuxtest.Command{Cgroup: self}, &got, "no-processes", root, tinyProgram(t), foreign)
	for name, want := range map[string]string{
		"plain": "ok", "root": "credential", "nice": "setting", "netns": "network", "score": "setting",
		"higher score": "ok", "foreign": "permission", "full": "fork-limit",
	} {
		n := len(allWays())
		if got[name].Causes[want] != n {
			t.Errorf("%s: %v (%s), want %d × %s", name, got[name].Causes, got[name].Last, n, want)
		}
	}
	if want := "put a process into cgroup " + foreign; !strings.Contains(got["foreign"].Last, want) {
		t.Errorf("%q, want %q in it", got["foreign"].Last, want)
	}
}

func BenchmarkStartReap(b *testing.B) {
	path := tinyProgram(b)
	root := openRoot(b, linuxtest.Cgroup(b))
	leaf := newLeaf(b, root, "leaf")
	b.Run("spawn", func(b *testing.B) {
		b.ReportAllocs()
		c := Cmd{Path: path, Leaf: leaf, Env: []string{"A=1"}}
		for b.Loop() {
			benchSpawn(b, &c)
		}
	})
	b.Run("syscall", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			benchPlain(b, path, leaf.FD())
		}
	})
	for name, c := range map[string]Cmd{
		"thawed": {Thawed: true}, "umask": {Umask: number(0o22)}, "netns": {NetNS: true}, "helper": {ForceHelper: true},
	} {
		b.Run(name, func(b *testing.B) {
			c.Path, c.Leaf = path, leaf
			for b.Loop() {
				benchSpawn(b, &c)
			}
		})
	}
}

func benchSpawn(b *testing.B, c *Cmd) {
	p, err := Start(c)
	if err != nil {
		b.Fatal(err)
	}
	if err := readable(p.Handle().FD()); err != nil {
		b.Fatal(err)
	}
	if exit, err := p.Reap(); err != nil || !exit.Success() {
		b.Fatal(exit, err)
	}
	if err := p.Close(); err != nil {
		b.Fatal(err)
	}
}

// benchPlain is the floor: what any Go program does that starts in a cgroup.
func benchPlain(b *testing.B, path string, group int) {
	null, err := openNull()
	if err != nil {
		b.Fatal(err)
	}
	var fd int
	_, err = syscall.ForkExec(path, []string{path}, &syscall.ProcAttr{
		Env: []string{"A=1"}, Files: []uintptr{uintptr(null), uintptr(null), uintptr(null)},
		Sys: &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: group, PidFD: &fd, Setsid: true},
	})
	if err != nil {
		b.Fatal(err)
	}
	_ = unix.Close(null)
	if err := readable(fd); err != nil {
		b.Fatal(err)
	}
	if _, err := waitPidfd(fd, 0); err != nil {
		b.Fatal(err)
	}
	_ = unix.Close(fd)
}

func readable(fd int) error {
	for {
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
		if err != unix.EINTR {
			return err
		}
	}
}

// BenchmarkAlternating compares the two in turns, which a noisy machine disturbs
// less: the ratio of the CPU time that one start costs with all that belongs to it,
// and of the part that this process itself spends.
func BenchmarkAlternating(b *testing.B) {
	leaf := newLeaf(b, openRoot(b, linuxtest.Cgroup(b)), "leaf")
	c := Cmd{Path: tinyProgram(b), Leaf: leaf, Env: []string{"A=1"}, Thawed: true}
	var ours, plain [2]int64 // self, and self with children
	for b.Loop() {
		t0 := cpuTime(b)
		benchSpawn(b, &c)
		t1 := cpuTime(b)
		benchPlain(b, c.Path, leaf.FD())
		t2 := cpuTime(b)
		for i := range ours {
			ours[i] += t1[i] - t0[i]
			plain[i] += t2[i] - t1[i]
		}
	}
	b.ReportMetric(float64(ours[0])/float64(b.N)/1000, "us-self")
	b.ReportMetric(float64(ours[1])/float64(b.N)/1000, "us-all")
	b.ReportMetric(float64(ours[0])/float64(plain[0]), "self-ratio")
	b.ReportMetric(float64(ours[1])/float64(plain[1]), "all-ratio")
}

func cpuTime(b *testing.B) (t [2]int64) {
	for i, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var use unix.Rusage
		if err := unix.Getrusage(who, &use); err != nil {
			b.Fatal(err)
		}
		t[i] = use.Utime.Nano() + use.Stime.Nano()
	}
	t[1] += t[0]
	return t
}
