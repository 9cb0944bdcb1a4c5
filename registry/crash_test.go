package registry

import (
	"os"
	"strconv"
	"testing"

	"github.com/pitvisor/pitvisor/linuxtest"
)

// TestH08CrashAnywhereLeavesNothingAfterASweep kills an owner before each system call that makes,
// locks, describes, fills, kills or removes a run. Whatever the moment, what it leaves is known to the
// next sweep, and nothing else is.
func TestH08CrashAnywhereLeavesNothingAfterASweep(t *testing.T) {
	r := newRoot(t)
	command := func() linuxtest.Command {
		args := append([]string{r.Root().Path(), strconv.Itoa(linuxtest.Times(2, 1)), "1"}, sleeper...)
		return linuxtest.Command{Args: linuxtest.Helper(t, "owner", args...), Stderr: os.Stderr}
	}
	points := 0
	for crash := range linuxtest.CrashPoints(t, command,
		"mkdirat", "flock", "fsetxattr", "clone3", "execve", "unlinkat") {
		points++
		var alive int
		for _, v := range mustList(t, r) {
			alive += v.Processes
			if v.State != RunStale && v.State != RunHalfMade {
				t.Errorf("%s: run is %s, want stale or half-made", crash, v.State)
			}
			if v.State == RunHalfMade && v.Processes != 0 {
				t.Errorf("%s: %d processes in a half-made run", crash, v.Processes)
			}
		}
		got := mustSweep(t, r, SweepOptions{})
		if got.Processes != alive || got.Alive+got.Blocked+got.Foreign+got.Skipped != 0 {
			t.Errorf("%s: Sweep() = %+v, want %d processes", crash, got, alive)
		}
		if left := runDirs(t, r); len(left) != 0 {
			t.Errorf("%s: left %v", crash, left)
		}
	}
	if want := linuxtest.Times(12, 6); points < want {
		t.Errorf("%d crash points, want at least %d", points, want)
	}
	t.Logf("%d crash points", points)
}
