package weak

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/pidfd"
	"github.com/pitvisor/pitvisor/spawn"
	"golang.org/x/sys/unix"
)

// shape is a command that is not easily ended.
type shape struct {
	line  string // what it prints when it is what it is about to be
	args  []string
	least int // processes that it has then
}

func shapes() []shape {
	return []shape{
		{"", []string{"run"}, 1},
		{"ready", []string{"ignore-term"}, 1},
		{"stopping", []string{"stop-self"}, 1},
		{"ready", []string{"double-fork", "stay"}, 2},
		{"ready", []string{"double-fork"}, 1}, // the command itself ends
		{"ready", []string{"setsid-storm", "100"}, 101},
		{"ready", []string{"fork-bomb", "6"}, 64},
		{"ready", []string{"zombies", "20"}, 1},
		{"ready", []string{"fork-chain", "8"}, 1},
		{"ready", []string{"nested"}, 4},
	}
}

// bothWays runs a test with the kernel's lists of children and without.
func bothWays(t *testing.T, f func(t *testing.T, prepare func(*Tree) *Tree)) {
	t.Run("listed", func(t *testing.T) {
		f(t, func(tree *Tree) *Tree {
			if !tree.kin.listed {
				linuxtest.Skip(t, "needs CONFIG_PROC_CHILDREN")
			}
			return tree
		})
	})
	t.Run("scanned", func(t *testing.T) {
		f(t, func(tree *Tree) *Tree { tree.kin.listed = false; return tree })
	})
}

func TestKillEndsEveryDescendant(t *testing.T) {
	bothWays(t, func(t *testing.T, prepare func(*Tree) *Tree) {
		for _, s := range shapes() {
			t.Run(strings.Join(s.args, "-"), func(t *testing.T) {
				linuxtest.NoLeaks(t)
				tree := prepare(start(t, s.line, s.args[0], s.args[1:]...))
				ids := grown(t, tree, s.least)
				kill(t, tree)
				allDead(t, ids)
				if left, err := spawn.ChildLeft(); left || err != nil {
					t.Errorf("ChildLeft() = %v, %v, want false", left, err)
				}
				if ids := members(t, tree); len(ids) != 0 {
					t.Errorf("members after Kill: %v", ids)
				}
				if _, err := tree.Process().Reap(); err != nil {
					t.Errorf("the exit of the command is lost: %v", err)
				}
			})
		}
	})
}

func TestHurryIsTakenBack(t *testing.T) {
	linuxtest.NeedCapability(t, unix.CAP_SYS_NICE, "CAP_SYS_NICE")
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	const before = 7
	if err := unix.Setpriority(unix.PRIO_PROCESS, 0, before); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Setpriority(unix.PRIO_PROCESS, 0, 0); err != nil {
			t.Error(err)
		}
	}()
	check := func(when string, want int) {
		t.Helper()
		if n, err := unix.Getpriority(unix.PRIO_PROCESS, 0); 20-n != want || err != nil {
			t.Errorf("%s: nice %d, %v, want %d", when, 20-n, err, want)
		}
	}
	end := hurry()
	check("in a hurry", -20)
	end()
	check("afterwards", before)
}

func TestKillKeepsTheExitOfTheCommand(t *testing.T) {
	linuxtest.NoLeaks(t)
	tree := startCmd(t, "", spawn.Cmd{Args: []string{"/bin/sh", "-c", "(sleep 100 &); exit 42"}})
	if err := tree.Process().Handle().Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	kill(t, tree)
	if exit, err := tree.Process().Reap(); exit.Code != 42 || err != nil {
		t.Errorf("Reap() = %v, %v, want exit 42", exit, err)
	}
}

// The acceptance of those who cancel jobs: whatever goes on forking while it is
// killed, nothing is left when Kill says so, and nobody else is hit.
func TestKillWinsAgainstForking(t *testing.T) {
	rounds := 250
	if testing.Short() {
		rounds = 10
	}
	canary := stranger(t)
	for name, c := range map[string]spawn.Cmd{
		"chain":   {Args: linuxtest.Helper(t, "fork-chain", "1")},
		"chains":  {Args: linuxtest.Helper(t, "fork-chain", "8")},
		"daemons": {Args: []string{"/bin/sh", "-c", "echo ready; while :; do (setsid sleep 100 &); done"}},
		"bomb":    bomb(t),
	} {
		t.Run(name, func(t *testing.T) {
			linuxtest.NoLeaks(t)
			for range rounds {
				oneStorm(t, c)
			}
		})
	}
	if alive, err := canary.Alive(); !alive || err != nil {
		t.Errorf("the bystander: Alive() = %v, %v", alive, err)
	}
}

// bomb doubles for ever, up to a limit of the user's processes.
func bomb(t *testing.T) spawn.Cmd {
	c := spawn.Cmd{Args: []string{"/bin/sh", "-c", "f() { f & f & wait; }; echo ready; f 2>/dev/null"}}
	if os.Geteuid() != 0 {
		t.Log("the bomb is left out: only root can make its user's limit its own")
		c.Args[2] = "echo ready"
		return c
	}
	const user = 64998 // nobody's, so that the limit counts this bomb alone
	c.Credential = &spawn.Credential{UID: user, GID: user}
	c.Rlimits = []spawn.Rlimit{{Resource: unix.RLIMIT_NPROC, Soft: 60, Hard: 60}}
	return c
}

// oneStorm starts a command and kills it at some moment soon after.
func oneStorm(t *testing.T, c spawn.Cmd) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	c.Path, c.Stdout = c.Args[0], w
	tree, err := Start(c)
	_ = w.Close()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Read(make([]byte, 1)); err != nil {
		t.Error(err)
	}
	<-time.After(rand.N(10 * time.Millisecond))
	kill(t, tree)
	if left, err := spawn.ChildLeft(); left || err != nil {
		t.Fatalf("ChildLeft() = %v, %v, want false", left, err)
	}
	if err := tree.Close(); err != nil {
		t.Error(err)
	}
}

// stranger starts a process that is no child of ours: init has got it.
func stranger(t *testing.T) pidfd.Identity {
	t.Helper()
	text := linuxtest.Command{Args: []string{"/bin/sh", "-c", "setsid sleep 1000 >/dev/null & echo $!"}}.Output(t, within)
	pid, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	p, err := pidfd.Open(pid)
	if err != nil {
		t.Fatal(err)
	}
	id, err := p.Identity()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(p.Signal(unix.SIGKILL), p.Wait(context.Background()), p.Close()); err != nil {
			t.Error(err)
		}
	})
	return id
}

// nestedMode is a tree inside a tree: its command's daemon is given to it first.
func nestedMode([]string) int {
	argv := []string{"/bin/sh", "-c", "(sleep 1000 &); echo ready; sleep 1000"}
	if _, err := Start(spawn.Cmd{Path: argv[0], Args: argv, Stdout: os.Stdout}); err != nil {
		return complain(err)
	}
	select {}
}

// A program with a tree is killed itself: the one around it ends all.
func TestTreeInsideATreeIsEndedFromOutside(t *testing.T) {
	linuxtest.NoLeaks(t)
	tree := start(t, "ready", "nested")
	ids := grown(t, tree, 4)
	if err := tree.Process().Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := tree.Process().Handle().Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left := members(t, tree); len(left) != len(ids)-1 {
		t.Errorf("%d members after the death of the inner program, want %d", len(left), len(ids)-1)
	}
	kill(t, tree)
	allDead(t, ids)
}

// A number that was listed may belong to somebody else by the time it is opened.
func TestStrangerOnTheListIsLeftAlone(t *testing.T) {
	linuxtest.NoLeaks(t)
	id := stranger(t)
	w := walker{
		children: func(int) ([]int, error) { return []int{id.PID}, nil },
		take:     func(p *pidfd.Process) bool { t.Errorf("process %d taken for a descendant", p.PID()); return false },
	}
	w.below(os.Getpid(), func() bool { return true })
	if w.first != nil {
		t.Error(w.first)
	}
}

// A number may also change hands after a striker has seen it on a list, and before it
// has opened it: then it is on the list no more, or the parent is gone.
func TestStrikerLeavesStrangersAlone(t *testing.T) {
	linuxtest.NoLeaks(t)
	id := stranger(t)
	gone := linuxtest.Start(t, linuxtest.Helper(t, "run")...)
	gone.Kill(t)
	for name, c := range map[string]struct {
		lists  [][]int
		parent int
	}{
		"not on the list again": {[][]int{{id.PID}, {}}, -1},
		"parent is gone":        {[][]int{{id.PID}, {id.PID}}, gone.FD()},
	} {
		s := newStriker()
		s.children = func(int) []int {
			list := c.lists[0]
			c.lists = c.lists[1:]
			return list
		}
		if n := s.below(os.Getpid(), c.parent); n != 0 {
			t.Errorf("%s: %d killed", name, n)
		}
		if alive, err := id.Alive(); !alive || err != nil {
			t.Fatalf("%s: the stranger: Alive() = %v, %v", name, alive, err)
		}
	}
}

func TestStrikerReadsLongLists(t *testing.T) {
	linuxtest.NoLeaks(t)
	// A program with one thread, so that all are children of the first.
	tree := startCmd(t, "ready", spawn.Cmd{Args: []string{"/bin/sh", "-c", "i=0; while [ $i -lt 100 ]; do sleep 1000 & i=$((i+1)); done; echo ready; wait"}})
	pids, err := listChildren(tree.Process().PID())
	if err != nil {
		t.Fatal(err)
	}
	got := lister{buf: make([]byte, 7)}.children(tree.Process().PID()) // numbers are cut in two
	slices.Sort(got)
	slices.Sort(pids)
	if len(got) != 100 || !slices.Equal(got, pids) {
		t.Errorf("%d children: %v, want %v", len(got), got, pids)
	}
}

// The number of a parent proves nothing once the parent is gone.
func TestChildOfAReusedNumberIsLeftAlone(t *testing.T) {
	linuxtest.NoLeaks(t)
	tree := start(t, "ready", "nested") // whose command is a grandchild of ours
	ids := grown(t, tree, 4)
	for _, alive := range []bool{true, false} {
		found := 0
		w := walker{children: listChildren, take: func(*pidfd.Process) bool { found++; return false }}
		w.below(tree.Process().PID(), func() bool { return alive })
		if want := len(ids) - 1; alive && found != want || !alive && found != 0 {
			t.Errorf("parent there: %v: %d found below it", alive, found)
		}
	}
}

func TestKillAsAnOrdinaryUser(t *testing.T) {
	linuxtest.NeedRoot(t, "to become another user")
	bystander := linuxtest.Bystander(t, linuxtest.Command{Args: linuxtest.Helper(t, "run")})
	p, line := startProgram(t, nobody, linuxtest.Helper(t, "setsid-storm", "30")...)
	if line != "ready" {
		t.Fatalf("it printed %q", line)
	}
	got := p.end(t)
	if got.Err != "" || got.ChildLeft || got.Exit != "SIGKILL" {
		t.Errorf("Kill: %+v, want no error and nothing left", got)
	}
	linuxtest.SurvivesAs(t, bystander)
}

func TestWaitEmptyWaitsForTheLastDaemon(t *testing.T) {
	linuxtest.NoLeaks(t)
	tree := startCmd(t, "", spawn.Cmd{Args: []string{"/bin/sh", "-c", "(sleep 0.3 &); exit 0"}})
	begin := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := tree.WaitEmpty(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("WaitEmpty while a daemon runs = %v, want the cause of the context", err)
	}
	if err := tree.WaitEmpty(t.Context()); err != nil {
		t.Error(err)
	}
	if took := time.Since(begin); took < 250*time.Millisecond {
		t.Errorf("empty after %v, want at least 0.3s", took)
	}
}

func TestSignalReachesEveryDescendant(t *testing.T) {
	linuxtest.NoLeaks(t)
	tree := start(t, "ready", "setsid-storm", "50")
	ids := members(t, tree)
	n, err := tree.Signal(unix.SIGTERM)
	if n != len(ids) || err != nil {
		t.Errorf("Signal = %d, %v, want %d", n, err, len(ids))
	}
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	if err := tree.WaitEmpty(ctx); err != nil {
		t.Error(err)
	}
}

func TestStartRefusesBesideOtherChildren(t *testing.T) {
	linuxtest.NoLeaks(t)
	other := linuxtest.Start(t, linuxtest.Helper(t, "run")...)
	_, err := Start(spawn.Cmd{Path: "/bin/true"})
	var e *ChildrenError
	if !errors.As(err, &e) || fmt.Sprint(e.PIDs) != fmt.Sprint([]int{other.PID()}) || e.Hint() == "" {
		t.Errorf("Start beside process %d = %v", other.PID(), err)
	}
	linuxtest.SurvivesAs(t, other)
}

func TestStartThatFailsLeavesNothing(t *testing.T) {
	linuxtest.NoLeaks(t)
	_, err := Start(spawn.Cmd{Path: "/no/such/program"})
	var e *spawn.Error
	if !errors.As(err, &e) || e.Cause != spawn.CauseNotFound {
		t.Errorf("Start = %v, want a *spawn.Error of a missing program", err)
	}
	if on := subreaper(t); on != 0 {
		t.Errorf("still subreaper: %d", on)
	}
}

func TestCloseGivesTheOrphansBack(t *testing.T) {
	linuxtest.NoLeaks(t)
	tree, err := Start(spawn.Cmd{Path: "/bin/true"})
	if err != nil {
		t.Fatal(err)
	}
	if on := subreaper(t); on != 1 {
		t.Errorf("subreaper: %d, want 1", on)
	}
	kill(t, tree)
	if err := tree.Close(); err != nil {
		t.Error(err)
	}
	if on := subreaper(t); on != 0 {
		t.Errorf("still subreaper: %d", on)
	}
	if err := tree.Close(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("second Close = %v, want os.ErrClosed", err)
	}
}

func subreaper(t *testing.T) int {
	t.Helper()
	on, err := becomeSubreaper()
	if err == nil {
		err = setSubreaper(on)
	}
	if err != nil {
		t.Fatal(err)
	}
	return on
}
