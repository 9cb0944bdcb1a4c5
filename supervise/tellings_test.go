package supervise

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/pidfd"
)

// gift is an Inheritance of a test.
type gift struct {
	open   func(StartInfo) (Inherited, error)
	settle func()

	mu   sync.Mutex // guards what follows
	done int
}

func (g *gift) Prepare(info StartInfo) (Inherited, error) {
	got := Inherited{Settle: g.settle}
	var err error
	if g.open != nil {
		got, err = g.open(info)
	}
	got.Done = func() {
		g.mu.Lock()
		g.done++
		g.mu.Unlock()
	}
	return got, err
}

func (g *gift) over() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.done
}

// pipes gives the write ends of n pipes, and returns the read ends by slot.
func pipes(t *testing.T, names ...string) (*gift, func() *os.File) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close(); _ = w.Close() })
	g := &gift{open: func(StartInfo) (Inherited, error) {
		var got Inherited
		for _, name := range names {
			fd, err := unix.FcntlInt(w.Fd(), unix.F_DUPFD_CLOEXEC, 0)
			if err != nil {
				return got, err
			}
			got.Files, got.Names = append(got.Files, os.NewFile(uintptr(fd), name)), append(got.Names, name)
		}
		return got, nil
	}}
	return g, func() *os.File { _ = w.Close(); return r }
}

// TestInheritedDescriptorsHaveNamesAndTheRightNumber: what sd_listen_fds(3) goes by.
func TestInheritedDescriptorsHaveNamesAndTheRightNumber(t *testing.T) {
	linuxtest.NoLeaks(t)
	one, _ := pipes(t, "web", "web")
	two, _ := pipes(t, "stored")
	file := filepath.Join(t.TempDir(), "seen")
	p := sh("web", 1, `echo "$LISTEN_FDS $LISTEN_FDNAMES $LISTEN_PID $$ $(ls /proc/$$/fd | tr '\n' ' ')" > `+file+`; exec sleep 600`)
	p.Inherit = []Inheritance{one, two}
	r := begin(t, p)
	r.await("ready", 1, kind(EventReady))
	var fields []string
	linuxtest.Wait(t, patience, func() (bool, string) {
		text, _ := os.ReadFile(file)
		fields = strings.Fields(string(text))
		return strings.HasSuffix(string(text), "\n"), "nothing was written"
	})
	if fields[0] != "3" || fields[1] != "web:web:stored" || fields[2] != fields[3] {
		t.Errorf("LISTEN_FDS, LISTEN_FDNAMES, LISTEN_PID and $$ are %q, want 3, web:web:stored and the same number twice", fields[:4])
	}
	if fds := fields[4:]; !slices.Equal(fds[:6], []string{"0", "1", "2", "3", "4", "5"}) {
		t.Errorf("descriptors %q, want 0 to 5", fds)
	}
	if one.over() != 0 {
		t.Error("the inheritance is told that the start is over while it is not")
	}
	if err := r.halt(); err != nil {
		t.Error(err)
	}
	if one.over() != 1 || two.over() != 1 {
		t.Errorf("told %d and %d times that the start is over, want once each", one.over(), two.over())
	}
}

func TestInheritanceThatFailsFailsTheStart(t *testing.T) {
	linuxtest.NoLeaks(t)
	one, _ := pipes(t, "web")
	bad := &gift{open: func(StartInfo) (Inherited, error) { return Inherited{}, errors.New("no luck") }}
	p := sleeper("web", 1)
	p.Inherit, p.Restart = []Inheritance{one, bad}, RestartNever
	r := begin(t, p)
	e := r.await("failed", 1, kind(EventStartFailed))[0]
	if f := e.Failure; f.Cause != CauseInherit || !strings.Contains(f.Error(), "prepare what it inherits: no luck") {
		t.Errorf("failure %v, want that of the inheritance", f)
	}
	<-r.done
	if one.over() != 1 || bad.over() != 1 {
		t.Errorf("told %d and %d times that the start is over, want once each", one.over(), bad.over())
	}
}

// TestInheritedAndRuleShareDescriptors: a rule counts its descriptor from 3, too.
func TestInheritedAndRuleShareDescriptors(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	h := inheritance{files: []*os.File{null, null}}
	rule := []*os.File{nil, nil, null}
	got, err := h.join(rule)
	if err != nil || !slices.Equal(got, []*os.File{null, null, null}) {
		t.Errorf("join = %v, %v; want three of the same", got, err)
	}
	if _, err := h.join(rule[:2]); err == nil || !strings.Contains(err.Error(), "descriptor 4 of the readiness rule is one of the 2") {
		t.Errorf("join with descriptor 4 = %v, want its refusal", err)
	}
}

// TestAnotherInheritanceReplacesWorkers, and the same one does not.
func TestAnotherInheritanceReplacesWorkers(t *testing.T) {
	one, _ := pipes(t, "a")
	two, _ := pipes(t, "b")
	p := sleeper("web", 1)
	p.Inherit = []Inheritance{one}
	r := begin(t, p)
	r.await("ready", 1, kind(EventReady))
	if c, err := r.Reload(context.Background(), []PoolSpec{p}); err != nil || !c.Empty() {
		t.Fatalf("Reload with the same = %+v, %v; want no change", c, err)
	}
	p.Inherit = []Inheritance{two}
	c, err := r.Reload(context.Background(), []PoolSpec{p})
	if err != nil || len(c.Rolling) != 1 {
		t.Fatalf("Reload with another = %+v, %v; want a rollout", c, err)
	}
	if err := c.Rolling[0].Wait(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// tell says something for a worker.
func (r *rig) tell(start uint64, said Said) {
	r.Tell(WorkerID{Pool: "web"}, start, func() Said { return said })
	if err := r.Ping(context.Background()); err != nil {
		r.Fatal(err)
	}
}

// TestAnnouncedEndIsNoSurprise: it is a stop, and the policy decides what follows.
func TestAnnouncedEndIsNoSurprise(t *testing.T) {
	linuxtest.NoLeaks(t)
	trapped := filepath.Join(t.TempDir(), "trapped")
	p := sh("web", 1, `trap 'exit 0' USR1; echo > `+trapped+`; while :; do sleep 0.05; done`)
	p.Inherit = []Inheritance{&gift{settle: func() {}}}
	r := begin(t, p)
	pid := r.await("ready", 1, kind(EventReady))[0].PID
	linuxtest.Wait(t, patience, func() (bool, string) {
		_, err := os.Stat(trapped)
		return err == nil, "the worker does not take the signal yet"
	})
	r.tell(1, Said{Status: "closing", Stopping: true})
	if w := r.Status()[0]; w.State != StateStopping || w.Ready || !w.Announced || w.Text != "closing" {
		t.Errorf("status %+v, want stopping, not ready, announced, and its words", w)
	}
	r.kill(pid, unix.SIGUSR1)
	r.await("ready again", 2, kind(EventReady))
	stopped := r.await("stopped", 1, kind(EventStopped))[0]
	if stopped.Reason != ReasonAnnounced || stopped.Escalated || stopped.Exit == nil || !stopped.Exit.Success() {
		t.Errorf("event %s for %v, want an announced stop with exit 0", eventText(stopped), stopped.Reason)
	}
	if n := len(r.all(kind(EventExited))); n != 0 {
		t.Errorf("%d exits were told, want none", n)
	}
}

// TestAnnouncedEndThatDoesNotComeIsKilled after the grace.
func TestAnnouncedEndThatDoesNotComeIsKilled(t *testing.T) {
	p := sleeper("web", 1)
	p.Inherit, p.Stop.Grace = []Inheritance{&gift{settle: func() {}}}, 50*time.Millisecond
	r := begin(t, p)
	r.await("ready", 1, kind(EventReady))
	r.tell(1, Said{Stopping: true})
	r.await("escalated", 1, kind(EventEscalated))
	r.await("ready again", 2, kind(EventReady))
}

// TestNamedMainProcessIsTheWorker: the first process may end, and the end of the named
// one is the end of the worker, as in nginx's upgrade of its program.
func TestNamedMainProcessIsTheWorker(t *testing.T) {
	linuxtest.NoLeaks(t)
	p := sh("web", 1, `sleep 600 & read line < /proc/self/fd/3`)
	gone, _ := pipes(t, "stay") // a pipe of which it has the other end, so that nothing comes
	gone.settle = func() {}
	open := gone.open
	gone.open = func(i StartInfo) (Inherited, error) {
		got, err := open(i)
		got.Settle = func() {}
		return got, err
	}
	p.Inherit = []Inheritance{gone}
	r := begin(t, p)
	first := r.await("ready", 1, kind(EventReady))[0].PID
	next := 0
	linuxtest.Wait(t, patience, func() (bool, string) {
		pids, _ := r.members("web/0")
		for _, pid := range pids {
			if pid != first {
				next = pid
			}
		}
		return next != 0, "the other process is not there"
	})
	named, err := pidfd.Open(next)
	if err != nil {
		t.Fatal(err)
	}
	r.tell(1, Said{Main: named})
	if e := r.await("main process", 1, kind(EventMain))[0]; e.PID != next {
		t.Errorf("main process %d, want %d", e.PID, next)
	}
	old, err := pidfd.Open(first)
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	r.kill(first, unix.SIGKILL)
	if err := old.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := r.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	if w := r.Status()[0]; w.State != StateUp || w.PID != next || w.Start != 1 {
		t.Errorf("status %+v after the end of the first process, want up as %d", w, next)
	}
	r.kill(next, unix.SIGTERM)
	r.await("ready again", 2, kind(EventReady))
	if n := len(r.all(kind(EventExited))); n != 1 {
		t.Errorf("%d exits were told, want that of the named process", n)
	}
}

// TestStopGoesToTheNamedMainProcess.
func TestStopGoesToTheNamedMainProcess(t *testing.T) {
	p := sh("web", 1, `trap '' TERM; (trap - TERM; exec sleep 600) & wait`)
	p.Inherit = []Inheritance{&gift{settle: func() {}}}
	r := begin(t, p)
	first := r.await("ready", 1, kind(EventReady))[0].PID
	next := 0
	linuxtest.Wait(t, patience, func() (bool, string) {
		pids, _ := r.members("web/0")
		for _, pid := range pids {
			text, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/comm")
			if pid != first && string(text) == "sleep\n" {
				next = pid
			}
		}
		return next != 0, "the other process is not there"
	})
	named, err := pidfd.Open(next)
	if err != nil {
		t.Fatal(err)
	}
	r.tell(1, Said{Main: named})
	if err := r.halt(); err != nil {
		t.Error(err)
	}
	if e := r.await("stopped", 1, kind(EventStopped))[0]; e.Escalated {
		t.Errorf("event %s was escalated: the signal went to another process", eventText(e))
	}
}

// TestLastWordsComeBeforeTheEnd: what a worker has said before it exits is known first.
func TestLastWordsComeBeforeTheEnd(t *testing.T) {
	var r *rig
	ready := make(chan struct{})
	p := sh("web", 1, `exit 0`)
	p.Restart = RestartOnFailure
	p.Inherit = []Inheritance{&gift{settle: func() {
		<-ready
		r.Tell(WorkerID{Pool: "web"}, 1, func() Said { return Said{Status: "last words", Stopping: true} })
	}}}
	r = begin(t, p)
	r.await("ready", 1, kind(EventReady))
	close(ready)
	r.await("completed", 1, kind(EventCompleted))
	if n := len(r.all(kind(EventStopping))); n != 1 {
		t.Errorf("%d stops were told, want the one that was announced before the end", n)
	}
}

// TestReloadsAreToldAtMostOnceASecond, and each that is told ends.
func TestReloadsAreToldAtMostOnceASecond(t *testing.T) {
	p := sleeper("web", 1)
	p.Inherit = []Inheritance{&gift{settle: func() {}}}
	r := begin(t, p)
	r.await("ready", 1, kind(EventReady))
	for range 100 {
		r.tell(1, Said{Reloading: true})
		r.tell(1, Said{})
	}
	began, ended := len(r.all(kind(EventReloading))), len(r.all(kind(EventReloaded)))
	if began == 0 || began > 50 || began != ended {
		t.Errorf("%d reloads were told to begin and %d to end, of 100; want few, and as many", began, ended)
	}
	if w := r.Status()[0]; w.Reloading {
		t.Error("is shown as reloading after the end")
	}
}

// TestWordsOfAnotherStartDoNotCount, nor of a worker that there is not.
func TestWordsOfAnotherStartDoNotCount(t *testing.T) {
	p := sleeper("web", 1)
	p.Inherit = []Inheritance{&gift{settle: func() {}}}
	r := begin(t, p)
	r.await("ready", 1, kind(EventReady))
	taken := false
	take := func() Said { taken = true; return Said{Stopping: true} }
	r.Tell(WorkerID{Pool: "web"}, 7, take)
	r.Tell(WorkerID{Pool: "web", Slot: 5}, 1, take)
	r.Tell(WorkerID{Pool: "nobody"}, 1, take)
	if err := r.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	if w := r.Status()[0]; taken || w.State != StateUp {
		t.Errorf("taken %v, status %+v; want that nothing counts", taken, w)
	}
}

// TestMoreTime: a start and a stop may be made longer, within bounds.
func TestMoreTime(t *testing.T) {
	p := policy{probed: true, timeout: time.Second, grace: 2 * time.Second, backoff: Backoff{}.filled()}
	var w worker
	do := func(k inputKind, at, extend time.Duration) {
		w, _ = p.step(w, input{kind: k, start: w.start, at: at, extend: extend}, nil)
	}
	do(inStart, 1, 0)
	do(inSpawned, time.Second, 0)
	do(inExtend, time.Second, 500*time.Millisecond)
	if w.due != 2*time.Second {
		t.Errorf("due %v after a wish for less than there is, want %v", w.due, 2*time.Second)
	}
	do(inExtend, time.Second, time.Minute)
	if w.due != 61*time.Second {
		t.Errorf("due %v, want %v", w.due, 61*time.Second)
	}
	do(inExtend, time.Second, 1000*time.Hour)
	if want := 2*time.Second + maxExtend; w.due != want {
		t.Errorf("due %v after a wish without bounds, want %v", w.due, want)
	}
	do(inReady, 3*time.Second, 0)
	do(inExtend, 3*time.Second, time.Hour)
	if w.due != 0 {
		t.Errorf("due %v when ready, want nothing", w.due)
	}
	do(inStop, 10*time.Second, 0)
	do(inExtend, 11*time.Second, time.Minute)
	if w.due != 71*time.Second {
		t.Errorf("due %v while it stops, want %v", w.due, 71*time.Second)
	}
}
