package capture

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/pitvisor/pitvisor/linuxtest"
	"golang.org/x/sys/unix"
)

func TestOpenRefusesADirectoryThatIsHeld(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	first := open(t, Options{Dir: dir})
	_, err := Open(Options{Dir: dir})
	if !errors.Is(err, fs.ErrExist) {
		t.Fatalf("second Open = %v, want %v", err, fs.ErrExist)
	}
	wantHint(t, err, "state directory")
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, Options{Dir: dir})
}

func TestClosedStoreRefuses(t *testing.T) {
	s := open(t, Options{})
	start(t, s, 0, 1)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("second Close = %v, want %v", err, fs.ErrClosed)
	}
	if _, err := s.Start("web/0", "web", 0, 2); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("Start = %v, want %v", err, fs.ErrClosed)
	}
	if err := s.Follow(t.Context(), func(Line) {}); err != nil {
		t.Errorf("Follow = %v, want nil", err)
	}
}

func TestBadOptionsAndNames(t *testing.T) {
	for _, o := range []Options{{Dir: ""}, {Dir: "relative"}, {Dir: "/tmp", MaxSize: -1}} {
		if _, err := Open(o); err == nil {
			t.Errorf("Open(%+v) = nil", o)
		}
	}
	s := open(t, Options{})
	for _, pool := range []string{"", ".", "..", "a/b", "../x", "a\nb", "a\x00b", strings.Repeat("p", 300)} {
		if _, err := s.Start("w", pool, 0, 1); err == nil || !strings.Contains(err.Error(), "pool name") {
			t.Errorf("Start in pool %q = %v, want a refusal of the name", pool, err)
		}
	}
	if _, err := s.Start("w", "web", -1, 1); err == nil {
		t.Error("Start of slot -1 = nil")
	}
	entries, err := os.ReadDir(s.dir)
	if err != nil || len(entries) != 1 { // about.json
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

// Whatever somebody put in the place of a file, Start does not hang and does not follow it.
func TestStartRefusesWhatIsNoFile(t *testing.T) {
	s := open(t, Options{})
	dir := filepath.Join(s.dir, "web")
	target := filepath.Join(t.TempDir(), "target")
	write0 := func(path string) error { return os.WriteFile(path, []byte("x"), 0o600) }
	for name, plant := range map[string]func(path string) error{
		"fifo":      func(path string) error { return unix.Mkfifo(path, 0o600) },
		"symlink":   func(path string) error { return errors.Join(write0(target), os.Symlink(target, path)) },
		"directory": func(path string) error { return os.Mkdir(path, 0o700) },
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, "0.stderr.log")
			if err := plant(path); err != nil {
				t.Fatal(err)
			}
			defer os.Remove(path)
			if _, err := s.Start("web/0", "web", 0, 1); err == nil || !strings.Contains(err.Error(), path) {
				t.Errorf("Start = %v, want an error that names %s", err, path)
			}
		})
	}
	if n := openFiles(t, dir); n != 0 {
		t.Errorf("%d files of %s are still open", n, dir)
	}
}

// A worker of another user writes through what it inherited, and in no other way.
func TestWorkerOfAnotherUserOnlyHasItsDescriptor(t *testing.T) {
	linuxtest.NeedRoot(t, "to become another user")
	s := open(t, Options{})
	got := follow(t, s)
	st := start(t, s, 0, 1)
	cmd := exec.Command("/bin/sh", "-c", `echo inherited; echo again > /dev/stdout || echo "refused: $?"; cat "$0" || echo "unread"`, st.Stdout.Name())
	cmd.Stdout = st.Stdout
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	cmd.Dir = "/"
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	got.waitFor(t, "web/0", Stdout, "inherited", "refused: 2", "unread")
	var info unix.Stat_t
	if err := unix.Stat(st.Stdout.Name(), &info); err != nil || info.Mode&0o777 != 0o640 || info.Uid != 0 {
		t.Errorf("mode %o of uid %d, %v; want 640 of root", info.Mode&0o777, info.Uid, err)
	}
}

// scenario says whether an error, expected as want, has a hint that contains cure.
func scenario(err error, want error, cure string) error {
	var e *Error
	if !errors.Is(err, want) || !errors.As(err, &e) || !strings.Contains(e.Hint(), cure) {
		hint := ""
		if e != nil {
			hint = e.Hint()
		}
		return fmt.Errorf("error = %v with hint %q; want %v and a hint about %q", err, hint, want, cure)
	}
	return nil
}

func wantHint(t *testing.T, err error, cure string) {
	t.Helper()
	if err := scenario(err, err, cure); err != nil {
		t.Error(err)
	}
}

// fullDisk runs on a tmpfs with room for nothing: first no inodes, then no blocks.
func fullDisk(dir string) error {
	full := filepath.Join(dir, "filler")
	for i := 0; ; i++ {
		if err := os.Mkdir(fmt.Sprintf("%s%d", full, i), 0o755); errors.Is(err, unix.ENOSPC) {
			break
		} else if err != nil {
			return err
		}
	}
	_, err := Open(Options{Dir: filepath.Join(dir, "run")})
	return scenario(err, unix.ENOSPC, "free some space")
}

// noRoomForOutput fills the blocks only: workers start, and a warning says that their output is lost.
func noRoomForOutput(dir string) error {
	if err := os.WriteFile(filepath.Join(dir, "filler"), make([]byte, 64<<20), 0o644); !errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("fill the disk = %v, want %v", err, unix.ENOSPC)
	}
	var warnings []error
	s, err := Open(Options{Dir: filepath.Join(dir, "run"), Warn: func(err error) { warnings = append(warnings, err) }})
	if err != nil {
		return err
	}
	for slot := range 3 {
		st, err := s.Start("web/0", "web", slot, 1)
		if err != nil {
			return err
		}
		if _, err := st.Stdout.WriteString("lost\n"); !errors.Is(err, unix.ENOSPC) {
			return fmt.Errorf("worker's write = %v, want %v", err, unix.ENOSPC)
		}
		st.Done()
	}
	if err := s.Close(); err != nil {
		return err
	}
	if len(warnings) != 1 {
		return fmt.Errorf("warnings = %v, want one", warnings)
	}
	return scenario(warnings[0], unix.ENOSPC, "free some space")
}

func TestFullDisk(t *testing.T) {
	runOnTmpfs(t, "tmpfs-no-inodes", "4M,nr_inodes=20")
	runOnTmpfs(t, "tmpfs-no-blocks", "1M")
}

func TestReadOnlyFileSystem(t *testing.T) {
	runOnTmpfs(t, "tmpfs-read-only", "1M,ro")
}

func readOnly(dir string) error {
	_, err := Open(Options{Dir: filepath.Join(dir, "run")})
	return scenario(err, unix.EROFS, "state_dir")
}

func TestPathThroughAFile(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Open(Options{Dir: filepath.Join(dir, "file", "run")})
	wantHint(t, err, "state_dir")
}

// runLimited runs a helper mode as an ordinary user in a user namespace of its
// own, which has its own limits on inotify.
func runLimited(t *testing.T, mode string) {
	t.Helper()
	dir := t.TempDir()
	argv := linuxtest.Helper(t, mode, filepath.Join(dir, "run"))
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	var sys unix.Statfs_t
	if unix.Statfs("/proc/sys", &sys) == nil && sys.Flags&unix.ST_RDONLY != 0 {
		linuxtest.Skip(t, "needs a writable /proc/sys")
	}
	// First without mappings: package syscall leaks their pipe when clone is refused.
	try := exec.Command("/bin/true")
	try.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER}
	if errors.Is(try.Run(), unix.EPERM) {
		linuxtest.Skip(t, "needs user namespaces")
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", mode, err, out)
	}
}

func TestLimitsOfInotifyAndFiles(t *testing.T) {
	runLimited(t, "limit-watches")
	runLimited(t, "limit-instances")
	runLimited(t, "limit-files")
}

func mode(scenario func(dir string) error) linuxtest.Mode {
	return func(args []string) int {
		if err := scenario(args[0]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return 0
	}
}

func limitWatches(dir string) error {
	if err := os.WriteFile("/proc/sys/user/max_inotify_watches", []byte("1"), 0); err != nil {
		return err
	}
	s, err := Open(Options{Dir: dir})
	if err != nil {
		return err
	}
	_, err = s.Start("a/0", "a", 0, 1)
	if err != nil {
		return fmt.Errorf("first pool: %w", err)
	}
	for slot := range 100 {
		if _, err = s.Start("a/0", "a", slot, 2); err != nil {
			return fmt.Errorf("slot %d needs a watch of its own: %w", slot, err)
		}
	}
	_, err = s.Start("b/0", "b", 0, 1)
	if err := scenario(err, unix.ENOSPC, "sysctl -w fs.inotify.max_user_watches="); err != nil {
		return err
	}
	return s.Close()
}

func limitInstances(dir string) error {
	if err := os.WriteFile("/proc/sys/user/max_inotify_instances", []byte("0"), 0); err != nil {
		return err
	}
	_, err := Open(Options{Dir: dir})
	if err := scenario(err, unix.EMFILE, "sysctl -w fs.inotify.max_user_instances="); err != nil {
		return err
	}
	_, err = Open(Options{Dir: dir}) // the lock must be free again
	return scenario(err, unix.EMFILE, "sysctl")
}

// limitFiles runs out of descriptors: starts are refused precisely, and lines
// that could not be read are read when there are descriptors again.
func limitFiles(dir string) error {
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 40, Max: 40}); err != nil {
		return err
	}
	warned := make(chan error, 1)
	s, err := Open(Options{Dir: dir, Warn: func(err error) { warned <- err }})
	if err != nil {
		return err
	}
	st, err := s.Start("web/0", "web", 0, 1)
	if err != nil {
		return err
	}
	var hog []*os.File
	for {
		f, err := os.Open(os.DevNull)
		if errors.Is(err, unix.EMFILE) {
			break
		}
		if err != nil {
			return err
		}
		hog = append(hog, f)
	}
	_, err = s.Start("web/1", "web", 1, 1)
	if err := scenario(err, unix.EMFILE, "ulimit -n"); err != nil {
		return err
	}
	if _, err := st.Stdout.WriteString("late\n"); err != nil {
		return err
	}
	tried := make(chan struct{})
	var line string
	go func() {
		defer close(tried)
		for line = range st.Lines(ctxFor(soon), Stdout) {
			break
		}
	}()
	if err := scenario(<-warned, unix.EMFILE, "ulimit -n"); err != nil {
		return err
	}
	for _, f := range hog {
		_ = f.Close() // only read
	}
	<-tried
	if line != "late" {
		return fmt.Errorf("line = %q, want late", line)
	}
	return s.Close()
}
