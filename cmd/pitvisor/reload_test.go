package main

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/api"

	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/registry"
)

// said waits for a line of the log with the text, the nth from 1.
func (u *upProc) said(text string, n int) {
	u.tb.Helper()
	u.waitLog(text, func(log []logLine) bool {
		found := 0
		for _, l := range log {
			found += strings.Count(l.Msg, text)
		}
		return found >= n
	})
}

// pids are the processes of all workers, by name.
func (w *world) pids() map[string]int {
	all := map[string]int{}
	for name, v := range w.workers(registry.RunRunning) {
		all[name] = v.Process.PID
	}
	return all
}

// await waits until exactly these workers are there, with the same process where same
// says so.
func (w *world) await(same map[string]int, workers ...string) {
	w.tb.Helper()
	linuxtest.Wait(w.tb, patience, func() (bool, string) {
		now := w.pids()
		for _, name := range workers {
			if now[name] == 0 {
				return false, name + " is not there"
			}
		}
		return len(now) == len(workers), "there are others"
	})
	now := w.pids()
	for name, pid := range same {
		if now[name] != pid {
			w.tb.Errorf("%s is process %d, want %d as before", name, now[name], pid)
		}
	}
}

// TestHangupReloads: HUP changes what has changed, and nothing else; a bad file touches
// nothing.
func TestHangupReloads(t *testing.T) {
	w := newWorld(t)
	path := w.config(sleepers("web", 2) + sleepers("api", 1) + sleepers("old", 1))
	u := w.up(path)
	u.ready("web/0", "web/1", "api/0", "old/0")
	before := w.pids()

	w.config(sleepers("web", 2) + "comand = 1\n")
	u.send(unix.SIGHUP)
	u.said("the configuration was not reloaded, everything is as before:", 1)
	u.said(`unknown key "comand"`, 1)
	w.await(before, "web/0", "web/1", "api/0", "old/0")

	w.config(sleepers("web", 3) + sleepers("api", 1) + sleepers("db", 1))
	u.send(unix.SIGHUP)
	u.said("configuration reloaded: added db; removed old; scaled web", 1)
	u.ready("web/2", "db/0")
	delete(before, "old/0")
	w.await(before, "web/0", "web/1", "web/2", "api/0", "db/0")
	u.said("pool removed", 1)

	before = w.pids()
	w.config(sleepers("web", 3) + sleepers("db", 1) + strings.Replace(sleepers("api", 1), "1000", "1001", 1))
	u.send(unix.SIGHUP)
	u.said("configuration reloaded: replacing the workers of api", 1)
	u.said("has replaced its workers", 1)
	old := before["api/0"]
	delete(before, "api/0")
	w.await(before, "web/0", "web/1", "web/2", "api/0", "db/0")
	if now := w.pids()["api/0"]; now == old {
		t.Errorf("api/0 is still process %d", now)
	}

	before = w.pids()
	w.config(sleepers("web", 3) + "stop_grace = \"3s\"\n" + sleepers("db", 1) + strings.Replace(sleepers("api", 1), "1000", "1001", 1) + "[log]\nlevel = \"debug\"\n")
	u.send(unix.SIGHUP)
	u.said("configuration reloaded: changed without replacing workers web", 1)
	u.said("these settings hold from the next start of pitvisor on", 1)
	u.send(unix.SIGHUP)
	u.said("configuration reloaded: no pool has changed", 1)
	w.await(before, "web/0", "web/1", "web/2", "api/0", "db/0")

	u.send(unix.SIGTERM)
	if code := u.wait(); code != exitOK {
		t.Errorf("exit code = %d, want %d", code, exitOK)
	}
	w.assertEmpty()
}

// TestScaleIsAskedForOnce: the log has a command once, and of several pools it is said which
// have another size by now.
func TestScaleIsAskedForOnce(t *testing.T) {
	w := newWorld(t)
	u := w.up(w.config(sleepers("web", 1)))
	u.ready("web/0")
	if _, stderr, code := w.tool("scale", "web=3"); code != exitOK {
		t.Fatalf("scale = %d\n%s", code, stderr)
	}
	u.said("api: scale to 3", 1)
	if _, stderr, code := w.tool("scale", "web=2", "nope=1"); code != exitFailed || !strings.Contains(stderr, `there is no pool "nope"; scaled before that: web`) {
		t.Errorf("scale of a pool that is not there = %d\n%s", code, stderr)
	}
	u.send(unix.SIGTERM)
	if code := u.wait(); code != exitOK {
		t.Errorf("exit code = %d, want %d", code, exitOK)
	}
	if n := strings.Count(strings.Join(u.logText(), "\n"), "api: scale to 3"); n != 1 {
		t.Errorf("the scale to 3 is told %d times, want once", n)
	}
}

// TestReloadThatDoesNotBecomeReady is told, and the old ones serve on: `status` calls that well,
// and shows that the rollout goes on, and why it has stopped until a reload asks for what is there.
func TestReloadThatDoesNotBecomeReady(t *testing.T) {
	w := newWorld(t)
	path := w.config(sleepers("web", 2))
	u := w.up(path)
	u.ready("web/0", "web/1")
	before := w.pids()
	w.config(sleepers("web", 2) + "ready = { fd = 3 }\n")
	u.send(unix.SIGHUP)
	w.waitFor("web/2", func(x *api.Worker) bool { return x.Surge && x.PID != 0 })
	w.well("reload: 2 left")
	w.config(strings.Replace(sleepers("web", 2), `["/bin/sleep", "1000"]`, `["/bin/sh", "-c", "echo no database >&2; exit 3"]`, 1) +
		"backoff = { min = \"1ms\" }\nready = { fd = 3 }\n")
	u.send(unix.SIGHUP)
	u.said("stops replacing its workers, the others serve on: web/2 did not become ready: readiness: exited (exit 3)", 1)
	w.await(before, "web/0", "web/1")
	for _, size := range []string{"web=3", "web=2"} {
		if _, stderr, code := w.tool("scale", size); code != exitOK {
			t.Fatalf("scale %s = %d\n%s", size, code, stderr)
		}
	}
	w.await(before, "web/0", "web/1")
	w.well("rollout 2 of pool web stopped: web/2 did not become ready: readiness: exited (exit 3)")
	w.config(sleepers("web", 2))
	u.send(unix.SIGHUP)
	u.said("configuration reloaded: no pool has changed", 1)
	if out := w.well("2/2"); strings.Contains(out, "rollout") {
		t.Errorf("after a reload that asks for what is there: status says\n%s", out)
	}
	w.await(before, "web/0", "web/1")
	u.send(unix.SIGTERM)
	if code := u.wait(); code != exitOK {
		t.Errorf("exit code = %d, want %d: nobody of those who are there has failed", code, exitOK)
	}
	w.assertEmpty()
}

// well asks for the status, which is to say that all is well, and want.
func (w *world) well(want string) string {
	w.tb.Helper()
	out, stderr, code := w.tool("status")
	if code != exitOK || !strings.Contains(out, want) {
		w.tb.Errorf("status = %d\n%s%swant %d and %q", code, out, stderr, exitOK, want)
	}
	return out
}

// TestManyHangups: a hundred reloads while workers crash, and all is as it should be.
func TestManyHangups(t *testing.T) {
	w := newWorld(t)
	path := w.config(sleepers("web", 2))
	u := w.up(path)
	u.ready("web/0", "web/1")
	for i := range 100 {
		text := sleepers("web", 1+i%4)
		if i%3 == 0 {
			text = strings.Replace(text, "1000", "100"+string(rune('0'+i%10)), 1)
		}
		if i%5 == 0 {
			text += sleepers("api", 1+i%2)
		}
		w.config(text)
		u.send(unix.SIGHUP)
	}
	w.config(sleepers("web", 2) + sleepers("last", 1))
	u.send(unix.SIGHUP)
	u.ready("last/0")
	w.await(nil, "web/0", "web/1", "last/0")
	u.send(unix.SIGTERM)
	if code := u.wait(); code != exitOK {
		t.Errorf("exit code = %d, want %d", code, exitOK)
	}
	w.assertEmpty()
}
