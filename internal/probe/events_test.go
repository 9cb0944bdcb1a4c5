package probe

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/internal/procfs"
	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/supervise"
	"golang.org/x/sys/unix"
)

var listening = regexp.MustCompile(`^listening on (\d+)$`)

func TestH21LineCarriesTheRealPort(t *testing.T) {
	linuxtest.NoLeaks(t)
	r, out := place(t), newPrinted(t)
	r.prepare(Rules{Stdout: listening, TCP: "127.0.0.1:{port}"}, Deps{}, out.output())
	r.start(out.write, linuxtest.Helper(t, "listen")...)
	info := r.ready()
	if want := out.port(t); info.Port != want || want == 0 {
		t.Errorf("Wait gave port %d, want %d as printed", info.Port, want)
	}
}

func TestH21PortZeroIsNoPort(t *testing.T) {
	r, out := place(t), newPrinted(t)
	r.prepare(Rules{Stdout: listening}, Deps{}, out.output())
	r.start(out.write, linuxtest.Helper(t, "sit")...)
	fmt.Fprintln(out.write, "listening on 0")
	out.waitLine(t, "listening on 0")
	r.notReady(200*time.Millisecond, `port "0" is not 1 to 65535`)
}

func TestLineIsLookedForFromTheBeginning(t *testing.T) {
	r, out := place(t), newPrinted(t)
	r.prepare(Rules{Stdout: listening}, Deps{}, out.output())
	r.start(out.write, linuxtest.Helper(t, "sit")...)
	fmt.Fprintln(out.write, "listening on 4711")
	fmt.Fprintln(out.write, "listening on 4712")
	out.waitLine(t, "listening on 4712")
	if info := r.ready(); info.Port != 4711 {
		t.Errorf("Wait gave port %d, want 4711", info.Port)
	}
}

func TestNeverReadyQuotesTheLastLine(t *testing.T) {
	linuxtest.NoLeaks(t)
	r, out := place(t), newPrinted(t)
	r.prepare(Rules{Stdout: listening}, Deps{}, out.output())
	r.start(out.write, linuxtest.Helper(t, "never-ready")...)
	out.waitLine(t, "starting")
	r.notReady(300*time.Millisecond, `^stdout line matching .*: none of \d+ lines matched, the last was "starting"$`)
}

func TestLineRuleNeedsOutput(t *testing.T) {
	r := place(t)
	rd, err := New(Rules{Stderr: listening}, Deps{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = rd.Prepare(r.info, supervise.Output{})
	mustMatch(t, err, "output is not kept")
}

func TestCapturedPort(t *testing.T) {
	for _, c := range []struct {
		re, line string
		want     int
		bad      bool
	}{
		{`listening on (\d+)`, "listening on 80", 80, false},
		{`listening`, "listening on 80", 0, false},
		{`(http|https) on (?P<port>\d+)`, "http on 8080", 8080, false},
		{`(http|https) on \d+`, "http on 8080", 0, false},
		{`on (?P<port>\w+)`, "on eighty", 0, true},
		{`on (\d+)`, "on 65536", 0, true},
		{`on (\d+)`, "on 0", 0, true},
		{`on (\d+)`, "on 99999999999999999999999", 0, false},
		{`ready( on (?P<port>\d+))?`, "ready", 0, false},
	} {
		re := regexp.MustCompile(c.re)
		got, err := capturedPort(re, re.FindStringSubmatch(c.line))
		if got != c.want || (err != nil) != c.bad {
			t.Errorf("capturedPort(%q, %q) = %d, %v, want %d, error %v", c.re, c.line, got, err, c.want, c.bad)
		}
	}
}

// give starts a main process that has the write end of the fd rule's pipe as its
// standard output.
func (r *rig) give(argv ...string) *linuxtest.Process {
	files := r.attempt.Files()
	return r.start(files[len(files)-1], argv...)
}

func TestFDNewlineMeansReady(t *testing.T) {
	linuxtest.NoLeaks(t)
	r := place(t)
	r.prepare(Rules{FD: 3}, Deps{}, supervise.Output{})
	r.give(linuxtest.Helper(t, "ready", "50ms")...)
	r.ready()
	if got := r.env("PITVISOR_READY_FD"); got != "3" {
		t.Errorf("PITVISOR_READY_FD = %q, want 3", got)
	}
}

func TestFDWithoutNewlineIsNotReady(t *testing.T) {
	r := place(t)
	r.prepare(Rules{FD: 3}, Deps{}, supervise.Output{})
	if _, err := r.attempt.Files()[0].WriteString("almost"); err != nil {
		t.Fatal(err)
	}
	r.give(linuxtest.Helper(t, "sit")...)
	r.notReady(200*time.Millisecond, `newline on fd 3: no newline yet, the last bytes are "almost"`)
}

func TestFDClosedWithoutNewlineFails(t *testing.T) {
	linuxtest.NoLeaks(t)
	r := place(t)
	r.prepare(Rules{FD: 3}, Deps{}, supervise.Output{})
	r.give(linuxtest.Helper(t, "close-fds")...)
	r.fails("the worker closed it without writing one")
}

func TestFDHigherThanThreeIsPadded(t *testing.T) {
	r := place(t)
	r.prepare(Rules{FD: 6}, Deps{}, supervise.Output{})
	files := r.attempt.Files()
	if len(files) != 4 {
		t.Fatalf("Files gave %d, want 4 for fd 3 to 6", len(files))
	}
	for _, f := range files[:3] {
		if f.Name() != os.DevNull {
			t.Errorf("a file below fd 6 is %s, want %s", f.Name(), os.DevNull)
		}
	}
}

// Every rule returns at once when its context ends, and says so by its cause.
func TestCancelEndsEveryRule(t *testing.T) {
	stopped := errors.New("the pool is stopped")
	for name, rules := range map[string]Rules{
		"stdout": {Stdout: listening},
		"file":   {FileAuto: true},
		"fd":     {FD: 3},
		"notify": {Notify: true},
		"tcp":    {TCP: "127.0.0.1:1"},
		"http":   {HTTP: "http://127.0.0.1:1/"},
		"grpc":   {GRPC: "127.0.0.1:1"},
		"exec":   {Exec: []string{"/bin/sh", "-c", "sleep 100"}},
	} {
		t.Run(name, func(t *testing.T) {
			linuxtest.NoLeaks(t)
			r, out := place(t), newPrinted(t)
			server := serveNotify(t)
			rules.Interval = time.Hour // the first pause is over 3 minutes
			r.prepare(rules, Deps{RuntimeDir: t.TempDir(), Notify: server}, out.output())
			if name == "fd" {
				r.give(linuxtest.Helper(t, "sit")...)
			} else {
				r.start(nil, linuxtest.Helper(t, "sit")...)
			}
			ctx, cancel := context.WithCancelCause(context.Background())
			var at time.Time
			timer := time.AfterFunc(100*time.Millisecond, func() { at = time.Now(); cancel(stopped) })
			defer timer.Stop()
			_, err := r.attempt.Wait(ctx, r.main, r.leaf)
			if late := time.Since(at); late > 3*time.Second {
				t.Errorf("Wait returned %v after the end of its context", late)
			}
			if !errors.Is(err, stopped) {
				t.Errorf("Wait = %v, want the cause %v in it", err, stopped)
			}
		})
	}
}

func TestStoppedProcessIsNotReady(t *testing.T) {
	linuxtest.NoLeaks(t)
	r, out := place(t), newPrinted(t)
	r.prepare(Rules{Stdout: regexp.MustCompile("stopping")}, Deps{}, out.output())
	p := r.start(out.write, linuxtest.Helper(t, "stop-self")...)
	out.waitLine(t, "stopping")
	linuxtest.Wait(t, 10*time.Second, func() (bool, string) {
		pr, err := procfs.OpenHeld(r.main)
		if err != nil {
			return false, err.Error()
		}
		defer pr.Close()
		state, err := pr.State()
		return state == 'T', fmt.Sprintf("in state %c, %v", state, err)
	})
	r.notReady(500*time.Millisecond, `running process: process \d+:\S+ is stopped`)
	if err := p.Signal(unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	r.ready()
}

func TestH29ZombieIsNotReady(t *testing.T) {
	linuxtest.NoLeaks(t)
	r, out := place(t), newPrinted(t)
	r.prepare(Rules{Stdout: regexp.MustCompile("ready")}, Deps{}, out.output())
	p := r.start(out.write, linuxtest.Helper(t, "ready-die", "0s", "3")...)
	out.waitLine(t, "ready")
	linuxtest.Wait(t, 10*time.Second, func() (bool, string) { return !p.Alive(), "not a zombie yet" })
	r.fails("running process: the main process has exited")
}

func TestTrackLeafLivesOnInItsDaemon(t *testing.T) {
	linuxtest.NoLeaks(t)
	for _, track := range []supervise.Track{supervise.TrackMain, supervise.TrackLeaf} {
		r, out := place(t), newPrinted(t)
		linuxtest.AllowLeak(t) // the daemon
		r.prepare(Rules{Stdout: regexp.MustCompile("ready")}, Deps{Track: track}, out.output())
		p := r.start(out.write, linuxtest.Helper(t, "double-fork")...)
		p.Wait(t, 10*time.Second)
		if track == supervise.TrackLeaf {
			r.ready()
			continue
		}
		r.fails("the main process has exited")
	}
}
