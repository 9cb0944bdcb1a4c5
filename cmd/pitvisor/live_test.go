package main

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestUnwellWorkersAreReplaced is H-47: the whole way from the configuration.
func TestUnwellWorkersAreReplaced(t *testing.T) {
	w := newWorld(t)
	mark := w.dir + "/sick"
	live := "[pool.web.live]\nexec = [\"/bin/sh\", \"-c\", \"echo has {pool}/{slot} a cold; ! rm " + mark + " 2>/dev/null\"]\nperiod = \"20ms\"\nfailures = 1\n"
	u := w.up(w.config(sleepers("web", 1) + live))
	u.ready("web/0")
	before := w.pids()
	if err := os.WriteFile(mark, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	u.said("is not well, and is restarted: exec /bin/sh -c", 1)
	u.said("exit 1: has web/0 a cold", 1)
	u.waitLog("ready again", func(log []logLine) bool {
		n := 0
		for _, l := range log {
			n += strings.Count(l.Msg, "ready")
		}
		return n >= 2
	})
	if now := w.pids(); now["web/0"] == before["web/0"] || now["web/0"] == 0 {
		t.Errorf("web/0 is process %d, was %d", now["web/0"], before["web/0"])
	}
	u.send(unix.SIGTERM)
	if code := u.wait(); code != exitOK {
		t.Errorf("exit code = %d, want %d", code, exitOK)
	}
	w.assertEmpty()
}
