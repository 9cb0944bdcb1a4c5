package main

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/registry"
)

// TestNoSignalByNumber runs everything that ends processes - stops, kills,
// restarts, a sweep of a stale run - under a system call filter that refuses
// and reports kill, tkill, tgkill and their queueing kin to any process but
// pitvisor itself.
func TestNoSignalByNumber(t *testing.T) {
	w := newWorld(t)
	adoptOrphans(t)
	stubborn := strings.Join(linuxtest.Helper(t, "ignore-term"), `", "`)
	daemon := strings.Join(linuxtest.Helper(t, "double-fork"), `", "`)
	config := w.config(sleepers("web", 2) + `
[pool.stubborn]
command = ["` + stubborn + `"]
stop_grace = "50ms"
[pool.stubborn.ready]
stdout = "."
[pool.daemon]
command = ["` + daemon + `"]
track = "leaf"
stop_grace = "50ms"
[pool.again]
command = ["/bin/sh", "-c", "exit 1"]
backoff = { min = "1ms", max = "1ms" }
`)
	crashed := w.up(config)
	crashed.ready("web/0", "web/1", "stubborn/0", "daemon/0")
	crashed.kill()

	watched := linuxtest.NoForeignSignals(t, linuxtest.Command{Args: w.argv("up", "-f", config), Env: os.Environ()})
	linuxtest.Wait(t, patience, func() (bool, string) {
		workers := w.workers(registry.RunRunning)
		for _, name := range []string{"web/0", "web/1", "stubborn/0", "daemon/0"} {
			if !workers[name].Ready {
				return false, name + " is not ready"
			}
		}
		return len(w.groups()) == 1, "the stale run is still there"
	})
	if err := watched.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	status := watched.Wait(t, patience)
	if !status.Exited() {
		t.Errorf("supervisor ended with %v", status)
	}
	w.assertEmpty()
}

// TestH08CrashAtEveryStep kills the supervisor right before each system call
// that makes, marks or removes a cgroup or starts a process, and looks whether
// the next sweep leaves nothing.
func TestH08CrashAtEveryStep(t *testing.T) {
	w := newWorld(t)
	adoptOrphans(t)
	config := w.config(`
[pool.web]
command = ["/bin/sleep", "0.01"]
size = 2
restart = "never"
`)
	command := func() linuxtest.Command {
		return linuxtest.Command{Args: w.argv("up", "-f", config), Env: os.Environ()}
	}
	calls := []string{"mkdirat", "flock", "fsetxattr", "clone3", "unlinkat"}
	if testing.Short() { // what is written into a cgroup without a lock or process is of no consequence
		calls = []string{"mkdirat", "flock", "clone3"}
	}
	points := 0
	for crash := range linuxtest.CrashPoints(t, command, calls...) {
		points++
		if _, stderr, code := w.tool("sweep"); code != exitOK {
			t.Errorf("%s: sweep = exit %d\n%s", crash, code, stderr)
		}
		if left := w.groups(); len(left) > 0 {
			t.Errorf("%s: cgroups left after the sweep: %v", crash, left)
		}
		reapAll()
	}
	t.Logf("%d crash points", points)
	if want := linuxtest.Times(20, 8); points < want {
		t.Errorf("%d crash points, want at least %d", points, want)
	}
}
