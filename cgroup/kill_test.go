package cgroup

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/linuxtest"
)

func TestKillReachesEverythingBelow(t *testing.T) {
	d := testDir(t)
	p, q := sleeper(t, d), sleeper(t, child(t, child(t, d, "a"), "b"))
	wantNil(t, "Kill", d.Kill())
	wantNil(t, "WaitEmpty", d.WaitEmpty(within(t, waitTime)))
	for _, killed := range []*linuxtest.Process{p, q} { // a cgroup is left just before the exit
		if status := killed.Wait(t, waitTime); status.Signal() != unix.SIGKILL {
			t.Errorf("a process has ended by %v", status)
		}
	}
}

// A threaded cgroup, which a worker can make of its own, refuses cgroup.kill.
func TestKillOfAThreadedCgroup(t *testing.T) {
	d := testDir(t)
	domain := child(t, d, "domain")
	leaf := child(t, domain, "leaf")
	write(t, leaf, "cgroup.type", "threaded")
	p := helper(t, leaf, "ignore-term")
	if err := writeAt(leaf.fd, "cgroup.kill", "1"); err == nil {
		t.Fatal("cgroup.kill of a threaded cgroup works: the fallback is not tested")
	}
	pids, err := leaf.PIDs()
	if err != nil || len(pids) != 1 || pids[0] != p.PID() {
		t.Errorf("PIDs = %v, %v, want %d", pids, err, p.PID())
	}
	wantNil(t, "Kill", leaf.Kill())
	p.Wait(t, waitTime)
	sleeper(t, leaf)
	wantNil(t, "Destroy", domain.Destroy(within(t, waitTime), "leaf", leaf.ID()))
}

// Of the top cgroup of a delegated tree only some files are the user's: neither
// cgroup.kill nor cgroup.freeze. (Root may write them all the same.)
func TestKillWithoutTheFilesForIt(t *testing.T) {
	top := child(t, testDir(t), "top")
	for _, file := range []string{"cgroup.kill", "cgroup.freeze"} {
		if err := os.Chmod(top.Path()+"/"+file, 0o444); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
	p := sleeper(t, top)
	wantNil(t, "Kill", top.Kill())
	if got := p.Wait(t, waitTime).Signal(); got != unix.SIGKILL {
		t.Errorf("it ended by %v", got)
	}
}

// The way of kernels without cgroup.kill, against processes that fork all the time.
func TestKillEachAgainstForkBombs(t *testing.T) {
	d := testDir(t)
	sub := child(t, d, "sub")
	helper(t, d, "fork-bomb", "7")
	helper(t, d, "fork-chain", "8")
	helper(t, sub, "fork-chain", "4")
	helper(t, sub, "setsid-storm", "150") // more than one batch
	wantNil(t, "KillEach", d.KillEach(within(t, waitTime)))
	wantPopulated(t, d, false)
	e, err := d.Events()
	if err != nil || e.Frozen {
		t.Errorf("Events = %+v, %v, want thawed", e, err)
	}
}

// What is frozen cannot fork, so one round finds everybody.
func TestKillRoundMissesNobody(t *testing.T) {
	d := testDir(t)
	helper(t, d, "fork-chain", "8")
	wantNil(t, "killRound", d.killRound(within(t, waitTime)))
	wantNil(t, "WaitEmpty", d.WaitEmpty(within(t, 2*time.Second)))
}

func TestKillEachWaitsForSlowDeaths(t *testing.T) {
	d := testDir(t)
	web, tracers := child(t, d, "web"), child(t, d, "tracers")
	tracer := helper(t, tracers, "call", "hold-dying", web.Path())
	done := make(chan error)
	go func() { done <- web.KillEach(within(t, waitTime)) }()
	wantErr(t, "WaitEmpty", web.WaitEmpty(within(t, 300*time.Millisecond)), context.DeadlineExceeded)
	select {
	case err := <-done:
		t.Errorf("KillEach = %v before the last process ended", err)
	default:
		tracer.Kill(t)
		wantNil(t, "KillEach", <-done)
	}
	wantPopulated(t, web, false)
}

func TestKillEachEndsWithItsContext(t *testing.T) {
	d := testDir(t)
	web, tracers := child(t, d, "web"), child(t, d, "tracers")
	tracer := helper(t, tracers, "call", "hold-dying", web.Path())
	cause := errors.New("enough waited")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 150*time.Millisecond, cause)
	defer cancel()
	wantErr(t, "KillEach", web.KillEach(ctx), cause)
	tracer.Kill(t)
	wantNil(t, "KillEach", web.KillEach(within(t, waitTime)))
}

// H-01, H-22: a number that was read from the cgroup and is somebody else's by the
// time it is used. The stranger is not a member, so it is not signalled.
func TestH01SignalSparesAStrangerWithAMembersNumber(t *testing.T) {
	d := testDir(t)
	member, stranger := sleeper(t, d), sleeper(t, child(t, testDir(t), "elsewhere"))
	n, err := signalBatch(d.fd, []int{member.PID(), stranger.PID()}, unix.SIGKILL)
	if n != 1 || err != nil {
		t.Errorf("signalBatch = %d, %v, want 1", n, err)
	}
	if got := member.Wait(t, waitTime).Signal(); got != unix.SIGKILL {
		t.Errorf("the member ended by %v", got)
	}
	if !stranger.Alive() {
		t.Error("the stranger was killed")
	}
}

func TestH01ReusedNumber(t *testing.T) {
	d := testDir(t)
	member := sleeper(t, d)
	pids, err := d.PIDs()
	if err != nil {
		t.Fatal(err)
	}
	member.Kill(t)
	stranger := linuxtest.ReusePID(t, member.PID(), "/bin/sleep", "120")
	if n, err := signalBatch(d.fd, pids, unix.SIGKILL); n != 0 || err != nil {
		t.Errorf("signalBatch = %d, %v, want 0", n, err)
	}
	if !stranger.Alive() {
		t.Error("the stranger was killed")
	}
}

func TestSignalCountsItsReceivers(t *testing.T) {
	d := testDir(t)
	sub := child(t, d, "sub")
	deaf := helper(t, sub, "ignore-term")
	p, q := sleeper(t, d), sleeper(t, sub)
	if n, err := d.Signal(unix.SIGTERM); n != 3 || err != nil {
		t.Errorf("Signal = %d, %v, want 3", n, err)
	}
	for _, p := range []*linuxtest.Process{p, q} {
		if got := p.Wait(t, waitTime).Signal(); got != unix.SIGTERM {
			t.Errorf("process %d ended by %v, want TERM", p.PID(), got)
		}
	}
	if !deaf.Alive() {
		t.Error("the process that ignores TERM died")
	}
}

func TestFreezeIsDoneWhenFrozen(t *testing.T) {
	d := testDir(t)
	helper(t, d, "fork-chain", "4")
	for range 5 {
		wantNil(t, "Freeze", d.Freeze(within(t, waitTime)))
		if e, err := d.Events(); err != nil || !e.Frozen {
			t.Fatalf("Events = %+v, %v, want frozen", e, err)
		}
		first, _ := d.PIDsRecursive()
		second, _ := d.PIDsRecursive()
		if len(first) == 0 || len(first) != len(second) || first[0] != second[0] {
			t.Errorf("members of a frozen cgroup change: %v, %v", first, second)
		}
		wantNil(t, "Thaw", d.Thaw(within(t, waitTime)))
		if e, err := d.Events(); err != nil || e.Frozen {
			t.Fatalf("Events = %+v, %v, want thawed", e, err)
		}
	}
	wantNil(t, "Kill", d.Kill())
	wantNil(t, "WaitEmpty", d.WaitEmpty(within(t, waitTime)))
}

func TestThawEndsWithItsContext(t *testing.T) {
	d := testDir(t)
	sub := child(t, d, "sub")
	sleeper(t, sub)
	wantNil(t, "Freeze", d.Freeze(within(t, waitTime)))
	err := sub.Thaw(within(t, 30*time.Millisecond)) // the cgroup above holds it
	wantErr(t, "Thaw below a frozen cgroup", err, context.DeadlineExceeded)
	wantNil(t, "Thaw", d.Thaw(within(t, waitTime)))
}

func TestFailedFreezeIsUndone(t *testing.T) {
	d := testDir(t)
	p := sleeper(t, d)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	// More than one try: an idle process may freeze faster than the first look.
	for range 50 {
		if err := d.Freeze(ctx); err == nil {
			wantNil(t, "Thaw", d.Thaw(within(t, waitTime)))
			continue
		}
		b, err := readAt(d.fd, "cgroup.freeze", nil)
		if string(b) != "0\n" || err != nil {
			t.Errorf("cgroup.freeze = %q, %v after a failed Freeze, want 0", b, err)
		}
	}
	wantNil(t, "Signal", p.Signal(unix.SIGKILL))
}

func TestWaitEmpty(t *testing.T) {
	d := testDir(t)
	p := sleeper(t, child(t, d, "sub"))
	wantErr(t, "WaitEmpty", d.WaitEmpty(within(t, 20*time.Millisecond)), context.DeadlineExceeded)
	cause := errors.New("called off")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(10*time.Millisecond, func() { cancel(cause) })
	wantErr(t, "WaitEmpty", d.WaitEmpty(ctx), cause)
	done := make(chan error)
	go func() { done <- d.WaitEmpty(within(t, waitTime)) }()
	p.Kill(t)
	wantNil(t, "WaitEmpty", <-done)
}

// A wait costs no thread: a thousand of them may go on at once.
func TestWaitsHoldNoThread(t *testing.T) {
	d := testDir(t)
	p := sleeper(t, d)
	before := threads(t)
	const n = 300
	done := make(chan error)
	ctx := within(t, waitTime)
	for range n {
		go func() { done <- d.WaitEmpty(ctx) }()
	}
	linuxtest.Wait(t, waitTime, func() (bool, string) { return epolls(t) >= n, "not all are waiting" })
	// On their way to the wait many are in system calls at once where others use the machine.
	if got := threads(t) - before; got > n/2 {
		t.Errorf("%d threads more for %d waits", got, n)
	}
	p.Kill(t)
	for range n {
		wantNil(t, "WaitEmpty", <-done)
	}
}

func TestOpenEventsTellsOfTheLastProcess(t *testing.T) {
	d := testDir(t)
	p := sleeper(t, d)
	f, err := d.OpenEvents()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fd := int(f.Fd())
	if e, err := preadEvents(fd); err != nil || !e.Populated {
		t.Fatalf("cgroup.events = %+v, %v, want populated", e, err)
	}
	p.Kill(t)
	deadline := time.Now().Add(waitTime)
	for {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLPRI}}
		n, err := unix.Poll(poll, 1000)
		if n == 1 && err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("no POLLPRI: %d, %v", n, err)
		}
	}
	linuxtest.Wait(t, waitTime, func() (bool, string) {
		e, err := preadEvents(fd)
		return err == nil && !e.Populated, "still populated"
	})
}
