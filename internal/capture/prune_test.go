package capture

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/internal/logfile"
)

// runID returns a name like that of the nth run.
func runID(n int) string { return fmt.Sprintf("%026d", n) }

// makeRun makes the directory of a run that is over.
func makeRun(t *testing.T, root string, n int) {
	t.Helper()
	s := open(t, Options{Dir: filepath.Join(root, runID(n))})
	write(t, start(t, s, 0, 1).Stdout, "text\n")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// names lists a directory, run IDs as their numbers.
func names(t *testing.T, root string) string {
	t.Helper()
	entries, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		name := e.Name()
		if logfile.IsRunID(name) {
			name = strings.TrimLeft(name, "0")
		}
		all = append(all, name)
	}
	return strings.Join(all, " ")
}

func TestPruneKeepsTheNewestAndWhatIsHeld(t *testing.T) {
	root := t.TempDir()
	for n := range 5 {
		makeRun(t, root, n+1)
	}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(filepath.Join(root, runID(5)), old, old); err != nil {
		t.Fatal(err) // the ID counts, not what a backup does to times
	}
	held := open(t, Options{Dir: filepath.Join(root, runID(1))}) // the oldest, but it lives
	if n, err := Prune(root, 2); n != 2 || err != nil {
		t.Errorf("Prune(2) = %d, %v; want 2", n, err)
	}
	if got := names(t, root); got != "1 4 5" {
		t.Errorf("left: %s; want 1 4 5", got)
	}
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
	if n, err := Prune(root, 0); n != 3 || err != nil {
		t.Errorf("Prune(0) = %d, %v; want 3", n, err)
	}
	if got := names(t, root); got != "" {
		t.Errorf("left: %s; want nothing", got)
	}
}

// What lives is not one of those that are over: the run before is kept with keep = 1.
func TestPruneDoesNotCountWhatIsHeld(t *testing.T) {
	root := t.TempDir()
	for n := range 3 {
		makeRun(t, root, n+1)
	}
	held := open(t, Options{Dir: filepath.Join(root, runID(4))})
	if n, err := Prune(root, 1); n != 2 || err != nil {
		t.Errorf("Prune(1) = %d, %v; want 2", n, err)
	}
	if got := names(t, root); got != "3 4" {
		t.Errorf("left: %s; want 3 4", got)
	}
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestPruneTouchesNothingElse(t *testing.T) {
	root, outside := t.TempDir(), t.TempDir()
	makeRun(t, outside, 7)
	for _, name := range []string{"somebody-elses", strings.Repeat("u", 26), runID(1) + "x", "lost+found"} {
		if err := os.Mkdir(filepath.Join(root, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, runID(2)), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(outside, runID(7)), filepath.Join(root, runID(3))); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(root, runID(4)), 0o755); err != nil {
		t.Fatal(err) // as an Open that was killed half-way leaves it
	}
	before := names(t, root)
	if n, err := Prune(root, 0); n != 1 || err != nil {
		t.Errorf("Prune = %d, %v; want 1", n, err)
	}
	if got, want := names(t, root), strings.Replace(before, "4 ", "", 1); got != want || got == before {
		t.Errorf("left: %s; want %s", got, want)
	}
	if got := names(t, outside); got != "7" {
		t.Errorf("beyond the link: %q, want 7", got)
	}
	if n, err := Prune(filepath.Join(root, "missing"), 0); n != 0 || err != nil {
		t.Errorf("Prune of nothing = %d, %v", n, err)
	}
}

// H-13: state grew with every crash. 30 runs that are over leave only what is kept.
func TestH13OutputOfOldRunsIsPruned(t *testing.T) {
	root := t.TempDir()
	for i := range 30 {
		makeRun(t, root, i+1)
		if _, err := Prune(root, 3); err != nil {
			t.Fatal(err)
		}
		if n := len(strings.Fields(names(t, root))); n > 3 {
			t.Fatalf("%d directories after %d runs", n, i+1)
		}
	}
}

// A lock on a directory that was removed meanwhile holds nothing.
func TestLockOfARemovedDirectoryDoesNotCount(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	for _, again := range []bool{false, true} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(dir); err != nil {
			t.Fatal(err)
		}
		if again {
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := claim(f, dir); !errors.Is(err, errDirBusy) {
			t.Errorf("claim = %v, want %v (made again: %v)", err, errDirBusy, again)
		}
		_ = f.Close() // only read
	}
}

// Open and Prune at the same time: Open always ends with a directory that is there.
func TestOpenAgainstPrune(t *testing.T) {
	root := t.TempDir()
	stop, stopped := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			select {
			case <-stop:
				stopped <- nil
				return
			default:
			}
			if _, err := Prune(root, 0); err != nil {
				stopped <- err
				return
			}
		}
	}()
	for n := range 50 {
		s := open(t, Options{Dir: filepath.Join(root, runID(n+1))})
		st := start(t, s, 0, 1)
		if _, err := os.Stat(st.Stdout.Name()); err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}
