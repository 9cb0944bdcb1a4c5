package spawn

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/pidfd"
	"golang.org/x/sys/unix"
)

// orphansResult is what orphansMode has seen.
type orphansResult struct {
	Started, Failed int32
	Wrong           []string // exits that were lost or mixed up
	DaemonParent    bool     // a daemon became our child
	Closed          bool     // the child of a closed Process was reaped
	Left            string   // children at the end
	Ended           string   // what ReapOrphans returned
	Second          string   // what a second one returned
	Subreaper       int      // afterwards
	Own             int      // children that the tracker still knows
	Behind          bool     // an orphan behind our own zombie was reaped after that
}

// orphansMode runs the reaper beside so many starts that leave an orphan each, and
// as many that fail, and checks every exit code.
func orphansMode(args []string) int {
	root, err := cgroup.Open(args[0])
	if err != nil {
		return complain(err)
	}
	n, err := strconv.ParseInt(args[1], 10, 32)
	if err != nil {
		return complain(err)
	}
	o := &orphanMaker{root: root}
	early, err := o.start("sleep 0.1; exit 77") // started before there is a reaper
	if err != nil {
		return complain(err)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- ReapOrphans(ctx) }()
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for i := o.next.Add(1); int64(i) <= n; i = o.next.Add(1) {
				o.one(int(i))
			}
		})
	}
	all.Wait()
	o.expect(early, 77)
	o.daemon()
	o.closed()
	o.behind()
	soon, stop := context.WithTimeout(ctx, time.Second)
	second := ReapOrphans(soon)
	stop()
	o.result.Left = noChildren()
	cancel(errors.New("enough"))
	o.result.Ended, o.result.Second = (<-ended).Error(), second.Error()
	o.result.Subreaper, err = subreaper()
	if err != nil {
		return complain(err)
	}
	o.result.Own = len(tracked.own)
	return printResult(o.result)
}

type orphanMaker struct {
	root *cgroup.Dir
	next atomic.Int32

	mu     sync.Mutex
	leaves int
	result orphansResult
}

func (o *orphanMaker) leaf() (*cgroup.Dir, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.leaves++
	return o.root.Create(fmt.Sprint("leaf-", o.leaves))
}

func (o *orphanMaker) start(text string) (*Process, error) {
	leaf, err := o.leaf()
	if err != nil {
		return nil, err
	}
	defer func() { _ = leaf.Close() }()
	return Start(&Cmd{Path: "/bin/sh", Args: []string{"sh", "-c", text}, Leaf: leaf, OwnPID: o.ownPID()})
}

// ownPID has every second start reaped here and not inside package syscall.
func (o *orphanMaker) ownPID() string {
	if o.next.Load()%2 == 0 {
		return wayOwnPID
	}
	return ""
}

// one starts a child that leaves an orphan, and before it fails to start something:
// the child of that is reaped inside package syscall.
func (o *orphanMaker) one(i int) {
	leaf, err := o.leaf()
	if err == nil {
		_, err = Start(&Cmd{Path: "/no/such/program", Leaf: leaf, OwnPID: o.ownPID()})
		_ = leaf.Close()
		var e *Error
		if errors.As(err, &e) && e.Cause == CauseNotFound {
			atomic.AddInt32(&o.result.Failed, 1)
		}
	}
	code := i % 100
	p, err := o.start(fmt.Sprintf("(: & ) ; exit %d", code))
	if err != nil {
		o.wrong("start %d: %v", i, err)
		return
	}
	atomic.AddInt32(&o.result.Started, 1)
	o.expect(p, code)
}

func (o *orphanMaker) expect(p *Process, code int) {
	err := p.Handle().Wait(context.Background())
	// The pidfd remembers an exit that was stolen, so the zombie is asked for.
	if _, stolen := waitPidfd(p.Handle().FD(), unix.WNOWAIT); err != nil || stolen != nil {
		o.wrong("process %d, which ends with %d: %v, %v", p.PID(), code, err, stolen)
	}
	exit, err := p.Reap()
	if err != nil || exit.Code != code {
		o.wrong("process %d: %v, %v, want exit %d", p.PID(), exit, err, code)
	}
	if errClose := p.Close(); errClose != nil {
		o.wrong("close: %v", errClose)
	}
}

func (o *orphanMaker) wrong(format string, args ...any) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.result.Wrong = append(o.result.Wrong, fmt.Sprintf(format, args...))
}

// daemon starts something that outlives its parent, and ends it.
func (o *orphanMaker) daemon() {
	d := o.background("sleep 1000")
	if d == nil {
		return
	}
	defer func() { _ = d.Close() }()
	info, err := d.Info()
	o.result.DaemonParent = err == nil && info.PPID == os.Getpid()
	if err := d.Signal(unix.SIGKILL); err != nil {
		o.wrong("daemon: %v", err)
	}
}

// background starts a command whose parent ends, and returns it.
func (o *orphanMaker) background(text string) *pidfd.Process {
	d, err := o.tryBackground(text)
	if err != nil {
		o.wrong("%s: %v", text, err)
		return nil
	}
	return d
}

func (o *orphanMaker) tryBackground(text string) (*pidfd.Process, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }()
	leaf, err := o.leaf()
	if err != nil {
		return nil, err
	}
	defer func() { _ = leaf.Close() }()
	p, err := Start(&Cmd{Path: "/bin/sh", Args: []string{"sh", "-c", text + " & echo $!"}, Leaf: leaf, Stdout: w})
	_ = w.Close()
	if err != nil {
		return nil, err
	}
	var pid int
	_, err = fmt.Fscan(r, &pid)
	o.expect(p, 0)
	if err != nil {
		return nil, err
	}
	return pidfd.Open(pid)
}

// behind lets an orphan die behind a zombie of our own, which hides it.
func (o *orphanMaker) behind() {
	p, err := o.start("exit 6")
	if err != nil {
		o.wrong("start: %v", err)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	if err := p.Handle().Wait(ctx); err != nil {
		o.wrong("wait: %v", err)
	}
	d := o.background("sleep 0.2")
	if d == nil {
		return
	}
	defer func() { _ = d.Close() }()
	if err := d.Wait(ctx); err != nil {
		o.wrong("wait: %v", err)
	}
	o.expect(p, 6)
	o.result.Behind = d.WaitReaped(ctx) == nil
}

// closed gives up a child without reaping it.
func (o *orphanMaker) closed() {
	p, err := o.start("exit 5")
	if err != nil {
		o.wrong("start: %v", err)
		return
	}
	watch, err := pidfd.Open(p.PID())
	if err != nil {
		o.wrong("open: %v", err)
		return
	}
	defer func() { _ = watch.Close() }()
	if err := p.Close(); err != nil {
		o.wrong("close: %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	o.result.Closed = watch.WaitReaped(ctx) == nil
}

// noChildren waits until this process has no child at all, and names what is left.
func noChildren() string {
	timeout := time.NewTimer(within)
	defer timeout.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		c, err := waitAny(unix.WNOWAIT)
		if err == unix.ECHILD {
			return ""
		}
		select {
		case <-timeout.C:
			return fmt.Sprintf("first zombie %+v, %v", c, err)
		case <-tick.C:
		}
	}
}

func TestOrphansAreReapedAndNoExitIsLost(t *testing.T) {
	linuxtest.NeedCommand(t, "sh", "sleep")
	var got orphansResult
	n := int32(linuxtest.Times(300, 50))
	inProcess(t, linuxtest.Command{}, &got, "orphans", linuxtest.Cgroup(t), fmt.Sprint(n))
	for _, w := range got.Wrong {
		t.Error(w)
	}
	if got.Started != n || got.Failed != n {
		t.Errorf("%d started and %d failed, want %d and %d", got.Started, got.Failed, n, n)
	}
	if !got.DaemonParent {
		t.Error("a daemon was not given to us")
	}
	if !got.Closed {
		t.Error("the child of a closed Process was not reaped")
	}
	if got.Left != "" {
		t.Errorf("children left: %s", got.Left)
	}
	if got.Ended != "enough" {
		t.Errorf("ReapOrphans = %q, want the cause of its context", got.Ended)
	}
	if !strings.Contains(got.Second, "already") {
		t.Errorf("a second ReapOrphans = %q", got.Second)
	}
	if got.Own != 0 {
		t.Errorf("%d children are still known", got.Own)
	}
	if !got.Behind {
		t.Error("an orphan behind a zombie of our own was forgotten")
	}
	if got.Subreaper != 0 {
		t.Errorf("still subreaper: %d", got.Subreaper)
	}
}

// The trap that the tracker is for, step by step: a child that the reaper sees
// before its start has returned.
func TestChildOfAStartUnderWayIsNoOrphan(t *testing.T) {
	var tr tracker
	if got := tr.verdict(7, tr.now()); got != orphan {
		t.Errorf("without any start: %v, want orphan", got)
	}
	first := tr.begin()
	mark := tr.now()
	second := tr.begin()
	if got := tr.verdict(7, mark); got != undecided {
		t.Errorf("during the start: %v, want undecided", got)
	}
	p := &Process{handle: pidfd.FromFD(-1, 7)}
	tr.end(first, p)
	if got := tr.verdict(7, mark); got != owned {
		t.Errorf("after the start: %v, want owned", got)
	}
	if got := tr.verdict(8, mark); got != orphan {
		t.Errorf("another, while a later start is under way: %v, want orphan", got)
	}
	tr.end(second, nil)
	next := &Process{handle: pidfd.FromFD(-1, 7)} // the number again
	tr.end(tr.begin(), next)
	tr.forget(p)
	if got := tr.verdict(7, tr.now()); got != owned {
		t.Errorf("after the old owner of the number is forgotten: %v, want owned", got)
	}
	tr.forget(next)
	if got := tr.verdict(7, tr.now()); got != orphan {
		t.Errorf("after all are forgotten: %v, want orphan", got)
	}
}

// The sweeper itself, against a start that has not returned: os/exec plays the part
// of package syscall, whose wait by number must not be robbed.
func TestSweepLeavesAStartUnderWayAlone(t *testing.T) {
	linuxtest.NoLeaks(t)
	cmd := exec.Command("/bin/sh", "-c", "exit 33")
	ticket := tracked.begin()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	linuxtest.Wait(t, within, func() (bool, string) {
		c, err := waitAny(unix.WNOWAIT)
		return c.pid == cmd.Process.Pid, fmt.Sprint(c, err)
	})
	var s sweeper
	if err := s.sweep(); err != nil || s.fd == 0 {
		t.Errorf("sweep = %v, holds %d: it has decided", err, s.fd)
	}
	err := cmd.Wait()
	if cmd.ProcessState.ExitCode() != 33 {
		t.Errorf("the exit was stolen: %v", err)
	}
	tracked.end(ticket, nil)
	if err := s.sweep(); err != nil || s.fd != 0 {
		t.Errorf("sweep = %v, still holds %d", err, s.fd)
	}
}

func TestRequestIsCarriedUnchanged(t *testing.T) {
	for _, r := range []request{
		{Path: "/x", Args: []string{""}},
		{Path: "/x", Args: []string{"x"}, Weak: true},
		{Path: "\xff", Args: []string{"a", "b c", "\n", "\xfe\xff"}, Env: []string{"A=1", ""}, Dir: "/d"},
		{Path: "/x", Args: []string{"x"}, Credential: &Credential{}, OOMScoreAdj: number(-1000), OwnPID: "LISTEN_PID"},
		{Path: "/x", Args: []string{"x"}, Credential: &Credential{UID: 1<<32 - 1, GID: 7, Groups: []uint32{1, 2}}},
		{Path: "/x", Args: []string{"x"}, Rlimits: []Rlimit{{1, 2, 3}, {Resource: 7, Hard: unix.RLIM_INFINITY}}},
	} {
		data := r.encode()
		got, err := decode(data)
		if err != nil {
			t.Errorf("%+v: %v", r, err)
			continue
		}
		if !bytes.Equal(got.encode(), data) || fmt.Sprintf("%q", got.Args) != fmt.Sprintf("%q", r.Args) || got.Path != r.Path {
			t.Errorf("decode = %+v, want %+v", got, r)
		}
		for cut := range data {
			if got, err := decode(data[:cut]); err == nil {
				t.Errorf("decode of %q = %+v, want an error", data[:cut], got)
			}
		}
	}
}
