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

// TestLeavingCountsForNothing: at the end of a rolling restart the further worker goes. However
// long that takes, all is well, and `status` says so; while one in its place is not ready, it
// does not.
func TestLeavingCountsForNothing(t *testing.T) {
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
	if out, _, code := w.tool("status"); code != exitNotRunning || !strings.Contains(out, "stopping (to be replaced)") {
		t.Errorf("while web/0 is replaced: status = %d\n%swant %d", code, out, exitNotRunning)
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
