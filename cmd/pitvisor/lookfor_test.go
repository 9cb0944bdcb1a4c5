package main

import (
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/linuxtest"
)

// A supervisor that runs and may not be asked is another answer than none that runs.
func TestAStrangerIsNotToldThatNobodyRuns(t *testing.T) {
	linuxtest.NeedRoot(t, "to become another user")
	w := newWorld(t)
	u := startUp(t, w.argv("up", "-f", w.config(sleepers("web", 1))))
	u.ready("web/0")
	for _, verb := range []string{"status", "events", "logs", "wait"} {
		argv := w.argv(verb)
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		cmd.Dir = "/"
		out, _ := cmd.CombinedOutput() // the code says it
		if code := cmd.ProcessState.ExitCode(); code != exitUnknown || strings.Contains(string(out), "no supervisor runs") {
			t.Errorf("%s of a stranger: exit %d, %s; want %d", verb, code, out, exitUnknown)
		}
	}
	argv := w.argv("ps")
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	cmd.Dir = "/"
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "web/0") {
		t.Errorf("ps of a stranger: %v, %s; want the tree, which everybody may read", err, out)
	}
	u.send(unix.SIGTERM)
	u.wait()
}

// Where was looked is told, and what can not be a place of runs.
func TestWhereWasLookedForASupervisor(t *testing.T) {
	w := newWorld(t)
	_, out, code := w.tool("status")
	assertSays(t, out, code, exitNotRunning, "no supervisor runs below "+w.root, "hint:")
	w.root = filepath.Join(t.TempDir(), "nowhere")
	_, out, code = w.tool("status")
	assertSays(t, out, code, exitUnknown, w.root, "hint:")
}
