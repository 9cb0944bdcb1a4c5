package probe

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/supervise"
	"golang.org/x/sys/unix"
)

// fileRig is a start with a ready file of the package's choice, whose worker
// runs the mode ready-file with the given kind and text.
func fileRig(t *testing.T, args ...string) *rig {
	t.Helper()
	r := place(t)
	r.prepare(Rules{FileAuto: true}, Deps{RuntimeDir: t.TempDir()}, supervise.Output{})
	path := r.env("PITVISOR_READY_FILE")
	r.start(nil, linuxtest.Helper(t, "ready-file", append([]string{path}, args...)...)...)
	linuxtest.Wait(t, 20*time.Second, func() (bool, string) {
		_, err := os.Stat(path)
		return err == nil, fmt.Sprint(err)
	})
	return r
}

// H-30: nothing that is printed, or not printed, matters.
func TestH30ReadyFileDoesNotNeedOutput(t *testing.T) {
	linuxtest.NoLeaks(t)
	r := fileRig(t, "good", "50051\n")
	if info := r.ready(); info.Port != 50051 {
		t.Errorf("Wait gave port %d, want 50051", info.Port)
	}
}

func TestH33PartialReadyFileIsNotReady(t *testing.T) {
	r := fileRig(t, "partial", "50051\n")
	r.notReady(500*time.Millisecond, `"500" has no end of line yet`)
}

func TestH33SlowReadyFileIsReadWhole(t *testing.T) {
	r := fileRig(t, "slow", "50051\n")
	if info := r.ready(); info.Port != 50051 {
		t.Errorf("Wait gave port %d, want 50051", info.Port)
	}
}

func TestH33EmptyReadyFileIsNotReady(t *testing.T) {
	r := fileRig(t, "empty")
	r.notReady(500*time.Millisecond, "ready file .*: empty$")
}

func TestH33BadReadyFileIsNotReady(t *testing.T) {
	r := fileRig(t, "bad")
	r.notReady(500*time.Millisecond, "not text")
}

func TestH33RenamedReadyFileNeedsNoNewline(t *testing.T) {
	r := fileRig(t, "good", "50051")
	if info := r.ready(); info.Port != 50051 {
		t.Errorf("Wait gave port %d, want 50051", info.Port)
	}
}

func TestReadyFileIsNotWritten(t *testing.T) {
	linuxtest.NoLeaks(t)
	r := place(t)
	r.prepare(Rules{FileAuto: true}, Deps{RuntimeDir: t.TempDir()}, supervise.Output{})
	r.start(nil, linuxtest.Helper(t, "sit")...)
	r.notReady(200*time.Millisecond, "ready file .*/ready: not written$")
}

// A file of an earlier start never counts, even if its content is right and its
// time stamps cannot be told from a new one's.
func TestStaleReadyFileIsNotReady(t *testing.T) {
	linuxtest.NoLeaks(t)
	path := filepath.Join(t.TempDir(), "web-0.ready")
	if err := os.WriteFile(path, []byte("1111\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	r := place(t)
	r.prepare(Rules{File: filepath.Join(filepath.Dir(path), "{pool}-{slot}.ready")}, Deps{}, supervise.Output{})
	if got := r.env("PITVISOR_READY_FILE"); got != path {
		t.Errorf("PITVISOR_READY_FILE = %q, want %q", got, path)
	}
	r.start(nil, linuxtest.Helper(t, "sit")...)
	r.notReady(300*time.Millisecond, "not written by this start; an older one is there")
	if err := os.WriteFile(path, []byte("1111\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if info := r.ready(); info.Port != 1111 {
		t.Errorf("Wait gave port %d, want 1111", info.Port)
	}
}

func TestReadyFileDirectoryIsPrivateAndRemoved(t *testing.T) {
	linuxtest.NeedRoot(t, "to give a file to another user")
	runtime := t.TempDir()
	if err := os.Chmod(runtime, 0o711); err != nil {
		t.Fatal(err)
	}
	r := place(t)
	r.info.UID, r.info.GID = 65534, 65534
	rd, err := New(Rules{FileAuto: true}, Deps{RuntimeDir: runtime})
	if err != nil {
		t.Fatal(err)
	}
	a, err := rd.Prepare(r.info, supervise.Output{})
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Dir(a.(*attempt).file.path)
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		t.Fatal(err)
	}
	if st.Uid != 65534 || st.Gid != 65534 || st.Mode&0o7777 != 0o700 {
		t.Errorf("%s belongs to %d:%d with mode %o, want 65534:65534 with 700", dir, st.Uid, st.Gid, st.Mode&0o7777)
	}
	if err := os.WriteFile(filepath.Join(dir, "more"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(runtime)
	if err != nil || len(left) != 0 {
		t.Errorf("after Close %s holds %v (%v), want nothing", runtime, left, err)
	}
}

// Somebody else's file does not count, in a directory where all may write.
func TestReadyFileOfAnotherUser(t *testing.T) {
	linuxtest.NeedRoot(t, "to give a file to another user")
	path := filepath.Join(t.TempDir(), "ready")
	r := place(t)
	r.info.UID = 65534
	r.prepare(Rules{File: path}, Deps{}, supervise.Output{})
	r.start(nil, linuxtest.Helper(t, "sit")...)
	if err := os.WriteFile(path, []byte("ready\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(path, 12345, 12345); err != nil {
		t.Fatal(err)
	}
	r.notReady(200*time.Millisecond, "owned by uid 12345, not by the worker's 65534")
}

// A worker must not make the supervisor read, or hang on, something else.
func TestReadyFileMustBeRegular(t *testing.T) {
	for name, make := range map[string]func(path string) error{
		"symlink": func(path string) error { return os.Symlink("/etc/passwd", path) },
		"fifo":    func(path string) error { return unix.Mkfifo(path, 0o600) },
		"dir":     func(path string) error { return os.Mkdir(path, 0o700) },
	} {
		t.Run(name, func(t *testing.T) {
			r := place(t)
			r.prepare(Rules{FileAuto: true}, Deps{RuntimeDir: t.TempDir()}, supervise.Output{})
			r.start(nil, linuxtest.Helper(t, "sit")...)
			if err := make(r.env("PITVISOR_READY_FILE")); err != nil {
				t.Fatal(err)
			}
			err := r.notReady(300*time.Millisecond, "symbolic|regular")
			if strings.Contains(err.Error(), "root") {
				t.Errorf("the error quotes another file: %v", err)
			}
		})
	}
}

func TestReadyFileTooLarge(t *testing.T) {
	r := place(t)
	r.prepare(Rules{FileAuto: true}, Deps{RuntimeDir: t.TempDir()}, supervise.Output{})
	r.start(nil, linuxtest.Helper(t, "sit")...)
	if err := os.WriteFile(r.env("PITVISOR_READY_FILE"), []byte(strings.Repeat("x", 5000)+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	r.notReady(200*time.Millisecond, "larger than 4096 bytes")
}

func TestReadyFileDirectoryIsMissingOrGoes(t *testing.T) {
	linuxtest.NoLeaks(t)
	dir := filepath.Join(t.TempDir(), "app")
	r := place(t)
	rd, err := New(Rules{File: filepath.Join(dir, "ready")}, Deps{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = rd.Prepare(r.info, supervise.Output{})
	mustMatch(t, err, "watch .*/app: .*must exist before the worker starts")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	r.prepare(Rules{File: filepath.Join(dir, "ready")}, Deps{}, supervise.Output{})
	r.start(nil, linuxtest.Helper(t, "sit")...)
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	r.fails("its directory was removed")
}

func TestParseReady(t *testing.T) {
	for _, c := range []struct {
		content string
		want    int
		bad     bool
	}{
		{"ready\n", 0, false},
		{"8080\n", 8080, false},
		{"  8080  \nmore\n", 8080, false},
		{"127.0.0.1:8080\n", 8080, false},
		{"[::1]:8080\n", 8080, false},
		{"port=8080\n", 8080, false},
		{"pid 17\n", 0, false},
		{"12:ab\n", 0, false},
		{"0\n", 0, true},
		{"70000\n", 0, true},
		{"host:0\n", 0, true},
		{"99999999999999999999\n", 0, true},
		{"-1\n", 0, false},
	} {
		got, err := parseReady(c.content)
		if got != c.want || (err != nil) != c.bad {
			t.Errorf("parseReady(%q) = %d, %v, want %d, error %v", c.content, got, err, c.want, c.bad)
		}
	}
}
