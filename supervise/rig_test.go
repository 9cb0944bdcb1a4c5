package supervise

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/pidfd"
	"github.com/pitvisor/pitvisor/registry"
	"github.com/pitvisor/pitvisor/spawn"
)

func TestMain(m *testing.M) {
	spawn.HelperMain()
	linuxtest.Main(m, linuxtest.Modes{"fuse": modeFuse})
}

// patience is how long a test waits for what should come at once on a machine
// that has nothing else to do.
const patience = 2 * time.Minute

// rig is a supervisor in a cgroup of the test's own, with all its events.
type rig struct {
	testing.TB
	*Supervisor
	registry *registry.Registry
	run      *registry.Run
	stop     context.CancelFunc
	done     chan struct{}
	err      error // of Run, once done is closed

	mu     sync.Mutex // guards events and more
	events []Event
	more   chan struct{} // closed at the next event
}

// newRig makes a supervisor that does not run yet.
func newRig(tb testing.TB, o Options) *rig {
	tb.Helper()
	return newRigIn(tb, linuxtest.Cgroup(tb), o)
}

// newRigIn is newRig with a root that is there.
func newRigIn(tb testing.TB, dir string, o Options) *rig {
	tb.Helper()
	root, err := cgroup.Open(dir)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = root.Close() })
	r := &rig{TB: tb, registry: registry.New(root), done: make(chan struct{}), more: make(chan struct{})}
	if r.run, err = r.registry.Create(registry.Spec{Kind: "test", Name: tb.Name(), Version: "0"}); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := r.run.Close(ctx); err != nil {
			tb.Error(err)
		}
	})
	o.Run, o.Observe = r.run, r.observe
	if r.Supervisor, err = New(o); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		done, cancel := context.WithCancel(context.Background())
		cancel()
		if !r.ran.Load() {
			_ = r.Run(done) // gives back what New has taken
		}
	})
	return r
}

// begin makes a supervisor of the pools and lets it run.
func begin(tb testing.TB, pools ...PoolSpec) *rig {
	tb.Helper()
	r := newRig(tb, Options{Pools: pools})
	r.begin()
	return r
}

func (r *rig) begin() {
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	go func() {
		r.err = r.Run(ctx)
		close(r.done)
	}()
	r.Cleanup(func() {
		r.KillNow()
		cancel()
		<-r.done
		if r.Failed() {
			r.Logf("events:\n%s", r.log())
		}
	})
}

func (r *rig) observe(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := len(r.events); n > 0 && e.Seq <= r.events[n-1].Seq {
		r.Errorf("event %d comes after event %d", e.Seq, r.events[n-1].Seq)
	}
	r.events = append(r.events, e)
	close(r.more)
	r.more = make(chan struct{})
}

// all returns the events so far for which want is true.
func (r *rig) all(want func(Event) bool) []Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	var found []Event
	for _, e := range r.events {
		if want(e) {
			found = append(found, e)
		}
	}
	return found
}

// await waits until n events are as wanted, and returns them.
func (r *rig) await(what string, n int, want func(Event) bool) []Event {
	r.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		r.mu.Lock()
		more := r.more
		r.mu.Unlock()
		if found := r.all(want); len(found) >= n {
			return found
		}
		select {
		case <-more:
		case <-timer.C:
			r.Fatalf("%s: %d of %d events after %v; all events:\n%s", what, len(r.all(want)), n, patience, r.log())
		}
	}
}

// kind matches events of that kind, of one worker if it is named.
func kind(k EventKind, worker ...string) func(Event) bool {
	return func(e Event) bool {
		return e.Kind == k && (len(worker) == 0 || e.Worker.String() == worker[0])
	}
}

// log is all events in words.
func (r *rig) log() string {
	var b strings.Builder
	for _, e := range r.all(func(Event) bool { return true }) {
		fmt.Fprintf(&b, "  %s\n", eventText(e))
	}
	return b.String()
}

func eventText(e Event) string {
	text := fmt.Sprintf("%d %v start %d %v: %v -> %v pid %d", e.Seq, e.Worker, e.Start, e.Kind, e.From, e.To, e.PID)
	if e.Exit != nil {
		text += fmt.Sprintf(" exit %v", *e.Exit)
	}
	if e.Failure != nil {
		text += fmt.Sprintf(" failure %v", e.Failure)
	}
	if e.Err != nil {
		text += fmt.Sprintf(" err %v", e.Err)
	}
	return text + fmt.Sprintf(" elapsed %v delay %v leftover %d", e.Elapsed, e.Delay, e.Leftover)
}

// halt stops everything with its grace and returns what Run says.
func (r *rig) halt() error {
	r.Helper()
	r.stop()
	return r.wait()
}

// wait waits for the end of Run, and requires that nothing is left then.
func (r *rig) wait() error {
	r.Helper()
	timer := time.NewTimer(2 * patience)
	defer timer.Stop()
	select {
	case <-r.done:
	case <-timer.C:
		r.Fatalf("Run goes on after %v; workers %+v; events:\n%s", 2*patience, r.Status(), r.log())
	}
	names, err := r.run.Dir().Children()
	if err != nil || len(names) > 0 {
		r.Errorf("pools after the end of Run = %v, %v; want none", names, err)
	}
	r.checkChains()
	return r.err
}

// checkChains requires of every worker that its events form one chain, and that
// each start was told exactly once.
func (r *rig) checkChains() {
	r.Helper()
	at := map[WorkerID]State{}
	told := map[string]int{}
	for _, e := range r.all(func(e Event) bool { return e.Worker.Slot >= 0 }) {
		if e.From != at[e.Worker] {
			r.Errorf("worker was %v before event %s", at[e.Worker], eventText(e))
		}
		at[e.Worker] = e.To
		start := fmt.Sprintf("%v start %d", e.Worker, e.Start)
		switch e.Kind {
		case EventStarting:
			told[start] += 0
		case EventReady, EventStartFailed:
			told[start]++
		}
	}
	for start, n := range told {
		if n != 1 {
			r.Errorf("%s was told %d times as ready or failed, want once", start, n)
		}
	}
}

// members returns the processes of a worker's current leaf, and its path.
func (r *rig) members(worker string) (pids []int, leaf string) {
	r.Helper()
	for _, w := range r.Status() {
		if w.Worker.String() != worker {
			continue
		}
		leaf := fmt.Sprintf("%s/%s/%s", r.run.Dir().Path(), w.Worker.Pool, leafName(int32(w.Worker.Slot), w.Start))
		dir, err := cgroup.Open(leaf)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, leaf
		}
		if err != nil {
			r.Fatal(err)
		}
		defer dir.Close()
		if pids, err = dir.PIDsRecursive(); err != nil {
			r.Fatal(err)
		}
		return pids, leaf
	}
	r.Fatalf("no worker %s", worker)
	return nil, ""
}

// kill sends a signal to one process of ours.
func (r *rig) kill(pid int, sig unix.Signal) {
	r.Helper()
	p, err := pidfd.Open(pid)
	if err != nil {
		r.Fatal(err)
	}
	defer p.Close()
	if err := p.Signal(sig); err != nil {
		r.Fatal(err)
	}
}

// sh is a pool whose workers run a script of /bin/sh.
func sh(name string, size int, script string) PoolSpec {
	return PoolSpec{
		Name: name, Size: size,
		Command: Command{Path: "/bin/sh", Args: []string{"sh", "-c", script}, Env: []string{"PATH=/usr/bin:/bin"}},
		Backoff: Backoff{Min: 20 * time.Millisecond, Max: 200 * time.Millisecond, Reset: time.Minute},
		Stop:    Stop{Grace: 10 * time.Second},
	}
}

// sleeper is a pool whose workers do nothing and end at SIGTERM.
func sleeper(name string, size int) PoolSpec {
	p := sh(name, size, "")
	p.Command.Path, p.Command.Args = "/bin/sleep", []string{"sleep", "600"}
	return p
}

// helper is a pool whose workers run a helper mode of linuxtest.
func helper(tb testing.TB, name string, size int, mode string, args ...string) PoolSpec {
	p := sh(name, size, "")
	p.Command.Args = linuxtest.Helper(tb, mode, args...)
	p.Command.Path = p.Command.Args[0]
	return p
}

// rule is a readiness rule made of one function.
type rule func(ctx context.Context, info StartInfo, p *pidfd.Process, leaf *cgroup.Dir) (ReadyInfo, error)

func (f rule) Prepare(info StartInfo, _ Output) (Attempt, error) {
	return &ruleAttempt{rule: f, info: info}, nil
}

type ruleAttempt struct {
	rule   rule
	info   StartInfo
	closed int
}

func (a *ruleAttempt) Env() []string     { return []string{"RULE=" + a.info.Worker.String()} }
func (a *ruleAttempt) Files() []*os.File { return nil }
func (a *ruleAttempt) Wait(ctx context.Context, p *pidfd.Process, leaf *cgroup.Dir) (ReadyInfo, error) {
	return a.rule(ctx, a.info, p, leaf)
}

func (a *ruleAttempt) Close() error {
	if a.closed++; a.closed > 1 {
		panic("closed twice")
	}
	return nil
}

// never is a rule that never holds.
func never(ctx context.Context, _ StartInfo, _ *pidfd.Process, _ *cgroup.Dir) (ReadyInfo, error) {
	<-ctx.Done()
	return ReadyInfo{}, context.Cause(ctx)
}

// tails is an Output that keeps stderr of each start in a file, and counts.
type tails struct {
	dir string

	mu   sync.Mutex // guards what follows
	open map[string]int
	done map[string]int
}

func newTails(tb testing.TB) *tails {
	return &tails{dir: tb.TempDir(), open: map[string]int{}, done: map[string]int{}}
}

func (o *tails) output(info StartInfo) (Output, error) {
	name := fmt.Sprintf("%s-%d.%d", info.Worker.Pool, info.Worker.Slot, info.Start)
	path := o.dir + "/" + name
	f, err := os.Create(path)
	if err != nil {
		return Output{}, err
	}
	o.count(o.open, name)
	return Output{
		Stderr: f,
		Tail: func() []string {
			text, _ := os.ReadFile(path)
			return strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
		},
		Done: func() { o.count(o.done, name) },
	}, nil
}

func (o *tails) count(m map[string]int, name string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	m[name]++
}

// check requires that every start that was opened is done, once.
func (o *tails) check(tb testing.TB) {
	tb.Helper()
	o.mu.Lock()
	defer o.mu.Unlock()
	for name := range o.open {
		if o.done[name] != 1 {
			tb.Errorf("output of %s was told %d times that it is over, want once", name, o.done[name])
		}
	}
}
