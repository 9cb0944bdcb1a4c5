package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/api"
	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/registry"
)

// shPool is a pool of one worker, a shell script in which DIR is the world's directory.
func (w *world) shPool(name, script, more string) string {
	script = strings.ReplaceAll(script, "DIR", w.dir)
	return fmt.Sprintf("[pool.%s]\ncommand = [\"/bin/sh\", \"-c\", '''%s''']\noutput = \"none\"\n%s\n", name, script, more)
}

// fifo makes a named pipe in the world's directory and holds it open, so that nobody
// waits for another to open it.
func (w *world) fifo(name string) *os.File {
	w.tb.Helper()
	path := filepath.Join(w.dir, name)
	if err := unix.Mkfifo(path, 0o600); err != nil {
		w.tb.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		w.tb.Fatal(err)
	}
	w.tb.Cleanup(func() { _ = f.Close() })
	if err := f.SetDeadline(time.Now().Add(patience)); err != nil {
		w.tb.Fatal(err)
	}
	return f
}

// letGo writes a line.
func letGo(t *testing.T, fifo *os.File) {
	t.Helper()
	if err := fifo.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := fifo.WriteString("go on\n"); err != nil {
		t.Fatal(err)
	}
}

// hear reads a line.
func hear(t *testing.T, fifo *os.File) {
	t.Helper()
	if _, err := bufio.NewReader(fifo).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
}

// beginTool starts a verb beside the test; end returns its exit code and stderr.
func (w *world) beginTool(verb string, args ...string) (end func() (int, string)) {
	w.tb.Helper()
	argv := w.argv(verb, args...)
	cmd := exec.CommandContext(bounded(w.tb), argv[0], argv[1:]...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		w.tb.Fatal(err)
	}
	return func() (int, string) {
		_ = cmd.Wait() // the code says it
		return cmd.ProcessState.ExitCode(), errs.String()
	}
}

// TestH10PeersThatAreNotUpYet: workers that cannot live without their peer are not
// started before it is ready, so nobody has to try again.
func TestH10PeersThatAreNotUpYet(t *testing.T) {
	w := newWorld(t)
	slow := w.fifo("slow")
	u := w.up(w.config(
		w.shPool("web", `test -e DIR/db || exit 1; exec sleep 1000`, `after = { db = "ready" }`) +
			w.shPool("db", `read _ <DIR/slow; : >DIR/db; exec sleep 1000`, "[pool.db.ready]\nexec = [\"test\", \"-e\", \""+w.dir+"/db\"]\ninterval = \"10ms\"\n")))
	letGo(t, slow)
	u.ready("db/0", "web/0")
	u.send(unix.SIGTERM)
	if code := u.wait(); code != exitOK {
		t.Errorf("exit code = %d, want %d", code, exitOK)
	}
	if loud := u.loud(); len(loud) > 0 {
		t.Errorf("above info:\n%s", strings.Join(loud, "\n"))
	}
	w.assertEmpty()
}

// TestH14RestartWaitsForTheRealExit: the next start of a slot comes after the last
// process of the one before has gone, however long that takes.
func TestH14RestartWaitsForTheRealExit(t *testing.T) {
	w := newWorld(t)
	told, leave := w.fifo("told"), w.fifo("leave")
	u := w.up(w.config(w.shPool("web", `trap 'echo >DIR/told; read _ <DIR/leave; exit 0' TERM; while :; do sleep 1000 & wait; done`,
		"stop_grace = \"10m\"\nstop_scope = \"main\"\n")))
	u.ready("web/0")
	before := w.workers(registry.RunRunning)["web/0"].Process
	end := w.beginTool("restart", "web/0")
	hear(t, told) // the surge is ready, the old one has got its signal and stays
	now := w.workers(registry.RunRunning)
	mustBe(t, true, "the old web/0", before)
	if got := now["web/0"].Process; got.PID != before.PID {
		t.Errorf("web/0 is %+v while the old one, %+v, lives", got, before)
	}
	letGo(t, leave)
	if code, said := end(); code != exitOK {
		t.Errorf("restart = %d\n%s", code, said)
	}
	mustBe(t, false, "the old web/0", before)
	if after, ok := w.workers(registry.RunRunning)["web/0"]; !ok || after.Process.PID == before.PID {
		t.Errorf("after the restart web/0 is %+v, was %+v", after.Process, before)
	}
	u.send(unix.SIGKILL) // its graces are long
	u.wait()
	w.tool("sweep")
	w.assertEmpty()
}

// TestH40WhoWaitsIsToldOfTheEnd: commands that wait for workers end when the
// supervisor does, and not well.
func TestH40WhoWaitsIsToldOfTheEnd(t *testing.T) {
	w := newWorld(t)
	u := w.up(w.config(sleepers("web", 1) + w.shPool("late", `exec sleep 1000`, "[pool.late.ready]\nexec = [\"false\"]\ntimeout = \"10m\"\n")))
	u.ready("web/0")
	client, asked := w.client(), make(chan struct{}, 1)
	waited := make(chan error, 1)
	go func() {
		_, err := client.WaitFor(bounded(t), func(*api.Status) bool {
			select {
			case asked <- struct{}{}:
			default:
			}
			return false
		})
		waited <- err
	}()
	restarted := w.beginTool("restart", "late")
	<-asked
	u.waitLog("the restart", func(log []logLine) bool {
		return slices.ContainsFunc(log, func(l logLine) bool { return strings.Contains(l.raw, "restart") })
	})
	u.send(unix.SIGTERM)
	if code := u.wait(); code != exitOK {
		t.Errorf("exit code = %d, want %d", code, exitOK)
	}
	if err := <-waited; err == nil {
		t.Error("WaitFor() = nil, want that the supervisor has ended")
	}
	if code, said := restarted(); code != exitFailed || !strings.Contains(said, "the supervisor is stopping") {
		t.Errorf("restart = %d, %q", code, said)
	}
	w.assertEmpty()
}

// TestH44NothingIsStuckAfterACrashDuringTheStop: what says "it is shutting down" dies
// with who said it.
func TestH44NothingIsStuckAfterACrashDuringTheStop(t *testing.T) {
	w := newWorld(t)
	bystander := linuxtest.Start(t, "/bin/sleep", "1000")
	config := w.config(w.shPool("deaf", `trap "" TERM; while :; do sleep 1000 & wait; done`, "stop_grace = \"10m\"\n"))
	for range 3 {
		w.tool("sweep") // the last one's, which was killed, too
		u := w.up(config)
		u.ready("deaf/0")
		old := w.workers(registry.RunRunning)["deaf/0"].Process
		u.send(unix.SIGTERM)
		u.waitLog("stopping", func(log []logLine) bool {
			return strings.Contains(log[len(log)-1].raw, "stop")
		})
		u.kill()
		next := w.up(config)
		next.ready("deaf/0")
		next.waitLog("the sweep", func(log []logLine) bool {
			return slices.ContainsFunc(log, func(l logLine) bool { return strings.HasPrefix(l.Msg, "swept") })
		})
		mustBe(t, false, "the worker of the run before", old)
		next.kill()
	}
	if !bystander.Alive() {
		t.Error("a bystander was killed")
	}
	w.tool("sweep")
	w.assertEmpty()
}
