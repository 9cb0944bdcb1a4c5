package guardian

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/pidfd"
	"github.com/pitvisor/pitvisor/registry"
	"github.com/pitvisor/pitvisor/spawn"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	Main()
	spawn.HelperMain()
	linuxtest.Main(m, linuxtest.Modes{"owner": modeOwner, "attack": modeAttack, "witnessed": modeWitnessed})
}

// within is how long a test waits for what must happen.
const within = 20 * time.Second

// second is the promise: so long after the end of the owner nothing is left. An emulated
// processor takes longer, and so does one that other lanes keep busy, as in short runs.
func second() time.Duration {
	if linuxtest.Emulated() || testing.Short() {
		return 10 * time.Second
	}
	return time.Second
}

// modeOwner is `pitvisor run` in small: it makes a run below ROOT, with "job" and
// "0.1" in it, starts a guardian, then a command in the innermost, and says so. Each
// of its lines of input is an order.
//
//	owner ROOT clone|program|sandbox COMMAND...
func modeOwner(args []string) int {
	// Its own process group, as a shell gives to a job.
	if err := unix.Setpgid(0, 0); err != nil {
		return complain(err)
	}
	root, err := cgroup.Open(args[0])
	if err != nil {
		return complain(err)
	}
	if args[1] == "sandbox" {
		if err := forbid(unix.SYS_CLOSE_RANGE); err != nil {
			return complain(err)
		}
	}
	run, err := registry.New(root).Create(registry.Spec{Kind: "run"})
	if err != nil {
		return complain(err)
	}
	leaf, err := makeInner(run.Dir())
	if err != nil {
		return complain(err)
	}
	// A pipe that nothing may keep open: the guardian gets its number by chance only.
	if err := unix.Dup3(1, 100, unix.O_CLOEXEC); err != nil {
		return complain(err)
	}
	g, err := Start(Options{Root: root, Run: run.Dir(), Inner: inner[:], ForceProgram: args[1] == "program"})
	if err != nil {
		return complain(err)
	}
	fmt.Println("guarded", run.Dir().Name(), g.PID(), g.memory != nil)
	if _, err := spawn.Start(&spawn.Cmd{Path: args[2], Args: args[2:], Leaf: leaf, Stderr: os.Stderr}); err != nil {
		return complain(err)
	}
	fmt.Println("started")
	return obey(run, g)
}

// inner are the directories below the run.
var inner = [...]string{"job", "0.1"}

// makeInner makes them and opens the innermost.
func makeInner(at *cgroup.Dir) (*cgroup.Dir, error) {
	job, err := at.Create(inner[0])
	if err != nil {
		return nil, err
	}
	defer job.Close()
	return job.Create(inner[1])
}

// obey carries out orders; the end of the input ends the owner without a word.
func obey(run *registry.Run, g *Guardian) int {
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var err error
		switch lines.Text() {
		case "freeze":
			err = run.Dir().Freeze(context.Background())
		case "nest":
			err = nest(run.Dir())
		case "remove":
			err = run.Close(context.Background())
		case "stop":
			if err = run.Close(context.Background()); err == nil {
				err = g.Stop()
			}
		default:
			err = fmt.Errorf("unknown order %q", lines.Text())
		}
		if err != nil {
			return complain(err)
		}
		fmt.Println("done")
	}
	return 0
}

// nest makes cgroups that the guardian is not told of.
func nest(run *cgroup.Dir) error {
	job, err := run.OpenChild("job")
	if err == nil {
		_, err = job.Create("other")
	}
	return err
}

// complain is for modes that cannot do their work.
func complain(err error) int {
	fmt.Fprintln(os.Stderr, "helper:", err)
	return 1
}

// owner is a running modeOwner.
type owner struct {
	*linuxtest.Process
	root  string // its cgroup
	run   string // the run's directory
	guard int    // the number of its guardian
	clone bool   // which it has made by cloning itself

	stdin *os.File
	lines *bufio.Scanner
}

// noLeaks is linuxtest.NoLeaks for guardians too, which are no children of the test
// when their owner was one.
func noLeaks(t *testing.T) {
	t.Helper()
	linuxtest.NoLeaks(t)
	main := filepath.Join(filepath.Dir(linuxtest.Cgroup(t)), "main") // of this test process
	t.Cleanup(func() {
		linuxtest.Wait(t, within, func() (bool, string) {
			for _, p := range linuxtest.Members(main) {
				if p.Comm == comm {
					return false, "there is " + p.String()
				}
			}
			return true, ""
		})
	})
}

// kinds runs a test with each kind of guardian.
func kinds(t *testing.T, f func(t *testing.T, kind string)) {
	t.Helper()
	for _, kind := range []string{"clone", "program"} {
		t.Run(kind, func(t *testing.T) {
			if kind == "clone" {
				needClone(t)
			}
			noLeaks(t)
			f(t, kind)
		})
	}
}

// needClone skips a test where a guardian has to be a program.
func needClone(t *testing.T) {
	t.Helper()
	if _, err := os.Stat(filepath.Join(linuxtest.Cgroup(t), "cgroup.kill")); err != nil {
		linuxtest.Skip(t, "needs cgroup.kill")
	}
}

// launch starts an owner and returns at once. The command's arguments are those of a
// helper mode.
func launch(t *testing.T, root, kind string, command ...string) *owner {
	t.Helper()
	ordersR, ordersW := pipe(t)
	linesR, linesW := pipe(t)
	args := append([]string{root, kind}, linuxtest.Helper(t, command[0], command[1:]...)...)
	o := &owner{root: root, stdin: ordersW, lines: bufio.NewScanner(linesR)}
	o.Process = linuxtest.Command{Args: linuxtest.Helper(t, "owner", args...), Stdin: ordersR, Stdout: linesW, Stderr: os.Stderr}.Start(t)
	_, _ = ordersR.Close(), linesW.Close() // the owner has its own
	if err := linesR.SetReadDeadline(time.Now().Add(within)); err != nil {
		t.Fatal(err)
	}
	return o
}

func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = r.Close(), w.Close() }) // mostly closed already
	return r, w
}

// guarded reads from an owner that it has its guardian; false if it has ended before.
func (o *owner) guarded() bool {
	if !o.lines.Scan() {
		return false
	}
	fields := strings.Fields(o.lines.Text())
	if len(fields) != 4 || fields[0] != "guarded" {
		return false
	}
	o.run = filepath.Join(o.root, fields[1])
	o.guard, _ = strconv.Atoi(fields[2])
	o.clone = fields[3] == "true"
	return true
}

// started launches an owner and waits until its command runs.
func started(t *testing.T, root, kind string, command ...string) *owner {
	t.Helper()
	o := launch(t, root, kind, command...)
	if !o.guarded() {
		t.Fatalf("the owner has no guardian: %q, %v", o.lines.Text(), o.lines.Err())
	}
	if o.clone != (kind == "clone") {
		t.Fatalf("the guardian is a clone: %v, want %s", o.clone, kind)
	}
	o.said(t, "started")
	return o
}

// said waits for a line of the owner.
func (o *owner) said(t *testing.T, want string) {
	t.Helper()
	if !o.lines.Scan() || o.lines.Text() != want {
		t.Fatalf("the owner said %q, %v, want %q", o.lines.Text(), o.lines.Err(), want)
	}
}

// order makes the owner do something.
func (o *owner) order(t *testing.T, what string) {
	t.Helper()
	if _, err := o.stdin.WriteString(what + "\n"); err != nil {
		t.Fatal(err)
	}
	o.said(t, "done")
}

// hold takes hold of the owner's guardian while the owner lives, so that the number
// is its own.
func (o *owner) hold(t *testing.T) *pidfd.Process {
	t.Helper()
	p, err := pidfd.Open(o.guard)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() }) // nothing to lose
	if !o.Alive() {
		t.Fatal("the owner has ended")
	}
	return p
}

// sweep is the next sweep of anyone.
func sweep(t *testing.T, root string) registry.SweepResult {
	t.Helper()
	dir, err := cgroup.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = dir.Close() }() // nothing to lose
	result, err := registry.New(dir).Sweep(t.Context(), registry.SweepOptions{})
	if err != nil || result.Blocked > 0 {
		t.Fatalf("Sweep() = %+v, %v, want nothing blocked", result, err)
	}
	return result
}

// gone waits for the end of a process that this one cannot reap.
func gone(t *testing.T, p *pidfd.Process) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	if err := p.Wait(ctx); err != nil {
		t.Error(err)
	}
}

// kill ends a process by its pidfd.
func kill(t *testing.T, p *pidfd.Process) {
	t.Helper()
	if err := p.Signal(unix.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatal(err)
	}
}
