package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/linuxtest"
)

// enter is a shell prefix that moves to a cgroup before it becomes the command.
func enter(dir string, argv []string) []string {
	return append([]string{"/bin/sh", "-c", `echo 0 > "$0/cgroup.procs" && exec "$@"`, dir}, argv...)
}

func mkdir(t *testing.T, parts ...string) string {
	t.Helper()
	dir := filepath.Join(parts...)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestSupervisorInAKilledCgroupMovesAndSaysSo: kernels from 6.14 on kill every
// process that is started from a cgroup that was once killed.
func TestSupervisorInAKilledCgroupMovesAndSaysSo(t *testing.T) {
	w := newWorld(t)
	killed := mkdir(t, w.root, "service")
	err := os.WriteFile(filepath.Join(killed, "cgroup.kill"), []byte("1"), 0)
	if errors.Is(err, fs.ErrPermission) { // what a file system says that makes no files
		linuxtest.Skip(t, "needs cgroup.kill")
	}
	if err != nil {
		t.Fatal(err)
	}
	config := w.config(sleepers("web", 2))
	u := startUp(t, enter(killed, w.argv("up", "-f", config, "--log-format", "json")))
	u.ready(names("web", 2)...)
	loud := u.loud()
	if len(loud) > 0 && !strings.Contains(loud[0], "once killed") {
		t.Errorf("first message above info = %s, want the move", loud[0])
	}
	u.send(unix.SIGTERM)
	if code := u.wait(); code != exitOK {
		t.Errorf("exit code = %d, want %d", code, exitOK)
	}
	if left := w.groups(); len(left) != 1 || left[0] != "service" {
		t.Errorf("cgroups left: %v, want only the one it came from", left)
	}
	if len(loud) == 0 {
		linuxtest.Skip(t, "this kernel does not kill what is started from a killed cgroup")
	}
}

// TestSupervisorLeavesItsRoot: the root must stay free of processes, so that
// controllers can be enabled in it.
func TestSupervisorLeavesItsRoot(t *testing.T) {
	w := newWorld(t)
	config := w.config(sleepers("web", 1))
	u := startUp(t, enter(w.root, w.argv("up", "-f", config, "--log-format", "json")))
	u.ready("web/0")
	if procs, err := os.ReadFile(filepath.Join(w.root, "cgroup.procs")); err != nil || len(procs) != 0 {
		t.Errorf("processes in the root = %q, %v, want none", procs, err)
	}
	u.send(unix.SIGTERM)
	if code := u.wait(); code != exitOK {
		t.Errorf("exit code = %d, want %d", code, exitOK)
	}
	w.assertEmpty()
}

// TestUnprivilegedInADelegatedSubtree runs the supervisor as nobody in a subtree
// that was handed over, as a delegated scope is.
func TestUnprivilegedInADelegatedSubtree(t *testing.T) {
	linuxtest.NeedRoot(t, "to become another user")
	w := newWorld(t)
	linuxtest.NeedCommand(t, "setpriv")
	const nobody = 65534
	home := mkdir(t, w.root, "home") // where the user's session is
	for _, name := range []string{"", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"} {
		for _, dir := range []string{w.root, home} {
			if err := os.Chown(filepath.Join(dir, name), nobody, nobody); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, dir := range []string{w.dir, filepath.Dir(w.dir)} {
		if err := os.Chmod(dir, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	config := w.config(sleepers("web", 2))
	drop := []string{"setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"}
	argv := append(drop, w.argv("up", "-f", config, "--log-format", "json")...)
	first := startUp(t, enter(home, argv))
	first.ready(names("web", 2)...)
	first.kill()
	second := startUp(t, enter(home, argv))
	second.ready(names("web", 2)...)
	linuxtest.Wait(t, patience, func() (bool, string) {
		return len(w.groups()) == 2, "the stale run is still there" // home and the new run
	})
	if loud := second.loud(); len(loud) > 0 {
		t.Errorf("above info:\n%s", strings.Join(loud, "\n"))
	}
	second.send(unix.SIGTERM)
	if code := second.wait(); code != exitOK {
		t.Errorf("exit code = %d, want %d", code, exitOK)
	}
	if left := w.groups(); len(left) != 1 {
		t.Errorf("cgroups left: %v", left)
	}
}
