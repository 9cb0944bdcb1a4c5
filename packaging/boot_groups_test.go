package packaging

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pitvisor/pitvisor/linuxtest"
)

// limited are the two workers with limits of every controller that the unit asks for.
const limited = workers + `
[pool.web.limits]
MemoryMax = "64M"
TasksMax = 20
[pool.web.pool_limits]
CPUQuota = "150%"
AllowedCPUs = "0"
IOWeight = 50
`

// value is what a file of a cgroup has.
func value(t *testing.T, parts ...string) string {
	t.Helper()
	return strings.TrimSpace(read(t, parts...))
}

// TestBootedControllers has what only a cgroup v2 with controllers can show.
func TestBootedControllers(t *testing.T) {
	h := booted(t)
	h.ready(limited)
	h.step("limits hold", testLimits)
	h.step("the daemon is killed with controllers enabled", testKilledWithControllers)
	h.step("the whole unit is killed by cgroup.kill", testOnceKilled)
	h.step("out of memory", testOutOfMemory)
}

// testLimits finds below the unit the controllers that it asks for, and limits.
func testLimits(t *testing.T, h host) {
	dir := h.cgroup(unit)
	run := h.up(unit, dir)
	if got := value(t, dir, "cgroup.controllers"); got != "cpuset cpu io memory pids" {
		t.Errorf("controllers of the unit: %s", got)
	}
	for _, c := range []struct{ dir, file, want string }{
		{run + "/web", "cpu.max", "150000 100000"},
		{run + "/web", "cpuset.cpus", "0"},
		{run + "/web", "io.weight", "default 50"},
	} {
		if got := value(t, c.dir, c.file); got != c.want {
			t.Errorf("%s = %q, want %q", c.file, got, c.want)
		}
	}
	leaves, err := filepath.Glob(run + "/web/*/memory.max")
	if err != nil || len(leaves) != 2 {
		t.Fatalf("leaves: %v, %v", leaves, err)
	}
	for _, file := range leaves {
		if got := value(t, file) + " " + value(t, filepath.Dir(file), "pids.max"); got != "67108864 20" {
			t.Errorf("%s and pids.max = %q", file, got)
		}
	}
	h.inSubgroup(dir)
}

// inSubgroup checks that systemd has put the daemon into its own leaf, where it can,
// and that the daemon has done it itself elsewhere.
func (h host) inSubgroup(dir string) {
	h.t.Helper()
	leaf := one(h.t, dir, "supervisor*")
	if main := h.property(unit, "MainPID"); main != value(h.t, leaf, "cgroup.procs") {
		h.t.Errorf("in %s is %q, want the main process %s", leaf, value(h.t, leaf, "cgroup.procs"), main)
	}
	if h.version() >= 254 {
		if got := h.property(unit, "DelegateSubgroup"); got != "supervisor" || filepath.Base(leaf) != "supervisor" {
			h.t.Errorf("DelegateSubgroup=%s, and it is in %s", got, leaf)
		}
	} else if filepath.Base(leaf) == "supervisor" {
		h.t.Errorf("systemd %d knows DelegateSubgroup=", h.version())
	}
}

// testKilledWithControllers: a daemon that is killed while controllers are enabled below
// its unit and workers live is recovered. Without ExecStopPost= systemd before 254 fails
// with 219/CGROUP for ever when KillMode= leaves them.
func testKilledWithControllers(t *testing.T, h host) {
	dir := h.cgroup(unit)
	was := h.restarts()
	for n, mode := range []string{"", "KillMode=process\n"} {
		if mode != "" {
			h.dropIn(unit, "mode", mode)
		}
		if got := value(t, dir, "cgroup.subtree_control"); !strings.Contains(got, "memory") {
			t.Fatalf("enabled below the unit: %q", got)
		}
		before := linuxtest.Identities(dir)
		h.root("systemctl", "kill", "--signal=KILL", "--kill-who=main", unit)
		h.restartedTimes(was + n + 1)
		h.none(dir, before)
		h.up(unit, dir)
	}
	h.revert(unit, "mode")
	h.root("systemctl", "restart", unit)
	h.up(unit, dir)
}

// testOnceKilled kills all of the unit by cgroup.kill, which some kernels never forget.
func testOnceKilled(t *testing.T, h host) {
	dir := h.cgroup(unit)
	was := h.restarts()
	before := linuxtest.Identities(dir)
	if err := os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	h.restartedTimes(was + 1)
	h.none(dir, before)
	h.up(unit, dir)
	h.root("systemctl", "restart", unit)
	h.up(unit, dir)
	h.root("systemctl", "stop", unit)
	h.gone(dir)
}

// testOutOfMemory: a worker that the kernel kills for memory is told from any other
// death, and costs neither the daemon nor other workers anything.
func testOutOfMemory(t *testing.T, h host) {
	h.configure("pitvisor.toml", `
[pool.web]
command = ["/bin/sh", "-c", "echo up; exec sleep 1000"]
[pool.web.ready]
stdout = "^up"
[pool.hog]
command = ["/bin/sh", "-c", "echo up; while ! test -e /run/eat; do sleep 0.2; done; exec tail /dev/zero"]
[pool.hog.ready]
stdout = "^up"
[pool.hog.limits]
MemoryMax = "24M"
`)
	h.root("systemctl", "start", unit)
	main := h.property(unit, "MainPID")
	linuxtest.Unaffected(t, filepath.Join(h.runs(h.cgroup(unit))[0], "web"))
	h.said()
	write(t, "", "/run/eat")
	all := ""
	linuxtest.Wait(t, patience, func() (bool, string) {
		all += h.said()
		return strings.Contains(all, "want of memory"), all
	})
	if got := h.property(unit, "MainPID"); got != main {
		t.Errorf("the daemon was %s and is %s", main, got)
	}
	if got := h.property(unit, "ActiveState") + h.property(unit, "NRestarts"); got != "active0" {
		t.Errorf("the unit is %s", got)
	}
	if !strings.Contains(all, "memory.max") {
		t.Errorf("it says %s", all)
	}
}
