package pidfd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/linuxtest"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	linuxtest.Main(m, linuxtest.Modes{"open-as-nobody": openAsNobody})
}

// within is how long a test waits for what must happen.
const within = 10 * time.Second

// start starts a helper that lives until it is ended, and opens it.
func start(t *testing.T) (*linuxtest.Process, *Process) {
	t.Helper()
	child := linuxtest.Start(t, linuxtest.Helper(t, "run")...)
	return child, open(t, child.PID())
}

func open(t *testing.T, pid int) *Process {
	t.Helper()
	p, err := Open(pid)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() }) // a test may have closed it
	return p
}

// zombie starts a helper and ends it without reaping.
func zombie(t *testing.T) (*linuxtest.Process, *Process) {
	t.Helper()
	child, p := start(t)
	if err := p.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	waitFor(t, p.Wait)
	return child, p
}

func waitFor(t *testing.T, wait func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	if err := wait(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestSignalAfterReapIsErrProcessDone(t *testing.T) {
	child, p := start(t)
	child.Kill(t)
	if err := p.Signal(unix.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("Signal = %v, want ErrProcessDone", err)
	}
}

func TestSignalReachesTheProcess(t *testing.T) {
	child, p := start(t)
	if err := p.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if status := child.Wait(t, within); status.Signal() != unix.SIGTERM {
		t.Errorf("ended by %v, want SIGTERM", status.Signal())
	}
}

func TestClosedProcessTouchesNobody(t *testing.T) {
	child, p := start(t)
	fd := p.FD()
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	// The descriptor's number goes to a stranger at once.
	stranger := linuxtest.Start(t, linuxtest.Helper(t, "run")...)
	if err := unix.Dup3(stranger.FD(), fd, unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	for name, err := range map[string]error{
		"Signal": p.Signal(unix.SIGKILL), "Wait": p.Wait(t.Context()), "Close": p.Close(),
	} {
		if !errors.Is(err, os.ErrClosed) {
			t.Errorf("%s = %v, want ErrClosed", name, err)
		}
	}
	if got := p.FD(); got != -1 {
		t.Errorf("FD() = %d, want -1", got)
	}
	if !child.Alive() || !stranger.Alive() {
		t.Error("somebody died")
	}
}

func TestOpenOfNobodyIsErrGone(t *testing.T) {
	child, _ := start(t)
	child.Kill(t)
	if _, err := Open(child.PID()); !errors.Is(err, ErrGone) {
		t.Errorf("Open of a reaped process = %v, want ErrGone", err)
	}
	for _, pid := range []int{0, -1} {
		if _, err := Open(pid); !errors.Is(err, unix.EINVAL) {
			t.Errorf("Open(%d) = %v, want EINVAL", pid, err)
		}
	}
}

func TestOpenOfAThreadIsErrGone(t *testing.T) {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		var tid int
		if _, err := fmt.Sscan(task.Name(), &tid); err != nil || tid == os.Getpid() {
			continue
		}
		if _, err := Open(tid); !errors.Is(err, ErrGone) {
			t.Errorf("Open of thread %d = %v, want ErrGone", tid, err)
		}
	}
}

func TestH29ZombieIsDead(t *testing.T) {
	_, p := zombie(t)
	if exited, err := p.Exited(); !exited || err != nil {
		t.Errorf("Exited() = %v, %v, want true", exited, err)
	}
	waitFor(t, p.Wait)
	for tier, id := range identities(t, p) {
		if alive, err := id.Alive(); alive || err != nil {
			t.Errorf("tier %v: Alive() = %v, %v, want false", tier, alive, err)
		}
	}
	if _, err := p.ExitStatus(); !errors.Is(err, ErrNotReaped) && !errors.Is(err, ErrNotSupported) {
		t.Errorf("ExitStatus of a zombie = %v, want ErrNotReaped", err)
	}
}

func TestExitedOfTheLivingAndTheReaped(t *testing.T) {
	child, p := start(t)
	if exited, err := p.Exited(); exited || err != nil {
		t.Errorf("Exited() of the living = %v, %v", exited, err)
	}
	child.Kill(t)
	if exited, err := p.Exited(); !exited || err != nil {
		t.Errorf("Exited() of the reaped = %v, %v", exited, err)
	}
	waitFor(t, p.Wait)
	waitFor(t, p.WaitReaped)
}

func TestWaitEndsWithTheCauseOfItsContext(t *testing.T) {
	_, p := start(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	done := make(chan error)
	go func() { done <- p.Wait(ctx) }()
	cancel(why)
	if err := <-done; !errors.Is(err, why) {
		t.Errorf("Wait = %v, want %v", err, why)
	}
	if exited, err := p.Exited(); exited || err != nil {
		t.Errorf("Exited() = %v, %v after a cancelled Wait", exited, err)
	}
}

func TestWaitOutlivesClose(t *testing.T) {
	child, p := start(t)
	done := make(chan error)
	go func() { done <- p.Wait(t.Context()) }()
	linuxtest.Wait(t, within, func() (bool, string) { return epolls(t) > 0, "Wait has not begun" })
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	child.Kill(t)
	if err := <-done; err != nil {
		t.Errorf("Wait = %v", err)
	}
}

// epolls counts the pollers of this process: their epoll sets hold a descriptor
// that is a pidfd.
func epolls(t *testing.T) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, fd := range fds {
		target, err := os.Readlink("/proc/self/fd/" + fd.Name())
		if err == nil && target == "anon_inode:[eventpoll]" {
			n++
		}
	}
	return n - 1 // Go's own
}

func TestManyWaitsHoldNoThreads(t *testing.T) {
	_, p := start(t)
	const n = 300
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	before := threads(t)
	for range n {
		go func() { done <- p.Wait(ctx) }()
	}
	linuxtest.Wait(t, within, func() (bool, string) {
		got := epolls(t)
		return got >= n, fmt.Sprintf("%d of %d waits have begun", got, n)
	})
	if got := threads(t); got > before+n/2 { // the rush of system calls makes some
		t.Errorf("%d threads with %d waits, %d before", got, n, before)
	}
	cancel()
	for range n {
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Wait = %v", err)
		}
	}
}

func threads(t *testing.T) int {
	t.Helper()
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	return len(tasks)
}

func TestInfo(t *testing.T) {
	child, p := start(t)
	want := Info{PID: child.PID(), PPID: os.Getpid(), UID: os.Getuid()}
	byProc, err := p.infoProc()
	if err != nil || byProc != want {
		t.Errorf("infoProc() = %+v, %v, want %+v", byProc, err, want)
	}
	got, err := p.Info()
	got.CgroupID = 0
	if err != nil || got != want {
		t.Errorf("Info() = %+v, %v, want %+v", got, err, want)
	}
	child.Kill(t)
	if info, err := p.Info(); !errors.Is(err, ErrGone) {
		t.Errorf("Info() of the reaped = %+v, %v, want ErrGone", info, err)
	}
	if info, err := p.infoProc(); !errors.Is(err, ErrGone) {
		t.Errorf("infoProc() of the reaped = %+v, %v, want ErrGone", info, err)
	}
}

func TestInfoNamesTheCgroup(t *testing.T) {
	if !Probe().Info {
		linuxtest.Skip(t, "needs PIDFD_GET_INFO")
	}
	dir := linuxtest.Cgroup(t)
	child := linuxtest.Command{Args: linuxtest.Helper(t, "run"), Cgroup: dir}.Start(t)
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		t.Fatal(err)
	}
	info, err := open(t, child.PID()).Info()
	if err != nil || info.CgroupID != st.Ino {
		t.Errorf("Info() = %+v, %v, want cgroup %d", info, err, st.Ino)
	}
}

// A PID whose number went to another process must not be described as the old one.
func TestInfoByProcIsNotOfAStranger(t *testing.T) {
	child, p := start(t)
	child.Kill(t)
	stranger := linuxtest.ReusePID(t, child.PID(), linuxtest.Helper(t, "run")...)
	if info, err := p.infoProc(); !errors.Is(err, ErrGone) {
		t.Errorf("infoProc() = %+v, %v, want ErrGone", info, err)
	}
	if !stranger.Alive() {
		t.Error("the stranger died")
	}
}

// A grandchild is reaped by its own parent, a shell.
func TestExitStatusOfANonChild(t *testing.T) {
	if !Probe().ExitInfo {
		linuxtest.Skip(t, "needs PIDFD_INFO_EXIT")
	}
	linuxtest.NeedCommand(t, "sh")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	in, release, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	const script = `exec 3<&0; { read x; exit 42; } <&3 & echo $!; wait; exec sleep 1000`
	linuxtest.Command{Args: []string{"/bin/sh", "-c", script}, Stdin: in, Stdout: w}.Start(t)
	_, _ = w.Close(), in.Close()
	var pid int
	if _, err := fmt.Fscan(r, &pid); err != nil {
		t.Fatal(err)
	}
	p := open(t, pid)
	if _, err := p.ExitStatus(); !errors.Is(err, ErrNotReaped) {
		t.Errorf("ExitStatus of the living = %v, want ErrNotReaped", err)
	}
	if err := release.Close(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, p.WaitReaped)
	if status, err := p.ExitStatus(); err != nil || status.ExitStatus() != 42 {
		t.Errorf("ExitStatus() = %#x, %v, want exit 42", uint32(status), err)
	}
}

func TestSelf(t *testing.T) {
	p, err := Self()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.Close() }()
	if exited, err := p.Exited(); p.PID() != os.Getpid() || exited || err != nil {
		t.Errorf("Self() is %d, exited %v, %v", p.PID(), exited, err)
	}
}

// openAsNobody is a helper: another process, and not root, that opens identities.
func openAsNobody(args []string) int {
	if os.Getuid() == 0 {
		if err := errors.Join(syscall.Setgroups(nil), syscall.Setgid(65534), syscall.Setuid(65534)); err != nil {
			fmt.Println(err)
			return 1
		}
	}
	var id Identity
	if err := json.Unmarshal([]byte(args[0]), &id); err != nil {
		fmt.Println(err)
		return 1
	}
	p, err := id.Open()
	if err != nil {
		fmt.Println(err)
		return 0
	}
	again, err := p.Identity()
	fmt.Println(again, err)
	return 0
}
