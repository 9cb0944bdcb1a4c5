package linuxtest

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	Main(m, Modes{"make-dirs": modeMakeDirs, "naive-kill": modeNaiveKill, "reuse-in-namespace": modeReuseInNamespace})
}

// recorder is a testing.TB that remembers instead of failing, so that a check can
// be seen to fail.
type recorder struct {
	testing.TB
	name     string
	said     []string
	failed   bool
	skipped  bool
	cleanups []func()
}

func (r *recorder) Helper()          {}
func (r *recorder) Name() string     { return r.name }
func (r *recorder) Failed() bool     { return r.failed }
func (r *recorder) Cleanup(f func()) { r.cleanups = append(r.cleanups, f) }
func (r *recorder) Log(a ...any)     { r.said = append(r.said, fmt.Sprint(a...)) }
func (r *recorder) Logf(format string, a ...any) {
	r.said = append(r.said, fmt.Sprintf(format, a...))
}

func (r *recorder) Error(a ...any) {
	r.failed = true
	r.Log(a...)
}

func (r *recorder) Errorf(format string, a ...any) { r.Error(fmt.Sprintf(format, a...)) }

func (r *recorder) Fatal(a ...any) {
	r.Error(a...)
	r.FailNow()
}

func (r *recorder) Fatalf(format string, a ...any) { r.Fatal(fmt.Sprintf(format, a...)) }

func (r *recorder) FailNow() {
	r.failed = true
	runtime.Goexit()
}

func (r *recorder) Skip(a ...any) {
	r.skipped = true
	r.Log(a...)
	runtime.Goexit()
}

// try runs a test function and its clean-ups apart from the real test.
func try(t *testing.T, f func(tb testing.TB)) *recorder {
	t.Helper()
	r := &recorder{TB: t, name: t.Name() + "/tried"}
	run := func(f func()) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			f()
		}()
		<-done
	}
	run(func() { f(r) })
	for i := len(r.cleanups) - 1; i >= 0; i-- {
		run(r.cleanups[i])
	}
	return r
}

// wantFailure fails unless f fails and says each of the words.
func wantFailure(t *testing.T, f func(tb testing.TB), words ...string) {
	t.Helper()
	r := try(t, f)
	said := strings.Join(r.said, "\n")
	if !r.failed {
		t.Errorf("the check did not fail; it said %q", said)
	}
	for _, w := range words {
		if !strings.Contains(said, w) {
			t.Errorf("the check does not say %q: %q", w, said)
		}
	}
}

// wantPass fails unless f passes.
func wantPass(t *testing.T, f func(tb testing.TB)) {
	t.Helper()
	if r := try(t, f); r.failed || r.skipped {
		t.Errorf("the check failed: %q", r.said)
	}
}

// leakEnv tells a copy of the test binary what TestLeaker shall leave behind.
const leakEnv = "LINUXTEST_LEAK"

func TestLeaker(t *testing.T) {
	what := os.Getenv(leakEnv)
	switch what {
	case "":
		return
	case "child":
		if _, err := (Command{Args: Helper(t, "run")}).start(); err != nil {
			t.Fatal(err)
		}
	case "zombie":
		p, err := (Command{Args: Helper(t, "exit")}).start()
		if err != nil {
			t.Fatal(err)
		}
		readable(p.fd, 10*time.Second)
	case "daemon":
		ExitCause(t, Command{Args: Helper(t, "double-fork"), Env: []string{}}.Start(t).Wait(t, soon), 0)
	case "file":
		if _, err := os.Open("/etc/hostname"); err != nil {
			t.Fatal(err)
		}
	case "goroutine":
		go leakedGoroutine(make(chan int))
	case "temporary":
		if _, err := os.MkdirTemp("", "forgotten"); err != nil {
			t.Fatal(err)
		}
	case "cgroup":
		if err := os.Mkdir(current.group.path+"/forgotten", 0o755); err != nil {
			t.Fatal(err)
		}
	case "skip":
		Skip(t, "needs the moon")
	default:
		t.Fatalf("no leak called %q", what)
	}
}

func leakedGoroutine(never chan int) { <-never }

// runLeaker runs TestLeaker in a test process of its own.
func runLeaker(t *testing.T, leak string, env ...string) (output string, code int) {
	t.Helper()
	out, err := os.CreateTemp(t.TempDir(), "out")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = out.Close() }() // read by name
	status := Command{
		Args:   []string{current.exe, "-test.run=^TestLeaker$"},
		Env:    append(append(os.Environ(), leakEnv+"="+leak), env...),
		Stdout: out, Stderr: out,
	}.Start(t).Wait(t, 60*time.Second)
	data, err := os.ReadFile(out.Name())
	if err != nil {
		t.Fatal(err)
	}
	return string(data), status.ExitStatus()
}

func TestMainNamesEverySurvivor(t *testing.T) {
	tests := []struct{ leak, want string }{
		{"child", "left behind: child process pid "},
		{"zombie", "left behind: zombie (exited, not reaped): pid "},
		{"file", "/etc/hostname"},
		{"goroutine", "leakedGoroutine"},
		{"temporary", "left behind: temporary file "},
	}
	if current.group != nil {
		tests = append(tests,
			struct{ leak, want string }{"daemon", "linuxtest-helper:double-fork"},
			struct{ leak, want string }{"cgroup", "/forgotten"})
	}
	for _, test := range tests {
		t.Run(test.leak, func(t *testing.T) {
			t.Parallel() // each is a test process of its own
			out, code := runLeaker(t, test.leak)
			if code != 1 || !strings.Contains(out, "linuxtest: left behind: ") || !strings.Contains(out, test.want) {
				t.Errorf("exit code %d, output %q, want 1 and %q", code, out, test.want)
			}
		})
	}
}

func TestMainPassesWithoutLeak(t *testing.T) {
	if out, code := runLeaker(t, ""); code != 0 || strings.Contains(out, "linuxtest") {
		t.Errorf("exit code %d, output %q, want 0 and nothing of linuxtest", code, out)
	}
}

func TestMainCountsSkips(t *testing.T) {
	out, code := runLeaker(t, "skip", "PITVISOR_STRICT=")
	if code != 0 || !strings.Contains(out, "linuxtest: 1 skipped: needs the moon (1)\nlinuxtest-skips: {\"needs the moon\":1}\n") {
		t.Errorf("exit code %d, output %q, want the skip in words and as JSON", code, out)
	}
}

func TestStrictMakesASkipFatal(t *testing.T) {
	if out, code := runLeaker(t, "skip", "PITVISOR_STRICT=1"); code == 0 || !strings.Contains(out, "needs the moon") {
		t.Errorf("exit code %d, output %q, want a failure that names the need", code, out)
	}
}

func TestCgroupNamesASurvivor(t *testing.T) {
	NeedCgroup2(t)
	var dir string
	leave := func(tb testing.TB) {
		dir = Cgroup(tb)
		status := Command{Args: Helper(tb, "double-fork"), Cgroup: dir, Env: []string{}, Stderr: os.Stderr}.Start(tb).Wait(tb, soon)
		ExitCause(t, status, 0)
	}
	wantFailure(t, leave, "left in the test's cgroup", "linuxtest-helper:double-fork", dir)
	if pathExists(dir) {
		t.Errorf("cgroup %s is still there", dir)
	}
	wantPass(t, func(tb testing.TB) {
		AllowLeak(tb)
		leave(tb)
	})
}

func TestNoLeaksNamesTheTest(t *testing.T) {
	var left *os.File
	var process *Process
	never := make(chan int)
	wantFailure(t, func(tb testing.TB) {
		NoLeaks(tb)
		var err error
		if left, err = os.Open("/etc/hostname"); err != nil {
			tb.Fatal(err)
		}
		if process, err = (Command{Args: Helper(t, "run")}).start(); err != nil {
			tb.Fatal(err)
		}
		go leakedGoroutine(never)
	}, "/etc/hostname", "child process", "leakedGoroutine")
	_ = left.Close() // read-only; nothing to lose
	close(never)
	process.end(t)
	wantPass(t, func(tb testing.TB) { NoLeaks(tb) })
}

func TestWaitGivesTheLastReason(t *testing.T) {
	asked := 0
	wantFailure(t, func(tb testing.TB) {
		Wait(tb, 20*time.Millisecond, func() (bool, string) {
			asked++
			return false, fmt.Sprintf("asked %d times", asked)
		})
	}, "asked")
	if asked < 2 {
		t.Errorf("asked %d times, want several", asked)
	}
	wantPass(t, func(tb testing.TB) {
		Wait(tb, time.Minute, func() (bool, string) { return true, "" })
	})
}

func TestKernelVersion(t *testing.T) {
	tests := []struct {
		release      string
		major, minor int
		ok           bool
	}{
		{"6.18.44-fc-v595", 6, 18, true},
		{"5.10.0-34-cloud-amd64", 5, 10, true},
		{"7.3", 7, 3, true},
		{"6.1+", 6, 1, true},
		{"", 0, 0, false},
		{"six.one", 0, 0, false},
	}
	for _, test := range tests {
		major, minor, err := kernelVersion(test.release)
		if (err == nil) != test.ok || test.ok && (major != test.major || minor != test.minor) {
			t.Errorf("kernelVersion(%q) = %d, %d, %v, want %d, %d, ok %v", test.release, major, minor, err, test.major, test.minor, test.ok)
		}
	}
}

func TestNeedsSkipWithAReason(t *testing.T) {
	NeedCgroup2(t)
	tests := []struct {
		need func(tb testing.TB)
		want string
	}{
		{func(tb testing.TB) { NeedCgroup2(tb, "nonsense") }, "needs the cgroup2 controller nonsense: not available in "},
		{func(tb testing.TB) { NeedCommand(tb, "no-such-command") }, "needs the command no-such-command"},
		{func(tb testing.TB) { NeedKernel(tb, 99, 1, "time travel") }, "needs Linux 99.1: time travel"},
		{func(tb testing.TB) { NeedCapability(tb, 63, "CAP_FLY") }, "needs CAP_FLY"},
		{NeedRealSpeed, "needs a processor that is not emulated"},
	}
	t.Setenv("LINUXTEST_EMULATED", "1")
	t.Setenv("PITVISOR_STRICT", "0")
	for _, test := range tests {
		r := try(t, test.need)
		said := strings.Join(r.said, "\n")
		if !r.skipped || !strings.HasPrefix(said, test.want) || strings.Contains(said, groupPrefix) {
			t.Errorf("skipped %v, reason %q, want %q without a name of this run", r.skipped, said, test.want)
		}
		current.mu.Lock()
		delete(current.skips, said) // nothing was skipped in truth
		current.mu.Unlock()
		t.Setenv("PITVISOR_STRICT", "1")
		wantFailure(t, test.need, "skipped although PITVISOR_STRICT=1")
		t.Setenv("PITVISOR_STRICT", "0")
	}
}

func TestOwnerGone(t *testing.T) {
	p := Start(t, Helper(t, "run")...)
	name := ownerName(p.PID())
	if ownerGone(name) {
		t.Errorf("ownerGone(%q) = true of a living process", name)
	}
	p.Kill(t)
	if !ownerGone(name) {
		t.Errorf("ownerGone(%q) = false of a dead process", name)
	}
	for _, other := range []string{"", "1-2", "1-2-3", "x-y-z", "a-1795476838763324161"} {
		if ownerGone(other) {
			t.Errorf("ownerGone(%q) = true, but nothing is known of it", other)
		}
	}
}

func TestStaleGroupIsRemovedThoughItsLockIsHeld(t *testing.T) {
	NeedCgroup2(t)
	p := Start(t, Helper(t, "run")...)
	base := t.TempDir() // any directory of directories will do
	stale := filepath.Join(base, groupPrefix+ownerName(p.PID()))
	for _, dir := range []string{stale, filepath.Join(base, groupPrefix+ownerName(os.Getpid())), filepath.Join(base, "other")} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	lock, err := lockDir(stale)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(lock) }() // only held the lock
	removeStale(base)
	if !pathExists(stale) {
		t.Errorf("%s was removed while its owner lives", stale)
	}
	p.Kill(t)
	removeStale(base)
	if entries, err := os.ReadDir(base); err != nil || len(entries) != 2 || pathExists(stale) {
		t.Errorf("left in %s: %v, %v, want all but %s", base, entries, err, stale)
	}
}

func TestKillCgroupEndsWhatIsBelow(t *testing.T) {
	dir := Cgroup(t)
	below := dir + "/web"
	if err := os.Mkdir(below, 0o755); err != nil {
		t.Fatal(err)
	}
	a := Command{Args: Helper(t, "run"), Cgroup: dir}.Start(t)
	b := Command{Args: Helper(t, "ignore-term"), Cgroup: below}.Start(t)
	outside := Start(t, Helper(t, "run")...)
	KillCgroup(t, dir)
	a.Wait(t, time.Second)
	b.Wait(t, time.Second)
	if !outside.Alive() {
		t.Error("a process outside of it was killed")
	}
}
