package linuxtest

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TreeGone fails the test if, after the given time, a process still lives in a
// cgroup or below it, whatever session, parent or descriptors it has, or if one
// has exited and is not reaped. Each is named. A cgroup that was removed counts as
// empty.
//
// Orphans are reaped by init, which may take seconds where init is a container's:
// give TreeGone that time.
func TreeGone(tb testing.TB, dir string, within time.Duration) {
	tb.Helper()
	var alive, zombies []Proc
	poll(within, func() (bool, string) {
		alive, zombies = Members(dir), zombiesOf(dir)
		return len(alive)+len(zombies) == 0, ""
	})
	for _, p := range alive {
		tb.Errorf("alive after %v: process %s", within, p)
	}
	for _, p := range zombies {
		tb.Errorf("exited and not reaped after %v: process %s", within, p)
	}
}

// NoProcessesLeft is [TreeGone] at once, for living processes only: zero and not
// "soon zero" is what a finished stop promises.
func NoProcessesLeft(tb testing.TB, dir string) {
	tb.Helper()
	for _, p := range Members(dir) {
		tb.Errorf("left: process %s", p)
	}
}

// CgroupGone fails the test if the directory still exists after the given time.
func CgroupGone(tb testing.TB, dir string, within time.Duration) {
	tb.Helper()
	ok, _ := poll(within, func() (bool, string) { return !pathExists(dir), "" })
	if !ok {
		tb.Errorf("still there after %v: cgroup %s with %v and cgroups %v", within, dir, Members(dir), groupsBelow(dir))
	}
}

// StopWithin calls stop and fails the test if it returns an error, takes longer
// than d, or returns while a process still lives below the cgroup: stopped means
// that nothing is left, and not that it was asked to leave.
func StopWithin(tb testing.TB, d time.Duration, dir string, stop func() error) {
	tb.Helper()
	start := time.Now()
	err := stop()
	took := time.Since(start)
	NoProcessesLeft(tb, dir)
	if err != nil {
		tb.Errorf("stop: %v", err)
	}
	if took > d {
		tb.Errorf("stop took %v, want at most %v", took, d)
	}
}

// OwnerDeath ends an owner in some way (SIGKILL, a closed standard input, a closed
// socket) and fails the test if anything lives below the cgroup after the given
// time.
func OwnerDeath(tb testing.TB, how string, end func() error, dir string, within time.Duration) {
	tb.Helper()
	if len(Members(dir)) == 0 {
		tb.Fatalf("owner death by %s: no process in %s that could survive it", how, dir)
	}
	if err := end(); err != nil {
		tb.Fatalf("end the owner by %s: %v", how, err)
	}
	TreeGone(tb, dir, within)
}

// StoppedBy fails the test if a process was not ended by this signal.
func StoppedBy(tb testing.TB, got unix.WaitStatus, want unix.Signal) {
	tb.Helper()
	if !got.Signaled() || got.Signal() != want {
		tb.Errorf("%s, want signal %d (%v)", statusText(got), int(want), want)
	}
}

// ExitCause fails the test if a process did not exit by itself with this code. A
// death by SIGTERM is not an exit with 143.
func ExitCause(tb testing.TB, got unix.WaitStatus, want int) {
	tb.Helper()
	if !got.Exited() || got.ExitStatus() != want {
		tb.Errorf("%s, want exit with %d", statusText(got), want)
	}
}

// LimitHit fails the test if a counter of a cgroup's event file, such as
// memory.events oom_kill or pids.events max, is 0.
func LimitHit(tb testing.TB, dir, file, counter string) {
	tb.Helper()
	text, err := readGroupFile(dir, file)
	if err != nil {
		tb.Fatal(err)
	}
	for line := range strings.Lines(text) {
		name, count, _ := strings.Cut(strings.TrimSpace(line), " ")
		if name != counter {
			continue
		}
		if count == "0" {
			tb.Errorf("%s %s in %s is 0: the limit was not hit", file, counter, dir)
		}
		return
	}
	tb.Errorf("%s in %s has no counter %s: %q", file, dir, counter, text)
}
