package guardian

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/spawn"
	"golang.org/x/sys/unix"
)

// newRun makes a run without an owner's lock, with the usual directories in it.
func newRun(t *testing.T) Options {
	t.Helper()
	root, err := cgroup.Open(linuxtest.Cgroup(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = root.Close() }) // nothing to lose
	return Options{Root: root, Run: addRun(t, root, "run-x"), Inner: inner[:]}
}

func addRun(t *testing.T, root *cgroup.Dir, name string) *cgroup.Dir {
	t.Helper()
	run, err := root.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = run.Close() }) // nothing to lose
	leaf, err := makeInner(run)
	if err != nil {
		t.Fatal(err)
	}
	_ = leaf.Close() // nothing to lose
	return run
}

func mustStart(t *testing.T, o Options) *Guardian {
	t.Helper()
	g, err := Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Stop(); err != nil {
			t.Error(err)
		}
	})
	return g
}

func mustStop(t *testing.T, g *Guardian) {
	t.Helper()
	if err := g.Stop(); err != nil {
		t.Fatal(err)
	}
}

// No process, no zombie, no descriptor, no memory: NoLeaks sees the first three.
func TestStopLeavesNothing(t *testing.T) {
	kinds(t, func(t *testing.T, kind string) {
		o := newRun(t)
		o.ForceProgram = kind == "program"
		bystander := linuxtest.Command{Args: linuxtest.Helper(t, "run"), Cgroup: o.Run.Path() + "/job/0.1"}.Start(t)
		linuxtest.NoLeaks(t)
		for range 20 {
			g := mustStart(t, o)
			memory := g.memory
			if (memory != nil) != (kind == "clone") || memory != nil && !mapped(memory) {
				t.Fatalf("%s has %d bytes of memory", kind, len(memory))
			}
			mustStop(t, g)
			if memory != nil && mapped(memory) {
				t.Error("its memory is still mapped")
			}
			if err := g.Stop(); err != nil {
				t.Errorf("Stop again = %v", err)
			}
		}
		linuxtest.SurvivesAs(t, bystander)
		bystander.Kill(t)
	})
}

// mapped says whether there is memory. Nothing else is mapped meanwhile that could
// have taken its place.
func mapped(b []byte) bool {
	var resident [16]byte
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), uintptr(unsafe.Pointer(&resident)))
	return errno == 0
}

func TestStopOfOneThatWasKilled(t *testing.T) {
	kinds(t, func(t *testing.T, kind string) {
		o := newRun(t)
		o.ForceProgram = kind == "program"
		g := mustStart(t, o)
		kill(t, g.Handle())
		gone(t, g.Handle())
		mustStop(t, g)
	})
}

// Whoever waits for any child does not meet a clone, nor does SIGCHLD tell of it.
func TestCloneIsNobodysChildToReap(t *testing.T) {
	needClone(t)
	noLeaks(t)
	g := mustStart(t, newRun(t))
	kill(t, g.Handle())
	gone(t, g.Handle())
	var info unix.Siginfo
	err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
	if err == nil && info.Signo == 0 {
		err = unix.ECHILD // there are other children, and none has ended
	}
	if err != unix.ECHILD {
		t.Errorf("waitid of any child = %v, %+v, want none", err, info)
	}
	mustStop(t, g)
}

// guardProc is what /proc says of a guardian that has settled.
type guardProc struct {
	comm, cwd, cgroup string
	status            map[string]string
	group             int
	fds               []string
	locks             bool
}

func readGuard(t *testing.T, pid int) guardProc {
	t.Helper()
	proc := fmt.Sprintf("/proc/%d/", pid)
	read := func(name string) string {
		data, err := os.ReadFile(proc + name)
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(data))
	}
	p := guardProc{comm: read("comm"), status: map[string]string{}}
	for line := range strings.Lines(read("status")) {
		key, value, _ := strings.Cut(line, ":")
		p.status[key] = strings.TrimSpace(value)
	}
	for line := range strings.Lines(read("cgroup")) {
		if path, ok := strings.CutPrefix(line, "0::"); ok {
			p.cgroup = strings.TrimSpace(path)
		}
	}
	var err error
	if p.group, err = unix.Getpgid(pid); err != nil {
		t.Fatal(err)
	}
	if p.cwd, err = os.Readlink(proc + "cwd"); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(proc + "fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		target, err := os.Readlink(proc + "fd/" + e.Name())
		info, infoErr := os.ReadFile(proc + "fdinfo/" + e.Name())
		if err != nil || infoErr != nil {
			target = "closed meanwhile"
		}
		p.fds = append(p.fds, target)
		p.locks = p.locks || bytes.Contains(info, []byte("lock:"))
	}
	slices.Sort(p.fds)
	return p
}

func TestGuardianHoldsOnToLittle(t *testing.T) {
	kinds(t, func(t *testing.T, kind string) {
		o := started(t, linuxtest.Cgroup(t), kind, "run")
		var p guardProc
		linuxtest.Wait(t, within, func() (bool, string) {
			p = readGuard(t, o.guard)
			return p.comm == comm && p.cwd == "/" && (kind == "program" || len(p.fds) == 3), fmt.Sprintf("%+v", p)
		})
		if kind == "clone" {
			linuxtest.Exactly(t, p.fds, o.root, o.run+"/cgroup.kill", p.fds[2])
		}
		for _, fd := range p.fds { // the runtime of a program has files of its own
			if strings.Contains(fd, "pipe:") || fd == o.run || fd == o.run+"/job/0.1" {
				t.Errorf("it has %s open, of %v", fd, p.fds)
			}
		}
		own := readGuard(t, o.PID())
		if p.group != o.guard || p.locks || p.cgroup != own.cgroup || p.status["Threads"] != "1" && kind == "clone" {
			t.Errorf("process group %d, locks %v, cgroup %s, %s threads; want group %d, no locks, cgroup %s",
				p.group, p.locks, p.cgroup, p.status["Threads"], o.guard, own.cgroup)
		}
		if !own.locks {
			t.Error("the owner has no lock either: that would be seen nowhere")
		}
		o.order(t, "stop")
	})
}

// Nothing but SIGKILL ends it, and nobody stops it from a keyboard.
func TestGuardianTakesNoSignals(t *testing.T) {
	kinds(t, func(t *testing.T, kind string) {
		o := started(t, linuxtest.Cgroup(t), kind, "run")
		guard := o.hold(t)
		if kind == "program" {
			linuxtest.Wait(t, within, func() (bool, string) { // it ignores them from the beginning of its main
				comm := readGuard(t, o.guard).comm
				return comm == "pitvisor-guard", comm
			})
		}
		for _, sig := range []unix.Signal{
			unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGPIPE, unix.SIGUSR1, unix.SIGALRM,
			unix.SIGTSTP, unix.SIGTTIN, unix.SIGCONT, unix.SIGCHLD, unix.SIGWINCH,
		} {
			if err := guard.Signal(sig); err != nil {
				t.Fatal(err)
			}
		}
		o.Kill(t)
		linuxtest.CgroupGone(t, o.run, second())
		gone(t, guard)
	})
}

// modeAttack tries to harm a process by its number, which is that of a guardian for
// as long as its owner lives.
func modeAttack(args []string) int {
	pid, err := strconv.Atoi(args[0])
	if err != nil {
		return complain(err)
	}
	results := map[string]string{}
	try := func(what string, err error) { results[what] = fmt.Sprint(err) }
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return complain(err)
	}
	for _, sig := range []unix.Signal{unix.SIGKILL, unix.SIGSTOP, unix.SIGTERM, 0} {
		try("signal "+sig.String(), unix.PidfdSendSignal(fd, sig, nil, 0))
	}
	_, err = unix.PidfdGetfd(fd, 0, 0)
	try("take a descriptor", err)
	try("attach a debugger", unix.PtraceSeize(pid))
	try("limit", unix.Prlimit(pid, unix.RLIMIT_CPU, &unix.Rlimit{Cur: 1, Max: 1}, nil))
	try("slow down", unix.Setpriority(unix.PRIO_PROCESS, pid, 19))
	word := []byte{0}
	_, err = unix.ProcessVMWritev(pid, []unix.Iovec{{Base: &word[0], Len: 1}}, []unix.RemoteIovec{{Base: 0x400000, Len: 1}}, 0)
	try("write to its memory", err)
	_, err = os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_WRONLY, 0)
	try("open its memory", errors.Unwrap(err))
	_, err = os.OpenFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), os.O_WRONLY, 0)
	try("make it die first", errors.Unwrap(err))
	if err := json.NewEncoder(os.Stdout).Encode(results); err != nil {
		return complain(err)
	}
	return 0
}

func TestCommandOfAnotherUserCannotHarmIt(t *testing.T) {
	linuxtest.NeedRoot(t, "to become another user")
	kinds(t, func(t *testing.T, kind string) {
		o := started(t, linuxtest.Cgroup(t), kind, "run")
		leaf, err := cgroup.Open(o.run + "/job/0.1")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = leaf.Close() }() // nothing to lose
		out, err := os.CreateTemp(t.TempDir(), "out")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = out.Close() }() // read below
		argv := linuxtest.Helper(t, "attack", strconv.Itoa(o.guard))
		p, err := spawn.Start(&spawn.Cmd{
			Path: argv[0], Args: argv, Leaf: leaf, Stdout: out, Stderr: os.Stderr,
			Credential: &spawn.Credential{UID: 65534, GID: 65534},
		})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = p.Close() }() // nothing to lose
		exit, err := p.Wait(t.Context())
		if err != nil || !exit.Success() {
			t.Fatalf("the attacker: %v, %v", exit, err)
		}
		data, err := os.ReadFile(out.Name())
		if err != nil {
			t.Fatal(err)
		}
		var results map[string]string
		if err := json.Unmarshal(bytes.TrimSpace(data), &results); err != nil {
			t.Fatalf("%q: %v", data, err)
		}
		for what, result := range results {
			if result != unix.EPERM.Error() && result != unix.EACCES.Error() {
				t.Errorf("%s: %s, want EPERM or EACCES", what, result)
			}
		}
		if len(results) != 11 {
			t.Errorf("%d attacks, want 11", len(results))
		}
		o.Kill(t)
		linuxtest.CgroupGone(t, o.run, second())
	})
}

// kcmpVM is KCMP_VM of linux/kcmp.h.
const kcmpVM = 1

func TestTwoHundredGuardiansCostLittle(t *testing.T) {
	needClone(t)
	noLeaks(t)
	o := newRun(t)
	n := linuxtest.Times(200, 50)
	var all []*Guardian
	before, begin := kernelStacks(t), time.Now()
	for i := range n {
		o.Run = addRun(t, o.Root, "run-"+strconv.Itoa(i))
		all = append(all, mustStart(t, o))
	}
	took := time.Since(begin) / time.Duration(n)
	t.Logf("%d guardians: %v each with its cgroups, %d KB of kernel stacks in all", n, took, kernelStacks(t)-before)
	for _, g := range all {
		r, _, errno := unix.Syscall6(unix.SYS_KCMP, uintptr(os.Getpid()), uintptr(g.PID()), kcmpVM, 0, 0, 0)
		if errno == unix.EPERM {
			linuxtest.Skip(t, "needs to be allowed to compare processes (kcmp)")
		}
		if errno != 0 || r != 0 {
			t.Fatalf("kcmp of process %d = %d, %v, want the same memory", g.PID(), r, errno)
		}
		if size := len(g.memory); size > os.Getpagesize() {
			t.Fatalf("a guardian has %d bytes, want at most a page", size)
		}
	}
	for _, g := range all {
		mustStop(t, g)
	}
}

// kernelStacks is what all processes of the machine have, in KB.
func kernelStacks(t *testing.T) int {
	t.Helper()
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(data), "KernelStack:")
	n, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// forbid makes a system call of this program fail with ENOSYS, for good, as an old
// sandbox does.
func forbid(nr uint32) error {
	const returnErrno, returnAllow = 0x00050000, 0x7fff0000
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: nr, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: returnErrno | uint32(unix.ENOSYS)},
		{Code: unix.BPF_RET | unix.BPF_K, K: returnAllow},
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return errno
	}
	return nil
}

func TestSandboxGetsAProgram(t *testing.T) {
	noLeaks(t)
	o := started(t, linuxtest.Cgroup(t), "sandbox", "double-fork", "stay")
	o.Kill(t)
	linuxtest.CgroupGone(t, o.run, second())
}

func TestStartRefusesWhatItCannotDo(t *testing.T) {
	noLeaks(t)
	o := newRun(t)
	ready.Store(false)
	defer ready.Store(true)
	o.ForceProgram = true
	if _, err := Start(o); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("Start without Main = %v, want ErrUnsupported", err)
	}
	needClone(t)
	o.ForceProgram = false
	for _, name := range []string{"job/0.1", "job", ""} {
		if err := unix.Rmdir(filepath.Join(o.Run.Path(), name)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Start(o); !errors.Is(err, cgroup.ErrGone) {
		t.Errorf("Start for a run that is gone = %v, want ErrGone", err)
	}
}
