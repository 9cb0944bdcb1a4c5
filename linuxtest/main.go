package linuxtest

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Mode is a helper program: it gets the arguments after the mode's name and
// returns the exit code.
type Mode func(args []string) int

// Modes names the helper programs of one test package, for [Main] and [Helper].
type Modes map[string]func(args []string) int

// helperPrefix marks argv[1] of a helper process. It is an argument and not an
// environment variable, because grandchildren inherit the environment.
const helperPrefix = "linuxtest-helper:"

// current is the state of this test process. It is a package variable because
// package testing has one TestMain per process and gives tests no way to reach it.
var current session

// session is what Main sets up once and the helpers use.
type session struct {
	running bool   // Main has been called and is not in helper mode
	exe     string // a path of the test binary that every user may execute
	tmp     string // TMPDIR of the tests, "t" in a directory of the session
	lock    int    // on that directory, while the test process lives
	group   *group // nil when there is no writable cgroup2
	noGroup string // why group is nil
	modes   Modes

	mu    sync.Mutex // guards what follows
	seq   int
	skips map[string]int
	leaky map[testing.TB]bool // tests that called AllowLeak
}

// Main runs a package's tests and exits: call it as the last thing of TestMain.
//
// In a process that was started with the arguments of [Helper] it runs the
// helper mode instead and exits with its code; modes of the package's own are
// looked up before the built-in ones.
//
// After the tests it looks for what they left: child processes that run or were
// not reaped, processes and cgroups below the test cgroup, open files,
// goroutines, files in TMPDIR (which Main points at a directory of its own). It
// names each survivor, ends and removes it, and exits with 1. It prints how many
// tests were skipped and why, once for people and once as "linuxtest-skips: {json}".
//
// Where cgroup2 is writable the test process is moved into a leaf of its own for
// the time of the run, so that even a process that cleared its environment and
// detached itself is found.
func Main(m *testing.M, modes ...Modes) {
	all := Modes{}
	for name, f := range builtinModes() {
		all[name] = f
	}
	for _, more := range modes {
		for name, f := range more {
			all[name] = f
		}
	}
	if name, args, ok := helperCall(os.Args); ok {
		os.Exit(runMode(all, name, args))
	}
	os.Exit(runTests(m, all))
}

// helperCall splits the arguments of a helper process.
func helperCall(argv []string) (name string, args []string, ok bool) {
	if len(argv) < 2 {
		return "", nil, false
	}
	name, ok = strings.CutPrefix(argv[1], helperPrefix)
	return name, argv[2:], ok
}

func runMode(modes Modes, name string, args []string) int {
	f, ok := modes[name]
	if !ok {
		fmt.Fprintf(os.Stderr, "linuxtest: no helper mode %q\n", name)
		return 127
	}
	return f(args)
}

func runTests(m *testing.M, modes Modes) int {
	if slices.Contains(os.Args, "-test.fuzzworker") {
		// One of many below the test process that fuzzes; that one cleans up.
		current.noGroup = "not while fuzzing"
		return m.Run()
	}
	if err := current.open(modes); err != nil {
		fmt.Fprintf(os.Stderr, "linuxtest: %v\n", err)
		return 1
	}
	before := takeSnapshot()
	code := m.Run()
	left := before.leftovers()
	left = append(left, current.close()...)
	for _, l := range left {
		fmt.Fprintf(os.Stderr, "linuxtest: left behind: %s\n", l)
	}
	if len(left) > 0 && code == 0 {
		fmt.Println("FAIL")
		code = 1
	}
	current.printSkips(os.Stdout)
	return code
}

// open makes the temporary directory, the public name of the test binary and
// the test cgroup.
func (s *session) open(modes Modes) error {
	removeStaleDirs()
	// Short: the names of unix sockets below it end at 107 bytes.
	dir, err := os.MkdirTemp("", tempPrefix)
	if err != nil {
		return fmt.Errorf("make the tests' TMPDIR: %w", err)
	}
	if s.lock, err = lockDir(dir); err != nil {
		return err
	}
	// Helpers that run as another user must be able to pass through.
	if err := os.Chmod(dir, 0o755); err != nil {
		return fmt.Errorf("open the tests' TMPDIR to other users: %w", err)
	}
	s.exe, err = publicExe(dir)
	if err != nil {
		return err
	}
	s.tmp = filepath.Join(dir, "t")
	if err := os.Mkdir(s.tmp, 0o755); err != nil {
		return fmt.Errorf("make the tests' TMPDIR: %w", err)
	}
	if err := os.Setenv("TMPDIR", s.tmp); err != nil {
		return fmt.Errorf("set TMPDIR: %w", err)
	}
	s.skips = map[string]int{}
	s.leaky = map[testing.TB]bool{}
	s.modes = modes
	s.running = true
	s.group, err = openGroup()
	if err != nil {
		s.noGroup = err.Error()
	}
	return nil
}

// close removes everything that open made and names what the tests left in it.
func (s *session) close() []string {
	var left []string
	if s.group != nil {
		left = append(left, s.group.close()...)
	}
	entries, err := os.ReadDir(s.tmp)
	if err != nil {
		left = append(left, fmt.Sprintf("temporary directory %s: %v", s.tmp, err))
	}
	for _, e := range entries {
		left = append(left, "temporary file "+filepath.Join(s.tmp, e.Name()))
	}
	if err := os.RemoveAll(filepath.Dir(s.tmp)); err != nil {
		left = append(left, fmt.Sprintf("temporary directory %s: %v", s.tmp, err))
	}
	_ = unix.Close(s.lock) // only held the lock
	return left
}

// tempPrefix starts the name of a test process's directory in /tmp.
const tempPrefix = "linuxtest-"

// removeStaleDirs removes the directories of test processes that were killed
// before their clean-up.
func removeStaleDirs() {
	dirs, err := filepath.Glob(filepath.Join(os.TempDir(), tempPrefix+"*"))
	if err != nil {
		return
	}
	for _, dir := range dirs {
		if lock, ok := lockStale(dir); ok {
			_ = os.RemoveAll(dir) // the next test process tries again
			_ = unix.Close(lock)
		}
	}
}

// lockDir opens a directory and takes the lock that says its owner lives.
func lockDir(path string) (int, error) {
	fd, err := unix.Open(path, unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", path, err)
	}
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("lock %s: %w", path, err)
	}
	return fd, nil
}

// lockStale locks a directory of ours whose owner is gone. A young one may be
// between mkdir and flock.
func lockStale(path string) (int, bool) {
	var st unix.Stat_t
	if unix.Lstat(path, &st) != nil || int(st.Uid) != os.Geteuid() || time.Since(time.Unix(st.Mtim.Unix())) < 10*time.Second {
		return -1, false
	}
	fd, err := lockDir(path)
	return fd, err == nil
}

// publicExe gives the test binary a name in dir. The go tool builds it below a
// directory that only its owner may enter.
func publicExe(dir string) (string, error) {
	exe, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find the test binary: %w", err)
	}
	name := filepath.Join(dir, filepath.Base(exe))
	if err := os.Link(exe, name); err == nil {
		return name, nil
	}
	// Another file system: copy. No thread may fork while the copy is open for
	// writing, or its child makes the exec fail with ETXTBSY; nothing has been
	// started yet when Main runs.
	data, err := os.ReadFile(exe)
	if err != nil {
		return "", fmt.Errorf("read the test binary: %w", err)
	}
	if err := os.WriteFile(name, data, 0o755); err != nil {
		return "", fmt.Errorf("copy the test binary: %w", err)
	}
	return name, unix.Chmod(name, 0o755)
}

// needMain fails a test whose package does not use Main.
func (s *session) needMain(tb testing.TB) {
	tb.Helper()
	if !s.running {
		tb.Fatal("linuxtest: this package's TestMain must call linuxtest.Main")
	}
}

// next numbers the things of this session.
func (s *session) next() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seq++
	return s.seq
}
