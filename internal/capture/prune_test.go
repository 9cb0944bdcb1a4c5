package capture

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// makeRun makes the directory of a run that is over, made n hours ago.
func makeRun(t *testing.T, root, name string, n int) {
	t.Helper()
	s := open(t, Options{Dir: filepath.Join(root, name)})
	write(t, start(t, s, 0, 1).Stdout, "text\n")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	when := time.Now().Add(-time.Duration(n) * time.Hour)
	if err := os.Chtimes(filepath.Join(s.dir, markerName), when, when); err != nil {
		t.Fatal(err)
	}
}

func names(t *testing.T, root string) string {
	t.Helper()
	entries, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

func TestPruneKeepsTheNewestAndWhatIsHeld(t *testing.T) {
	root := t.TempDir()
	for i, name := range []string{"e", "a", "d", "b", "c"} {
		makeRun(t, root, name, i) // "e" is the newest
	}
	held := open(t, Options{Dir: filepath.Join(root, "c")}) // the oldest, but it lives
	if n, err := Prune(root, 2); n != 2 || err != nil {
		t.Errorf("Prune(2) = %d, %v; want 2", n, err)
	}
	if got := names(t, root); got != "a c e" {
		t.Errorf("left: %s; want a c e", got)
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

func TestPruneTouchesNothingElse(t *testing.T) {
	root := t.TempDir()
	other := filepath.Join(root, "somebody-elses")
	if err := os.MkdirAll(filepath.Join(other, "web"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	outside := t.TempDir()
	makeRun(t, outside, "x", 1)
	if err := os.Symlink(filepath.Join(outside, "x"), filepath.Join(root, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(root, "half-made"), 0o755); err != nil {
		t.Fatal(err)
	}
	if n, err := Prune(root, 0); n != 0 || err != nil {
		t.Errorf("Prune = %d, %v; want 0", n, err)
	}
	if got := names(t, root); got != "file link somebody-elses" {
		t.Errorf("left: %s; want all but the empty one", got)
	}
	if got := names(t, outside); got != "x" {
		t.Errorf("beyond the link: %q, want x", got)
	}
	if n, err := Prune(filepath.Join(root, "missing"), 0); n != 0 || err != nil {
		t.Errorf("Prune of nothing = %d, %v", n, err)
	}
}

// H-13: state grew with every crash. 100 runs that ended without a Close leave only what is kept.
func TestH13OutputOfCrashedRunsIsPruned(t *testing.T) {
	root := t.TempDir()
	for i := range 100 {
		makeRun(t, root, "run-"+string(rune('a'+i/10))+string(rune('0'+i%10)), i)
		if _, err := Prune(root, 3); err != nil {
			t.Fatal(err)
		}
		if n := len(strings.Fields(names(t, root))); n > 3 {
			t.Fatalf("%d directories after %d runs", n, i+1)
		}
	}
}
