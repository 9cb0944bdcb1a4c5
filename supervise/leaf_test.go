package supervise

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/linuxtest"
)

// daemon is a pool whose command leaves a daemon behind and exits.
func daemon(name string, size int) PoolSpec {
	p := sh(name, size, "setsid sleep 600 & exit 0")
	p.Track = TrackLeaf
	return p
}

// TestH05DaemonisedWorkerIsTracked: the end of the wrapper is not that of the
// worker; the end of the daemon is.
func TestH05DaemonisedWorkerIsTracked(t *testing.T) {
	r := begin(t, daemon("d", 3))
	r.await("ready", 3, kind(EventReady))
	var pids []int
	daemonised := func() {
		linuxtest.Wait(t, patience, func() (bool, string) {
			for _, worker := range []string{"d/0", "d/2", "d/1"} {
				pids, _ = r.members(worker)
				if len(pids) != 1 || statusField(pids[0], "Name") != "sleep" {
					return false, "the wrapper of " + worker + " is still there"
				}
			}
			return true, ""
		})
	}
	daemonised()
	linuxtest.StableFor(t, 300*time.Millisecond, func() []linuxtest.Identity {
		return linuxtest.Identities(r.run.Dir().Path())
	})
	if got := r.all(kind(EventExited)); len(got) > 0 {
		t.Errorf("%s: want nothing as long as the daemon lives", eventText(got[0]))
	}
	r.kill(pids[0], unix.SIGKILL)
	exited := r.await("exited", 1, kind(EventExited))[0]
	if exited.Worker.Slot != 1 || exited.Exit != nil || exited.Err == nil {
		t.Errorf("%s: want an end of d/1 that nobody knows the code of", eventText(exited))
	}
	again := r.await("ready again", 2, kind(EventReady, "d/1"))[1]
	if again.Start != 2 {
		t.Errorf("%s: want start 2", eventText(again))
	}
	daemonised() // who is forked while the stop signal is sent around does not get it
	if err := r.halt(); err != nil {
		t.Errorf("Run() = %v, want nil", err)
	}
	for _, e := range r.all(kind(EventStopped)) {
		if e.Escalated {
			t.Errorf("%s: want the daemon to get the stop signal", eventText(e))
		}
	}
}

func TestTrackLeafEnds(t *testing.T) {
	// The wrapper fails: that is the end, whatever it has started.
	failed := sh("failed", 1, "sleep 600 & exit 3")
	failed.Track, failed.Restart = TrackLeaf, RestartOnFailure
	failed.FailureLimit = 2
	// Nothing is left behind: an ordinary end.
	plain := sh("plain", 1, "sleep 0.1; exit 0")
	plain.Track, plain.Restart = TrackLeaf, RestartOnFailure
	// The daemon ends: nobody knows how, so it is a failure.
	short := sh("short", 1, "setsid sleep 0.2 & exit 0")
	short.Track, short.Restart = TrackLeaf, RestartNever
	r := begin(t, failed, plain, short)
	var pools *PoolError
	if err := r.wait(); !errors.As(err, &pools) || len(pools.Workers) != 2 {
		t.Errorf("Run() = %v, want a PoolError about failed/0 and short/0", err)
	}
	for _, w := range r.Status() {
		want := map[string]State{"failed": StateFailed, "plain": StateCompleted, "short": StateFailed}[w.Worker.Pool]
		if w.State != want {
			t.Errorf("%v is %v, want %v", w.Worker, w.State, want)
		}
	}
	if got := r.all(kind(EventExited, "failed/0")); len(got) != 2 || got[0].Exit == nil || got[0].Exit.Code != 3 || got[0].Leftover != 1 {
		t.Errorf("ends of failed/0 = %v, want two with exit 3 and one process left", got)
	}
}

// TestTrackLeafDeafDaemon: one that ignores the signal is killed with its leaf.
func TestTrackLeafDeafDaemon(t *testing.T) {
	p := sh("deaf", 2, `setsid sh -c 'trap "" TERM; while :; do sleep 1; done' & exit 0`)
	p.Track = TrackLeaf
	p.Stop.Grace = 300 * time.Millisecond
	p.Readiness = populous(2)
	r := begin(t, p)
	r.await("ready", 2, kind(EventReady))
	linuxtest.Wait(t, patience, func() (bool, string) {
		for _, w := range []string{"deaf/0", "deaf/1"} {
			pids, _ := r.members(w)
			if !slices.ContainsFunc(pids, func(pid int) bool { return strings.Contains(statusField(pid, "SigIgn"), "4") }) {
				return false, w + " does not ignore SIGTERM yet"
			}
		}
		return true, ""
	})
	linuxtest.StopWithin(t, 10*time.Second, r.registry.Root().Path(), r.halt)
	for _, e := range r.all(kind(EventStopped)) {
		if !e.Escalated {
			t.Errorf("%s: want an escalation", eventText(e))
		}
	}
}
