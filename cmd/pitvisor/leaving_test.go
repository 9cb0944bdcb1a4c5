package main

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/api"
)

// waitFor waits until a worker pleases, and returns the status then.
func (w *world) waitFor(worker string, pleases func(*api.Worker) bool) *api.Status {
	w.tb.Helper()
	s, err := w.client().WaitFor(bounded(w.tb), func(s *api.Status) bool {
		for i := range s.Workers {
			if s.Workers[i].Worker == worker {
				return pleases(&s.Workers[i])
			}
		}
		return false
	})
	if err != nil {
		w.tb.Fatalf("wait for %s: %v, status %+v", worker, err, s)
	}
	return s
}

// TestStatusInARollout: a rolling restart starts a further worker, replaces the others, and lets
// the further one go. However long that takes, as many are ready as there are to be, and
// `status` says so; of one that is just being replaced, asked for alone, it does not.
func TestStatusInARollout(t *testing.T) {
	w := newWorld(t)
	word := w.fifo("go")
	u := w.up(w.config(fmt.Sprintf(`[pool.web]
command = ["/bin/sh", "-c", "trap 'read word < %s; exit 0' TERM; echo here; while :; do sleep 1000 & wait; done"]
ready.stdout = "here"
stop_grace = "1h"
rollout = { max_surge = 1, max_unavailable = 0 }
`, word.Name())))
	u.ready("web/0")
	if _, stderr, code := w.tool("restart", "--no-wait", "web"); code != exitOK {
		t.Fatalf("restart = %d\n%s", code, stderr)
	}
	stopping := func(x *api.Worker) bool { return x.State == api.StateStopping }

	w.waitFor("web/0", stopping)
	for who, want := range map[string]int{"web": exitOK, "web/0": exitNotRunning, "web/1": exitOK} {
		out, _, code := w.tool("status", who)
		if code != want || who == "web" && !strings.Contains(out, "stopping (to be replaced)") {
			t.Errorf("while web/0 is replaced: status %s = %d\n%swant %d", who, code, out, want)
		}
	}
	letGo(t, word)
	s := w.waitFor("web/1", stopping)
	for i := range s.Workers {
		if x := &s.Workers[i]; x.Ready != (x.Worker == "web/0") || x.Leaving != (x.Worker == "web/1") {
			t.Errorf("while web/1 leaves: %+v, want web/0 ready and web/1 leaving", x)
		}
	}
	for _, who := range [][]string{nil, {"web"}, {"web/1"}, {"web/0"}} {
		if out, stderr, code := w.tool("status", who...); code != exitOK || len(who) == 0 && !strings.Contains(out, "stopping (leaving)") {
			t.Errorf("while web/1 leaves: status %v = %d\n%s%swant %d", who, code, out, stderr, exitOK)
		}
	}
	letGo(t, word)
	u.said("has replaced its workers", 1)
	w.await(nil, "web/0")

	if _, stderr, code := w.tool("scale", "--no-wait", "web=0"); code != exitOK {
		t.Fatalf("scale = %d\n%s", code, stderr)
	}
	w.waitFor("web/0", stopping)
	if out, _, code := w.tool("status"); code != exitOK || !strings.Contains(out, "stopping (leaving)") {
		t.Errorf("while the last one leaves: status = %d\n%swant %d", code, out, exitOK)
	}
	letGo(t, word)
	w.await(nil)
	u.send(unix.SIGTERM)
	if code := u.wait(); code != exitOK {
		t.Errorf("exit code = %d, want %d", code, exitOK)
	}
	w.assertEmpty()
}

// TestShortOfWorkers: a further worker stands in for one that is being replaced in its own pool,
// and for nobody else.
func TestShortOfWorkers(t *testing.T) {
	ready, further := api.Worker{Pool: "web", Ready: true}, api.Worker{Pool: "web", Ready: true, Surge: true}
	moving, coming := api.Worker{Pool: "web", Replaced: true}, api.Worker{Pool: "web", Surge: true}
	for _, c := range []struct {
		why     string
		workers []api.Worker
		want    bool
	}{
		{"all ready", []api.Worker{ready, ready}, false},
		{"one completed", []api.Worker{{State: api.StateCompleted}}, false},
		{"a further one not ready yet", []api.Worker{ready, coming}, false},
		{"one stands in", []api.Worker{moving, ready, further}, false},
		{"one replaced without", []api.Worker{moving, ready}, true},
		{"two replaced, one stands in", []api.Worker{moving, moving, further}, true},
		{"of another pool", []api.Worker{moving, {Pool: "api", Ready: true, Surge: true}}, true},
		{"one given up", []api.Worker{{Pool: "web", State: api.StateFailed}, ready, further}, true},
		{"one stopped by command", []api.Worker{{Pool: "web", State: api.StateDown, Stopped: true}, further}, true},
	} {
		if got := short(c.workers); got != c.want {
			t.Errorf("%s: short = %v, want %v", c.why, got, c.want)
		}
	}
}
