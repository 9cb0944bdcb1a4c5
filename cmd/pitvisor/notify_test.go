package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/api"
	"github.com/pitvisor/pitvisor/linuxtest"
)

// talker is a pool of one Python worker that talks by sd_notify.
func talker(t *testing.T, more, do string, args ...string) string {
	t.Helper()
	linuxtest.NeedCommand(t, "python3")
	script, err := filepath.Abs("testdata/notify.py")
	if err != nil {
		t.Fatal(err)
	}
	return "[pool.web]\ncommand = [" + quoteAll(append([]string{"python3", script, do}, args...)) + "]\nready.notify = true\n" + more
}

// worker asks how a worker is.
func (w *world) worker(name string) api.Worker {
	w.tb.Helper()
	out, stderr, code := w.tool("inspect", "--json", name)
	var in api.Inspection
	if err := json.Unmarshal([]byte(out), &in); err != nil || code != exitOK {
		w.tb.Fatalf("inspect = %d, %v\n%s%s", code, err, out, stderr)
	}
	return in.Worker
}

func (u *upProc) times(worker, msg string) func([]logLine) int {
	return func(log []logLine) int {
		n := 0
		for _, l := range log {
			if l.Worker == worker && strings.HasPrefix(l.Msg, msg) {
				n++
			}
		}
		return n
	}
}

func (u *upProc) readyAgain(worker string, n int) {
	u.tb.Helper()
	count := u.times(worker, "ready")
	u.waitLog("ready again", func(log []logLine) bool { return count(log) >= n })
}

// TestCountBySdNotify: the whole way from a worker that counts to the one in its place.
func TestCountBySdNotify(t *testing.T) {
	w := newWorld(t)
	done := filepath.Join(w.dir, "done")
	u := w.up(w.config(talker(t, "recycle.count = 1000\n", "count", done)))
	u.ready("web/0")
	first := w.pids()["web/0"]
	if err := os.WriteFile(done, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	u.waitLog("is recycled", func(log []logLine) bool {
		return slices.ContainsFunc(log, func(l logLine) bool {
			return l.Worker == "web/0" && strings.Contains(l.Msg, "is to be replaced: counted 1000, at most 1000 are meant")
		})
	})
	if err := os.Remove(done); err != nil {
		t.Fatal(err)
	}
	u.readyAgain("web/0", 2)
	if now := w.pids()["web/0"]; now == first {
		t.Errorf("web/0 is process %d before and after", now)
	}
	u.send(unix.SIGTERM)
	u.wait()
}

// TestFDStore: what a worker has stored comes back at its next start, and goes when it is
// stopped for good.
func TestFDStore(t *testing.T) {
	w := newWorld(t)
	u := w.up(w.config(talker(t, "fd_store = 2\nrollout = { max_surge = 0, max_unavailable = 1 }\n", "generation")))
	said := func(line string) {
		t.Helper()
		linuxtest.Wait(t, patience, func() (bool, string) {
			return slices.ContainsFunc(u.lines(), func(l string) bool { return strings.HasSuffix(l, line) }), line + " is not printed"
		})
	}
	u.ready("web/0")
	said("generation 1")
	for _, line := range []string{"generation 2", "generation 3"} {
		if _, stderr, code := w.tool("restart", "web"); code != exitOK {
			t.Fatalf("restart = %d\n%s", code, stderr)
		}
		said(line)
	}
	for _, verb := range []string{"stop", "start"} {
		if _, stderr, code := w.tool(verb, "web"); code != exitOK {
			t.Fatalf("%s = %d\n%s", verb, code, stderr)
		}
	}
	linuxtest.Wait(t, patience, func() (bool, string) {
		n := 0
		for _, l := range u.lines() {
			n += strings.Count(l+"\n", "generation 1\n")
		}
		return n == 2, "the store was not emptied by the stop"
	})
	u.send(unix.SIGTERM)
	if code := u.wait(); code != exitOK {
		t.Errorf("exit code = %d, want %d", code, exitOK)
	}
}

// TestMainPID: a daemon that forks and says who goes on is the worker.
func TestMainPID(t *testing.T) {
	w := newWorld(t)
	u := w.up(w.config(talker(t, "", "daemonise")))
	u.ready("web/0")
	u.waitLog("another main process", func(log []logLine) bool { return u.times("web/0", "has another main process")(log) == 1 })
	if now := w.worker("web/0"); now.State != api.StateUp || now.Start != 1 || now.Status != "on my own" || now.PID == 0 {
		t.Errorf("worker %+v, want up in its first start, with its words", now)
	}
	u.send(unix.SIGTERM)
	if code := u.wait(); code != exitOK {
		t.Errorf("exit code = %d, want %d", code, exitOK)
	}
	if loud := u.loud(); len(loud) > 0 {
		t.Errorf("the log has %q, want nothing above info", loud)
	}
	w.assertEmpty()
}

// TestStoppingBySdNotify: an end that was announced is no surprise, and the next start
// follows.
func TestStoppingBySdNotify(t *testing.T) {
	w := newWorld(t)
	leave := filepath.Join(w.dir, "leave")
	u := w.up(w.config(talker(t, "", "leave", leave)))
	u.ready("web/0")
	if err := os.WriteFile(leave, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	u.readyAgain("web/0", 2)
	u.send(unix.SIGTERM)
	u.wait()
	if loud := u.loud(); len(loud) > 0 {
		t.Errorf("the log has %q, want nothing above info", loud)
	}
}

// TestReloadingBySdNotify is shown as long as it lasts.
func TestReloadingBySdNotify(t *testing.T) {
	w := newWorld(t)
	u := w.up(w.config(talker(t, "", "reload")))
	u.ready("web/0")
	if _, stderr, code := w.tool("signal", "HUP", "web/0"); code != exitOK {
		t.Fatalf("signal = %d\n%s", code, stderr)
	}
	linuxtest.Wait(t, patience, func() (bool, string) { return w.worker("web/0").Reloading, "it is not shown" })
	if now := w.worker("web/0"); now.Status != "reading" || now.Errno != 2 || !now.Ready {
		t.Errorf("worker %+v, want its words, its error, and that it is ready", now)
	}
	out, stderr, code := w.tool("status", "web/0")
	if code != exitOK || !strings.Contains(out, "up (reloading)") || !strings.Contains(out, "reading") {
		t.Errorf("status = %d\n%s%s\nwant that it reloads, and its words", code, out, stderr)
	}
	if _, stderr, code := w.tool("signal", "USR1", "web/0"); code != exitOK {
		t.Fatalf("signal = %d\n%s", code, stderr)
	}
	u.waitLog("has reloaded", func(log []logLine) bool { return u.times("web/0", "has reloaded")(log) == 1 })
	if now := w.worker("web/0"); now.Reloading || now.Status != "read" {
		t.Errorf("worker %+v, want that the reload is over", now)
	}
	u.send(unix.SIGTERM)
	u.wait()
}

// TestMoreTimeBySdNotify: a start may take longer than its pool says, if it says so.
func TestMoreTimeBySdNotify(t *testing.T) {
	w := newWorld(t)
	u := w.up(w.config(talker(t, "start_timeout = \"4s\"\nrestart = \"never\"\n", "slow")))
	u.ready("web/0")
	u.send(unix.SIGTERM)
	u.wait()
}
