package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/api"
	"github.com/pitvisor/pitvisor/history"
	"github.com/pitvisor/pitvisor/linuxtest"
)

// deafPool is a pool of workers that only a kill ends.
func deafPool(tb testing.TB, size int, grace string) string {
	tb.Helper()
	command := strings.Join(linuxtest.Helper(tb, "ignore-term"), `", "`)
	return fmt.Sprintf("[pool.s]\ncommand = [\"%s\"]\nsize = %d\nstop_grace = %q\n[pool.s.ready]\nstdout = \".\"\n", command, size, grace)
}

// TestManyKillsAreSummedUp: of many workers that have to be killed some are named,
// and the history knows of each.
func TestManyKillsAreSummedUp(t *testing.T) {
	w := newWorld(t)
	const size = 14
	u := w.up(w.config(deafPool(t, size, "300ms")))
	u.ready(names("s", size)...)
	u.send(unix.SIGTERM)
	if code := u.wait(); code != exitUnclean {
		t.Errorf("exit code = %d, want %d", code, exitUnclean)
	}
	loud := u.loud()
	if len(loud) != 11 || !strings.Contains(loud[9], "and others of the pool") || !strings.Contains(loud[10], "14 killed after their grace") {
		t.Errorf("above info are %d lines, want 9 of workers, one that says that there are more, and the verdict:\n%s", len(loud), strings.Join(loud, "\n"))
	}
	records, err := history.Read(filepath.Join(w.state, "history.db"), 0)
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]int{}
	for _, r := range records {
		kinds[r.Kind+" "+r.Cause]++
	}
	if kinds["stopped killed after its grace"] != size || len(kinds) != 2 {
		t.Errorf("history: %v, want %d of each: ready, stopped because killed after its grace", kinds, size)
	}
}

// TestSecondIntIsToldOnce: not once for each worker.
func TestSecondIntIsToldOnce(t *testing.T) {
	w := newWorld(t)
	u := w.up(w.config(deafPool(t, 3, "1h")))
	u.ready(names("s", 3)...)
	u.send(unix.SIGINT)
	u.waitLog("stopping", func(log []logLine) bool { return log[len(log)-1].Msg == "stopping" })
	u.send(unix.SIGINT)
	u.wait()
	loud := u.loud()
	if len(loud) != 2 || !strings.Contains(loud[0], "second INT") || !strings.Contains(loud[1], "3 killed after their grace") {
		t.Errorf("above info:\n%s\nwant that there was a second INT, and the verdict", strings.Join(loud, "\n"))
	}
}

// TestEarlierKillsAreNotTheEnd: what had to be killed in the middle of a long life does not
// make the end unclean.
func TestEarlierKillsAreNotTheEnd(t *testing.T) {
	w := newWorld(t)
	u := w.up(w.config(deafPool(t, 1, "10ms") + sleepers("web", 1)))
	u.ready("s/0", "web/0")
	if _, stderr, code := w.tool("stop", "s"); code != exitOK {
		t.Fatalf("stop = %d\n%s", code, stderr)
	}
	u.send(unix.SIGTERM)
	if code := u.wait(); code != 0 {
		t.Errorf("exit code = %d, want 0; the log:\n%s", code, strings.Join(u.loud(), "\n"))
	}
}

// TestStopOfWhoWasGivenUp is done: nothing of it runs.
func TestStopOfWhoWasGivenUp(t *testing.T) {
	w := newWorld(t)
	u := w.up(w.config("[pool.bad]\ncommand = [\"/bin/sh\", \"-c\", \"exit 3\"]\nrestart = \"never\"\n" + sleepers("web", 1)))
	u.ready("web/0")
	w.waitFor("bad/0", func(x *api.Worker) bool { return x.State == "failed" })
	if _, stderr, code := w.tool("stop", "*"); code != exitOK {
		t.Errorf("stop = %d, want 0\n%s", code, stderr)
	}
	if _, _, code := w.tool("stop", "bad"); code != exitOK {
		t.Errorf("stop of who was given up = %d, want 0", code)
	}
	u.send(unix.SIGTERM)
	u.wait()
}
