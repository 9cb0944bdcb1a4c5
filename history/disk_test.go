package history

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/linuxtest"
	"golang.org/x/sys/unix"
)

// told is what a helper's Log went through.
type told struct {
	Warnings []string
	Lost     uint64
}

// TestHistoryWithoutPermission: a supervisor that may not write there goes on without.
func TestHistoryWithoutPermission(t *testing.T) {
	linuxtest.NeedRoot(t, "to become another user")
	locked, private := filepath.Join(t.TempDir(), "history.db"), filepath.Join(t.TempDir(), "no", "history.db")
	writeLog(t, locked, 1, 1) // by root, for root
	if err := os.Chmod(filepath.Dir(locked), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{locked, private, "/proc/history.db"} {
		out := linuxtest.Command{Args: linuxtest.Helper(t, "nobody", path), Stderr: os.Stderr}.Output(t, 20*time.Second)
		var got told
		if err := json.Unmarshal([]byte(out), &got); err != nil {
			t.Fatalf("helper said %q: %v", out, err)
		}
		if len(got.Warnings) != 1 || got.Lost != 2 {
			t.Errorf("without permission for %s: %+v, want one warning and 2 lost", path, got)
		}
	}
	if got, err := Read(locked, 0); err != nil || len(got) != 1 {
		t.Errorf("Read() = %d records, %v, want the one of before", len(got), err)
	}
}

// writeTwo adds two records to a file, some time apart, and says how it went.
func writeTwo(path string) int {
	var w warnings
	l := Open(path, w.add)
	l.Add(record(1))
	until(10*time.Second, func() bool { return len(w.get()) > 0 })
	l.Add(record(2))                  // fails once more, without a second warning
	_ = l.Close(context.Background()) // counted below
	if err := json.NewEncoder(os.Stdout).Encode(told{w.get(), l.Dropped()}); err != nil {
		return fail(err)
	}
	return 0
}

// TestHistoryOnAFullDisk: records wait until there is space again; nothing is damaged meanwhile.
func TestHistoryOnAFullDisk(t *testing.T) {
	linuxtest.NeedAdmin(t, "to mount a file system")
	p := linuxtest.Command{Args: linuxtest.Helper(t, "full-disk", t.TempDir()), Stdout: os.Stderr, Stderr: os.Stderr}.Start(t)
	if status := p.Wait(t, 60*time.Second); status != 0 {
		t.Errorf("full-disk helper ended with %#x", uint32(status))
	}
}

// modeFullDisk mounts a small file system of its own and fills it.
func modeFullDisk(args []string) int {
	runtime.LockOSThread()
	err := errors.Join(
		unix.Unshare(unix.CLONE_NEWNS|unix.CLONE_FS),
		unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
		unix.Mount("test", args[0], "tmpfs", 0, "size=512k"),
	)
	if err != nil {
		return fail(err)
	}
	// Other threads are in the old mount namespace; this one's files are reached through it.
	dir := fmt.Sprintf("/proc/%d/task/%d/cwd", os.Getpid(), unix.Gettid())
	if err := unix.Chdir(args[0]); err != nil {
		return fail(err)
	}
	for _, before := range []int{0, 100} {
		if err := fullDisk(dir, filepath.Join(dir, fmt.Sprintf("history-%d.db", before)), before); err != nil {
			return fail(fmt.Errorf("with %d records before: %w", before, err))
		}
	}
	return 0
}

func fullDisk(dir, path string, before int) error {
	var w warnings
	if before > 0 {
		l := Open(path, w.add)
		for i := range before {
			l.Add(record(i))
		}
		if err := l.Close(context.Background()); err != nil {
			return err
		}
	}
	filler := filepath.Join(dir, "filler")
	err := os.WriteFile(filler, make([]byte, 1<<20), 0o600)
	if !errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("fill the disk: %v, want ENOSPC", err)
	}
	l := Open(path, w.add)
	for i := range 500 {
		l.Add(record(before + i))
	}
	until(10*time.Second, func() bool { return len(w.get()) > 0 })
	pause(context.Background(), retryTime) // one more try in vain, without a second warning
	if told := w.get(); len(told) != 1 || !strings.Contains(told[0], "no space") || strings.Contains(told[0], "damaged-") {
		return fmt.Errorf("warnings %q, want one about space", told)
	}
	if err := os.Remove(filler); err != nil {
		return err
	}
	until(10*time.Second, func() bool {
		got, err := Read(path, 0)
		return err == nil && len(got) == before+500
	})
	if err := l.Close(context.Background()); err != nil {
		return err
	}
	got, err := Read(path, 0)
	if err != nil || len(got) != before+500 || len(w.get()) != 1 {
		return fmt.Errorf("%d records, %v, warnings %q, want %d records and one warning", len(got), err, w.get(), before+500)
	}
	return os.Remove(path)
}

// until waits for something in a helper process, where there is no test to fail.
func until(within time.Duration, cond func() bool) {
	for begin := time.Now(); !cond() && time.Since(begin) < within; {
		pause(context.Background(), 5*time.Millisecond)
	}
}
