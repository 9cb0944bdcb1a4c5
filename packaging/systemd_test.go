package packaging

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pitvisor/pitvisor/linuxtest"
)

// workers is a configuration of two workers that say who they are, each with a daemon
// beside it that does not end with them.
const workers = `
[pool.web]
command = ["/bin/sh", "-c", "setsid sleep 1000 & echo up uid=$(id -u) nofile=$(ulimit -n); exec sleep 1000"]
size = 2
[pool.web.ready]
stdout = "^up"
`

// everyone is how many processes that has.
const everyone = 4

// up checks that a unit and the two workers in its cgroup are as they should be, and
// returns their run.
func (h host) up(unit, dir string) string {
	h.t.Helper()
	if state, text := h.property(unit, "ActiveState"), h.property(unit, "StatusText"); state != "active" || text != "2 workers ready" {
		h.t.Fatalf("%s is %s (%s)\n%s", unit, state, text, h.said())
	}
	runs := h.runs(dir)
	if len(runs) != 1 {
		h.t.Fatalf("runs in %s: %v, want one", dir, runs)
	}
	if pids := linuxtest.Members(runs[0]); len(pids) != everyone {
		h.t.Errorf("processes in %s: %v, want %d", runs[0], pids, everyone)
	}
	if pids := linuxtest.Members(dir); len(pids) != everyone+1 {
		h.t.Errorf("processes in %s: %v, want one more, the supervisor", dir, pids)
	}
	if leaf, err := filepath.Glob(filepath.Join(dir, "supervisor*")); err != nil || len(leaf) != 1 {
		h.t.Errorf("the supervisor is in %v, want a leaf of its own", leaf)
	}
	return runs[0]
}

// killMain kills the supervisor, and waits until systemd has started another one whose
// workers are ready. It returns who was there before.
func (h host) killMain(unit, dir string) (before []linuxtest.Identity) {
	h.t.Helper()
	before = linuxtest.Identities(dir)
	h.root("systemctl", "kill", "--signal=KILL", "--kill-who=main", unit)
	h.restarted(unit)
	return before
}

// restarted waits until systemd has started a unit once more and its workers are ready.
func (h host) restarted(unit string) {
	h.t.Helper()
	linuxtest.Wait(h.t, patience, func() (bool, string) {
		state := h.property(unit, "NRestarts") + " " + h.property(unit, "StatusText") + " " + h.property(unit, "ActiveState")
		return state == "1 2 workers ready active", state
	})
}

// none checks that none of some processes is in a cgroup.
func (h host) none(dir string, of []linuxtest.Identity) {
	h.t.Helper()
	linuxtest.Wait(h.t, patience, func() (bool, string) {
		for _, id := range linuxtest.Identities(dir) {
			if slices.Contains(of, id) {
				return false, fmt.Sprintf("process %d from before is still there", id.PID)
			}
		}
		return true, ""
	})
}

const unit = "pitvisor.service"

// testHost is the life of the package on a machine, as an operator leads it.
func testHost(t *testing.T, deb string) {
	linuxtest.NoLeaks(t)
	h := boot(t)
	h.install(deb)
	step := func(name string, f func(t *testing.T, h host)) {
		t.Helper()
		if t.Failed() {
			return
		}
		t.Run(name, func(t *testing.T) {
			h := h
			h.t = t
			f(t, h)
		})
	}
	var before []linuxtest.Identity
	step("the daemon hangs", func(_ *testing.T, h host) { before = hang(h) })
	step("without a pool it says what to do", testNoPool)
	step("start, restart, stop", testService)
	step("the daemon is killed", testKilled)
	step("KillMode=process leaves workers, which are swept", testKillModeProcess)
	step("ProtectControlGroups=yes is named", testProtectControlGroups)
	step("no Delegate= is named", testNoDelegate)
	step("a stop during the start", testStopDuringStart)
	step("RestrictNamespaces=yes", testRestrictNamespaces)
	step("frozen and thawed", testFreeze)
	step("of a CI user", testInstance)
	if h.Manager != nil { // see TestBootedOrdinaryUser
		step("of a user's systemd", testUserService)
	}
	step("and is started again", func(_ *testing.T, h host) { testHung(h, before) })
	step("upgrade, remove and purge while workers run", func(t *testing.T, h host) { testUpgradeAndRemove(t, h, deb) })
}

func testNoPool(t *testing.T, h host) {
	if out, code := h.try("systemctl", "start", unit); code != 1 {
		t.Errorf("start without a pool = %d: %s", code, out)
	}
	if status, state := h.property(unit, "ExecMainStatus"), h.property(unit, "ActiveState"); status != "2" || state != "failed" {
		t.Errorf("exit status %s, %s, want 2 and no restart", status, state)
	}
	if said := h.said(); !strings.Contains(said, "/etc/pitvisor/pitvisor.toml:1:1: no [pool.NAME] table") {
		t.Errorf("it says %q", said)
	}
	// The example in it is one, with the user that the package has made.
	h.configure("example.toml", uncommented(t))
	h.root("pitvisor", "check", "-f", "/etc/pitvisor/example.toml")
}

func testService(t *testing.T, h host) {
	h.configure("pitvisor.toml", strings.Replace(workers, "size", "user = \"pitvisor\"\nsize", 1))
	h.root("systemctl", "start", unit)
	first := h.up(unit, h.cgroup(unit))
	uid := strings.TrimSpace(h.root("id", "-u", "pitvisor"))
	// The tests may have less than systemd would give.
	if said := h.said(); strings.Count(said, "up uid="+uid+" nofile=1024") != 2 {
		t.Errorf("the workers say %s, want that they are of user %s", said, uid)
	}
	if out := h.root("pitvisor", "ps"); !strings.Contains(out, filepath.Base(first)) || !strings.Contains(out, "2/2") {
		t.Errorf("pitvisor ps:\n%s", out)
	}
	testReload(t, h)
	h.root("systemctl", "restart", unit)
	if second := h.up(unit, h.cgroup(unit)); second == first {
		t.Errorf("after the restart it is the same run: %s", second)
	}
	h.root("systemctl", "daemon-reexec")
	h.up(unit, h.cgroup(unit))
	h.root("systemctl", "stop", unit)
	h.gone(h.cgroup(unit))
	if result := h.property(unit, "Result"); result != "success" {
		t.Errorf("after the stop: %s\n%s", result, h.said())
	}
	if left := h.root("ls", "-A", "/run/pitvisor"); left != "" {
		t.Errorf("left in /run/pitvisor: %s", left)
	}
}

// testReload: what has changed is changed, in the same run; what is wrong is refused.
func testReload(t *testing.T, h host) {
	run := h.up(unit, h.cgroup(unit))
	h.configure("pitvisor.toml", "comand = 1\n")
	h.root("systemctl", "reload", unit)
	linuxtest.Wait(t, patience, func() (bool, string) {
		status := h.property(unit, "StatusText")
		return strings.Contains(status, "was not reloaded") && strings.Contains(status, "comand"), "the status is " + status
	})
	h.configure("pitvisor.toml", strings.Replace(workers, "size = 2", "user = \"pitvisor\"\nsize = 3", 1))
	h.root("systemctl", "reload", unit)
	linuxtest.Wait(t, patience, func() (bool, string) {
		out := h.root("pitvisor", "ps")
		return strings.Contains(out, "3/3") && strings.Contains(out, filepath.Base(run)), "pitvisor ps:\n" + out
	})
	h.configure("pitvisor.toml", strings.Replace(workers, "size", "user = \"pitvisor\"\nsize", 1))
	h.root("systemctl", "reload", unit)
	linuxtest.Wait(t, patience, func() (bool, string) {
		out := h.root("pitvisor", "ps")
		return strings.Contains(out, "2/2"), "pitvisor ps:\n" + out
	})
	if state := h.property(unit, "ActiveState"); state != "active" {
		t.Errorf("after the reloads the unit is %s", state)
	}
}

func testKilled(t *testing.T, h host) {
	h.root("systemctl", "start", unit)
	before := h.killMain(unit, h.cgroup(unit))
	h.none(h.cgroup(unit), before)
	h.up(unit, h.cgroup(unit))
	h.root("systemctl", "stop", unit)
	h.gone(h.cgroup(unit))
}

func testKillModeProcess(t *testing.T, h host) {
	h.dropIn(unit, "mode", "KillMode=process\n")
	defer h.revert(unit, "mode")
	h.root("systemctl", "start", unit)
	h.said()
	before := h.killMain(unit, h.cgroup(unit))
	h.none(h.cgroup(unit), before)
	h.up(unit, h.cgroup(unit))
	if said := h.said(); !strings.Contains(said, "swept 1 run with 4 processes") { // by ExecStopPost=
		t.Errorf("it says %s, want that it has swept", said)
	}
	h.root("systemctl", "stop", unit)
	h.gone(h.cgroup(unit))
}

func testProtectControlGroups(t *testing.T, h host) {
	h.dropIn(unit, "protect", "ProtectControlGroups=yes\n")
	defer h.revert(unit, "protect")
	if out, code := h.try("systemctl", "start", unit); code != 1 {
		t.Errorf("start = %d: %s", code, out)
	}
	if state := h.property(unit, "ExecMainStatus") + " " + h.property(unit, "ActiveState") + " " + h.property(unit, "NRestarts"); state != "2 failed 0" {
		t.Errorf("after it: %s, want code 2 and no restart", state)
	}
	h.root("systemctl", "stop", unit)
	if said := h.said(); !strings.Contains(said, "systemctl edit pitvisor.service, write ProtectControlGroups=no below [Service]") {
		t.Errorf("it says %s", said)
	}
}

func testNoDelegate(t *testing.T, h host) {
	h.dropIn(unit, "delegate", "Delegate=no\n")
	defer h.revert(unit, "delegate")
	h.root("systemctl", "start", unit)
	if said := h.said(); !strings.Contains(said, "outside of the unit") || !strings.Contains(said, "systemctl edit pitvisor.service, write Delegate=yes") {
		t.Errorf("it says %s", said)
	}
	owned := filepath.Join(h.top, "pitvisor")
	if pids := linuxtest.Members(owned); len(pids) != everyone {
		t.Errorf("processes in %s: %v, want %d", owned, pids, everyone)
	}
	h.root("systemctl", "stop", unit)
	if left, err := os.ReadDir(owned); err != nil || len(h.runs(owned)) != 0 {
		t.Errorf("left in %s: %v, %v", owned, left, err)
	}
}

func testStopDuringStart(t *testing.T, h host) {
	h.configure("pitvisor.toml", strings.Replace(workers, "echo up", "echo never", 1))
	defer h.configure("pitvisor.toml", workers)
	h.root("systemctl", "start", "--no-block", unit)
	linuxtest.Wait(t, patience, func() (bool, string) {
		n := len(linuxtest.Members(h.cgroup(unit)))
		return n == everyone+1, fmt.Sprintf("%d processes", n)
	})
	if state := h.property(unit, "ActiveState"); state != "activating" {
		t.Errorf("with workers that are not ready it is %s", state)
	}
	h.root("systemctl", "stop", unit)
	h.gone(h.cgroup(unit))
}

// hung is a unit whose supervisor has stopped to do anything.
const hung = "pitvisor@bin.service"

// hang makes it, and returns who is in it. Go takes ten seconds to die of ABRT.
func hang(h host) []linuxtest.Identity {
	h.dropIn(hung, "watchdog", "WatchdogSec=1s\n")
	h.configure("bin.toml", workers)
	h.root("systemctl", "start", hung)
	before := linuxtest.Identities(h.cgroup("system-pitvisor.slice", hung))
	h.root("systemctl", "kill", "--signal=STOP", "--kill-who=main", hung)
	return before
}

func testHung(h host, before []linuxtest.Identity) {
	dir := h.cgroup("system-pitvisor.slice", hung)
	h.restarted(hung)
	h.none(dir, before)
	h.up(hung, dir)
	h.root("systemctl", "stop", hung)
	h.gone(dir)
}

func testRestrictNamespaces(t *testing.T, h host) {
	h.dropIn(unit, "namespaces", "RestrictNamespaces=yes\n")
	defer h.revert(unit, "namespaces")
	h.root("systemctl", "start", unit)
	h.up(unit, h.cgroup(unit))
	h.root("systemctl", "stop", unit)
	h.gone(h.cgroup(unit))
}

func testFreeze(t *testing.T, h host) {
	h.root("systemctl", "start", unit)
	before := linuxtest.Identities(h.cgroup(unit))
	h.root("systemctl", "freeze", unit)
	if state := h.property(unit, "FreezerState"); state != "frozen" {
		t.Errorf("it is %s", state)
	}
	h.root("systemctl", "thaw", unit)
	if after := linuxtest.Identities(h.cgroup(unit)); !slices.Equal(after, before) {
		t.Errorf("processes after it: %v, before: %v", after, before)
	}
	h.root("systemctl", "stop", unit)
	h.gone(h.cgroup(unit))
}

func testInstance(t *testing.T, h host) {
	const instance = "pitvisor@daemon.service" // a user that is on every Debian
	h.configure("daemon.toml", workers)
	h.root("systemctl", "start", instance)
	dir := h.cgroup(`system-pitvisor.slice`, instance)
	h.up(instance, dir)
	if said := h.said(); strings.Count(said, "up uid=1 ") != 2 {
		t.Errorf("the workers say %s, want user daemon", said)
	}
	if out := h.root("pitvisor", "ps"); !strings.Contains(out, "2/2") {
		t.Errorf("pitvisor ps:\n%s", out)
	}
	before := h.killMain(instance, dir)
	h.none(dir, before)
	h.up(instance, dir)
	h.root("systemctl", "stop", instance)
	h.gone(dir)
}

func testUserService(t *testing.T, h host) {
	write(t, read(t, "systemd/user/pitvisor.service"), h.run, "units", unit)
	// The user there has no home.
	write(t, "[Service]\nExecStart=\nExecStart=/usr/bin/pitvisor up -f /run/user/65534/pitvisor.toml\nEnvironment=PITVISOR_STATE_DIR=/run/user/65534/state\n",
		h.run, "units", unit+".d", "home.conf")
	write(t, workers, h.Runtime, "pitvisor.toml")
	h.Systemctl(t, "daemon-reload")
	h.Systemctl(t, "start", unit)
	dir := filepath.Join(h.Dir, "app.slice", unit)
	if runs := h.runs(dir); len(runs) != 1 || len(linuxtest.Members(dir)) != everyone+1 {
		t.Errorf("runs in %s: %v, processes %v", dir, runs, linuxtest.Members(dir))
	}
	h.Systemctl(t, "stop", unit)
	h.gone(dir)
}

func testUpgradeAndRemove(t *testing.T, h host, deb string) {
	h.configure("pitvisor.toml", workers)
	h.root("systemctl", "start", unit)
	before := linuxtest.Identities(h.cgroup(unit))
	if out := h.root("dpkg", "-i", "--no-triggers", deb); !strings.Contains(out, "systemctl restart pitvisor") {
		t.Errorf("the upgrade does not say that the old version runs on:\n%s", out)
	}
	if after := linuxtest.Identities(h.cgroup(unit)); !slices.Equal(after, before) {
		t.Errorf("processes after the upgrade: %v, before: %v", after, before)
	}
	h.root("dpkg", "-r", "--no-triggers", "pitvisor")
	h.gone(h.cgroup(unit))
	h.root("grep", "-q", "pool.web", "/etc/pitvisor/pitvisor.toml") // it was changed, so it stays
	h.root("rm", "-f", "/etc/pitvisor/example.toml", "/etc/pitvisor/daemon.toml", "/etc/pitvisor/bin.toml")
	h.root("dpkg", "-P", "--no-triggers", "pitvisor")
	for _, path := range []string{"/etc/pitvisor", "/var/lib/pitvisor", "/var/lib/pitvisor-daemon", "/var/lib/pitvisor-bin", "pitvisor", "/usr/libexec/pitvisor"} {
		if out, code := h.try("ls", "-d", path); code == 0 {
			t.Errorf("left after the purge: %s", out)
		}
	}
}
