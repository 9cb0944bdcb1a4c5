package spawn

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/linuxtest"
	"golang.org/x/sys/unix"
)

// seccompResult is what seccompMode has seen.
type seccompResult struct {
	Direct   string // what clone3 said
	Cgroup   string // the first thing that the program saw
	Helper   bool
	Error    string // of a program that does not exist
	Poisoned bool
	Failure  string
}

// seccompMode forbids clone3 to itself, as containers do, and starts something.
func seccompMode(args []string) int {
	errno, err := strconv.Atoi(args[0])
	if err != nil {
		return complain(err)
	}
	root, err := cgroup.Open(args[1])
	if err != nil {
		return complain(err)
	}
	leaf, err := root.Create("leaf")
	if err != nil {
		return complain(err)
	}
	if err := forbid(unix.SYS_CLONE3, uint32(errno)); err != nil {
		return complain(err)
	}
	var got seccompResult
	c := Cmd{Path: "/bin/cat", Args: []string{"cat", "/proc/self/cgroup"}, Leaf: leaf}
	if err := got.see(&c, args[2]); err != nil {
		return complain(err)
	}
	c.Path = "/no/such/program"
	_, err = Start(&c)
	got.Error = err.Error()
	got.Poisoned, err = Poisoned(root)
	if err != nil {
		return complain(err)
	}
	return printResult(got)
}

// see runs c with its output in a file.
func (got *seccompResult) see(c *Cmd, file string) error {
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, out, os.Stderr
	files, _, err := c.files()
	if err != nil {
		return err
	}
	_, err = c.startDirect(files)
	got.Direct = err.Error()
	p, err := Start(c)
	if err != nil {
		return err
	}
	got.Helper = p.byHelper
	exit, err := p.Wait(context.Background())
	if err != nil || !exit.Success() {
		got.Failure = exit.String()
	}
	data, err := os.ReadFile(file)
	got.Cgroup = string(data)
	return err
}

// forbid makes a system call of this program fail with an errno, for good. Calls of
// the C library are let through, by where they come from: it starts threads with
// clone3 and survives only ENOSYS, so that with EPERM no cgo program works at all.
func forbid(nr uint32, errno uint32) error {
	const returnErrno, returnAllow = 0x00050000, 0x7fff0000
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}, // the number of the call
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: nr, Jf: 3},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 12}, // the upper half of its address
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: 0, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: returnErrno | errno},
		{Code: unix.BPF_RET | unix.BPF_K, K: returnAllow},
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	const setModeFilter, allThreads = 1, 1
	_, _, e := unix.Syscall(unix.SYS_SECCOMP, setModeFilter, allThreads, uintptr(unsafe.Pointer(&prog)))
	return asError(e)
}

// A sandbox says the first two, a kernel before 5.7 the others.
func TestRefusedClone3GoesThroughTheHelper(t *testing.T) {
	linuxtest.NeedCommand(t, "cat")
	for _, errno := range []unix.Errno{unix.ENOSYS, unix.EPERM, unix.EINVAL, unix.E2BIG} {
		t.Run(unix.ErrnoName(errno), func(t *testing.T) {
			root := linuxtest.Cgroup(t)
			var got seccompResult
			out := filepath.Join(t.TempDir(), "out")
			inProcess(t, linuxtest.Command{}, &got, "seccomp", strconv.Itoa(int(errno)), root, out)
			if got.Direct != errno.Error() {
				t.Errorf("clone3 = %q, want %q: the filter does not work", got.Direct, errno.Error())
			}
			if !got.Helper || got.Failure != "" {
				t.Errorf("by helper: %v, %s", got.Helper, got.Failure)
			}
			if !strings.Contains(got.Cgroup, "0::") || !strings.HasSuffix(strings.TrimSpace(got.Cgroup), filepath.Base(root)+"/leaf") {
				t.Errorf("the first thing the program saw was %q, want %s/leaf", got.Cgroup, root)
			}
			if want := "start /no/such/program: no such file or directory"; got.Error != want {
				t.Errorf("error %q, want %q", got.Error, want)
			}
			if got.Poisoned {
				t.Error("poisoned, want healthy: nothing can be started with clone3")
			}
		})
	}
}

// A program that does not call HelperMain would start itself again and again.
func TestHelperWithoutHelperMainIsRefused(t *testing.T) {
	linuxtest.NoLeaks(t)
	helperReady.Store(false)
	defer helperReady.Store(true)
	leaf := newLeaf(t, testRoot(t), "leaf")
	_, err := Start(&Cmd{Path: "/bin/sh", Leaf: leaf, ForceHelper: true})
	wantError{CauseHelper, unix.ENOSYS, "HelperMain"}.check(t, err)
	linuxtest.NeedClone3(t)
	if exit := wait(t, start(t, &Cmd{Path: tinyProgram(t), Leaf: leaf})); !exit.Success() {
		t.Errorf("without the helper: %v", exit)
	}
}

// Whoever calls the program by the helper's name gets a refusal and not the program.
func TestFalseHelperIsRefused(t *testing.T) {
	linuxtest.NoLeaks(t)
	sealed, err := (&Cmd{Path: "/bin/sh"}).requestFile()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sealed.Close() }()
	for name, c := range map[string]Cmd{
		"no argument":     {Args: []string{helperName}},
		"no number":       {Args: []string{helperName, "x"}},
		"no file":         {Args: []string{helperName, "3"}},
		"ordinary file":   {Args: []string{helperName, "3"}, ExtraFiles: []*os.File{os.Stderr, os.Stderr, os.Stderr}},
		"standard file":   {Args: []string{helperName, "1"}},
		"report is null":  {Args: []string{helperName, "3"}, ExtraFiles: []*os.File{sealed, nil, nil}},
		"cgroup is wrong": {Args: []string{helperName, "3"}, ExtraFiles: []*os.File{sealed, os.Stderr, os.Stderr}},
	} {
		c.Path, c.Leaf = linuxtest.Helper(t, "run")[0], newLeaf(t, testRoot(t), "leaf")
		if exit := wait(t, start(t, &c)); exit.Code != helperFailed {
			t.Errorf("%s: %v, want exit %d", name, exit, helperFailed)
		}
	}
}

// A request that anybody could have changed is none, even if it is right.
func TestUnsealedRequestIsRefused(t *testing.T) {
	linuxtest.NoLeaks(t)
	request := request{Path: tinyProgram(t), Args: []string{"x"}}
	file, err := os.Create(filepath.Join(t.TempDir(), "request"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	if _, err := file.Write(request.encode()); err != nil {
		t.Fatal(err)
	}
	leaf := newLeaf(t, testRoot(t), "leaf")
	procs, err := os.OpenFile(leaf.Path()+"/cgroup.procs", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = procs.Close() }()
	c := Cmd{
		Path: linuxtest.Helper(t, "run")[0], Args: []string{helperName, "3"}, Leaf: leaf,
		ExtraFiles: []*os.File{file, os.Stderr, procs},
	}
	if exit := wait(t, start(t, &c)); exit.Code != helperFailed {
		t.Errorf("%v, want exit %d", exit, helperFailed)
	}
}

// stuck starts a helper that joins a frozen leaf and so stops before exec. release
// gets it going or ends it; the result of the start is returned.
func stuck(t *testing.T, c *Cmd, release func(leaf *cgroup.Dir)) error {
	t.Helper()
	if err := c.Leaf.Freeze(t.Context()); err != nil {
		t.Fatal(err)
	}
	files, null, err := c.files()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(null) }()
	done := make(chan error)
	go func() {
		p, err := c.startHelper(files)
		if err == nil {
			finish(t, p)
		}
		done <- err
	}()
	populated(t, c.Leaf)
	release(c.Leaf)
	return <-done
}

func populated(t *testing.T, leaf *cgroup.Dir) {
	t.Helper()
	linuxtest.Wait(t, within, func() (bool, string) {
		events, err := leaf.Events()
		return err == nil && events.Populated, "nobody has joined the leaf"
	})
}

func TestHelperKilledBeforeExec(t *testing.T) {
	linuxtest.NoLeaks(t)
	c := Cmd{Path: tinyProgram(t), Leaf: newLeaf(t, testRoot(t), "leaf")}
	err := stuck(t, &c, func(leaf *cgroup.Dir) {
		pids, err := leaf.PIDs()
		if err != nil || len(pids) != 1 {
			t.Fatalf("in the leaf: %v, %v", pids, err)
		}
		// The name by which an exit tells the helper from the program.
		name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pids[0]))
		if string(name) != helperComm+"\n" {
			t.Errorf("the helper is called %q, %v, want %q", name, err, helperComm)
		}
		if err := leaf.Kill(); err != nil {
			t.Error(err)
		}
	})
	wantError{CauseKilledBeforeExec, 0, "the helper ended before exec: SIGKILL"}.check(t, err)
}

func TestHelperGoesOnAfterThaw(t *testing.T) {
	linuxtest.NoLeaks(t)
	c := Cmd{Path: tinyProgram(t), Leaf: newLeaf(t, testRoot(t), "leaf")}
	err := stuck(t, &c, func(leaf *cgroup.Dir) {
		if err := leaf.Thaw(t.Context()); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Error(err)
	}
}

// stuckMode starts a helper into a frozen leaf; it is killed there.
func stuckMode(args []string) int {
	leaf, err := cgroup.Open(args[0])
	if err != nil {
		return complain(err)
	}
	c := Cmd{Path: "/bin/sh", Args: []string{"sh", "-c", "echo started > " + args[1]}, Leaf: leaf}
	files, _, err := c.files()
	if err != nil {
		return complain(err)
	}
	_, err = c.startHelper(files)
	return complain(err)
}

// H-08: the caller dies between the fork and the exec. Nothing it asked for starts.
func TestH08HelperOfADeadCallerStartsNothing(t *testing.T) {
	leaf := newLeaf(t, testRoot(t), "leaf")
	if err := leaf.Freeze(t.Context()); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "started")
	caller := linuxtest.Start(t, linuxtest.Helper(t, "stuck", leaf.Path(), file)...)
	populated(t, leaf)
	caller.Kill(t)
	if err := leaf.Thaw(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	if err := leaf.WaitEmpty(ctx); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("the program was started although its supervisor was dead")
	}
}

// The helper is known by its name when it dies between its last report and exec.
func TestHelperThatDiesUnderItsOwnNameNeverRan(t *testing.T) {
	linuxtest.NoLeaks(t)
	for _, byHelper := range []bool{true, false} {
		c := Cmd{Path: "/bin/sh", Leaf: newLeaf(t, testRoot(t), "leaf")}
		c.Args = []string{"sh", "-c", "printf " + helperComm + " > /proc/$$/comm; kill -KILL $$"}
		p := start(t, &c)
		p.byHelper = byHelper
		if exit := wait(t, p); exit.BeforeExec != byHelper || exit.Signal != unix.SIGKILL {
			t.Errorf("by helper %v: %v", byHelper, exit)
		}
	}
}
