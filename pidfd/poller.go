package pidfd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Poller watches many descriptors, such as the pidfds of 10,000 workers, without
// a goroutine, a thread or Go memory for each: they are in one epoll set, and
// that set's own descriptor waits in Go's network poller.
//
// It is level-triggered: an event is reported again until its cause is gone or
// the descriptor is removed. Its methods may be called from several goroutines.
type Poller struct {
	file *os.File
	conn syscall.RawConn

	running sync.Mutex    // held by Run
	removed atomic.Uint64 // counts Remove calls, so that Run drops what it fetched before
}

// batch is how many events Run fetches at once.
const batch = 32

// NewPoller returns an empty Poller. The caller closes it.
func NewPoller() (*Poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	// os.NewFile hands only nonblocking descriptors to the network poller.
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd) // nothing to lose
		return nil, os.NewSyscallError("fcntl", err)
	}
	file := os.NewFile(uintptr(fd), "epoll")
	conn, err := file.SyscallConn()
	if err != nil {
		_ = file.Close() // nothing to lose
		return nil, fmt.Errorf("make a poller: %w", err)
	}
	return &Poller{file: file, conn: conn}, nil
}

// Add watches fd for events, which are unix.EPOLLIN (a process has exited),
// unix.EPOLLPRI (cgroup.events has changed: read it again, or the event stays),
// or 0 for what is always reported: unix.EPOLLHUP (a process was reaped) and
// unix.EPOLLERR. The token comes back with each event. It must not be
// unix.EPOLLONESHOT, since Run drops what it has fetched when something is removed.
//
// The caller keeps fd open until it has removed it.
func (p *Poller) Add(fd int, events uint32, token uint64) error {
	event := unix.EpollEvent{Events: events}
	setToken(&event, token)
	if err := p.control(unix.EPOLL_CTL_ADD, fd, &event); err != nil {
		return fmt.Errorf("watch descriptor %d: %w", fd, err)
	}
	return nil
}

// Change replaces events and token of a watched fd. What happens to one that is watched
// for 0 costs who causes it next to nothing. The error is ENOENT for an fd that was not
// added, and [os.ErrClosed] for a closed Poller.
func (p *Poller) Change(fd int, events uint32, token uint64) error {
	event := unix.EpollEvent{Events: events}
	setToken(&event, token)
	if err := p.control(unix.EPOLL_CTL_MOD, fd, &event); err != nil {
		return fmt.Errorf("watch descriptor %d again: %w", fd, err)
	}
	return nil
}

// Remove stops watching fd. Once it has returned, f of Run is not called for it
// any more; only a call that had begun before may still go on. So a Remove
// inside f holds at once.
func (p *Poller) Remove(fd int) error {
	err := p.control(unix.EPOLL_CTL_DEL, fd, nil)
	p.removed.Add(1)
	if err != nil {
		return fmt.Errorf("stop watching descriptor %d: %w", fd, err)
	}
	return nil
}

func (p *Poller) control(op, fd int, event *unix.EpollEvent) error {
	var errno error
	// Control holds the epoll descriptor open, also against a Close at this moment.
	err := p.conn.Control(func(epfd uintptr) { errno = unix.EpollCtl(int(epfd), op, fd, event) })
	if err != nil {
		return os.ErrClosed // the only reason; the error's own type is internal to Go
	}
	return errno
}

// Run calls f for each event, one after the other, until ctx ends (it returns the
// cause) or the Poller is closed (it returns an error that is [os.ErrClosed]).
// While nothing happens it costs nothing. One Run at a time; it may be run again.
func (p *Poller) Run(ctx context.Context, f func(token uint64, events uint32)) error {
	if !p.running.TryLock() {
		return errors.New("run the poller: it is running already")
	}
	defer p.running.Unlock()
	if err := p.file.SetReadDeadline(time.Time{}); err != nil {
		return fmt.Errorf("run the poller: %w", err)
	}
	// A deadline in the past is how a wait in the network poller is ended.
	woken := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(woken)
		_ = p.file.SetReadDeadline(time.Unix(1, 0)) // fails when closed, which wakes too
	})
	defer func() {
		if !stop() {
			<-woken // or it would hit the next Run
		}
	}()
	var events [batch]unix.EpollEvent
	for ctx.Err() == nil {
		removed := p.removed.Load()
		n, err := p.fetch(events[:])
		if err != nil {
			if ctx.Err() != nil {
				break
			}
			return fmt.Errorf("run the poller: %w", err)
		}
		for _, e := range events[:n] {
			if ctx.Err() != nil || p.removed.Load() != removed {
				break // the rest may be stale; what still holds is reported again
			}
			f(token(&e), e.Events)
		}
	}
	return context.Cause(ctx)
}

// fetch waits for events.
func (p *Poller) fetch(events []unix.EpollEvent) (n int, err error) {
	var errno error
	err = p.conn.Read(func(epfd uintptr) bool {
		errno = ignoringEINTR(func() (err error) {
			n, err = unix.EpollWait(int(epfd), events, 0)
			return err
		})
		return n != 0 || errno != nil
	})
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return 0, err
	case err != nil:
		return 0, os.ErrClosed // the only other reason
	case errno != nil:
		return 0, os.NewSyscallError("epoll_wait", errno)
	}
	return n, nil
}

// Close releases the Poller and ends Run. The watched descriptors stay open.
func (p *Poller) Close() error {
	if err := p.file.Close(); err != nil {
		return fmt.Errorf("close the poller: %w", err)
	}
	return nil
}

// setToken and token use the 64 bits of user data that x/sys declares as two
// fields of 32 bits.
func setToken(e *unix.EpollEvent, token uint64) {
	e.Fd = int32(uint32(token))
	e.Pad = int32(uint32(token >> 32))
}

func token(e *unix.EpollEvent) uint64 {
	return uint64(uint32(e.Fd)) | uint64(uint32(e.Pad))<<32
}
