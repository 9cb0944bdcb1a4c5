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
	"sync"
	"syscall"
	"time"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/pidfd"
	"golang.org/x/sys/unix"
)

const (
	maxNotify   = 4096 // of one message; systemd's own limit
	maxAncil    = 2048 // bytes of credentials, a pidfd and as many descriptors as a message may carry
	maxForeign  = 4096 // cgroups remembered as nobody's
	maxPathname = 107  // of a socket address
	maxDrain    = 1024 // messages that are read at once for who must know them all
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
	conn  *net.UnixConn
	raw   syscall.RawConn
	path  string
	store fdStore

	reading sync.Mutex // held from the reading of a message to the end of its handling; guards what follows
	buf     [maxNotify]byte
	oob     [maxAncil]byte

	mu      sync.Mutex // guards what follows
	waiting map[uint64]*notice
	foreign map[uint64]bool // cgroup ids known to be outside all leaves; true for good, as an id is never given twice
	counts  NotifyCounts
}

// NotifyCounts counts messages by what became of them, and what in them was not taken.
type NotifyCounts struct {
	Received uint64
	Ignored  uint64 // the sender is in no leaf that waits, or is not known; or it was too long
	Unknown  uint64 // assignments whose name says nothing to us
	Invalid  uint64 // assignments whose value is none of its name
	Refused  uint64 // MAINPID= of a process that is not the worker's
	Closed   uint64 // descriptors that were sent along and not kept
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
	s := &NotifyServer{
		conn:    conn.(*net.UnixConn),
		path:    path,
		waiting: make(map[uint64]*notice),
		foreign: make(map[uint64]bool),
	}
	// Anybody may send: what counts is decided by the sender's cgroup.
	if err := os.Chmod(path, 0o666); err != nil {
		_ = conn.Close() // nothing was received
		return nil, fmt.Errorf("open the notification socket to all users: %w", errors.Join(err, os.Remove(path)))
	}
	if s.raw, err = s.conn.SyscallConn(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
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

// Close removes the socket, and closes what workers have stored. It must not be called
// before Serve has returned.
func (s *NotifyServer) Close() error {
	s.store.clear()
	return errors.Join(s.conn.Close(), os.Remove(s.path))
}

// Serve reads messages until ctx ends, and returns the context's cause then.
func (s *NotifyServer) Serve(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		_ = s.conn.SetReadDeadline(time.Unix(1, 0)) // fails only when closed already
	})
	defer stop()
	for {
		var failed error
		err := s.raw.Read(func(fd uintptr) bool {
			more, err := s.readOne(int(fd))
			failed = err
			return more || err != nil
		})
		switch err = errors.Join(err, failed); {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			return fmt.Errorf("read a notification: %w", err)
		}
	}
}

// drain handles the messages that are there. Who was told of a process's end calls it
// first, to learn what that process had said.
func (s *NotifyServer) drain() {
	_ = s.raw.Control(func(fd uintptr) { // fails only when closed, and then nothing is said any more
		for range maxDrain {
			if more, err := s.readOne(int(fd)); !more || err != nil {
				return
			}
		}
	})
}

// readOne handles one message, if there is one.
func (s *NotifyServer) readOne(fd int) (bool, error) {
	s.reading.Lock()
	defer s.reading.Unlock()
	for {
		n, oobn, flags, _, err := unix.Recvmsg(fd, s.buf[:], s.oob[:], unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
		switch err {
		case nil:
			s.handle(s.buf[:n], s.oob[:oobn], flags)
			return true, nil
		case unix.EINTR:
		case unix.EAGAIN:
			return false, nil
		default:
			return false, err
		}
	}
}

// handle gives one message to the start it is from. Whatever descriptors came along are
// closed when it returns, unless they were stored: a sender that waits for that
// (sd_notify_barrier) knows then that all it has sent so far was handled.
func (s *NotifyServer) handle(text, oob []byte, flags int) {
	from, fds := parseSender(oob)
	var to *notice
	if from != nil {
		if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) == 0 { // else a part of it is missing
			to = s.find(from)
		}
		_ = from.Close() // a pidfd; nothing to lose
	}
	var got heard
	if to != nil {
		got = to.hear(parseNotify(text), fds)
	} else {
		closeAll(fds)
		got.closed = len(fds)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts.Received++
	if to == nil {
		s.counts.Ignored++
	}
	s.counts.Unknown += uint64(got.unknown)
	s.counts.Invalid += uint64(got.invalid)
	s.counts.Refused += uint64(got.refused)
	s.counts.Closed += uint64(got.closed)
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
