package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pitvisor/pitvisor/linuxtest"
)

// asUser runs pitvisor as the user of a systemd, and returns what it says.
func asUser(t *testing.T, m *linuxtest.Manager, uid int, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	c := m.CommandAs(t, uid, linuxtest.Helper(t, "pitvisor", args...)...)
	var files [2]*os.File
	for i := range files {
		f, err := os.Create(filepath.Join(t.TempDir(), "out"))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = f.Close() }()
		files[i] = f
	}
	c.Stdout, c.Stderr = files[0], files[1]
	status := c.Start(t).Wait(t, patience)
	var said [2]string
	for i, f := range files {
		data, err := os.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		said[i] = string(data)
	}
	return said[0], said[1], status.ExitStatus()
}

const leaking = "sed -n s/^0:://p /proc/self/cgroup; setsid sleep 1000 >/dev/null 2>&1 & until tr '\\0' ' ' </proc/$!/cmdline | grep -q ^sleep; do :; done; exit 7"

// An ordinary user who has logged in on a host with systemd just runs it.
func TestRunOfAnOrdinaryUserUnderSystemd(t *testing.T) {
	linuxtest.NoLeaks(t)
	m := linuxtest.UserManager{NoBus: true}.Start(t)
	stdout, stderr, code := asUser(t, m, 65534, "run", "--", "sh", "-c", leaking)
	if code != 7 || !strings.Contains(stdout, "/user@65534.service/app.slice/pitvisor-run-") || !strings.Contains(stdout, ".scope/") || !strings.Contains(stdout, "/run-") {
		t.Errorf("pitvisor run = %d, the command was in %q; want 7 and a run in a scope\n%s", code, stdout, stderr)
	}
	if !strings.Contains(stderr, "sleep") || strings.Contains(stderr, "weak") {
		t.Errorf("it does not name what was left: %q", stderr)
	}
	linuxtest.Wait(t, patience, func() (bool, string) {
		left := m.Systemctl(t, "list-units", "--all", "pitvisor-*")
		return left == "", "left in systemd: " + left
	})
	linuxtest.CgroupGone(t, filepath.Join(m.Dir, "app.slice", filepath.Base(filepath.Dir(strings.TrimSpace(stdout)))), patience)
}

// One who came by su is told the one command that helps, or takes less.
func TestRunOfAUserWithoutSystemd(t *testing.T) {
	linuxtest.NoLeaks(t)
	m := linuxtest.UserManager{NoBus: true}.Start(t)
	stdout, stderr, code := asUser(t, m, 65533, "run", "--", "sh", "-c", leaking)
	if code != exitSelf || stdout != "" || !strings.Contains(stderr, "sudo loginctl enable-linger 65533") || !strings.Contains(stderr, "--allow-weak") {
		t.Errorf("pitvisor run = %d, stdout %q, want %d and a way out: %s", code, stdout, exitSelf, stderr)
	}
	stdout, stderr, code = asUser(t, m, 65533, "run", "--allow-weak", "--", "sh", "-c", leaking)
	if code != 7 || !strings.HasSuffix(stdout, "/session-1.scope\n") || !strings.Contains(stderr, "weak") || !strings.Contains(stderr, "sleep") {
		t.Errorf("pitvisor run --allow-weak = %d, the command was in %q: %s", code, stdout, stderr)
	}
}
