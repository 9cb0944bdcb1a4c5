package main

import (
	"testing"

	"github.com/pitvisor/pitvisor/linuxtest"
)

// TestCrashGivesTheTerminalBack: a shell at a terminal, in a worker of a supervisor that is
// killed. The caller says so and leaves its terminal as it was; the shell and what runs in it
// are gone with the worker.
func TestCrashGivesTheTerminalBack(t *testing.T) {
	linuxtest.NeedClone3(t)
	w := newWorld(t)
	config := w.config(sleepers("web", 1))
	u := w.up(config)
	u.ready("web/0")
	talk := w.shell(t, "-t")
	talk.keys("trap '' HUP; sh -c 'echo go\"\"ing; exec sleep 1000'\r")
	talk.until("\ngoing\r\n")
	left := u.crash(w)
	if len(left.members) != 3 {
		t.Errorf("left are %v, want the worker, the shell and what runs in it", left.members)
	}
	talk.until("pitvisor: the supervisor has ended")
	talk.ends(exitSelf)
	next := w.up(config)
	next.ready("web/0")
	left.isGone()
	next.endsClean(w)
}
