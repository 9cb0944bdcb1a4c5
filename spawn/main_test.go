package spawn

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/linuxtest"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	HelperMain()
	linuxtest.Main(m, linuxtest.Modes{
		"report": reportMode, "orphans": orphansMode, "poison": poisonMode, "seccomp": seccompMode,
		"no-files": noFilesMode, "no-processes": noProcessesMode, "stuck": stuckMode, "net": netMode, "soft-limit": softLimitMode,
		"autokill": autokillMode, "own-pid": ownPIDMode,
	})
}

// within is how long a test waits for what must happen.
const within = 20 * time.Second

// testRoot opens a cgroup of the test's own.
func testRoot(t testing.TB) *cgroup.Dir {
	t.Helper()
	return openRoot(t, linuxtest.Cgroup(t))
}

func openRoot(t testing.TB, path string) *cgroup.Dir {
	t.Helper()
	root, err := cgroup.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = root.Close() })
	return root
}

// newLeaf makes a fresh leaf in root.
func newLeaf(t testing.TB, root *cgroup.Dir, name string) *cgroup.Dir {
	t.Helper()
	leaf, err := root.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = leaf.Close() })
	return leaf
}

// ways runs a test once with clone3, once with the helper, once with clone3 and
// autokill, which is clone3 again where the kernel does not know it, and with a variable
// for the process's own number and with limits, for which the steps are our own on every
// kernel.
func ways(t *testing.T, f func(t *testing.T, c Cmd)) {
	t.Helper()
	for _, helper := range []bool{false, true} {
		t.Run(fmt.Sprintf("helper=%v", helper), func(t *testing.T) {
			linuxtest.NoLeaks(t)
			f(t, Cmd{Leaf: newLeaf(t, testRoot(t), "leaf"), ForceHelper: helper})
		})
	}
	t.Run("autokill", func(t *testing.T) {
		linuxtest.NoLeaks(t)
		f(t, Cmd{Leaf: newLeaf(t, testRoot(t), "leaf"), Autokill: true})
	})
	t.Run("own-pid", func(t *testing.T) {
		linuxtest.NoLeaks(t)
		f(t, Cmd{Leaf: newLeaf(t, testRoot(t), "leaf"), OwnPID: wayOwnPID})
	})
	t.Run("limits", func(t *testing.T) {
		linuxtest.NoLeaks(t)
		c := ownLimits()
		c.Leaf = newLeaf(t, testRoot(t), "leaf")
		f(t, c)
	})
}

// ownLimits sets a limit and the OOM score to what they are. The program that tests must
// not have been another user.
func ownLimits() Cmd {
	var limit unix.Rlimit
	text, err := os.ReadFile("/proc/self/oom_score_adj")
	score, parseErr := strconv.Atoi(strings.TrimSpace(string(text)))
	if err := errors.Join(err, parseErr, unix.Prlimit(0, unix.RLIMIT_CORE, nil, &limit)); err != nil {
		panic(err)
	}
	return Cmd{Rlimits: []Rlimit{{Resource: unix.RLIMIT_CORE, Soft: limit.Cur, Hard: limit.Max}}, OOMScoreAdj: &score}
}

// wayOwnPID is the variable that ways asks for.
const wayOwnPID = "OWN_PID"

// start starts c and ends what it started at the end of the test.
func start(t testing.TB, c *Cmd) *Process {
	t.Helper()
	p, err := Start(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { finish(t, p) })
	return p
}

func finish(t testing.TB, p *Process) {
	t.Helper()
	_ = p.Signal(9) // it may have exited
	wait(t, p)
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

func wait(t testing.TB, p *Process) Exit {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	exit, err := p.Wait(ctx)
	if err != nil {
		t.Error(err)
	}
	return exit
}

// output runs c to its end and returns what it printed.
func output(t *testing.T, c Cmd) string {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	c.Stdout = w
	if c.Stderr == nil {
		c.Stderr = os.Stderr
	}
	p := start(t, &c)
	_ = w.Close()
	out, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if exit := wait(t, p); !exit.Success() {
		t.Fatalf("%v: %v: %s", c.Args, exit, out)
	}
	return strings.TrimSpace(string(out))
}

// command sets the command line of a helper mode.
func command(t *testing.T, c Cmd, mode string, args ...string) Cmd {
	t.Helper()
	c.Args = linuxtest.Helper(t, mode, args...)
	c.Path = c.Args[0]
	return c
}

// script writes an executable file and returns its path.
func script(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(publicDir(t), "script")
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// publicDir is a temporary directory that every user may enter.
func publicDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for at := dir; at != os.TempDir() && at != "/"; at = filepath.Dir(at) {
		if err := os.Chmod(at, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// inProcess runs a helper mode as a process of its own and decodes what it prints.
func inProcess(t *testing.T, c linuxtest.Command, result any, mode string, args ...string) {
	t.Helper()
	c.Args = linuxtest.Helper(t, mode, args...)
	c.Stderr = os.Stderr
	out := c.Output(t, 3*time.Minute) // an emulated processor takes a while
	if err := json.Unmarshal([]byte(out), result); err != nil {
		t.Fatalf("%s printed %q: %v", mode, out, err)
	}
}

// printResult is the other side of inProcess.
func printResult(result any) int {
	if err := json.NewEncoder(os.Stdout).Encode(result); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// complain is for modes that cannot do their work.
func complain(err error) int {
	fmt.Fprintln(os.Stderr, err)
	return 1
}
