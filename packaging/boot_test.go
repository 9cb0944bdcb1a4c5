package packaging

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/pitvisor/pitvisor/linuxtest"
)

// These tests need a machine of their own that was booted with systemd:
// `make test-systemd`. Each gets a new one. All others have systemd in namespaces.

// booted is the machine that we are on. Only that lane says that it may be used up.
func booted(t *testing.T) host {
	t.Helper()
	if os.Getenv("LINUXTEST_SYSTEMD") == "" {
		linuxtest.Skip(t, "needs a machine of its own with systemd")
	}
	if name := read(t, "/proc/1/comm"); name != "systemd\n" {
		t.Fatalf("PID 1 is %q", name)
	}
	h := host{t: t, run: "/run", units: "systemd/system", top: "/sys/fs/cgroup"}
	t.Cleanup(func() {
		if t.Failed() {
			status, _ := h.try("systemctl", "status", "--no-pager", "--full", unit)
			journal, _ := h.try("journalctl", "--no-pager", "-n", "40")
			t.Logf("%s\n%s\n%s", status, h.said(), journal)
		}
	})
	return h
}

// brought is the package that the lane has brought along.
func brought(t *testing.T) string {
	t.Helper()
	return one(t, os.Getenv("LINUXTEST_FILES"), "*.deb")
}

// version is that of systemd there.
func (h host) version() int {
	h.t.Helper()
	n, err := strconv.Atoi(os.Getenv("LINUXTEST_SYSTEMD"))
	if err != nil {
		h.t.Fatal(err)
	}
	return n
}

// ready installs the package and starts the unit with two workers.
func (h host) ready(config string) {
	h.t.Helper()
	h.install(brought(h.t))
	h.configure("pitvisor.toml", config)
	h.root("systemctl", "start", unit)
}

// The steps that are done in namespaces on every commit.
func TestBootedSteps(t *testing.T) {
	booted(t)
	testHost(t, brought(t))
}

// TestBootedFromBare is the documented way from a bare Debian and back.
func TestBootedFromBare(t *testing.T) {
	h := booted(t)
	h.root("apt-get", "install", "-y", brought(t))
	if out, code := h.try("systemctl", "is-enabled", unit); code == 0 || !strings.Contains(out, "disabled") {
		t.Errorf("after the installation: %q, want that nothing is enabled", out)
	}
	h.step("mistakes are in the status", testStatus)
	h.step("from the configuration to the stop", testOperator)
	h.step("in a cgroup namespace", testPrivateControlGroups)
	h.step("purge", testPurge)
}

// testStatus: an operator's mistakes are told where an operator looks.
func testStatus(t *testing.T, h host) {
	for _, c := range []struct{ config, setting, want string }{
		{"[pool.web]\ncomand = [\"sleep\"]\n", "", `did you mean "command"?`},
		{workers, "ProtectControlGroups=yes\n", "write ProtectControlGroups=no below [Service]"},
	} {
		h.configure("pitvisor.toml", c.config)
		h.dropIn(unit, "mistake", c.setting)
		if _, code := h.try("systemctl", "start", unit); code == 0 {
			t.Errorf("with %q and %q it starts", c.config, c.setting)
		}
		// While systemd tries once more it shows the try alone.
		linuxtest.Wait(t, patience, func() (bool, string) {
			status, _ := h.try("systemctl", "status", "--no-pager", "--full", unit)
			return strings.Contains(status, c.want), status
		})
		h.root("systemctl", "stop", unit)
		h.revert(unit, "mistake")
	}
}

func testOperator(t *testing.T, h host) {
	h.configure("pitvisor.toml", workers)
	h.root("pitvisor", "check", "-f", "/etc/pitvisor/pitvisor.toml")
	h.root("systemctl", "enable", "--now", unit)
	first := h.up(unit, h.cgroup(unit))
	if out := h.root("pitvisor", "ps"); !strings.Contains(out, "2/2") {
		t.Errorf("pitvisor ps:\n%s", out)
	}
	if out := h.root("journalctl", "-u", unit, "-o", "cat"); !strings.Contains(out, "pool web is ready") {
		t.Errorf("the journal has:\n%s", out)
	}
	h.root("systemctl", "restart", unit)
	if second := h.up(unit, h.cgroup(unit)); second == first {
		t.Errorf("after the restart it is the same run: %s", second)
	}
	before := linuxtest.Identities(h.cgroup(unit))
	h.root("systemctl", "stop", unit)
	h.gone(h.cgroup(unit))
	dead(t, before)
}

// testPrivateControlGroups: with a cgroup namespace of its own, which systemd 257 can
// give, pitvisor sees nothing above its own leaf, so it keeps the runs in that; with no
// leaf, in the unit, where limits work as well. An older systemd ignores the word.
func testPrivateControlGroups(t *testing.T, h host) {
	dir := h.cgroup(unit)
	place := dir
	if h.version() >= 257 {
		place = filepath.Join(dir, "supervisor")
	}
	h.dropIn(unit, "private", "ProtectControlGroups=private\n")
	h.root("systemctl", "start", unit)
	h.upPrivate(dir, place)
	was := h.restarts()
	before := linuxtest.Identities(dir)
	h.root("systemctl", "kill", "--signal=KILL", "--kill-who=main", unit)
	h.restartedTimes(was + 1)
	h.none(dir, before)
	h.upPrivate(dir, place)
	h.root("systemctl", "stop", unit)
	h.gone(dir)

	h.configure("pitvisor.toml", limited)
	h.dropIn(unit, "private", "ProtectControlGroups=private\nDelegateSubgroup=\n")
	h.root("systemctl", "start", unit)
	h.upPrivate(dir, dir)
	if got := value(t, h.runs(dir)[0], "web/cpu.max"); got != "150000 100000" {
		t.Errorf("cpu.max = %q", got)
	}
}

// upPrivate checks that the unit is up, with its run in a place.
func (h host) upPrivate(dir, place string) {
	h.t.Helper()
	runs := h.runs(place)
	if len(runs) != 1 || len(linuxtest.Members(runs[0])) != everyone || len(linuxtest.Members(dir)) != everyone+1 {
		h.t.Errorf("runs in %s: %v, processes %v", place, runs, linuxtest.Members(dir))
	}
	if private := h.namespace("1") != h.namespace(h.property(unit, "MainPID")); private != (h.version() >= 257) {
		h.t.Errorf("systemd %d: has the daemon a cgroup namespace of its own? %v", h.version(), private)
	}
	if out := h.root("pitvisor", "ps"); !strings.Contains(out, "2/2") || strings.Count(out, "run-") != 1 {
		h.t.Errorf("pitvisor ps:\n%s", out)
	}
}

// namespace names the cgroup namespace of a process.
func (h host) namespace(pid string) string {
	h.t.Helper()
	name, err := os.Readlink("/proc/" + pid + "/ns/cgroup")
	if err != nil {
		h.t.Fatal(err)
	}
	return name
}

// testPurge removes everything while workers run.
func testPurge(t *testing.T, h host) {
	h.root("apt-get", "purge", "-y", "pitvisor")
	h.gone(h.cgroup(unit))
	for _, path := range []string{"/etc/pitvisor", "/var/lib/pitvisor", "/run/pitvisor", "/etc/systemd/system/multi-user.target.wants/" + unit} {
		if _, err := os.Lstat(path); !os.IsNotExist(err) {
			t.Errorf("left after the purge: %s (%v)", path, err)
		}
	}
}

// dead checks that none of some processes is there any more.
func dead(t *testing.T, of []linuxtest.Identity) {
	t.Helper()
	for _, id := range of {
		if now, ok := linuxtest.Identify(id.PID); ok && now == id {
			t.Errorf("process %d lives on", id.PID)
		}
	}
}

// step is a part of a test that needs the parts before it.
func (h host) step(name string, f func(*testing.T, host)) {
	h.t.Helper()
	if h.t.Failed() {
		return
	}
	h.t.Run(name, func(t *testing.T) {
		h := h
		h.t = t
		f(t, h)
	})
}

// restarts is how often systemd has restarted the unit by itself.
func (h host) restarts() int {
	h.t.Helper()
	n, err := strconv.Atoi(h.property(unit, "NRestarts"))
	if err != nil {
		h.t.Fatal(err)
	}
	return n
}

// restartedTimes waits until the unit is up after so many restarts.
func (h host) restartedTimes(n int) {
	h.t.Helper()
	linuxtest.Wait(h.t, patience, func() (bool, string) {
		state := h.root("systemctl", "show", "-p", "NRestarts", "-p", "StatusText", "-p", "ActiveState", unit)
		ok := strings.Contains(state, fmt.Sprintf("NRestarts=%d\n", n)) && strings.Contains(state, "StatusText=2 workers ready\n") && strings.Contains(state, "ActiveState=active\n")
		return ok, state
	})
}
