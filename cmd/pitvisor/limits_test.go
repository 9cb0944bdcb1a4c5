package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/registry"
)

// wantFile compares a file of a cgroup.
func wantFile(t *testing.T, dir, name, want string) {
	t.Helper()
	got, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil || strings.TrimSpace(string(got)) != want {
		t.Errorf("%s of %s = %q, %v, want %q", name, filepath.Base(dir), got, err, want)
	}
}

// The limits of the file reach the kernel: those of a pool once, those of a worker
// on each leaf, and nothing above the root is touched.
func TestLimitsOfTheConfigurationAreInForce(t *testing.T) {
	linuxtest.NeedCgroup2(t, "memory", "pids", "cpu")
	w := newWorld(t)
	above := filepath.Join(filepath.Dir(w.root), "cgroup.subtree_control")
	before, err := os.ReadFile(above)
	if err != nil {
		t.Fatal(err)
	}
	u := w.up(w.config(sleepers("web", 2) + `
limits = { MemoryMax = "64M", TasksMax = 5 }
pool_limits = { "memory.max" = "256M", CPUQuota = "150%" }
`))
	u.ready(names("web", 2)...)
	run := w.runs()[0]
	pool := filepath.Join(run.Dir, "web")
	wantFile(t, pool, "memory.max", fmt.Sprint(256<<20))
	wantFile(t, pool, "cpu.max", "150000 100000")
	wantFile(t, pool, "pids.max", "max")
	for name, v := range w.workers(registry.RunRunning) {
		leaf := filepath.Join(pool, v.Leaf)
		wantFile(t, leaf, "memory.max", fmt.Sprint(64<<20))
		wantFile(t, leaf, "pids.max", "5")
		if v.Memory == nil || *v.Memory == 0 {
			t.Errorf("ps shows no memory of %s", name)
		}
	}
	u.send(unix.SIGTERM)
	if code := u.wait(); code != exitOK {
		t.Errorf("exit code = %d, want %d", code, exitOK)
	}
	if after, err := os.ReadFile(above); err != nil || string(after) != string(before) {
		t.Errorf("controllers above the root = %q, %v, want %q as before", after, err, before)
	}
	w.assertEmpty()
}

// The cause is read while the leaf is there, so the message can name it.
func TestWorkerBeyondItsMemoryIsReportedAsOOM(t *testing.T) {
	linuxtest.NeedCgroup2(t, "memory")
	w := newWorld(t)
	argv := linuxtest.Helper(t, "alloc", "200")
	u := w.up(w.config(fmt.Sprintf(`
[pool.hog]
command = ["%s"]
restart = "never"
limits = { MemoryMax = "32M", MemorySwapMax = 0 }
ready = { stdout = "allocated" }
[pool.web]
command = ["/bin/sleep", "1000"]
`, strings.Join(argv, `", "`))))
	u.ready("web/0")
	u.waitLog("hog/0 is reported as killed for memory", func(log []logLine) bool {
		for _, l := range log {
			if l.Worker == "hog/0" && strings.Contains(l.raw, "want of memory") {
				return true
			}
		}
		return false
	})
	u.send(unix.SIGTERM)
	u.wait()
	w.assertEmpty()
}
