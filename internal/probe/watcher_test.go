package probe

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/linuxtest"
	"golang.org/x/sys/unix"
)

func mustWake(t *testing.T, f *fileWatch) {
	t.Helper()
	timer := time.NewTimer(10 * time.Second)
	defer timer.Stop()
	select {
	case <-f.wake:
	case <-timer.C:
		t.Fatalf("nothing happened to %s", f.name)
	}
}

// Watches of one directory share a descriptor of the kernel's; the end of one
// must not end the other, and the end of all ends everything.
func TestWatcherSharesADirectory(t *testing.T) {
	linuxtest.NoLeaks(t)
	w, dir := NewFileWatcher(), t.TempDir()
	for range 3 { // used again after it was idle
		one, err := w.add(dir, "one")
		if err != nil {
			t.Fatal(err)
		}
		two, err := w.add(dir, "two")
		if err != nil {
			t.Fatal(err)
		}
		w.remove(one)
		if err := os.WriteFile(filepath.Join(dir, "one"), []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "two"), []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
		mustWake(t, two)
		if one.sum().any {
			t.Error("a removed watch still hears")
		}
		w.remove(two)
		if w.file != nil {
			t.Error("an idle watcher holds an inotify instance")
		}
	}
}

func TestWatcherTellsNamesApart(t *testing.T) {
	w, dir := NewFileWatcher(), t.TempDir()
	a, err := w.add(dir, "a")
	if err != nil {
		t.Fatal(err)
	}
	defer w.remove(a)
	ab, err := w.add(dir, "ab")
	if err != nil {
		t.Fatal(err)
	}
	defer w.remove(ab)
	if err := os.WriteFile(filepath.Join(dir, "ab"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	mustWake(t, ab)
	if a.sum().any {
		t.Error(`a watch of "a" hears of "ab"`)
	}
}

// When the kernel drops events, a file that was there before the start is told
// from a new one by its stamp.
func TestWatcherOverflow(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ready")
	if err := os.WriteFile(path, []byte("old\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	f := &fileWait{path: path, watch: &fileWatch{wake: make(chan struct{}, 1)}, before: stampOf(path)}
	f.watch.note(unix.IN_Q_OVERFLOW)
	mustWake(t, f.watch)
	_, err := f.look(0)
	mustMatch(t, err, "not written by this start")
	if err := os.WriteFile(path, []byte("4711\n\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if port, err := f.look(0); port != 4711 || err != nil {
		t.Errorf("look = %d, %v, want 4711", port, err)
	}
}

// Many starts at once need one instance, not one each: a user may have 128.
func TestWatcherHoldsManyWithOneInstance(t *testing.T) {
	linuxtest.NoLeaks(t)
	w, dir := NewFileWatcher(), t.TempDir()
	var all []*fileWatch
	for i := range 300 {
		sub := filepath.Join(dir, fmt.Sprint(i))
		if err := os.Mkdir(sub, 0o755); err != nil {
			t.Fatal(err)
		}
		f, err := w.add(sub, "ready")
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, f)
	}
	for i := range all {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i), "ready"), []byte("x\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range all {
		mustWake(t, f)
		w.remove(f)
	}
}
