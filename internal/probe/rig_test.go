package probe

import (
	"bufio"
	"context"
	"errors"
	"iter"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/pidfd"
	"github.com/pitvisor/pitvisor/registry"
	"github.com/pitvisor/pitvisor/supervise"
)

// rig is one start: a leaf, an attempt, and processes in the leaf.
type rig struct {
	t       *testing.T
	pool    *cgroup.Dir
	leaf    *cgroup.Dir
	info    supervise.StartInfo
	attempt supervise.Attempt
	main    *pidfd.Process
}

// place makes a pool with one leaf.
func place(t *testing.T) *rig {
	t.Helper()
	pool, err := cgroup.Open(linuxtest.Cgroup(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pool.Close() })
	leaf, err := pool.Create("0.1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = leaf.Close() })
	return &rig{t: t, pool: pool, leaf: leaf, info: supervise.StartInfo{
		Run:    registry.NewRunID(),
		Worker: supervise.WorkerID{Pool: "web", Slot: 0},
		Start:  1,
		Leaf:   leaf.Path(),
		LeafID: leaf.ID(),
		UID:    uint32(os.Geteuid()),
		GID:    uint32(os.Getegid()),
	}}
}

// prepare makes the attempt, before there is a process.
func (r *rig) prepare(rules Rules, deps Deps, out supervise.Output) {
	r.t.Helper()
	if rules.Interval == 0 {
		rules.Interval = 20 * time.Millisecond
	}
	rd, err := New(rules, deps)
	if err != nil {
		r.t.Fatalf("New: %v", err)
	}
	rd.(*readiness).patience = 100 * time.Millisecond
	if r.attempt, err = rd.Prepare(r.info, out); err != nil {
		r.t.Fatalf("Prepare: %v", err)
	}
	r.t.Cleanup(func() {
		if err := r.attempt.Close(); err != nil {
			r.t.Errorf("Close: %v", err)
		}
	})
}

// start starts the main process in the leaf.
func (r *rig) start(out *os.File, argv ...string) *linuxtest.Process {
	r.t.Helper()
	p := r.startIn(r.leaf.Path(), out, argv...)
	r.hold(p)
	return p
}

// hold makes p the main process.
func (r *rig) hold(p *linuxtest.Process) {
	r.t.Helper()
	var err error
	if r.main, err = pidfd.Open(p.PID()); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = r.main.Close() })
}

// startIn starts a process in any cgroup, with the variables of the attempt.
func (r *rig) startIn(group string, out *os.File, argv ...string) *linuxtest.Process {
	r.t.Helper()
	env := os.Environ()
	if r.attempt != nil {
		env = append(env, r.attempt.Env()...)
	}
	return linuxtest.Command{Args: argv, Env: env, Cgroup: group, Stdout: out}.Start(r.t)
}

// env returns a variable that the worker gets.
func (r *rig) env(name string) string {
	r.t.Helper()
	for _, kv := range r.attempt.Env() {
		if v, ok := strings.CutPrefix(kv, name+"="); ok {
			return v
		}
	}
	r.t.Fatalf("the worker has no %s in %q", name, r.attempt.Env())
	return ""
}

// wait calls Wait and checks that it obeys its context.
func (r *rig) wait(within time.Duration) (supervise.ReadyInfo, error) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	info, err := r.attempt.Wait(ctx, r.main, r.leaf)
	if over := ctx.Err(); over != nil {
		deadline, _ := ctx.Deadline()
		if late := time.Since(deadline); late > 3*time.Second {
			r.t.Errorf("Wait returned %v after its context had ended", late)
		}
	}
	return info, err
}

// ready fails the test unless the rules hold.
func (r *rig) ready() supervise.ReadyInfo {
	r.t.Helper()
	info, err := r.wait(20 * time.Second)
	if err != nil {
		r.t.Fatalf("Wait: %v", err)
	}
	return info
}

// notReady fails the test unless the time is over before the rules hold, and
// the error says what was last seen.
func (r *rig) notReady(within time.Duration, want string) error {
	r.t.Helper()
	_, err := r.wait(within)
	if !errors.Is(err, context.DeadlineExceeded) {
		r.t.Fatalf("Wait = %v, want the deadline", err)
	}
	mustMatch(r.t, err, want)
	return err
}

// fails fails the test unless Wait gives up before the time is over.
func (r *rig) fails(want string) error {
	r.t.Helper()
	_, err := r.wait(20 * time.Second)
	if err == nil || errors.Is(err, context.DeadlineExceeded) {
		r.t.Fatalf("Wait = %v, want a failure before the deadline", err)
	}
	mustMatch(r.t, err, want)
	return err
}

func mustMatch(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || !regexp.MustCompile(want).MatchString(err.Error()) {
		t.Fatalf("error is %q, want a match of %q", err, want)
	}
}

// printed is a worker's standard output as the supervisor would keep it.
type printed struct {
	read, write *os.File

	mu    sync.Mutex // guards what follows
	lines []string
	more  chan struct{} // closed and made anew with each line
	ended bool
	done  chan struct{}
}

func newPrinted(t *testing.T) *printed {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p := &printed{read: r, write: w, more: make(chan struct{}), done: make(chan struct{})}
	go p.follow()
	t.Cleanup(func() {
		_ = w.Close()
		_ = r.Close()
		<-p.done
	})
	return p
}

func (p *printed) follow() {
	defer close(p.done)
	scanner := bufio.NewScanner(p.read)
	for scanner.Scan() {
		p.add(scanner.Text(), false)
	}
	p.add("", true)
}

func (p *printed) add(line string, end bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended = end; !end {
		p.lines = append(p.lines, line)
	}
	close(p.more)
	p.more = make(chan struct{})
}

// output is what the supervisor hands to Prepare.
func (p *printed) output() supervise.Output {
	return supervise.Output{Lines: func(ctx context.Context, stream string) iter.Seq[string] {
		return func(yield func(string) bool) {
			for i := 0; ; i++ {
				line, ok := p.line(ctx, i)
				if !ok || !yield(line) {
					return
				}
			}
		}
	}}
}

// line waits for line i.
func (p *printed) line(ctx context.Context, i int) (string, bool) {
	for {
		p.mu.Lock()
		more, ended := p.more, p.ended
		if i < len(p.lines) {
			defer p.mu.Unlock()
			return p.lines[i], true
		}
		p.mu.Unlock()
		if ended {
			return "", false
		}
		select {
		case <-more:
		case <-ctx.Done():
			return "", false
		}
	}
}

// port waits for "listening on PORT".
func (p *printed) port(t *testing.T) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for i := 0; ; i++ {
		line, ok := p.line(ctx, i)
		if !ok {
			t.Fatalf("no port was printed, but %q", p.lines)
		}
		if s, ok := strings.CutPrefix(line, "listening on "); ok {
			n, err := strconv.Atoi(s)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
}

// waitLine waits for a line.
func (p *printed) waitLine(t *testing.T, want string) {
	t.Helper()
	p.waitLineFor(t, 20*time.Second, want)
}

func (p *printed) waitLineFor(t *testing.T, within time.Duration, want string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	for i := 0; ; i++ {
		line, ok := p.line(ctx, i)
		if !ok {
			t.Fatalf("no line %q was printed, but %q", want, p.lines)
		}
		if line == want {
			return
		}
	}
}
