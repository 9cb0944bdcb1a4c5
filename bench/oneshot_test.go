package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/linuxtest"
	"golang.org/x/sys/unix"
)

// testLane gives a wrapper a cell of its own on a plain stage.
func testLane(t *testing.T, b *bench, w wrapper) *lane {
	t.Helper()
	s, err := newStage(func() error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	l := &lane{wrapper: w, stage: s}
	t.Cleanup(func() {
		if err := l.close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if err := l.open(b); err != nil {
		t.Fatal(err)
	}
	return l
}

func TestOneshotFloorsPassTheCodeOnAndLeaveNothing(t *testing.T) {
	b := newTestBench(t)
	for _, w := range []wrapper{
		floorOneshot(oneshotC, false, b.tools.oneshot), floorOneshot(recordC, true, b.tools.oneshot),
		floorOneshot(oneshotGo, false, b.tools.limitGo, "oneshot"), floorOneshot(recordGo, true, b.tools.limitGo, "oneshot"),
	} {
		t.Run(w.name, func(t *testing.T) {
			l := testLane(t, b, w)
			commands := []struct {
				name    string
				command []string
				code    int
			}{
				{"success", []string{b.tools.bare}, 0},
				{"code", []string{b.tools.bare, "7"}, 7},
				{"signal", []string{"/bin/sh", "-c", "kill -9 $$"}, 128 + 9},
				{"leftover", []string{"/bin/sh", "-c", "setsid sleep 60 & exit 3"}, 3},
			}
			for _, c := range commands {
				s, err := l.fire(t.Context(), c.command, c.code)
				if err != nil {
					t.Errorf("%s: %v", c.name, err)
				}
				if err == nil && (s.Wall <= 0 || s.CPU <= 0) {
					t.Errorf("%s: fire = %+v, want some time", c.name, s)
				}
			}
			if strings.HasSuffix(w.name, "record") {
				checkRecord(t, l.cell.recordFile(), len(commands))
			}
		})
	}
}

func checkRecord(t *testing.T, path string, commands int) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, event := range []string{"start", "end"} {
		if got := strings.Count(string(text), `"event":"`+event+`"`); got != commands {
			t.Errorf("the record has %d lines of event %s, want %d", got, event, commands)
		}
	}
}

// Without this a wrapper that leaks or hides failures would look perfect.
func TestFireSeesWhatABadWrapperDoes(t *testing.T) {
	b := newTestBench(t)
	shell := func(script string) wrapper {
		return wrapper{name: "bad", argv: func(c *cell, command []string) ([]string, error) {
			return append([]string{"/bin/sh", "-c", script, "sh", c.root.path}, command...), nil
		}}
	}
	for _, test := range []struct{ name, script, want string }{
		{"swallows the code", `shift; "$@"; exit 0`, "ended with code 0, want code 7"},
		{"dies", `echo overboard >&2; kill -9 $$`, "ended by SIGKILL, want code 7; its last words: overboard"},
		{"leaves a cgroup", `mkdir "$1/left"; shift; "$@"`, "left 1 cgroups"},
		{"leaves a process", `setsid sleep 60 & shift; "$@"`, "wait until"},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := testLane(t, b, shell(test.script))
			_, err := l.fire(t.Context(), []string{b.tools.bare, "7"}, 7)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("fire = %v, want %q in it", err, test.want)
			}
		})
	}
}

func TestShootGoesOnInAFreshCellAfterAFailure(t *testing.T) {
	b := newTestBench(t)
	l := testLane(t, b, wrapper{name: "once", argv: func(c *cell, command []string) ([]string, error) {
		if l := c.runs(); len(l) > 0 {
			return nil, errors.New("the cell is not fresh")
		}
		return []string{"/bin/mkdir", filepath.Join(c.root.path, "run-left")}, nil
	}})
	for range 2 {
		if s := b.shoot(t.Context(), l); s.Err != "left 1 cgroups" {
			t.Errorf("shoot = %q, want the cgroup that is left", s.Err)
		}
	}
}

func TestFireEndsACommandThatTakesTooLong(t *testing.T) {
	b := newTestBench(t)
	l := testLane(t, b, prefixed("sleeper", kindFloor))
	started := time.Now()
	_, status, err := l.stage.fire(firing{
		argv: []string{"/bin/sleep", "20"}, box: l.cell.sup, in: l.null, out: l.log, limit: 50 * time.Millisecond,
	})
	if err == nil || !strings.Contains(err.Error(), "not done in 50ms") || status != 0 {
		t.Errorf("fire = %v, %v, want the time limit", status, err)
	}
	if took := time.Since(started); took > 15*time.Second {
		t.Errorf("fire took %v: the command was not killed", took)
	}
	if full, err := l.cell.box.populated(); err != nil || full {
		t.Errorf("populated = %v, %v, want an empty cell", full, err)
	}
}

func TestFireGivesASessionOnlyIfAsked(t *testing.T) {
	b := newTestBench(t)
	script := `read pid comm state parent group session rest </proc/self/stat; [ "$pid" = "$session" ]`
	l := testLane(t, b, prefixed("shell", kindFloor))
	for session, code := range map[bool]int{true: 0, false: 1} {
		l.session = session
		if _, err := l.fire(t.Context(), []string{"/bin/sh", "-c", script}, code); err != nil {
			t.Errorf("session %v: %v", session, err)
		}
	}
}

func TestUnifiedStageHasCgroup2AtItsUsualPlaceForItselfOnly(t *testing.T) {
	linuxtest.NeedRoot(t)
	linuxtest.NeedCgroup2(t)
	linuxtest.NeedCapability(t, unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN")
	mount, err := findCgroup2()
	if err != nil {
		t.Fatal(err)
	}
	before := fileSystem(t)
	s, err := newStage(func() error { return unified(mount) })
	if err != nil {
		t.Fatal(err)
	}
	var inside syscall.Statfs_t
	done := make(chan struct{})
	s.calls <- func() {
		defer close(done)
		err = syscall.Statfs(usualCgroup, &inside)
	}
	<-done
	s.close()
	if err != nil || inside.Type != unix.CGROUP2_SUPER_MAGIC {
		t.Errorf("statfs on the stage = %#x, %v, want cgroup2", inside.Type, err)
	}
	if after := fileSystem(t); after != before {
		t.Errorf("the host's %s became %#x, want %#x", usualCgroup, after, before)
	}
}

func fileSystem(t *testing.T) int64 {
	t.Helper()
	var stat syscall.Statfs_t
	if err := syscall.Statfs(usualCgroup, &stat); err != nil {
		t.Fatal(err)
	}
	return int64(stat.Type) // uint32 on s390x
}

func TestStageTellsThatItCouldNotBePrepared(t *testing.T) {
	want := errors.New("no")
	if _, err := newStage(func() error { return want }); !errors.Is(err, want) {
		t.Errorf("newStage = %v, want %v", err, want)
	}
}

func TestWatchSeesOneProcessOfAFloor(t *testing.T) {
	b := newTestBench(t)
	b.scale.idlePer = 10 * time.Millisecond
	w, err := b.watch(t.Context(), floorOneshot(oneshotGo, false, b.tools.limitGo, "oneshot"))
	if err != nil {
		t.Fatal(err)
	}
	if w.Held.Processes != 1 || w.Helpers != 0 || w.Own != 0 || w.Held.PSS == 0 {
		t.Errorf("watch = %+v, want one process and its memory", w)
	}
}

func TestSharedMemoryIsCountedOnce(t *testing.T) {
	b := newTestBench(t)
	c := testCell(t, b)
	var pids []int
	for range 2 {
		p, err := startIn(c.sup, []string{"/bin/sleep", "60"}, nil, filepath.Join(c.dir, "log"))
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, p.pid)
		t.Cleanup(p.close)
		t.Cleanup(func() { _ = p.signal(unix.SIGKILL) }) // then it can be closed
	}
	held, err := measure(pids)
	if err != nil {
		t.Fatal(err)
	}
	w := waiting{Held: held}
	if err := w.split(pids[0], pids); err != nil {
		t.Fatal(err)
	}
	if w.Helpers != 1 || w.Own == 0 || w.Held.PSS != held.PSS {
		t.Errorf("split = %+v, want one helper with memory of its own", w)
	}
	if shared, err := sharesMemory(pids[0], pids[0]); err != nil || !shared {
		t.Errorf("sharesMemory of a process with itself = %v, %v, want true", shared, err)
	}
}
