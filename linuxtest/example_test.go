package linuxtest_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/linuxtest"
)

// In an example t stands for the test's own *testing.T.
var t *testing.T

// A package opts in with its TestMain. The helper mode "owner" belongs to this
// package; [linuxtest.Helper] returns the command line that runs it.
func ExampleMain() {
	testMain := func(m *testing.M) {
		linuxtest.Main(m, linuxtest.Modes{
			"owner": func(args []string) int {
				fmt.Println("owner of", args)
				return 0
			},
		})
	}
	_ = testMain
}

// What a test needs is said at its beginning; where it is lacking the test is
// skipped, counted and named.
func ExampleNeedCgroup2() {
	linuxtest.NeedRoot(t)
	linuxtest.NeedCgroup2(t, "memory", "pids")
	linuxtest.NeedCommand(t, "python3")
}

// A daemon that left its session is still in the cgroup that it was born in.
func ExampleCgroup() {
	dir := linuxtest.Cgroup(t)
	command := linuxtest.Command{Args: linuxtest.Helper(t, "double-fork"), Cgroup: dir}
	linuxtest.ExitCause(t, command.Start(t).Wait(t, time.Minute), 0)

	linuxtest.AllowLeak(t) // without it the test fails here: the daemon lives
	for _, p := range linuxtest.Members(dir) {
		t.Log(p)
	}
}

func ExampleHelper() {
	stubborn := linuxtest.Start(t, linuxtest.Helper(t, "ignore-term")...)
	_ = stubborn.Signal(unix.SIGTERM) // through its pidfd
	linuxtest.SurvivesAs(t, stubborn)
}

// The helpers that every test binary has.
func ExampleWriteModes() {
	var modes bytes.Buffer
	linuxtest.WriteModes(&modes)
	for line := range bytes.Lines(modes.Bytes()) {
		if bytes.HasPrefix(line, []byte("fork-")) {
			fmt.Print(string(line))
		}
	}
	// Output:
	// fork-bomb DEPTH                            becomes 2^DEPTH processes (DEPTH up to 10), prints ready, lives
	// fork-chain N                               N chains of fork, setsid and exit, for 10 s at most: never the same PID
}

// A worker ends and a stranger gets its number. Whoever signals by number now hits
// the stranger.
func ExampleReusePID() {
	worker := linuxtest.Start(t, linuxtest.Helper(t, "run")...)
	worker.Kill(t)

	stranger := linuxtest.ReusePID(t, worker.PID(), linuxtest.Helper(t, "run")...)
	// … what is tested runs here …
	linuxtest.SurvivesAs(t, stranger)
}

// A program is killed right before each of its directories is made.
func ExampleCrashPoints() {
	var dir string
	command := func() linuxtest.Command {
		dir = t.TempDir()
		return linuxtest.Command{Args: []string{"/bin/mkdir", "-p", dir + "/a/b/c"}}
	}
	for crash := range linuxtest.CrashPoints(t, command, "mkdir", "mkdirat") {
		entries, err := os.ReadDir(dir)
		t.Log(crash, entries, err)
	}
}

// A supervisor lives for ever: its crash points are over when it has settled.
func ExampleCrashTest() {
	dir := linuxtest.Cgroup(t)
	test := linuxtest.CrashTest{
		Command: func() linuxtest.Command {
			return linuxtest.Command{Args: []string{"/usr/bin/supervisor"}, Cgroup: dir}
		},
		Syscalls: []string{"mkdirat", "clone3", "execve", "fsetxattr", "flock", "unlinkat"},
		Settled:  func() bool { return len(linuxtest.Members(dir)) == 5 },
		Max:      200,
	}
	for crash := range test.Points(t) {
		t.Logf("%v left %d processes", crash, len(linuxtest.Members(dir)))
	}
}

func ExampleNoForeignSignals() {
	supervisor := linuxtest.NoForeignSignals(t, linuxtest.Command{Args: []string{"/usr/bin/supervisor"}})
	_ = supervisor.Signal(unix.SIGTERM)
	supervisor.Wait(t, time.Minute)
}

// A wait without an event, with the last reason in the failure.
func ExampleWait() {
	linuxtest.Wait(t, 5*time.Second, func() (bool, string) {
		data, err := os.ReadFile("/run/service/port")
		return len(data) > 0, fmt.Sprintf("port file %q, %v", data, err)
	})
}

func ExampleNoLeaks() {
	linuxtest.NoLeaks(t)
	f, err := os.Open("/etc/hostname") // the test fails: nobody closes it
	_, _ = f, err
}

// A count of processes would not see that one died and another was started.
func ExampleStableFor() {
	dir := linuxtest.Cgroup(t)
	linuxtest.StableFor(t, time.Second, func() []linuxtest.Identity { return linuxtest.Identities(dir) })
}

func ExampleTreeGone() {
	dir := linuxtest.Cgroup(t)
	// … a supervisor starts workers below dir and stops them …
	linuxtest.TreeGone(t, dir, 5*time.Second)
}

func ExampleOwnsPort() {
	dir := linuxtest.Cgroup(t)
	linuxtest.OwnsPort(t, dir, 50051)
	linuxtest.NotSharedPort(t, 50051)
}

func ExampleStorm_Rage() {
	dir := linuxtest.Cgroup(t)
	linuxtest.Storm{Kills: 30, Period: 50 * time.Millisecond}.Rage(t, dir)
	linuxtest.CapacityBack(t, 8, 10*time.Second, func() int { return len(linuxtest.Members(dir)) })
}

func ExampleQuietLog() {
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("swept", "runs", 3)
	linuxtest.QuietLog(t, log.Bytes(), slog.LevelInfo)
}

func ExampleExactly() {
	linuxtest.Exactly(t, []string{"starting", "up", "ready"}, "starting", "up", "ready")
}

// In a PID namespace of its own a program may choose the next PID: there
// [linuxtest.NextPID] works.
func ExamplePIDNamespace() {
	p := linuxtest.PIDNamespace(t, linuxtest.Command{Args: linuxtest.Helper(t, "run")})
	p.Kill(t)
}

func ExampleIdentify() {
	self, ok := linuxtest.Identify(os.Getpid())
	fmt.Println(self.PID == os.Getpid(), ok)
	// Output: true true
}
