package spawn

import (
	"context"
	"errors"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/pidfd"
	"golang.org/x/sys/unix"
)

func TestExits(t *testing.T) {
	linuxtest.NeedCommand(t, "sh")
	ways(t, func(t *testing.T, c Cmd) {
		for text, want := range map[string]Exit{
			"exit 0":            {},
			"exit 3":            {Code: 3},
			"exit 143":          {Code: 143},
			"kill -TERM $$":     {Code: -1, Signal: unix.SIGTERM},
			"kill -KILL $$":     {Code: -1, Signal: unix.SIGKILL},
			"exec /proc/nobody": {Code: 127},
		} {
			c.Path, c.Args = "/bin/sh", []string{"sh", "-c", text}
			before := time.Now()
			got := wait(t, start(t, &c))
			if got.At.Before(before) || got.At.After(time.Now()) {
				t.Errorf("%s: ended at %v", text, got.At)
			}
			got.At = time.Time{}
			if got != want {
				t.Errorf("%s: %+v, want %+v", text, got, want)
			}
		}
	})
}

func TestExitIsPrinted(t *testing.T) {
	for want, e := range map[string]Exit{
		"exit 0":                {},
		"exit 3":                {Code: 3},
		"SIGRTMIN+1":            {Code: -1, Signal: 35},
		"SIGKILL":               {Code: -1, Signal: unix.SIGKILL},
		"SIGABRT (core dumped)": {Code: -1, Signal: unix.SIGABRT, Core: true},
		"SIGKILL before exec":   {Code: -1, Signal: unix.SIGKILL, BeforeExec: true},
		"SIGSEGV":               {Code: -1, Signal: unix.SIGSEGV},
		"SIGUSR1":               {Code: -1, Signal: unix.SIGUSR1},
		"SIGTERM (core dumped)": {Code: -1, Signal: unix.SIGTERM, Core: true},
	} {
		if got := e.String(); got != want {
			t.Errorf("String() = %q, want %q", got, want)
		}
		if got := e.Success(); got != (want == "exit 0") {
			t.Errorf("%s: Success() = %v", want, got)
		}
	}
}

func TestReapNeverBlocksAndRepeats(t *testing.T) {
	linuxtest.NoLeaks(t)
	c := command(t, Cmd{Leaf: newLeaf(t, testRoot(t), "leaf")}, "run")
	p := start(t, &c)
	if _, err := p.Reap(); !errors.Is(err, ErrRunning) {
		t.Errorf("Reap of the living = %v, want ErrRunning", err)
	}
	if err := p.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	first := wait(t, p)
	again, err := p.Reap()
	if err != nil || again != first {
		t.Errorf("Reap again = %v, %v, want %v", again, err, first)
	}
	if err := p.Signal(unix.SIGKILL); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("Signal of the reaped = %v, want ErrProcessDone", err)
	}
}

func TestReapFromManyGoroutines(t *testing.T) {
	linuxtest.NoLeaks(t)
	c := Cmd{Path: "/bin/sh", Args: []string{"sh", "-c", "exit 9"}, Leaf: newLeaf(t, testRoot(t), "leaf")}
	p := start(t, &c)
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			if exit := wait(t, p); exit.Code != 9 {
				t.Errorf("%v, want exit 9", exit)
			}
		})
	}
	all.Wait()
}

// H-06: another wait in the program has taken the zombie.
func TestExitIsNotLostToAThief(t *testing.T) {
	linuxtest.NoLeaks(t)
	for text, want := range map[string]Exit{"exit 7": {Code: 7}, "kill -HUP $$": {Code: -1, Signal: unix.SIGHUP}} {
		c := Cmd{Path: "/bin/sh", Args: []string{"sh", "-c", text}, Leaf: newLeaf(t, testRoot(t), "leaf")}
		p, err := Start(&c)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = p.Close() }() // it has ended
		if err := p.Handle().Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := waitPidfd(p.Handle().FD(), 0); err != nil {
			t.Fatal(err)
		}
		if !pidfd.Probe().ExitInfo {
			// The kernel keeps nothing for us: say so, and do not make it up.
			if got, err := p.Wait(t.Context()); !errors.Is(err, pidfd.ErrNotSupported) || !strings.Contains(err.Error(), "somebody else") {
				t.Errorf("%s: %+v, %v, want that somebody else has reaped it", text, got, err)
			}
			continue
		}
		got := wait(t, p)
		got.At = time.Time{}
		if got != want {
			t.Errorf("%s: %+v, want %+v", text, got, want)
		}
	}
}

func TestWaitEndsWithItsContext(t *testing.T) {
	linuxtest.NoLeaks(t)
	c := command(t, Cmd{Leaf: newLeaf(t, testRoot(t), "leaf")}, "run")
	p := start(t, &c)
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	cancel(why)
	if _, err := p.Wait(ctx); !errors.Is(err, why) {
		t.Errorf("Wait = %v, want %v", err, why)
	}
}

func TestParseStat(t *testing.T) {
	const tail = " S 1 2 3 4 5 4194560 7 8"
	for line, want := range map[string]string{
		"7 (sh)" + tail: "sh", "7 (a) b (c)" + tail: "a) b (c", "7 ()" + tail: "",
	} {
		if comm, flags, err := parseStat([]byte(line)); comm != want || flags != 4194560 || err != nil {
			t.Errorf("parseStat(%q) = %q, %d, %v", line, comm, flags, err)
		}
	}
	for _, line := range []string{"", "7 sh S 1", ")(", "7 (sh) S 1 2", "7 (sh) S 1 2 3 4 5 x"} {
		if _, _, err := parseStat([]byte(line)); err == nil {
			t.Errorf("parseStat(%q) is no error", line)
		}
	}
}

// tinyProgram writes the smallest program there is: it exits with 0.
func tinyProgram(t testing.TB) string {
	t.Helper()
	code := map[string]string{
		"amd64": "\x31\xff\xb8\xe7\x00\x00\x00\x0f\x05",             // exit_group(0)
		"arm64": "\x00\x00\x80\xd2\xc8\x0b\x80\xd2\x01\x00\x00\xd4", // exit_group(0)
	}[runtime.GOARCH]
	if code == "" {
		return "/bin/true"
	}
	return script(t, elfHeader()+code)
}
