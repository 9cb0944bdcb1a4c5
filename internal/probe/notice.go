package probe

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"github.com/pitvisor/pitvisor/pidfd"
	"github.com/pitvisor/pitvisor/supervise"
)

// notice is what one start said.
type notice struct {
	leaf  string
	id    uint64
	ready chan struct{} // closed at the first READY=1
	users int           // who has asked for it; guarded by the server's mu

	mu       sync.Mutex // guards what follows
	status   string     // the last STATUS=
	errno    int        // the last ERRNO=
	beats    uint64     // WATCHDOG=1 so far
	watchdog time.Duration
	retimed  chan struct{}  // has an element when watchdog was set; nil when nobody cares
	trigger  chan struct{}  // closed at the first WATCHDOG=trigger; nil when nobody cares
	count    func(uint64)   // told of X_PITVISOR_COUNT=; nil when nobody cares
	main     *pidfd.Process // that MAINPID= has named last; whoever was told closes it

	line    *line // nil when nobody is told
	pending bool  // somebody was told, and has not taken it yet
	said    supervise.Said
	extend  time.Time // until when more time was asked for, since it was taken last
}

// line is what the notice of one start is for, beside its rules.
type line struct {
	info supervise.StartInfo
	tell func(take func() supervise.Said)
	keep func(m *said, fds []int) (kept int) // takes over some of fds, and makes -1 of them
}

// heard counts what of a message was not taken.
type heard struct{ unknown, invalid, refused, closed int }

// hear takes in one message, and closes the descriptors that nobody wants. The server
// calls it for one message after the other.
func (n *notice) hear(m said, fds []int) heard {
	got := heard{unknown: m.unknown, invalid: m.invalid, closed: len(fds)}
	main := n.openMain(m.mainPID)
	if m.mainPID != 0 && main == nil {
		got.refused = 1
	}
	n.mu.Lock()
	line, count := n.line, n.count
	n.note(&m)
	told := n.collect(&m, main)
	n.mu.Unlock()
	if line != nil && line.keep != nil && (m.store || m.remove) {
		got.closed -= line.keep(&m, fds)
	}
	closeAll(fds)
	// Without mu: who is told may be waiting for it, in take.
	if m.hasCount && count != nil {
		count(m.count)
	}
	if told {
		line.tell(n.take)
	}
	// Last: who waits for it goes on from what was told before.
	if m.ready && !n.isReady() {
		close(n.ready)
	}
	return got
}

// openMain returns the process that MAINPID= names, if it is in the leaf and somebody
// wants to know. The number may have gone to another process by now: one of the leaf's
// then, and held from here on.
func (n *notice) openMain(pid int) *pidfd.Process {
	if pid == 0 {
		return nil
	}
	p, err := pidfd.Open(pid)
	if err != nil {
		return nil
	}
	id := cgroupOf(p)
	exited, err := p.Exited()
	known := id != 0 && id == n.id
	if err != nil || exited || !known && !n.holds(p, id) {
		_ = p.Close() // a stranger's pidfd
		return nil
	}
	return p
}

// note keeps what the rules ask for. The caller holds mu.
func (n *notice) note(m *said) {
	if m.hasStatus {
		n.status = m.status
	}
	if m.errno != 0 {
		n.errno = m.errno
	}
	if m.beat {
		n.beats++
	}
	if m.hasWatchdog && n.retimed != nil {
		n.watchdog = m.watchdog
		select {
		case n.retimed <- struct{}{}:
		default:
		}
	}
	if m.trigger && n.trigger != nil {
		select {
		case <-n.trigger:
		default:
			close(n.trigger)
		}
	}
}

// collect adds to what is to be told, and says whether somebody has to be told now. The
// caller holds mu.
func (n *notice) collect(m *said, main *pidfd.Process) bool {
	if n.line == nil {
		if main != nil {
			_ = main.Close() // nobody wants to know
		}
		return false
	}
	s := &n.said
	before := *s
	s.Status, s.Errno = n.status, n.errno
	s.Stopping = s.Stopping || m.stopping
	s.Reloading = (s.Reloading || m.reloading) && !m.ready
	if main != nil {
		if s.Main != nil {
			_ = s.Main.Close() // was named and not taken
		}
		s.Main, n.main = main, main
	}
	if until := time.Now().Add(m.extend); m.extend > 0 && until.After(n.extend) {
		n.extend = until
	}
	if n.pending || *s == before && m.extend == 0 {
		return false
	}
	n.pending = true
	return true
}

// take returns what was said since the last call.
func (n *notice) take() supervise.Said {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.pending = false
	now := n.said
	if !n.extend.IsZero() {
		now.Extend = max(0, time.Until(n.extend))
	}
	n.said.Main, n.extend = nil, time.Time{}
	return now
}

// attach lets somebody be told.
func (n *notice) attach(l *line) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.line = l
}

// detach ends that.
func (n *notice) detach() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.said.Main != nil {
		_ = n.said.Main.Close() // was named and not taken
	}
	n.line, n.said, n.main = nil, supervise.Said{}, nil
}

// mainProcess returns the process that the worker has named, or nil.
func (n *notice) mainProcess() *pidfd.Process {
	if n == nil {
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.main
}

func (n *notice) isReady() bool {
	select {
	case <-n.ready:
		return true
	default:
		return false
	}
}

// awaitNotify waits for READY=1 from a process of the leaf.
func (a *attempt) awaitNotify(ctx context.Context) error {
	select {
	case <-a.notify.ready:
		return nil
	case <-ctx.Done():
	}
	a.notify.mu.Lock()
	defer a.notify.mu.Unlock()
	last := errors.New("no such message from the worker")
	if a.notify.status != "" {
		last = fmt.Errorf("no such message from the worker, its last status was %q", a.notify.status)
	}
	if a.notify.errno != 0 {
		last = fmt.Errorf("%w, its last error %w", last, syscall.Errno(a.notify.errno))
	}
	return notReady(ctx, "sd_notify READY=1", last)
}
