package registry

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/pitvisor/pitvisor/linuxtest"
	"golang.org/x/sys/unix"
)

// TestH22R04SweepTouchesOnlyItsRuns: whatever a process or a directory is called, only what carries the
// record of a stale run is killed.
func TestH22R04SweepTouchesOnlyItsRuns(t *testing.T) {
	r := newRoot(t)
	o := startOwner(t, r, 1, 2, sleeper...)
	stale := o.runs[0].String()
	o.crash(t)

	noRecord, borrowed := runPrefix+NewRunID().String(), runPrefix+NewRunID().String()
	strangers := startStrangers(t, r, stale, noRecord, borrowed)
	// Empty ones: only what has the full name of a run can be a half-made run.
	empty := runPrefix + NewRunID().String()
	for _, name := range []string{empty, "empty", "run-empty"} {
		mustMkdir(t, r, name)
	}

	got := mustSweep(t, r, SweepOptions{})
	wantEvents(t, got, map[string]string{
		"run-" + stale: ResultSwept, empty: ResultSwept,
		noRecord: ResultForeign, borrowed: ResultForeign, "run-x": ResultForeign, "run-": ResultForeign,
		"Run-" + stale: ResultForeign, "web": ResultForeign, "deep": ResultForeign,
	})
	if got.Swept != 2 || got.Processes != 2 || got.Foreign != 7 {
		t.Errorf("Sweep() = %+v, want 2 swept with 2 processes, 7 foreign", got)
	}
	for i, p := range strangers {
		if !p.Alive() {
			t.Errorf("stranger %d is dead", i)
		}
		p.Kill(t)
	}
	for _, name := range []string{"empty", "run-empty"} {
		if _, err := os.Stat(filepath.Join(r.Root().Path(), name)); err != nil {
			t.Errorf("%s was removed: %v", name, err)
		}
	}
}

// startStrangers starts processes that look like members of the stale run in every way but one.
func startStrangers(t *testing.T, r *Registry, stale, noRecord, borrowed string) []*linuxtest.Process {
	t.Helper()
	var strangers []*linuxtest.Process
	// Outside, with every mark of ours in its command line and environment.
	stdin, _ := pipe(t)
	strangers = append(strangers, linuxtest.Command{
		Args:  []string{"/bin/sh", "-c", "read x", "pitvisor", "up", "run-" + stale, "web/0"},
		Env:   []string{"PITVISOR_RUN_ID=" + stale, "PITVISOR_WORKER=web/0"},
		Stdin: stdin,
	}.Start(t))
	elsewhere := linuxtest.Cgroup(t)
	strangers = append(strangers, linuxtest.Command{Args: sleeper, Cgroup: elsewhere}.Start(t))
	// In directories of the root that carry no record, or not their own.
	for _, name := range []string{noRecord, borrowed, "run-x", "run-", "Run-" + stale, "web"} {
		strangers = append(strangers, startMember(t, r, name, sleeper...))
	}
	setMark(t, r, borrowed, stale)
	setMark(t, r, "web", stale)
	setMark(t, r, "run-x", "x")
	// Deep inside a directory without a record of its own.
	mustMkdir(t, r, "deep")
	mustMkdir(t, r, "deep/run-"+stale)
	setMark(t, r, "deep/run-"+stale, stale)
	strangers = append(strangers, startMember(t, r, "deep/run-"+stale, sleeper...))
	return strangers
}

func setMark(tb testing.TB, r *Registry, name, id string) {
	tb.Helper()
	if err := unix.Setxattr(filepath.Join(r.Root().Path(), name), xattrRun, []byte(id), 0); err != nil {
		tb.Fatal(err)
	}
}

// TestSweepIsByIdentity: a run whose directory was replaced by another of the same name after the
// sweep had looked at it is not touched.
func TestSweepIsByIdentity(t *testing.T) {
	r := newRoot(t)
	name := runPrefix + NewRunID().String()
	mustMkdir(t, r, name)
	old, err := r.Root().OpenChild(name)
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	if err := os.Remove(old.Path()); err != nil {
		t.Fatal(err)
	}
	stranger := startMember(t, r, name, sleeper...)
	setMark(t, r, name, name[len(runPrefix):])
	s := &sweep{root: r.root, options: SweepOptions{PerRun: defaultPerRun}}
	if got := s.take(t.Context(), old); got != (verdict{}) {
		t.Errorf("take() of a directory that is gone = %+v, want nothing", got)
	}
	if !stranger.Alive() {
		t.Error("the process in the new directory was killed")
	}
	stranger.Kill(t)
}
