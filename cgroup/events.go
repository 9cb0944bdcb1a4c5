package cgroup

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Events is what the kernel says about a cgroup and everything below it.
type Events struct {
	Populated bool // it or a cgroup below it holds a process; zombies do not count
	Frozen    bool // every process is frozen, not merely asked to
}

// Events reads cgroup.events. The root of the hierarchy has none: [ErrNotSupported].
func (d *Dir) Events() (Events, error) {
	var buf [64]byte
	b, err := readAt(d.fd, "cgroup.events", buf[:0])
	if err != nil {
		return Events{}, d.wrap("read cgroup.events", err)
	}
	return parseEvents(string(b)), nil
}

// ChildEvents is Events of a child, which need not be opened for it.
func (d *Dir) ChildEvents(name string) (Events, error) {
	if err := checkName(name); err != nil {
		return Events{}, d.wrap("read cgroup.events of a child", err)
	}
	var buf [64]byte
	b, err := readAt(d.fd, name+"/cgroup.events", buf[:0])
	if err != nil {
		return Events{}, d.wrap("read cgroup.events of "+name, err)
	}
	return parseEvents(string(b)), nil
}

func parseEvents(s string) Events {
	var e Events
	for line := range strings.Lines(s) {
		switch strings.TrimSpace(line) {
		case "populated 1":
			e.Populated = true
		case "frozen 1":
			e.Frozen = true
		}
	}
	return e
}

// OpenEvents opens cgroup.events for waiting with EPOLLPRI. The kernel limits the
// notifications to one in about 12 ms, and one must read the file again from its
// beginning after each. The caller closes it.
func (d *Dir) OpenEvents() (*os.File, error) {
	fd, err := openAt(d.fd, "cgroup.events", unix.O_RDONLY)
	if err != nil {
		return nil, d.wrap("open cgroup.events", err)
	}
	return os.NewFile(uintptr(fd), d.Path()+"/cgroup.events"), nil
}

// WaitEmpty returns when no process is left in the cgroup and below it, which is
// also the case when it was removed. It holds no thread while it waits. If the
// context ends first the error wraps its cause.
func (d *Dir) WaitEmpty(ctx context.Context) error {
	err := d.waitEvents(ctx, func(e Events) bool { return !e.Populated })
	if err != nil && !isGone(err) {
		return d.wrap("wait for the last process", err)
	}
	return nil
}

// Freeze stops every process of the cgroup and below it, and returns when the
// kernel says that all of them are stopped. It refuses with [ErrSelf] to freeze the
// caller. If the context ends first, the cgroup is thawed again.
//
// Never start a process into a frozen cgroup: the whole Go runtime of the starter
// can stall until it is thawed.
func (d *Dir) Freeze(ctx context.Context) error {
	if err := d.refuseSelf("freeze processes"); err != nil {
		return err
	}
	if err := writeAt(d.fd, "cgroup.freeze", "1"); err != nil {
		return d.wrap("set cgroup.freeze=1", err)
	}
	err := d.waitEvents(ctx, func(e Events) bool { return e.Frozen })
	if err != nil {
		_ = writeAt(d.fd, "cgroup.freeze", "0") // gone, or it worked a moment ago
		return d.wrap("wait for frozen 1", err)
	}
	return nil
}

// Thaw lets the processes of the cgroup and below it run again, and returns when
// they do. It waits for ever, or for the context, if a cgroup above is frozen.
func (d *Dir) Thaw(ctx context.Context) error {
	if err := writeAt(d.fd, "cgroup.freeze", "0"); err != nil {
		return d.wrap("set cgroup.freeze=0", err)
	}
	if err := d.waitEvents(ctx, func(e Events) bool { return !e.Frozen }); err != nil {
		return d.wrap("wait for frozen 0", err)
	}
	return nil
}

const (
	shortestWait = 200 * time.Microsecond
	longestWait  = 50 * time.Millisecond
)

// waitEvents returns when done holds. The kernel withholds notifications for up to
// 12 ms, so the file is also read after 0.2 ms, doubling to 50 ms.
func (d *Dir) waitEvents(ctx context.Context, done func(Events) bool) error {
	fd, err := openAt(d.fd, "cgroup.events", unix.O_RDONLY)
	if err != nil {
		return err
	}
	defer closeFD(fd)
	var w *waiter
	for wait := shortestWait; ; wait = min(2*wait, longestWait) {
		e, err := preadEvents(fd)
		if err != nil || done(e) {
			return err
		}
		if w == nil {
			if w, err = newWaiter(ctx, fd); err != nil {
				return err
			}
			defer w.close()
		}
		if err := w.wait(wait); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

func preadEvents(fd int) (Events, error) {
	var buf [64]byte
	for {
		n, err := unix.Pread(fd, buf[:], 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return Events{}, err
		}
		return parseEvents(string(buf[:n])), nil
	}
}

// waiter waits for EPOLLPRI on one descriptor without holding a thread: an epoll
// descriptor becomes readable when it has an event, and Go's poller can wait for
// that, though not for EPOLLPRI itself.
type waiter struct {
	file *os.File
	conn interface {
		Read(func(fd uintptr) bool) error
	}
	stop func() bool
}

func newWaiter(ctx context.Context, fd int) (*waiter, error) {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make an epoll descriptor: %w", err)
	}
	if err := unix.SetNonblock(ep, true); err != nil { // else os.NewFile does not poll it
		closeFD(ep)
		return nil, err
	}
	file := os.NewFile(uintptr(ep), "epoll")
	event := unix.EpollEvent{Events: unix.EPOLLPRI}
	if err := unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, fd, &event); err != nil {
		_ = file.Close()
		return nil, err
	}
	conn, err := file.SyscallConn()
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	past := time.Unix(1, 0)
	stop := context.AfterFunc(ctx, func() { _ = file.SetReadDeadline(past) })
	return &waiter{file: file, conn: conn, stop: stop}, nil
}

func (w *waiter) close() {
	w.stop()
	_ = w.file.Close() // an epoll descriptor: nothing to lose
}

// wait returns after an event, after at most d, or soon after the context ended.
func (w *waiter) wait(d time.Duration) error {
	if err := w.file.SetReadDeadline(time.Now().Add(d)); err != nil {
		return err
	}
	err := w.conn.Read(func(ep uintptr) bool {
		var events [1]unix.EpollEvent
		n, err := unix.EpollWait(int(ep), events[:], 0)
		return n > 0 || (err != nil && err != unix.EINTR)
	})
	if os.IsTimeout(err) {
		return nil
	}
	return err
}
