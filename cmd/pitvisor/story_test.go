package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/pidfd"
	"github.com/pitvisor/pitvisor/registry"
)

// The story of this project (H-01, R-01), told twice: a supervisor dies, one of
// its workers exits, the kernel gives its PID to a stranger, and the supervisor
// is started again.

// storyConfig has a pool of every kind of worker, and one that daemonises.
func storyConfig(t *testing.T) string {
	t.Helper()
	linuxtest.NeedCommand(t, "python3", "/usr/bin/python3")
	if out, err := exec.Command("/usr/bin/python3", "-c", "import grpc").CombinedOutput(); err != nil {
		linuxtest.Skip(t, "needs python3-grpcio: "+lastLine(out))
	}
	workers, err := filepath.Abs("../../examples/pool")
	if err != nil {
		t.Fatal(err)
	}
	quote := func(argv []string) string { return `["` + strings.Join(argv, `", "`) + `"]` }
	daemon := quote(linuxtest.Helper(t, "double-fork"))
	goServer := quote(linuxtest.Helper(t, "listen"))
	return fmt.Sprintf(`
name = "story"

[pool.web]
command = ["python3", "web.py"]
directory = %[1]q
size = %[4]d
[pool.web.ready]
stdout = 'listening on \S+:(?P<port>\d+)'
http = "http://127.0.0.1:{port}/healthz"

[pool.rpc]
command = ["/usr/bin/python3", "rpc.py"]
directory = %[1]q
size = %[4]d
[pool.rpc.ready]
file = true
grpc = "127.0.0.1:{port}"

[pool.go]
command = %[2]s
size = 2
[pool.go.ready]
stdout = '(?P<port>\d+)'
tcp = "127.0.0.1:{port}"

[pool.shell]
command = ["/bin/sh", "-c", "echo up; while :; do sleep 1000; done"]
size = 2
[pool.shell.ready]
stdout = '^up$'

[pool.daemon]
command = %[3]s
size = 2
track = "leaf"
`, workers, goServer, daemon, pythons())
}

func lastLine(out []byte) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return lines[len(lines)-1]
}

// pythons is the size of pools that take long to start on an emulated processor.
func pythons() int {
	if testing.Short() {
		return 1
	}
	return 2
}

func storyWorkers() []string {
	all := append(names("web", pythons()), names("rpc", pythons())...)
	for _, pool := range []string{"go", "shell", "daemon"} {
		all = append(all, names(pool, 2)...)
	}
	return all
}

func TestStoryH01R01CrashReuseRestart(t *testing.T) {
	linuxtest.NeedChosenPID(t)
	w := newWorld(t)
	adoptOrphans(t)
	config := w.config(storyConfig(t))

	first := w.up(config)
	first.ready(storyWorkers()...)
	first.prints("daemon/0 | ready") // the daemon is there, and its starter about to end
	first.prints("daemon/1 | ready")
	var before map[string]registry.WorkerView
	linuxtest.Wait(t, patience, func() (bool, string) {
		before = w.workers(registry.RunRunning)
		settled := len(before["daemon/0"].Processes) == 1 && len(before["daemon/1"].Processes) == 1
		return settled, "the starters of the daemons have not ended"
	})
	first.kill()
	for name, v := range before {
		for _, p := range v.Processes {
			mustBe(t, true, "after the crash, "+name, identity(t, p))
		}
	}
	victim := before["shell/0"]
	endAndReap(t, victim)
	stranger := linuxtest.ReusePID(t, victim.Process.PID, "/bin/sleep", "1000")

	began := time.Now()
	second := w.up(config)
	stale := w.staleGroups(before)
	linuxtest.Wait(t, patience, func() (bool, string) {
		return !anyExists(stale), "the stale run is still there"
	})
	gone := time.Since(began)
	second.ready(storyWorkers()...)

	t.Logf("stale run gone %s after the start, all workers ready after %s", gone.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
	limit := time.Second
	if linuxtest.Emulated() || testing.Short() {
		limit *= 10
	}
	if gone > limit {
		t.Errorf("the stale run was gone after %s, want at most %s", gone, limit)
	}
	if !stranger.Alive() {
		t.Error("the stranger that got the worker's PID was killed")
	}
	for name, v := range before {
		for _, p := range v.Processes {
			mustBe(t, false, "after the sweep, old "+name, identity(t, p))
		}
	}
	if loud := second.loud(); len(loud) > 0 {
		t.Errorf("log above info after an ordinary restart:\n%s", strings.Join(loud, "\n"))
	}
	second.send(unix.SIGTERM)
	if code := second.wait(); code != exitOK {
		t.Errorf("exit code of the second supervisor = %d, want %d", code, exitOK)
	}
}

// TestStoryNaivePIDFileKillsTheStranger tells the same story with the PID file
// that this project replaces. It shows that the story is able to fail.
func TestStoryNaivePIDFileKillsTheStranger(t *testing.T) {
	file := filepath.Join(t.TempDir(), "workers.pid")
	worker := linuxtest.Start(t, "/bin/sleep", "1000")
	if err := os.WriteFile(file, []byte(strconv.Itoa(worker.PID())+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	pid := worker.PID()
	worker.Kill(t)
	stranger := linuxtest.ReusePID(t, pid, "/bin/sleep", "1000")

	naiveSweep(t, file)

	status := stranger.Wait(t, patience)
	if !status.Signaled() || status.Signal() != unix.SIGKILL {
		t.Fatalf("the stranger ended with %v, want killed by the naive sweep", status)
	}
}

// naiveSweep is what supervisors with PID files do at their start.
func naiveSweep(t *testing.T, file string) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, field := range bytes.Fields(data) {
		pid, err := strconv.Atoi(string(field))
		if err != nil || pid <= 1 {
			t.Fatalf("PID %q in %s", field, file)
		}
		if err := unix.Kill(pid, unix.SIGKILL); err != nil { // by number: the bug that the story is about
			t.Fatal(err)
		}
	}
}

// adoptOrphans makes the test process the parent of what the supervisor leaves,
// so that it can reap a worker and free its PID.
func adoptOrphans(t *testing.T) {
	t.Helper()
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		reapAll()
		_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) // cannot fail with these arguments
	})
}

// reapAll collects every orphan that has ended; the test's own children are
// reaped by then.
func reapAll() {
	for {
		pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
	}
}

// endAndReap kills every process of an orphaned worker and reaps its main one.
func endAndReap(t *testing.T, v registry.WorkerView) {
	t.Helper()
	for _, p := range v.Processes {
		proc, err := identity(t, p).Open()
		if err != nil {
			continue // it ended with its parent
		}
		if err := proc.Signal(unix.SIGKILL); err != nil && err != os.ErrProcessDone {
			t.Fatal(err)
		}
		if err := proc.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := unix.Waitid(unix.P_PIDFD, proc.FD(), nil, unix.WEXITED, nil); err != nil && err != unix.ECHILD {
			t.Fatal(err)
		}
		_ = proc.Close()
	}
}

func identity(t *testing.T, p registry.ProcessView) pidfd.Identity {
	t.Helper()
	boot, err := pidfd.BootID()
	if err != nil {
		t.Fatal(err)
	}
	return pidfd.Identity{Boot: boot, PID: p.PID, Inode: p.Inode, Start: p.Start}
}

func mustBe(t *testing.T, want bool, who string, id pidfd.Identity) {
	t.Helper()
	alive, err := id.Alive()
	if err != nil || alive != want {
		t.Errorf("%s: process %s alive = %v, %v, want %v", who, id, alive, err, want)
	}
}

// staleGroups is the run directories that hold the given workers.
func (w *world) staleGroups(workers map[string]registry.WorkerView) []string {
	w.tb.Helper()
	var dirs []string
	for _, name := range w.groups() {
		for _, v := range workers {
			dir := filepath.Join(w.root, name)
			if _, err := os.Stat(filepath.Join(dir, v.Pool, v.Leaf)); err == nil {
				dirs = append(dirs, dir)
				break
			}
		}
	}
	return dirs
}

func anyExists(dirs []string) bool {
	for _, dir := range dirs {
		if _, err := os.Stat(dir); err == nil {
			return true
		}
	}
	return false
}
