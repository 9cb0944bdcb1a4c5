package report

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/pitvisor/pitvisor/linuxtest"
	"golang.org/x/sys/unix"
)

func content(s string) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := io.WriteString(w, s)
		return err
	}
}

// save is Save that must work, and leave one file.
func mustSave(t *testing.T, path, text string) {
	t.Helper()
	if err := Check(path); err != nil {
		t.Errorf("Check(%s) = %v before a Save that works", path, err)
	}
	if err := Save(path, content(text)); err != nil {
		t.Errorf("Save(%s) = %v", path, err)
	}
}

func mustHold(t *testing.T, path, want string) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil || string(got) != want {
		t.Errorf("%s holds %q, %v, want %q", path, got, err, want)
	}
}

// mustBe fails unless a directory has exactly these entries.
func mustBe(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("%s has %v, want %v", dir, got, want)
	}
}

func TestSaveMakesAndReplaces(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "report.json")
	mustSave(t, path, "first")
	mustHold(t, path, "first")
	if err := os.Chmod(path, 0o606); err != nil {
		t.Fatal(err)
	}
	old, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	mustSave(t, path, "second")
	mustHold(t, path, "second")
	st, err := os.Stat(path)
	if err != nil || st.Mode() != 0o606 {
		t.Errorf("mode is %v, %v, want that of the old file", st.Mode(), err)
	}
	if os.SameFile(old, st) {
		t.Error("the old file was written over")
	}
	mustBe(t, dir, "report.json")
}

func TestSaveKeepsTheOwner(t *testing.T) {
	linuxtest.NeedRoot(t, "to give a file to another user")
	path := filepath.Join(t.TempDir(), "report.json")
	mustSave(t, path, "first")
	if err := os.Chown(path, 65534, 65533); err != nil {
		t.Fatal(err)
	}
	mustSave(t, path, "second")
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil || st.Uid != 65534 || st.Gid != 65533 {
		t.Errorf("owner is %d:%d, %v, want 65534:65533", st.Uid, st.Gid, err)
	}
}

// Whoever reads meanwhile sees a whole file.
func TestSaveIsAtomic(t *testing.T) {
	path := filepath.Join(t.TempDir(), "report.json")
	texts := map[string]bool{strings.Repeat("a", 100_000): true, strings.Repeat("b", 200_000): true}
	for text := range texts {
		mustSave(t, path, text)
	}
	done := make(chan error)
	go func() {
		for range 50 {
			for text := range texts {
				if err := Save(path, content(text)); err != nil {
					done <- err
					return
				}
			}
		}
		done <- nil
	}()
	for {
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
			return
		default:
		}
		got, err := os.ReadFile(path)
		if err != nil || !texts[string(got)] {
			t.Fatalf("read %d bytes, %v: neither the old file nor the new one", len(got), err)
		}
	}
}

func TestFailedWriteKeepsTheOldFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "report.json")
	mustSave(t, path, "old")
	broken := errors.New("broken")
	err := Save(path, func(w io.Writer) error {
		_, _ = io.WriteString(w, "half")
		return broken
	})
	if !errors.Is(err, broken) {
		t.Errorf("Save = %v, want the writer's error", err)
	}
	mustHold(t, path, "old")
	mustBe(t, dir, "report.json")
}

// On a full disk the old file stays, and no half of a new one.
func TestFullDiskKeepsTheOldFile(t *testing.T) {
	linuxtest.NeedAdmin(t, "to mount a file system")
	dir := t.TempDir()
	onThread(t, func() error {
		if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
			return err
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return err
		}
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
			return err
		}
		path := filepath.Join(dir, "report.json")
		mustSave(t, path, "old")
		err := Save(path, content(strings.Repeat("x", 1<<20)))
		if !errors.Is(err, unix.ENOSPC) {
			t.Errorf("Save on a full disk = %v, want ENOSPC", err)
		}
		mustHold(t, path, "old")
		mustBe(t, dir, "report.json")
		return nil
	})
}

// onThread runs f on a thread of its own, which ends with what f did to it.
func onThread(t *testing.T, f func() error) {
	t.Helper()
	done := make(chan error)
	var start func()
	start = func() {
		runtime.LockOSThread()
		if unix.Gettid() == os.Getpid() { // the main thread cannot end
			go start()
			<-t.Context().Done()
			runtime.UnlockOSThread()
			return
		}
		done <- f()
	}
	go start()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// asNobody runs f on a thread of the user nobody.
func asNobody(t *testing.T, f func()) {
	t.Helper()
	linuxtest.NeedRoot(t, "to become another user")
	onThread(t, func() error {
		const nobody = 65534
		for _, call := range []uintptr{unix.SYS_SETRESGID, unix.SYS_SETRESUID} {
			if _, _, errno := unix.RawSyscall(call, nobody, nobody, nobody); errno != 0 {
				return errno
			}
		}
		f()
		return nil
	})
}

func TestSaveThroughLinks(t *testing.T) {
	dir := t.TempDir()
	other := t.TempDir()
	for _, existed := range []bool{true, false} {
		link, target := filepath.Join(dir, "link"), filepath.Join(other, "target")
		if existed {
			mustSave(t, target, "old")
		}
		if err := os.Symlink(target, link); err != nil {
			t.Fatal(err)
		}
		mustSave(t, link, "new")
		mustHold(t, target, "new")
		if to, err := os.Readlink(link); err != nil || to != target {
			t.Errorf("the link became %q, %v", to, err)
		}
		mustBe(t, dir, "link")
		mustBe(t, other, "target")
		if err := errors.Join(os.Remove(link), os.Remove(target)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSaveErrors(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	mustSave(t, file, "")
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path, want string
		is         error
		late       bool // only known when it is written
	}{
		{dir, "write report " + dir + ": is a directory", unix.EISDIR, false},
		{dir + "/no/report.json", "write report " + dir + "/no/report.json: directory " + dir + "/no: no such file or directory", fs.ErrNotExist, false},
		{file + "/report.json", "write report " + file + "/report.json: not a directory", unix.ENOTDIR, false},
		{"", "write report : invalid argument", fs.ErrInvalid, false},
		{fifo, "write report " + fifo + ": no such device or address", unix.ENXIO, true},
		{"/dev/full", "write report /dev/full: no space left on device", unix.ENOSPC, true},
		{"/dev/fd/999", "write report /dev/fd/999: bad file descriptor", unix.EBADF, true},
	} {
		err := Save(c.path, content("x"))
		if err == nil || err.Error() != c.want || !errors.Is(err, c.is) {
			t.Errorf("Save(%q) = %v, want %s", c.path, err, c.want)
		}
		err = Check(c.path)
		if c.late && err != nil || !c.late && (err == nil || err.Error() != c.want) {
			t.Errorf("Check(%q) = %v, want that of Save: %v", c.path, err, !c.late)
		}
	}
	mustBe(t, dir, "fifo", "file")
}

func TestSaveWithoutPermission(t *testing.T) {
	dir := t.TempDir()
	openFor(t, dir)
	closed := filepath.Join(dir, "closed")
	if err := os.Mkdir(closed, 0o755); err != nil {
		t.Fatal(err)
	}
	secret, open := filepath.Join(closed, "secret"), filepath.Join(closed, "open")
	mustSave(t, secret, "old and longer")
	mustSave(t, open, "old and longer")
	if err := errors.Join(os.Chmod(secret, 0o644), os.Chmod(open, 0o666)); err != nil {
		t.Fatal(err)
	}
	asNobody(t, func() {
		missing := filepath.Join(closed, "missing")
		want := map[string]string{
			missing: "write report " + missing + ": directory " + closed + ": permission denied",
			secret:  "write report " + secret + ": permission denied",
		}
		for path, want := range want {
			for what, err := range map[string]error{"Check": Check(path), "Save": Save(path, content("x"))} {
				if err == nil || err.Error() != want || !errors.Is(err, fs.ErrPermission) {
					t.Errorf("%s(%s) = %v, want %s", what, path, err, want)
				}
			}
		}
		mustSave(t, open, "new") // in place: the directory is not ours
	})
	mustHold(t, secret, "old and longer")
	mustHold(t, open, "new")
	mustBe(t, closed, "open", "secret")
}

// openFor lets anybody into a directory of the test.
func openFor(t *testing.T, dir string) {
	t.Helper()
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// fill writes to a pipe that does not block until it is full.
func fill(t *testing.T, fd int) {
	t.Helper()
	for {
		_, err := unix.Write(fd, make([]byte, 4096))
		if err == unix.EAGAIN {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestSaveToPipesAndDevices(t *testing.T) {
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	fd := int(write.Fd())
	if err := unix.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	named, err := os.OpenFile(fifo, os.O_RDWR|syscall.O_NONBLOCK, 0) // or it would be at its end before anybody writes
	if err != nil {
		t.Fatal(err)
	}
	defer named.Close()
	// More than a pipe holds: it is waited for, also where the descriptor would not.
	long := strings.Repeat("x", 300_000)
	for path, from := range map[string]*os.File{
		fmt.Sprintf("/dev/fd/%d", fd): read,
		fifo:                          named,
	} {
		got := make(chan int)
		go func() {
			n, _ := io.CopyN(io.Discard, from, int64(len(long)))
			got <- int(n)
		}()
		mustSave(t, path, long)
		if n := <-got; n != len(long) {
			t.Errorf("%s gave %d bytes, want %d", path, n, len(long))
		}
	}
	for range 20 {
		fill(t, fd)
		got := make(chan bool)
		go func() {
			buf := make([]byte, 4096)
			for err := error(nil); err == nil && !bytes.HasSuffix(buf, []byte("end")); {
				var n int
				n, err = read.Read(buf[:cap(buf)])
				buf = buf[:n]
			}
			close(got)
		}()
		mustSave(t, fmt.Sprintf("/dev/fd/%d", fd), "the end")
		<-got
	}
	if err := write.Close(); err != nil {
		t.Fatal(err)
	}
	mustSave(t, "/dev/null", long)
	for path, want := range map[string]int{"-": 1, "/dev/stdout": 1, "/dev/stderr": 2, "/dev/fd/7": 7, "/proc/self/fd/8": 8, "/dev/fd/x": -1, "x": -1} {
		if got := descriptor(path); got != want {
			t.Errorf("descriptor(%s) = %d, want %d", path, got, want)
		}
	}
}
