package probe

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/pidfd"
	"golang.org/x/sys/unix"
)

const (
	maxNotify   = 4096 // of one message; systemd's own limit
	maxForeign  = 4096 // cgroups remembered as nobody's
	maxPathname = 107  // of a socket address
)

// NotifyServer receives the sd_notify messages of all workers on one socket.
// The kernel says who sent a message; it counts for the start whose leaf, or a
// cgroup below it, holds the sender. Everything else is ignored and counted.
//
// Where the kernel passes no pidfd with a message (before Linux 6.5) the sender
// is looked up by the number that the kernel attached, and where it cannot pass
// one for a process that was reaped meanwhile (before about 6.17) such a
// message is lost: a worker that reports through a short-lived helper needs the
// helper to wait, as systemd-notify does by default since version 254.
type NotifyServer struct {
	conn *net.UnixConn
	path string

	mu      sync.Mutex // guards what follows
	waiting map[uint64]*notice
	foreign map[uint64]bool // cgroup ids known to be outside all leaves; true for good, as an id is never given twice
	counts  NotifyCounts
}

// NotifyCounts counts messages by what became of them.
type NotifyCounts struct {
	Received uint64
	Ignored  uint64 // the sender is in no leaf that waits, or is not known
}

// notice is what one start said.
type notice struct {
	leaf  string
	id    uint64
	ready chan struct{} // closed at the first READY=1
	users int           // who has asked for it; guarded by the server's mu

	mu      sync.Mutex    // guards what follows
	status  string        // the last STATUS=
	beats   uint64        // WATCHDOG=1 so far
	trigger chan struct{} // closed at the first WATCHDOG=trigger; nil when nobody cares
	count   func(uint64)  // told of X_PITVISOR_COUNT=; nil when nobody cares
}

// NewNotifyServer listens on dir/notify. The directory is the caller's; it must
// let the workers' users pass (0711). Call Serve to read, then Close.
func NewNotifyServer(dir string) (*NotifyServer, error) {
	path := filepath.Join(dir, "notify")
	if len(path) > maxPathname {
		return nil, fmt.Errorf("listen on %s: the path is longer than the %d bytes of a socket address: choose a shorter runtime directory", path, maxPathname)
	}
	lc := net.ListenConfig{Control: passSender}
	conn, err := lc.ListenPacket(context.Background(), "unixgram", path)
	if err != nil {
		return nil, fmt.Errorf("listen for notifications: %w", err)
	}
	// Anybody may send: what counts is decided by the sender's cgroup.
	if err := os.Chmod(path, 0o666); err != nil {
		_ = conn.Close() // nothing was received
		return nil, fmt.Errorf("open the notification socket to all users: %w", errors.Join(err, os.Remove(path)))
	}
	return &NotifyServer{
		conn:    conn.(*net.UnixConn),
		path:    path,
		waiting: make(map[uint64]*notice),
		foreign: make(map[uint64]bool),
	}, nil
}

// passSender makes the kernel attach the sender to each message, before the
// first one can arrive.
func passSender(_, _ string, c syscall.RawConn) error {
	var opt error
	err := c.Control(func(fd uintptr) {
		opt = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 1)
		// Linux 6.5. Without it the credentials have to do.
		_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSPIDFD, 1)
	})
	return errors.Join(err, opt)
}

// Path returns the address of the socket, the workers' NOTIFY_SOCKET.
func (s *NotifyServer) Path() string { return s.path }

// Counts returns the messages counted so far.
func (s *NotifyServer) Counts() NotifyCounts {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts
}

// Close removes the socket. It must not be called before Serve has returned.
func (s *NotifyServer) Close() error {
	return errors.Join(s.conn.Close(), os.Remove(s.path))
}

// Serve reads messages until ctx ends, and returns the context's cause then.
func (s *NotifyServer) Serve(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		_ = s.conn.SetReadDeadline(time.Unix(1, 0)) // fails only when closed already
	})
	defer stop()
	buf := make([]byte, maxNotify)
	oob := make([]byte, 2048) // credentials, a pidfd and as many descriptors as a message may carry
	for {
		n, oobn, _, _, err := s.conn.ReadMsgUnix(buf, oob)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			return fmt.Errorf("read a notification: %w", err)
		}
		s.handle(string(buf[:n]), oob[:oobn])
	}
}

// handle gives one message to the start it is from.
func (s *NotifyServer) handle(text string, oob []byte) {
	var to *notice
	if from := parseSender(oob); from != nil {
		to = s.find(from)
		_ = from.Close() // a pidfd; nothing to lose
	}
	s.mu.Lock()
	s.counts.Received++
	if to == nil {
		s.counts.Ignored++
	}
	s.mu.Unlock()
	if to != nil {
		to.hear(text)
	}
}

// find returns the start whose leaf holds the sender, nil when there is none.
func (s *NotifyServer) find(from *pidfd.Process) *notice {
	id := cgroupOf(from)
	to, others := s.lookUp(id)
	for _, n := range others {
		if n.holds(from, id) {
			return n
		}
	}
	if to == nil && id != 0 {
		s.remember(id)
	}
	return to
}

// lookUp returns the start with that leaf, or those whose leaf might hold the
// cgroup somewhere below.
func (s *NotifyServer) lookUp(id uint64) (*notice, []*notice) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.waiting[id]; n != nil || s.foreign[id] {
		return n, nil
	}
	return nil, slices.Collect(maps.Values(s.waiting))
}

// remember notes a cgroup that belongs to no leaf, so that a stranger who sends
// without end costs little.
func (s *NotifyServer) remember(id uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.foreign) >= maxForeign {
		clear(s.foreign)
	}
	s.foreign[id] = true
}

// holds reports whether the sender, in the cgroup id, is in the start's leaf or
// below it.
func (n *notice) holds(from *pidfd.Process, id uint64) bool {
	leaf, err := cgroup.Open(n.leaf)
	if err != nil {
		return false
	}
	defer leaf.Close()
	if leaf.ID() != n.id {
		return false // the leaf is gone and its path is another's
	}
	if id == 0 {
		return isMember(from, leaf)
	}
	found, err := leaf.Houses(id)
	return err == nil && found
}

// expect registers a start. Its leaf exists, its process does not yet. Each call
// is one for forget.
func (s *NotifyServer) expect(leaf string, id uint64) *notice {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.waiting[id]
	if n == nil {
		n = &notice{leaf: leaf, id: id, ready: make(chan struct{})}
		s.waiting[id] = n
	}
	n.users++
	return n
}

func (s *NotifyServer) forget(id uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.waiting[id]; n != nil {
		if n.users--; n.users == 0 {
			delete(s.waiting, id)
		}
	}
}

// hear takes in one message. Only Serve's goroutine calls it.
func (n *notice) hear(text string) {
	for line := range strings.SplitSeq(text, "\n") {
		if status, ok := strings.CutPrefix(line, "STATUS="); ok {
			n.mu.Lock()
			n.status = shorten(status)
			n.mu.Unlock()
		}
		if line == "READY=1" && !n.isReady() {
			close(n.ready)
		}
		n.hearLive(line)
	}
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
	return notReady(ctx, "sd_notify READY=1", last)
}
