package linuxtest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const soon = 20 * time.Second // bounds a wait; nothing takes that long

func TestReusePIDGivesTheNumberToAnother(t *testing.T) {
	first := Start(t, Helper(t, "run")...)
	before := first.Identity(t)
	first.Kill(t)
	second := ReusePID(t, first.PID(), Helper(t, "run")...)
	after := second.Identity(t)
	if before.PID != after.PID || before == after {
		t.Errorf("identities %v and %v, want one number and two processes", before, after)
	}
	if err := first.Signal(unix.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("signal through the old pidfd = %v, want %v", err, os.ErrProcessDone)
	}
	SurvivesAs(t, second)
}

func TestForkPIDRefusesATakenNumber(t *testing.T) {
	NeedChosenPID(t)
	p := Start(t, Helper(t, "run")...)
	wantFailure(t, func(tb testing.TB) { ForkPID(tb, p.PID(), Helper(tb, "run")...) }, "file exists")
}

func TestForkPIDSaysWhyExecFailed(t *testing.T) {
	NeedChosenPID(t)
	p := Start(t, Helper(t, "exit")...)
	p.Wait(t, soon)
	_, err := Command{Args: []string{"/nonexistent"}, PID: p.PID()}.start()
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("start = %v, want %v", err, fs.ErrNotExist)
	}
	// The number is free again: nothing was left half-made.
	c := Command{Args: Helper(t, "exit", "7"), PID: p.PID(), Dir: "/", Env: []string{"A=b"}}
	ExitCause(t, c.Start(t).Wait(t, soon), 7)
}

func TestForkPIDCanBeBornInACgroup(t *testing.T) {
	dir := Cgroup(t)
	first := Start(t, Helper(t, "exit")...)
	first.Wait(t, soon)
	p := Command{Args: Helper(t, "run"), PID: first.PID(), Cgroup: dir}.Start(t)
	if ids := Identities(dir); len(ids) != 1 || ids[0] != p.Identity(t) {
		t.Errorf("members of %s = %v, want %v", dir, ids, p.Identity(t))
	}
	p.Kill(t)
}

// modeReuseInNamespace starts a process, lets it end, gives its number to another
// and says whether that worked. It is PID 2 or so of its namespace.
func modeReuseInNamespace([]string) int {
	argv := []string{"/proc/self/exe", helperPrefix + "exit"}
	first, err := Command{Args: argv}.start()
	if err != nil {
		return complain(err)
	}
	if _, _, err := first.wait(soon); err != nil {
		return complain(err)
	}
	if err := NextPID(first.PID()); err != nil {
		return complain(err)
	}
	second, err := Command{Args: argv}.start()
	if err != nil {
		return complain(err)
	}
	fmt.Println(first.PID(), second.PID())
	return 0
}

func TestNextPIDInANamespace(t *testing.T) {
	out, err := os.CreateTemp(t.TempDir(), "out")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = out.Close() }() // read by name
	p := PIDNamespace(t, Command{Args: Helper(t, "reuse-in-namespace"), Stdout: out, Stderr: os.Stderr})
	ExitCause(t, p.Wait(t, soon), 0)
	data, err := os.ReadFile(out.Name())
	if err != nil {
		t.Fatal(err)
	}
	var first, second int
	if _, err := fmt.Sscan(string(data), &first, &second); err != nil || first != second {
		t.Errorf("PIDs %q, want the same number twice", data)
	}
}

func TestPIDNamespaceReportsASignal(t *testing.T) {
	p := PIDNamespace(t, Command{Args: Helper(t, "die", "15")})
	ExitCause(t, p.Wait(t, soon), 143)
}

func TestHelperRefusesAnUnknownMode(t *testing.T) {
	wantFailure(t, func(tb testing.TB) { Helper(tb, "no-such-mode") }, "no-such-mode")
	ExitCause(t, Start(t, current.exe, helperPrefix+"no-such-mode").Wait(t, soon), 127)
}

func TestHelperIsForEveryUser(t *testing.T) {
	NeedRoot(t, "to become another user")
	NeedCommand(t, "setpriv")
	argv := append([]string{"/usr/bin/setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"}, Helper(t, "exit", "9")...)
	ExitCause(t, Start(t, argv...).Wait(t, soon), 9)
}

func TestProcReadsNamesWithBrackets(t *testing.T) {
	name := filepath.Join(t.TempDir(), "a) Z 1 (b")
	if err := os.Symlink(current.exe, name); err != nil {
		t.Fatal(err)
	}
	odd := Start(t, name, helperPrefix+"run")
	Wait(t, 20*time.Second, func() (bool, string) { // its exec may be still to come
		got := readProc(odd.PID())
		return got.Comm == "a) Z 1 (b" && got.PPID == os.Getpid() && got.State != 'Z',
			fmt.Sprintf("readProc = %+v, want the odd name and parent %d", got, os.Getpid())
	})
}

func TestProcReadsItself(t *testing.T) {
	p := readProc(os.Getpid())
	if p.PPID != os.Getppid() || p.Start == 0 || p.State == 0 || len(p.Args) != len(os.Args) {
		t.Errorf("readProc(self) = %+v, want parent %d and %d arguments", p, os.Getppid(), len(os.Args))
	}
	if id, ok := Identify(p.PID); !ok || id.Start != p.Start || id.PID != p.PID {
		t.Errorf("Identify(self) = %+v, %v, want start time %d", id, ok, p.Start)
	}
	if gone := readProc(1 << 22); gone.State != 0 || gone.String() != "pid "+strconv.Itoa(1<<22)+" (already gone)" {
		t.Errorf("readProc of a number that cannot be = %q", gone)
	}
}
