package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/registry"
)

// sleepers is a configuration with one pool of n workers that do nothing.
func sleepers(pool string, n int) string {
	return fmt.Sprintf("[pool.%s]\ncommand = [\"/bin/sleep\", \"1000\"]\nsize = %d\noutput = \"none\"\n", pool, n)
}

func names(pool string, n int) []string {
	var out []string
	for i := range n {
		out = append(out, fmt.Sprintf("%s/%d", pool, i))
	}
	return out
}

// assertEmpty requires that no cgroup is left below the world's root.
func (w *world) assertEmpty() {
	w.tb.Helper()
	if left := w.groups(); len(left) > 0 {
		w.tb.Errorf("cgroups left below the root: %v", left)
	}
}

func TestH03CleanStartAndStopIsQuiet(t *testing.T) {
	w := newWorld(t)
	config := w.config(sleepers("web", 4))
	for range 2 {
		u := w.up(config)
		u.ready(names("web", 4)...)
		u.send(unix.SIGTERM)
		if code := u.wait(); code != exitOK {
			t.Errorf("exit code = %d, want %d", code, exitOK)
		}
		if loud := u.loud(); len(loud) > 0 {
			t.Errorf("above info on a clean start and stop:\n%s", strings.Join(loud, "\n"))
		}
	}
	w.assertEmpty()
}

func TestH04HundredStopStartCycles(t *testing.T) {
	w := newWorld(t)
	config := w.config(sleepers("web", 2))
	bystander := linuxtest.Start(t, "/bin/sleep", "1000")
	for i := range linuxtest.Times(100, 10) {
		u := w.up(config)
		u.ready(names("web", 2)...)
		u.send(unix.SIGTERM)
		if code := u.wait(); code != exitOK {
			t.Fatalf("cycle %d: exit code = %d, want %d", i, code, exitOK)
		}
		if left := w.groups(); len(left) > 0 {
			t.Fatalf("cycle %d: cgroups left: %v", i, left)
		}
	}
	if !bystander.Alive() {
		t.Error("a bystander was killed")
	}
}

func TestH06EveryWayToEndStopsTheTree(t *testing.T) {
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGQUIT} {
		t.Run(unix.SignalName(sig), func(t *testing.T) {
			w := newWorld(t)
			u := w.up(w.config(sleepers("web", 2)))
			u.ready(names("web", 2)...)
			before := w.workers(registry.RunRunning)
			u.send(sig)
			if code := u.wait(); code != exitOK {
				t.Errorf("exit code = %d, want %d", code, exitOK)
			}
			for name, v := range before {
				for _, p := range v.Processes {
					mustBe(t, false, name, identity(t, p))
				}
			}
			w.assertEmpty()
		})
	}
}

func TestH07H25NothingToSweepAfterACleanStop(t *testing.T) {
	w := newWorld(t)
	config := w.config("[pool.d]\ncommand = [\"" + strings.Join(linuxtest.Helper(t, "double-fork"), `", "`) + "\"]\nsize = 3\ntrack = \"leaf\"\nstop_grace = \"1s\"\n")
	u := w.up(config)
	u.ready(names("d", 3)...)
	before := w.workers(registry.RunRunning)
	u.send(unix.SIGINT)
	u.wait()
	for name, v := range before {
		for _, p := range v.Processes {
			mustBe(t, false, "after the stop returned, "+name, identity(t, p))
		}
	}
	stdout, _, code := w.tool("sweep", "--json")
	if code != exitOK || !strings.Contains(stdout, `"swept": 0`) {
		t.Errorf("sweep after a clean stop = exit %d\n%s", code, stdout)
	}
	w.assertEmpty()
}

func TestH12WhatIsReportedReadyIsInTheTree(t *testing.T) {
	w := newWorld(t)
	u := w.up(w.config(sleepers("web", 20)))
	for _, name := range names("web", 20) {
		u.ready(name)
		v, found := w.workers(registry.RunRunning)[name]
		if !found || len(v.Processes) != 1 || v.Processes[0].PID != v.Process.PID || v.Process.Inode+v.Process.Start == 0 {
			t.Fatalf("%s was reported ready, and the tree has %+v", name, v)
		}
		mustBe(t, true, name, v.Process)
	}
	u.send(unix.SIGTERM)
	u.wait()
	w.assertEmpty()
}

// TestH28WorldsAreApart: what is set for one supervisor and what runs in one
// place does not show in another.
func TestH28WorldsAreApart(t *testing.T) {
	t.Setenv("PITVISOR_STATE_DIR", "/nonexistent/of-somebody-else") // flags win over the environment
	w, other := newWorld(t), newWorld(t)
	text := "[pool.web]\ncommand = [\"/bin/sh\", \"-c\", \"env; exec sleep 1000\"]\nsize = 2\n"
	first, second := w.up(w.config(text)), other.up(other.config(text))
	for _, u := range []*upProc{first, second} {
		u.ready(names("web", 2)...)
	}
	for _, one := range []*world{w, other} {
		if got := one.workers(registry.RunRunning); len(got) != 2 {
			t.Errorf("workers below %s = %v, want web/0 and web/1", one.root, got)
		}
	}
	first.send(unix.SIGTERM)
	first.wait()
	for _, line := range first.lines() {
		if strings.Contains(line, "somebody-else") {
			t.Errorf("the supervisor's environment reached a worker: %s", line)
		}
	}
	if got := other.workers(registry.RunRunning); len(got) != 2 {
		t.Errorf("after the stop of another supervisor: workers = %v", got)
	}
	second.send(unix.SIGTERM)
	second.wait()
	w.assertEmpty()
	other.assertEmpty()
}

func TestH20StoppedWorkersStayStopped(t *testing.T) {
	w := newWorld(t)
	u := w.up(w.config("[pool.x]\ncommand = [\"/bin/sh\", \"-c\", \"exit 0\"]\nsize = 2\nbackoff = { min = \"1ms\", max = \"5ms\" }\n"))
	u.waitLog("a few restarts", func(log []logLine) bool { return len(log) > 10 })
	u.send(unix.SIGTERM)
	u.wait()
	w.assertEmpty()
}

func TestH39H46TwoSupervisorsNeverTouchEachOther(t *testing.T) {
	w := newWorld(t)
	config := w.config(sleepers("web", 3)) // one root, two supervisors
	other := filepath.Join(w.dir, "other.toml")
	if err := os.Link(config, other); err != nil {
		t.Fatal(err)
	}
	first, second := w.up(config), w.up(other)
	first.ready(names("web", 3)...)
	second.ready(names("web", 3)...)
	// With one configuration every worker would be there twice.
	_, said, code := w.tool("up", "-f", config)
	assertSays(t, said, code, exitUsage, "the pools of "+config+" are kept already, by pid ", "stop that one first")
	if n := len(w.groups()); n != 2 {
		t.Fatalf("%d runs below the root, want 2: %v", n, w.groups())
	}
	before := map[string]registry.RunView{}
	for _, r := range w.runs() {
		before[r.ID.String()] = r
	}
	first.kill()
	if _, stderr, code := w.tool("sweep"); code != exitOK {
		t.Fatalf("sweep = exit %d\n%s", code, stderr)
	}
	after := w.runs()
	if len(after) != 1 || after[0].State != registry.RunRunning {
		t.Fatalf("runs after the sweep = %+v, want the second one only", after)
	}
	for _, v := range before[after[0].ID.String()].Pools[0].Workers {
		mustBe(t, true, "worker of the live supervisor", identity(t, v.Processes[0]))
	}
	second.send(unix.SIGTERM)
	if code := second.wait(); code != exitOK {
		t.Errorf("exit code of the second = %d, want %d", code, exitOK)
	}
	w.assertEmpty()
}

func TestR02OrphansThatIgnoreTermDoNotDelayTheStart(t *testing.T) {
	linuxtest.NeedRealSpeed(t)
	w := newWorld(t)
	adoptOrphans(t)
	stubborn := strings.Join(linuxtest.Helper(t, "ignore-term"), `", "`)
	// One pair says nothing on a machine that has something else to do, too.
	const pairs = 7
	var delays []time.Duration
	for range pairs {
		old := w.up(w.config("[pool.old]\ncommand = [\"" + stubborn + "\"]\nsize = 8\n[pool.old.ready]\nstdout = \".\"\n"))
		old.ready(names("old", 8)...)
		old.kill()
		fresh := w.config(sleepers("new", 1))
		delayed := firstReady(t, w, fresh)
		w.tool("sweep") // whatever the first left; the supervisor swept it already
		delays = append(delays, delayed-firstReady(t, w, fresh))
	}
	slices.Sort(delays)
	t.Logf("8 orphans delayed the first start by %v", delays)
	if delay := delays[pairs/2]; delay > 500*time.Millisecond { // waiting for them would take their grace, ten seconds
		t.Errorf("8 orphans that ignore TERM delayed the first start by %s (median), want less than 500ms", delay)
	}
}

// firstReady measures from the supervisor's start to its first ready worker.
func firstReady(t *testing.T, w *world, config string) time.Duration {
	t.Helper()
	began := time.Now()
	u := w.up(config)
	u.ready("new/0")
	took := time.Since(began)
	u.send(unix.SIGTERM)
	u.wait()
	return took
}

func TestSecondIntKillsAtOnce(t *testing.T) {
	w := newWorld(t)
	stubborn := strings.Join(linuxtest.Helper(t, "ignore-term"), `", "`)
	u := w.up(w.config("[pool.s]\ncommand = [\"" + stubborn + "\"]\nsize = 2\nstop_grace = \"1h\"\n[pool.s.ready]\nstdout = \".\"\n"))
	u.ready(names("s", 2)...)
	u.send(unix.SIGINT)
	u.waitLog("stopping", func(log []logLine) bool {
		for _, l := range log {
			if l.Msg == "stopping" {
				return true
			}
		}
		return false
	})
	u.send(unix.SIGINT)
	if code := u.wait(); code != exitUnclean {
		t.Errorf("exit code after a second INT = %d, want %d", code, exitUnclean)
	}
	w.assertEmpty()
}

func TestOutputIsPrefixedAndSurvives(t *testing.T) {
	w := newWorld(t)
	u := w.up(w.config(`
[pool.talk]
command = ["/bin/sh", "-c", "echo hello; echo trouble >&2; exec sleep 1000"]
[pool.talk.ready]
stderr = "trouble"
`))
	u.ready("talk/0")
	linuxtest.Wait(t, patience, func() (bool, string) {
		out := strings.Join(u.lines(), "\n")
		return strings.Contains(out, "talk/0 | hello") && strings.Contains(out, "talk/0 ! trouble"), "output so far: " + out
	})
	u.kill()
	files, err := filepath.Glob(filepath.Join(w.state, "logs", "*", "talk", "0.stdout.log"))
	if err != nil || len(files) != 1 {
		t.Fatalf("output files = %v, %v, want one", files, err)
	}
	if data, err := os.ReadFile(files[0]); err != nil || string(data) != "hello\n" {
		t.Errorf("output after the supervisor's death = %q, %v", data, err)
	}
	w.tool("sweep")
	w.assertEmpty()
}

func TestFailedStartSaysWhy(t *testing.T) {
	w := newWorld(t)
	u := w.up(w.config(`
[pool.bad]
command = ["/bin/sh", "-c", "echo no such module >&2; exit 3"]
restart = "never"
[pool.bad.ready]
stdout = "never"
`))
	if code := u.wait(); code != exitFailed {
		t.Errorf("exit code = %d, want %d", code, exitFailed)
	}
	log := strings.Join(u.logText(), "\n")
	for _, want := range []string{"exit 3", "no such module", `"phase":"readiness"`, "bad/0"} {
		if !strings.Contains(log, want) {
			t.Errorf("log lacks %q:\n%s", want, log)
		}
	}
	w.assertEmpty()
}
