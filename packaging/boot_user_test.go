package packaging

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pitvisor/pitvisor/linuxtest"
)

// ann is an ordinary user, whose systemd lingers.
type ann struct {
	host
	uid string
	dir string // cgroup of her systemd
}

func newAnn(h host) ann {
	h.t.Helper()
	h.root("useradd", "-m", "-s", "/bin/sh", "ann")
	h.root("loginctl", "enable-linger", "ann")
	uid := strings.TrimSpace(h.root("id", "-u", "ann"))
	a := ann{h, uid, filepath.Join(h.top, "user.slice/user-"+uid+".slice/user@"+uid+".service")}
	linuxtest.Wait(h.t, patience, func() (bool, string) {
		_, err := os.Stat("/run/user/" + uid + "/bus")
		return err == nil && a.property("user@"+uid+".service", "ActiveState") == "active", "her systemd is not there"
	})
	return a
}

// login runs a command in a session of hers, as ssh would give her.
func (a ann) login(command string) (out string, code int) {
	a.t.Helper()
	return a.try("runuser", "-l", "ann", "-c", command)
}

func (a ann) must(command string) string {
	a.t.Helper()
	out, code := a.login(command)
	if code != 0 {
		a.t.Fatalf("%s = %d: %s", command, code, out)
	}
	return out
}

// TestBootedOrdinaryUser is what a user without rights has of it.
func TestBootedOrdinaryUser(t *testing.T) {
	h := booted(t)
	h.install(brought(t))
	a := newAnn(h)
	h.step("a run", func(t *testing.T, h host) { testUserRuns(t, ann{h, a.uid, a.dir}) })
	h.step("her service", func(t *testing.T, h host) { testUserPools(t, ann{h, a.uid, a.dir}) })
	h.step("no systemd", func(t *testing.T, h host) { testUserWithoutSystemd(t, ann{h, a.uid, a.dir}) })
}

// testUserRuns: `pitvisor run` asks her systemd over D-Bus for a delegated scope.
func testUserRuns(t *testing.T, a ann) {
	out := a.must("pitvisor run -- sh -c 'cat /proc/self/cgroup; echo; id -un; setsid sleep 1000 >/dev/null 2>&1 &'")
	if !strings.Contains(out, "/user@"+a.uid+".service/") || !strings.Contains(out, ".scope/") || !strings.Contains(out, "\nann\n") {
		t.Errorf("the command says %q, want a scope of her systemd", out)
	}
	for _, p := range linuxtest.Members(filepath.Join(a.top, "user.slice")) {
		if p.Comm == "sleep" {
			t.Errorf("the run has left %v", p)
		}
	}
	scopes, err := filepath.Glob(filepath.Join(a.dir, "*/*.scope"))
	for _, scope := range scopes {
		if filepath.Base(scope) != "init.scope" {
			t.Errorf("left: %s (%v)", scope, err)
		}
	}
	if out, code := a.login("pitvisor run -- sh -c 'kill -SEGV $$'"); code != 139 {
		t.Errorf("a run that ends by SEGV = %d: %s", code, out)
	}
	// Her systemd hands down memory and pids.
	out, code := a.login("pitvisor run --limit memory.max=24M --report /home/ann/oom.json -- tail /dev/zero")
	if report := read(t, "/home/ann/oom.json"); code != 137 || !strings.Contains(report, `"oom_kills": 1`) {
		t.Errorf("a run that takes too much memory = %d: %s\n%s", code, out, report)
	}
	// Two at a time are in scopes of their own, and end by themselves.
	out = a.must("for i in 1 2; do pitvisor run -- sh -c 'cat /proc/self/cgroup; : >$HOME/in$0; until test -e $HOME/in1 && test -e $HOME/in2; do sleep 0.1; done' $i & done; wait")
	if lines := strings.Fields(out); len(lines) != 2 || lines[0] == lines[1] || strings.Count(out, ".scope/") != 2 {
		t.Errorf("two runs say %q, want two scopes", out)
	}
	// Her systemd is found without the environment of a login.
	if out, code := a.login("env -u XDG_RUNTIME_DIR DBUS_SESSION_BUS_ADDRESS=unix:path=/no/bus pitvisor run -- true"); code != 0 {
		t.Errorf("a run with a poor environment = %d: %s", code, out)
	}
}

// testUserWithoutSystemd: a user who has no systemd, and no cgroup, is told the ways out.
func testUserWithoutSystemd(t *testing.T, a ann) {
	a.root("loginctl", "disable-linger", "ann")
	a.root("systemctl", "stop", "user@"+a.uid+".service")
	out, code := a.try("setpriv", "--reuid", a.uid, "--regid", a.uid, "--clear-groups", "pitvisor", "run", "--", "true")
	if code != 125 || !strings.Contains(out, "pitvisor: hint: ") {
		t.Errorf("a run without a systemd = %d: %s", code, out)
	}
}

// testUserPools: her service keeps her pools, also when she is not logged in.
func testUserPools(t *testing.T, a ann) {
	write(t, workers, "/home/ann/.config/pitvisor/pitvisor.toml")
	a.root("chown", "-R", "ann:", "/home/ann/.config")
	a.must("systemctl --user enable --now pitvisor.service")
	dir := filepath.Join(a.dir, "app.slice", unit)
	a.up(dir)
	if got := value(t, dir, "cgroup.controllers"); !strings.Contains(got, "memory pids") {
		t.Errorf("controllers of her unit: %q", got)
	}
	before := linuxtest.Identities(dir)
	a.must("systemctl --user kill --signal=KILL --kill-who=main pitvisor.service")
	linuxtest.Wait(t, patience, func() (bool, string) {
		state := a.must("systemctl --user show -p NRestarts -p StatusText -p ActiveState pitvisor.service")
		ok := strings.Contains(state, "NRestarts=1\n") && strings.Contains(state, "StatusText=2 workers ready\n") && strings.Contains(state, "ActiveState=active\n")
		return ok, state
	})
	a.none(dir, before)
	a.up(dir)
	if out := a.must("pitvisor ps"); !strings.Contains(out, "2/2") {
		t.Errorf("pitvisor ps:\n%s", out)
	}
	before = linuxtest.Identities(dir)
	a.must("systemctl --user stop pitvisor.service")
	a.gone(dir)
	dead(t, before)
}

// up checks that her workers are there.
func (a ann) up(dir string) {
	a.t.Helper()
	if runs := a.runs(dir); len(runs) != 1 || len(linuxtest.Members(dir)) != everyone+1 {
		a.t.Errorf("runs in %s: %v, processes %v", dir, runs, linuxtest.Members(dir))
	}
}
