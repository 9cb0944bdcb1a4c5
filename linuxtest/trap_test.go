package linuxtest

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// modeMakeDirs makes so many directories below DIR, one call each, then a child
// makes one more.
func modeMakeDirs(args []string) int {
	n, err := number(args, 1, 0)
	if err != nil {
		return complain(err)
	}
	for i := range n {
		if err := os.Mkdir(filepath.Join(args[0], fmt.Sprint(i+1)), 0o755); err != nil {
			return complain(err)
		}
	}
	return 0
}

func TestCrashPointsAreBeforeEachCall(t *testing.T) {
	NoLeaks(t)
	const dirs = 5
	var dir string
	command := func() Command {
		dir = t.TempDir()
		return Command{Args: Helper(t, "make-dirs", dir, fmt.Sprint(dirs))}
	}
	n := 0
	for crash := range CrashPoints(t, command, "mkdirat", "mkdir") {
		n++
		made, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		if len(made) != n-1 || crash.N != n || crash.Call.Path != filepath.Join(dir, fmt.Sprint(n)) {
			t.Errorf("crash point %d: %d directories made, crash %v", n, len(made), crash)
		}
	}
	if n != dirs {
		t.Errorf("%d crash points, want %d", n, dirs)
	}
}

// modeNaiveKill signals whoever has the number now: what this whole project is
// against, and the control of NoForeignSignals.
func modeNaiveKill(args []string) int {
	n, err := number(args, 0, 0)
	if err != nil {
		return complain(err)
	}
	return killByNumber(n)
}

func TestNoForeignSignalsCatchesANaiveKiller(t *testing.T) {
	stranger := Start(t, Helper(t, "run")...)
	w := WatchSignals(t, Command{Args: Helper(t, "naive-kill", fmt.Sprint(stranger.PID()))})
	if got := w.Process.Wait(t, 20*time.Second); got.ExitStatus() != 1 {
		t.Errorf("wait status of the killer = %#x, want exit 1: EPERM", uint32(got))
	}
	if !stranger.Alive() {
		t.Error("the stranger is dead")
	}
	calls := w.Foreign()
	for _, c := range calls { // more than one where a signal of the Go runtime makes the call start again
		if c.Name != "kill" || c.PID != w.Process.PID() || int(c.Args[0]) != stranger.PID() {
			t.Errorf("foreign signals = %v, want a kill of %d", calls, stranger.PID())
		}
	}
	if len(calls) == 0 {
		t.Error("nothing was caught")
	}
}

func TestNoForeignSignalsLetsPidfdsThrough(t *testing.T) {
	p := NoForeignSignals(t, Command{Args: Helper(t, "die", "10")})
	if got := p.Wait(t, 20*time.Second); !got.Signaled() || got.Signal() != 10 {
		t.Errorf("wait status = %#x, want SIGUSR1", uint32(got))
	}
}

// killByNumber is written with the bare system call so that the policy test need
// not know an exception.
func killByNumber(pid int) int {
	if _, _, errno := unix.RawSyscall(unix.SYS_KILL, uintptr(pid), uintptr(unix.SIGTERM), 0); errno != 0 {
		return 1
	}
	return 0
}

func TestCrashPointsBeginWithTheTarget(t *testing.T) {
	command := func() Command { return Command{Args: Helper(t, "make-dirs", t.TempDir(), "1")} }
	for crash := range CrashPoints(t, command, "execve") {
		t.Fatalf("%v, but the target executes nothing", crash)
	}
}

func TestCrashPointsSeeTheChildBeforeItsExec(t *testing.T) {
	var dir string
	command := func() Command {
		dir = Cgroup(t) // a new one each time: what starts in a killed one dies on some kernels
		return Command{Args: []string{"/bin/sh", "-c", "/bin/sleep 100; true"}, Cgroup: dir}
	}
	test := CrashTest{Command: command, Syscalls: []string{"execve"}, Max: 3, Settled: func() bool {
		members := Members(dir)
		return len(members) == 2 && members[1].Comm == "sleep"
	}}
	n := 0
	for crash := range test.Points(t) {
		n++
		// The child goes on although its parent is dead.
		Wait(t, soon, func() (bool, string) {
			members := Members(dir)
			return len(members) == 1 && members[0].Comm == "sleep", fmt.Sprintf("%v left %v", crash, members)
		})
		killGroup(dir)
		TreeGone(t, dir, 30*time.Second)
	}
	if n != 1 {
		t.Errorf("%d crash points, want 1: the exec of sleep", n)
	}
	killGroup(dir)
	Wait(t, soon, func() (bool, string) { return len(Members(dir)) == 0, "sleep lives" })
}

func TestCrashTestFailsWhenTheTargetNeitherEndsNorSettles(t *testing.T) {
	wantFailure(t, func(tb testing.TB) {
		CrashTest{
			Command:  func() Command { return Command{Args: Helper(tb, "run")} },
			Syscalls: []string{"mkdirat"}, Within: 50 * time.Millisecond,
		}.At(tb, 1)
	}, "neither ended nor settled", "0 calls seen")
	wantFailure(t, func(tb testing.TB) {
		CrashPoints(tb, func() Command { return Command{Args: Helper(tb, "run")} }, "frobnicate")(func(Crash) bool { return true })
	}, `no trap for the system call "frobnicate"`)
}
