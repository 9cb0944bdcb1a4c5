package weak

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/pidfd"
	"github.com/pitvisor/pitvisor/spawn"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	spawn.HelperMain()
	linuxtest.Main(m, linuxtest.Modes{
		"tree": treeMode, "nested": nestedMode, "as-root": asRootMode, "join": joinMode,
	})
}

const (
	// within is how long a test waits for what must happen.
	within = 20 * time.Second
	nobody = 65534
)

// start starts a helper mode and waits for the first line it prints, if any is wanted.
func start(t testing.TB, line, mode string, args ...string) *Tree {
	t.Helper()
	return startCmd(t, line, spawn.Cmd{Args: linuxtest.Helper(t, mode, args...)})
}

func startCmd(t testing.TB, line string, c spawn.Cmd) *Tree {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	c.Path, c.Stdout, c.Stderr = c.Args[0], w, os.Stderr
	tree, err := Start(c)
	_ = w.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		kill(t, tree)
		if err := tree.Close(); err != nil {
			t.Error(err)
		}
	})
	if line == "" {
		return tree
	}
	if got, err := bufio.NewReader(r).ReadString('\n'); got != line+"\n" {
		t.Fatalf("%q printed %q, %v, want %q", c.Args[1:], got, err, line)
	}
	return tree
}

func kill(t testing.TB, tree *Tree) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	if err := tree.Kill(ctx); err != nil {
		t.Error(err)
	}
}

func members(t testing.TB, tree *Tree) []pidfd.Identity {
	t.Helper()
	ids, err := tree.Members()
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

// grown waits until a tree has so many members.
func grown(t testing.TB, tree *Tree, least int) (ids []pidfd.Identity) {
	t.Helper()
	linuxtest.Wait(t, within, func() (bool, string) {
		ids = members(t, tree)
		return len(ids) >= least, fmt.Sprintf("%d members, want at least %d", len(ids), least)
	})
	return ids
}

// allDead fails the test if one of these processes lives.
func allDead(t testing.TB, ids []pidfd.Identity) {
	t.Helper()
	for _, id := range ids {
		if alive, err := id.Alive(); alive || err != nil {
			t.Errorf("process %v: Alive() = %v, %v, want false", id, alive, err)
		}
	}
}

// outcome is what treeMode prints.
type outcome struct {
	Err       string // of Kill
	Refused   bool   // it was EPERM
	Blockers  []string
	Total     int
	ChildLeft bool
	Exit      string // of the command
	Took      time.Duration
}

// treeMode is a one-command program: it starts a command as a user, prints ready,
// and kills the tree when its standard input ends.
func treeMode(args []string) int {
	uid, err := strconv.Atoi(args[0])
	if err != nil {
		return complain(err)
	}
	if uid != 0 {
		if err := errors.Join(syscall.Setgroups(nil), syscall.Setgid(uid), syscall.Setuid(uid)); err != nil {
			return complain(err)
		}
	}
	r, w, err := os.Pipe()
	if err != nil {
		return complain(err)
	}
	tree, err := Start(spawn.Cmd{Path: args[1], Args: args[1:], Stdout: w, Stderr: os.Stderr})
	_ = w.Close()
	if err != nil {
		return complain(err)
	}
	line, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		return complain(err)
	}
	fmt.Print(line)
	_, _ = os.Stdin.Read(make([]byte, 1)) // its end is what is waited for
	return printOutcome(tree)
}

func printOutcome(tree *Tree) int {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	begin := time.Now()
	err := tree.Kill(ctx)
	out := outcome{Took: time.Since(begin), Refused: errors.Is(err, unix.EPERM)}
	if err != nil {
		out.Err = err.Error()
	}
	var blocked *BlockedError
	if errors.As(err, &blocked) {
		out.Total = blocked.Total
		for _, b := range blocked.Blockers {
			out.Blockers = append(out.Blockers, b.String())
		}
	}
	if out.ChildLeft, err = spawn.ChildLeft(); err != nil {
		return complain(err)
	}
	exit, err := tree.Process().Reap()
	if err != nil {
		return complain(err)
	}
	out.Exit = exit.String()
	if err := tree.Close(); err != nil {
		return complain(err)
	}
	if err := json.NewEncoder(os.Stdout).Encode(out); err != nil {
		return complain(err)
	}
	return 0
}

func complain(err error) int {
	fmt.Fprintln(os.Stderr, err)
	return 125
}

// program is a treeMode process that has a tree.
type program struct {
	*linuxtest.Process
	stdin *os.File // its end kills the tree
	out   *bufio.Reader
}

// startProgram starts one as a user and waits until its command has printed a line,
// which it returns.
func startProgram(t *testing.T, uid int, command ...string) (*program, string) {
	t.Helper()
	in, stdin, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = stdin.Close(), stdout.Close() })
	c := linuxtest.Command{
		Args:  linuxtest.Helper(t, "tree", append([]string{strconv.Itoa(uid)}, command...)...),
		Stdin: in, Stdout: out, Stderr: os.Stderr,
	}
	p := &program{Process: c.Start(t), stdin: stdin, out: bufio.NewReader(stdout)}
	_, _ = in.Close(), out.Close() // it has its own
	line, err := p.out.ReadString('\n')
	if err != nil {
		t.Fatalf("%q printed %q, %v", command, line, err)
	}
	return p, line[:len(line)-1]
}

// end kills the tree and returns what came of it.
func (p *program) end(t *testing.T) outcome {
	t.Helper()
	if err := p.stdin.Close(); err != nil {
		t.Fatal(err)
	}
	var got outcome
	if err := json.NewDecoder(p.out).Decode(&got); err != nil {
		t.Fatal(err)
	}
	p.Wait(t, within)
	return got
}
