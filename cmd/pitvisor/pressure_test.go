package main

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/api"
	"github.com/pitvisor/pitvisor/linuxtest"
)

// needTriggers skips where nobody lets us watch the pressure of a cgroup.
func needTriggers(t *testing.T) {
	t.Helper()
	f, err := os.OpenFile(linuxtest.Cgroup(t)+"/cpu.pressure", os.O_RDWR, 0)
	if err == nil {
		defer func() { _ = f.Close() }() // takes the trigger back
		_, err = f.WriteString("some 300000 2000000\x00")
	}
	if err != nil {
		linuxtest.Skip(t, "needs triggers of the kernel's pressure stall information")
	}
}

// busy is a pool whose workers fight for one processor, and are frozen for it.
const busy = `
[run.pressure]
where = "run"
cpu = 30
for = "2s"
[pool.busy]
command = ["/bin/sh", "-c", "exec taskset 1 /bin/sh -c 'while :; do :; done'"]
size = 3
[pool.busy.pressure]
action = "freeze"
where = "run"
cpu = 30
for = "2s"
calm_for = "10min"
`

// What is frozen because programs wait is shown everywhere, can be thawed by hand, and
// does not outlive its supervisor.
func TestFrozenForPressure(t *testing.T) {
	needTriggers(t)
	w := newWorld(t)
	adoptOrphans(t)
	u := w.up(w.config(busy))
	u.waitLog("frozen", func(lines []logLine) bool {
		for _, l := range lines {
			if l.Worker == "busy" && strings.HasPrefix(l.Msg, "workers are frozen: some programs of the run waited for cpu ") {
				return true
			}
		}
		return false
	})
	frozen := func() (n int) {
		for _, worker := range w.workers("running") {
			if worker.Frozen {
				n++
			}
		}
		return n
	}
	linuxtest.Wait(t, patience, func() (bool, string) { return frozen() == 3, "not all are frozen" })

	status, _, _ := w.tool("status")
	if !strings.Contains(status, "up (frozen)") || !strings.Contains(status, "frozen: some programs of the run waited for cpu ") {
		t.Errorf("status:\n%s", status)
	}
	if tree, _, _ := w.tool("ps"); strings.Count(tree, "up (frozen)") != 3 || !strings.Contains(tree, "frozen: some programs of the run") {
		t.Errorf("ps:\n%s", tree)
	}
	text, _, _ := w.tool("status", "--json")
	var s api.Status
	if err := json.Unmarshal([]byte(text), &s); err != nil || s.Pools[0].Frozen != 3 || !s.Workers[0].Frozen || s.Pools[0].Pressure == "" {
		t.Errorf("status: %v\n%s", err, text)
	}
	events, _, _ := w.tool("events", "--json")
	if !strings.Contains(events, `"kind":"pressure","slot":-1`) || !strings.Contains(events, `"pressure":{"where":"run","resource":"cpu","kind":"some","share":`) {
		t.Errorf("events:\n%s", events)
	}
	if _, said, code := w.tool("thaw", "busy/1"); code != exitOK {
		t.Errorf("thaw: exit code %d\n%s", code, said)
	}
	linuxtest.Wait(t, patience, func() (bool, string) { return frozen() == 2, "busy/1 is not thawed" })

	u.kill()
	reapAll()
	if tree, _, _ := w.tool("ps"); strings.Count(tree, "up (frozen)") != 2 || !strings.Contains(tree, "stale") {
		t.Errorf("ps after the crash:\n%s", tree)
	}
	if _, said, code := w.tool("sweep"); code != exitOK {
		t.Errorf("sweep: exit code %d\n%s", code, said)
	}
	w.assertEmpty()
}

// What concerns all pools is changed by a reload, and costs no worker its life.
func TestReloadRun(t *testing.T) {
	needTriggers(t)
	w := newWorld(t)
	path := w.config(sleepers("web", 1))
	u := w.up(path)
	u.ready("web/0")
	w.config(sleepers("web", 1) + "[run.pressure]\nmemory = 50\nwhere = \"run\"\n")
	if out, said, code := w.tool("reload"); code != exitOK || out != "[run]: changed\n" {
		t.Errorf("reload = %d, %q, %s", code, out, said)
	}
	w.config(sleepers("web", 1) + "[run]\nlimits.memory.maxx = 1\n")
	if _, said, code := w.tool("reload"); code == exitOK || !strings.Contains(said, "maxx") {
		t.Errorf("reload = %d, %s", code, said)
	}
	w.config(sleepers("web", 1))
	if out, said, code := w.tool("reload"); code != exitOK || out != "[run]: changed\n" {
		t.Errorf("reload = %d, %q, %s", code, out, said)
	}
	if got := w.workers("running")["web/0"]; got.Start != 1 {
		t.Errorf("worker %+v, want its first start", got)
	}
	u.send(unix.SIGTERM)
	if code := u.wait(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
}
