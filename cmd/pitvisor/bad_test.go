package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/linuxtest"
)

// inNamespace runs a shell script as root in a mount namespace of its own, with
// $PITVISOR as the command to try, and returns its output and exit code.
func inNamespace(t *testing.T, script string, argv []string) (string, int) {
	t.Helper()
	linuxtest.NeedAdmin(t, "to make a mount namespace")
	linuxtest.NeedCommand(t, "unshare", "mount")
	args := append([]string{"--mount", "--propagation", "private", "/bin/sh", "-c", script, "sh"}, argv...)
	cmd := exec.Command("unshare", args...)
	out, err := cmd.CombinedOutput()
	if _, exited := err.(*exec.ExitError); err != nil && !exited {
		t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// assertSays requires an error for a person: the exit code, every part of the
// message, and no stack.
func assertSays(t *testing.T, output string, code, wantCode int, parts ...string) {
	t.Helper()
	if code != wantCode {
		t.Errorf("exit code = %d, want %d", code, wantCode)
	}
	for _, part := range parts {
		if !strings.Contains(output, part) {
			t.Errorf("message lacks %q", part)
		}
	}
	for _, stack := range []string{"goroutine ", "panic:", ".go:"} {
		if strings.Contains(output, stack) {
			t.Errorf("message has a stack (%q)", stack)
		}
	}
	if t.Failed() {
		t.Logf("output:\n%s", output)
	}
}

func TestNoCgroup2IsRefused(t *testing.T) {
	w := newWorld(t)
	config := w.config(sleepers("web", 1))
	argv := linuxtest.Helper(t, "pitvisor", "up", "-f", config)
	out, code := inNamespace(t, `awk '$0 ~ / - cgroup2 / {print $5}' /proc/self/mountinfo | xargs -r umount -l; exec "$@"`, argv)
	assertSays(t, out, code, exitSelf, "cgroup2", "hint:")
}

func TestReadOnlyCgroupfsIsRefused(t *testing.T) {
	w := newWorld(t)
	config := w.config(sleepers("web", 1))
	argv := w.argv("up", "-f", config)
	out, code := inNamespace(t, `m=$(awk '$0 ~ / - cgroup2 / {print $5; exit}' /proc/self/mountinfo); mount -o remount,ro,bind "$m"; exec "$@"`, argv)
	assertSays(t, out, code, exitSelf, "read-only", "hint:")
	w.assertEmpty()
}

func TestUnprivilegedWithoutDelegationIsRefused(t *testing.T) {
	w := newWorld(t)
	config := w.config(sleepers("web", 1))
	argv := linuxtest.Helper(t, "pitvisor", "up", "-f", config)
	linuxtest.NeedCommand(t, "setpriv")
	for _, dir := range []string{w.dir, filepath.Dir(w.dir)} { // TempDir is for its owner only
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	out, code := inNamespace(t, `cd /; exec setpriv --reuid 65534 --regid 65534 --clear-groups "$@"`, argv)
	assertSays(t, out, code, exitSelf, "Delegate=yes")
}

func TestFullDiskIsNamed(t *testing.T) {
	w := newWorld(t)
	config := w.config("[pool.web]\ncommand = [\"/bin/sleep\", \"1000\"]\n")
	for _, dir := range []string{w.state, w.runtime} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	script := fmt.Sprintf(`mount -t tmpfs -o size=16k,nr_inodes=3 none %s && : > %s/a && : > %[1]s/b; exec "$@"`, w.state, w.state)
	out, code := inNamespace(t, script, w.argv("up", "-f", config))
	assertSays(t, out, code, exitSelf, "no space left", w.state, "hint:")
	w.assertEmpty()
}

func TestOutOfFilesIsNamed(t *testing.T) {
	w := newWorld(t)
	config := w.config(sleepers("web", 200) + "restart = \"never\"\n")
	argv := []string{"/bin/sh", "-c", `ulimit -n 64; exec "$@"`, "sh"}
	u := startUp(t, append(argv, w.argv("up", "-f", config, "--log-format", "text")...))
	u.waitLog("a start that lacks files", func(log []logLine) bool {
		return slices.ContainsFunc(log, func(l logLine) bool { return strings.Contains(l.raw, "given up") })
	})
	u.send(unix.SIGTERM) // the others go on
	code := u.wait()
	assertSays(t, strings.Join(u.logText(), "\n"), code, exitFailed, "too many open files", "LimitNOFILE", "never ready")
	w.assertEmpty()
}

func TestDamagedHistoryIsSetAside(t *testing.T) {
	w := newWorld(t)
	if err := os.MkdirAll(w.state, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(w.state, "history.db"), []byte("this is no database\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	u := w.up(w.config(sleepers("web", 1)))
	u.ready("web/0")
	u.send(unix.SIGTERM)
	if code := u.wait(); code != exitOK {
		t.Errorf("exit code = %d, want %d", code, exitOK)
	}
	loud := u.loud()
	if len(loud) != 1 || !strings.Contains(loud[0], "history") {
		t.Errorf("messages about a damaged history = %q, want one", loud)
	}
	kept, err := filepath.Glob(filepath.Join(w.state, "history.db.damaged-*"))
	if err != nil || len(kept) != 1 {
		t.Errorf("damaged file kept as %v, %v, want one file", kept, err)
	}
}

func TestTenThousandWorkersCheck(t *testing.T) {
	w := newWorld(t)
	out, stderr, code := w.tool("check", "-f", w.config(sleepers("web", 10000)))
	if code != exitOK || !strings.Contains(out, "10000 workers") {
		t.Errorf("check = exit %d\n%s%s", code, out, stderr)
	}
}
