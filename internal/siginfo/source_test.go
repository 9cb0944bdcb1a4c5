//go:build amd64 || arm64

package siginfo

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/linuxtest"
	"golang.org/x/sys/unix"
)

func TestSenderIsKnown(t *testing.T) {
	linuxtest.NoLeaks(t)
	c := startCatcher(t, "catch")
	for _, sig := range all[1:] {
		c.send(t, sig)
		want := Info{Signal: sig, PID: int32(os.Getpid()), UID: uint32(os.Getuid())}
		if got := c.got(t); got != want || got.FromKernel() {
			t.Errorf("%v: caught %+v (kernel: %v), want %+v", sig, got, got.FromKernel(), want)
		}
	}
	c.end(t)
}

func TestNotifyCatchesWithoutASender(t *testing.T) {
	linuxtest.NoLeaks(t)
	c := startCatcher(t, "catch", "notify")
	for _, sig := range all[1:] {
		c.send(t, sig)
		if got, want := c.got(t), (Info{Signal: sig}); got != want {
			t.Errorf("%v: caught %+v, want %+v", sig, got, want)
		}
	}
	c.end(t)
}

func TestTerminalsSignalsAreFromTheKernel(t *testing.T) {
	linuxtest.NoLeaks(t)
	master, slave := linuxtest.Pty(t)
	c := startCatcher(t, "catch", slave)
	press := func(key string) func() error {
		return func() error { _, err := master.WriteString(key); return err }
	}
	for sig, do := range map[unix.Signal]func() error{
		unix.SIGINT:  press("\x03"),
		unix.SIGQUIT: press("\x1c"),
		unix.SIGTSTP: press("\x1a"),
		unix.SIGWINCH: func() error {
			return unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 3, Col: 4})
		},
	} {
		if err := do(); err != nil {
			t.Fatal(err)
		}
		got := c.got(t)
		if want := (Info{Signal: sig, Code: siKernel}); got != want || !got.FromKernel() {
			t.Errorf("caught %+v (kernel: %v), want %+v", got, got.FromKernel(), want)
		}
		c.send(t, sig)
		if got := c.got(t); got.Signal != sig || got.FromKernel() {
			t.Errorf("sent: caught %+v (kernel: %v), want one from a process", got, got.FromKernel())
		}
	}
	if err := master.Close(); err != nil {
		t.Fatal(err)
	}
	first, second := c.got(t), c.got(t) // SIGHUP and SIGCONT, on any two threads
	if first.Signal+second.Signal != unix.SIGHUP+unix.SIGCONT || !first.FromKernel() || !second.FromKernel() {
		t.Errorf("hang-up: caught %+v and %+v, want SIGHUP and SIGCONT from the kernel", first, second)
	}
	c.end(t)
}

// SIGCHLD says which child it is about.
func TestChildIsNamed(t *testing.T) {
	linuxtest.NoLeaks(t)
	s := mustCatch(t, unix.SIGCHLD)
	child := linuxtest.Start(t, linuxtest.Helper(t, "exit", "3")...)
	child.Wait(t, within)
	got, err := next(s)
	const exited = 1 // CLD_EXITED
	want := Info{Signal: unix.SIGCHLD, Code: exited, PID: int32(child.PID()), UID: uint32(os.Getuid())}
	if err != nil || got != want {
		t.Errorf("caught %+v, %v, want %+v", got, err, want)
	}
}

func TestCloseRestoresTheActions(t *testing.T) {
	linuxtest.NoLeaks(t)
	before := actions(t)
	s := mustCatch(t, all[:]...)
	for sig, a := range actions(t) {
		if a == before[sig] || a.flags&(saRestart|saOnStack|saSigInfo) != saRestart|saOnStack|saSigInfo {
			t.Errorf("%v: action %+v while it is caught, was %+v before", sig, a, before[sig])
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for sig, a := range actions(t) {
		if a != before[sig] {
			t.Errorf("%v: action %+v after Close, want %+v", sig, a, before[sig])
		}
	}
	if err := s.Close(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Close again = %v, want ErrClosed", err)
	}
	// Go's own handler works again.
	c := make(chan os.Signal, 1)
	signal.Notify(c, unix.SIGUSR1)
	defer signal.Stop(c)
	sendSelf(t, unix.SIGUSR1)
	select {
	case <-c:
	case <-time.After(within):
		t.Error("os/signal gets nothing after Close")
	}
}

// actions reads the actions of all signals.
func actions(t *testing.T) map[unix.Signal]action {
	t.Helper()
	got := map[unix.Signal]action{}
	for _, sig := range all {
		a, err := sigaction(sig, nil)
		if err != nil {
			t.Fatal(err)
		}
		got[sig] = a
	}
	return got
}

// sendSelf sends a signal to the test process.
func sendSelf(t *testing.T, sig unix.Signal) {
	t.Helper()
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err == nil {
		err = errors.Join(unix.PidfdSendSignal(fd, sig, nil, 0), unix.Close(fd))
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestOneSourceAtATime(t *testing.T) {
	linuxtest.NoLeaks(t)
	s := mustCatch(t, unix.SIGUSR1)
	if _, err := Catch(unix.SIGUSR2); !errors.Is(err, unix.EBUSY) {
		t.Errorf("second Catch = %v, want EBUSY", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	again := mustCatch(t, unix.SIGUSR1)
	sendSelf(t, unix.SIGUSR1)
	if info, err := next(again); err != nil || info.Signal != unix.SIGUSR1 {
		t.Errorf("caught %+v, %v, want SIGUSR1", info, err)
	}
}

func TestSignalsOfTheRuntimeAreRefused(t *testing.T) {
	linuxtest.NoLeaks(t)
	for _, sig := range []unix.Signal{unix.SIGKILL, unix.SIGSTOP, unix.SIGSEGV, unix.SIGURG, unix.SIGPROF, unix.SIGPIPE, 0, 64} {
		if _, err := Catch(unix.SIGUSR1, sig); !errors.Is(err, unix.EINVAL) {
			t.Errorf("Catch(%v) = %v, want EINVAL", sig, err)
		}
	}
}

// modeIgnoring becomes modeCatch with some signals ignored, as nohup does it.
func modeIgnoring([]string) int {
	signal.Ignore(unix.SIGHUP, unix.SIGINT, unix.SIGTSTP)
	argv := []string{os.Args[0], strings.Replace(os.Args[1], "ignoring", "catch", 1)}
	return complain(syscall.Exec("/proc/self/exe", argv, os.Environ()))
}

func TestIgnoredStaysIgnored(t *testing.T) {
	linuxtest.NoLeaks(t)
	c := startCatcher(t, "ignoring")
	status := status(t, c.PID())
	for _, sig := range []unix.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGTSTP} {
		if !status.ignored(sig) || status.caught(sig) {
			t.Errorf("%v: ignored %v, caught %v, want it ignored", sig, status.ignored(sig), status.caught(sig))
		}
		c.send(t, sig)
	}
	c.send(t, unix.SIGUSR1)
	if got := c.got(t); got.Signal != unix.SIGUSR1 {
		t.Errorf("caught %+v, want only SIGUSR1", got)
	}
	c.end(t)
}

// masks are the signal masks of /proc/<pid>/status.
type masks map[string]uint64

func (m masks) ignored(sig unix.Signal) bool { return m["SigIgn"]&(1<<(sig-1)) != 0 }
func (m masks) caught(sig unix.Signal) bool  { return m["SigCgt"]&(1<<(sig-1)) != 0 }
func (m masks) blocked(sig unix.Signal) bool { return m["SigBlk"]&(1<<(sig-1)) != 0 }

func status(t *testing.T, pid int) masks {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	return parseMasks(t, string(text))
}

func parseMasks(t *testing.T, text string) masks {
	t.Helper()
	m := masks{}
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":\t")
		if !strings.HasPrefix(name, "Sig") || name == "SigQ" {
			continue
		}
		n, err := strconv.ParseUint(value, 16, 64)
		if err != nil {
			t.Fatalf("line %q: %v", line, err)
		}
		m[name] = n
	}
	if len(m) < 4 {
		t.Fatalf("no signal masks in %q", text)
	}
	return m
}

func TestProgramsStartWithDefaultActions(t *testing.T) {
	linuxtest.NoLeaks(t)
	linuxtest.NeedCommand(t, "cat")
	s := mustCatch(t, all[:]...)
	text := linuxtest.Command{Args: []string{"/bin/cat", "/proc/self/status"}}.Output(t, within)
	m := parseMasks(t, text)
	for _, sig := range all {
		if m.ignored(sig) || m.caught(sig) || m.blocked(sig) {
			t.Errorf("%v: ignored %v, caught %v, blocked %v in a child, want the default", sig, m.ignored(sig), m.caught(sig), m.blocked(sig))
		}
	}
	if _, err := drain(s); err != nil { // SIGCHLD
		t.Error(err)
	}
}
