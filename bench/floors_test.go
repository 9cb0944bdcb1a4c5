package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/spawn"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	spawn.HelperMain()
	linuxtest.Main(m)
}

// newTestBench builds everything but pitvisor and gives a bench in a cgroup of the test.
func newTestBench(t *testing.T) *bench {
	t.Helper()
	linuxtest.NeedRoot(t)
	linuxtest.NeedCgroup2(t)
	linuxtest.NeedCommand(t, "gcc", "go")
	t.Chdir("..")
	b := &bench{scale: options{quick: true}.scale(), say: newProgress(os.Stderr), work: t.TempDir()}
	b.opts.pitvisor = standIn(t, b.work)
	root, err := openRoot(t.Context(), filepath.Join(linuxtest.Cgroup(t), "bench"))
	if err != nil {
		t.Fatal(err)
	}
	b.root = root
	t.Cleanup(func() {
		if err := root.destroy(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if err := b.build(t.Context(), filepath.Join(b.work, "bin")); err != nil {
		t.Fatal(err)
	}
	if len(b.Omitted) > 0 {
		t.Fatalf("not built: %v", b.Omitted)
	}
	return b
}

// standIn makes two empty files that stand for pitvisor's programs; no test here starts them.
func standIn(t *testing.T, dir string) string {
	t.Helper()
	front := filepath.Join(dir, "product", "bin", "pitvisor")
	for _, path := range []string{front, allVerbs(front)} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return front
}

func (b *bench) floors() []contender {
	return []contender{
		floorC("limit-c", b.tools.limitC, "cgroup"), floorC("limit-c-journal", b.tools.limitC, "journal"),
		floorC("limit-c-nocg", b.tools.limitC, "nocg"), floorGo(b.tools.limitGo),
	}
}

func TestFloorsStartRestartAndLeaveNothing(t *testing.T) {
	b := newTestBench(t)
	const workers = 20
	for _, who := range b.floors() {
		t.Run(who.name, func(t *testing.T) {
			c := testCell(t, b)
			j := job{workers: workers, command: []string{b.tools.pause}, ignoreTerm: true}
			if err := c.launch(who, j); err != nil {
				t.Fatal(err)
			}
			ctx := within(t, 20*time.Second)
			if _, err := c.running(ctx, workers); err != nil {
				t.Fatal(err, c.proc.tail())
			}
			killOne(t, c.counter.all()[7])
			if _, err := c.running(ctx, workers+1); err != nil {
				t.Fatalf("restart: %v %s", err, c.proc.tail())
			}
			s, err := c.stop(ctx, who.stop)
			if err != nil {
				t.Fatal(err, c.proc.tail())
			}
			if s.Left != 0 || s.LeftDirs != 0 {
				t.Errorf("stop left %d processes and %d cgroups, want none", s.Left, s.LeftDirs)
			}
			if who.name == "limit-c-journal" {
				checkJournal(t, filepath.Join(c.dir, "journal"), workers+1)
			}
			checkEvents(t, c.proc.log)
		})
	}
}

func testCell(t *testing.T, b *bench) *cell {
	t.Helper()
	c, err := b.newCell()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return c
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func killOne(t *testing.T, pid int) {
	t.Helper()
	fd, err := handle(pid)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil {
		t.Fatal(err)
	}
}

func checkJournal(t *testing.T, path string, want int) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(string(text), "start "); got != want {
		t.Errorf("the journal has %d starts, want %d", got, want)
	}
}

func checkEvents(t *testing.T, log string) {
	t.Helper()
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	for _, event := range []string{"started", "stopping", "gone"} {
		if !strings.Contains(string(text), `"event":"`+event+`"`) {
			t.Errorf("the floor said %q, want an event %q in it", text, event)
		}
	}
}

func TestFloorsContainDaemonsAndBombs(t *testing.T) {
	b := newTestBench(t)
	for _, who := range []contender{floorC("limit-c", b.tools.limitC, "cgroup"), floorGo(b.tools.limitGo)} {
		t.Run(who.name, func(t *testing.T) {
			r := b.contain(t.Context(), who)
			if r.Err != "" || r.DaemonLeft != 0 || r.BombLeft != 0 || r.DirsLeft != 0 {
				t.Errorf("contain = %+v, want nothing left", r)
			}
		})
	}
}

// The measure itself must see survivors; without this a supervisor that leaks would look perfect.
func TestStopSeesWhatALeakySupervisorLeaves(t *testing.T) {
	b := newTestBench(t)
	leaky := contender{name: "leaky", stop: []unix.Signal{unix.SIGTERM}, argv: func(c *cell, j job) ([]string, error) {
		script := `mkdir "$2/left"; "$1" & trap 'exit 0' TERM; while :; do wait; done`
		return []string{"/bin/sh", "-c", script, "sh", j.command[0], c.root.path}, nil
	}}
	s, err := b.stopOf(t.Context(), leaky, job{workers: 1, command: []string{b.tools.daemonise}, ignoreTerm: true}, 2)
	if err != nil {
		t.Fatal(err)
	}
	if s.Left != 2 || s.LeftDirs != 1 {
		t.Errorf("stop saw %d processes and %d cgroups left, want 2 and 1", s.Left, s.LeftDirs)
	}
}

func TestRunningTellsThatTheSupervisorEnded(t *testing.T) {
	b := newTestBench(t)
	c := testCell(t, b)
	broken := contender{argv: func(*cell, job) ([]string, error) {
		return []string{"/bin/sh", "-c", "echo no pool today >&2; exit 3"}, nil
	}}
	if err := c.launch(broken, job{workers: 1}); err != nil {
		t.Fatal(err)
	}
	_, err := c.running(within(t, 20*time.Second), 1)
	if err == nil || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("running = %v, want the exit status 3", err)
	}
	if got := c.proc.tail(); got != "no pool today" {
		t.Errorf("tail = %q, want the last words", got)
	}
}

func TestForkpidGivesAChosenPid(t *testing.T) {
	b := newTestBench(t)
	linuxtest.NeedCapability(t, unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN")
	c := testCell(t, b)
	who := floorGo(b.tools.limitGo)
	if err := c.launch(who, job{workers: 2, command: []string{b.tools.pause}, ignoreTerm: true}); err != nil {
		t.Fatal(err)
	}
	ctx := within(t, 60*time.Second)
	if _, err := c.running(ctx, 2); err != nil {
		t.Fatal(err)
	}
	if err := c.crash(ctx); err != nil {
		t.Fatal(err)
	}
	want := c.counter.all()[0]
	stranger, err := b.replace(ctx, c, want)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(stranger)
	pids := c.counter.all()
	if got := pids[len(pids)-1]; got != want || !alive(stranger) {
		t.Errorf("the stranger has pid %d, alive %v, want pid %d, alive", got, alive(stranger), want)
	}
}

func TestOpenRootRefusesASecondBenchmarkAndClearsAKilledOne(t *testing.T) {
	linuxtest.NeedRoot(t)
	linuxtest.NeedCgroup2(t)
	path := filepath.Join(linuxtest.Cgroup(t), "bench")
	first, err := openRoot(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := openRoot(t.Context(), path); !errors.Is(err, unix.EWOULDBLOCK) {
		t.Errorf("second openRoot = %v, want EWOULDBLOCK", err)
	}
	left, err := first.make("cell-1")
	if err != nil {
		t.Fatal(err)
	}
	sleeper, err := startIn(left, []string{"/bin/sleep", "60"}, nil, filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	// A killed benchmark closes its directory and thereby gives the lock back, and removes nothing.
	if err := errors.Join(left.close(), first.close()); err != nil {
		t.Fatal(err)
	}
	second, err := openRoot(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	sleeper.close()
	if names, err := second.children(); err != nil || len(names) > 0 {
		t.Errorf("children = %v, %v, want none", names, err)
	}
	if err := second.destroy(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the cgroup is still there: %v", err)
	}
}
