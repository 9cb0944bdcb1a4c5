package main

import (
	"flag"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/linuxtest"
)

// cycles is how often the supervisor is crashed; `make soak` asks for more.
var cycles = flag.Int("cycles", 1000, "crashes of the supervisor in TestCrashCycles, with -short at most 20; if given, in the other tests of crashes, too")

// TestCrashCycles starts a supervisor, kills it at a random instant, and starts
// it again (H-08, H-13, H-26 among others). Whatever the instant, the next one
// leaves no process, no cgroup and no stranger touched, and the state on disk
// does not grow.
func TestCrashCycles(t *testing.T) {
	w := newWorld(t)
	adoptOrphans(t)
	bystander := linuxtest.Start(t, "/bin/sleep", "1000")
	config := w.config(sleepers("web", 3) + `
[pool.talk]
command = ["/bin/sh", "-c", "echo started; exec sleep 1000"]
[pool.talk.ready]
stdout = "started"
[pool.daemon]
command = ["/bin/sh", "-c", "setsid sleep 1000 & echo left"]
track = "leaf"
[pool.daemon.ready]
stdout = "left"
`) // ready, so that the stop does not meet it in a fork: what is forked beside TERM may miss it

	n := linuxtest.Times(*cycles, min(*cycles, 20))
	await := instants(t, n, 120*time.Millisecond)
	for range n {
		u := w.up(config)
		await()
		u.kill()
		reapAll()
	}
	last := w.up(config)
	last.ready(append(names("web", 3), "talk/0", "daemon/0")...)
	linuxtest.Wait(t, patience, func() (bool, string) {
		groups := w.groups()
		return len(groups) == 1, "still there: " + strings.Join(groups, " ")
	})
	if !bystander.Alive() {
		t.Error("a bystander was killed")
	}
	last.ends(w)
	entries, bytes := usage(t, w.dir)
	t.Logf("state after %d crashes: %d entries, %d KiB", n, entries, bytes>>10)
	if entries > 200 || bytes > 16<<20 {
		t.Errorf("state after %d crashes: %d entries, %d bytes, want it bounded", n, entries, bytes)
	}
}

// usage counts the entries and bytes below dir.
func usage(t *testing.T, dir string) (entries int, bytes int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		entries++
		bytes += info.Size()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return entries, bytes
}
