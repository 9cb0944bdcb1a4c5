package pidfd

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/pitvisor/pitvisor/internal/units"
	"golang.org/x/sys/unix"
)

// Process is one process, held by a pidfd until Close. Its methods may be called
// from several goroutines.
type Process struct {
	pid int

	mu sync.RWMutex // guards fd: it is never closed while a system call uses it
	fd int          // -1 once closed
}

// Open returns the process that has this PID now. Whether that is the one meant
// is for the caller to know; [Identity.Open] finds out. It fails with [ErrGone]
// when no process has the number. Zombies can be opened. Linux 5.3.
func Open(pid int) (*Process, error) {
	if pid <= 0 {
		return nil, fmt.Errorf("open process %d: %w", pid, unix.EINVAL)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, openError(pid, err)
	}
	return FromFD(fd, pid), nil
}

// FromFD makes a Process of a pidfd, which it takes over: Close closes it. The
// pid is for printing, and for the fallbacks of kernels that know little of pidfds.
func FromFD(fd, pid int) *Process {
	return &Process{fd: fd, pid: pid}
}

// Self returns the calling process.
func Self() (*Process, error) {
	return Open(os.Getpid())
}

// PID returns the number the process has or had, for printing. It may belong to
// somebody else by now.
func (p *Process) PID() int { return p.pid }

// FD returns the pidfd for a [Poller] or another system call, or -1 after Close.
// It is valid until Close; the caller must not close it.
func (p *Process) FD() int {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.fd
}

// Signal sends a signal to the process and to nobody else. It returns
// [os.ErrProcessDone] when the process was reaped. A zombie takes every signal
// without effect.
func (p *Process) Signal(sig unix.Signal) error {
	err := p.use(func(fd int) error { return unix.PidfdSendSignal(fd, sig, nil, 0) })
	if errors.Is(err, unix.ESRCH) {
		err = os.ErrProcessDone
	}
	if err != nil {
		return fmt.Errorf("send %s to process %d: %w", units.SignalName(sig), p.pid, err)
	}
	return nil
}

// Exited says whether the process has ended with all its threads, reaped or not.
func (p *Process) Exited() (bool, error) {
	events, err := p.poll(unix.POLLIN)
	if err != nil {
		return false, fmt.Errorf("poll process %d: %w", p.pid, err)
	}
	return events != 0, nil
}

// Close releases the pidfd. It does nothing to the process. A second Close
// returns [os.ErrClosed].
func (p *Process) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fd < 0 {
		return fmt.Errorf("close process %d: %w", p.pid, os.ErrClosed)
	}
	fd := p.fd
	p.fd = -1
	if err := unix.Close(fd); err != nil {
		return fmt.Errorf("close process %d: %w", p.pid, err)
	}
	return nil
}

// use runs a short system call with the pidfd, which stays open meanwhile.
func (p *Process) use(f func(fd int) error) error {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if p.fd < 0 {
		return os.ErrClosed
	}
	return f(p.fd)
}

// poll returns which of the asked events hold now. POLLIN: exited. POLLHUP,
// which needs no asking: exited and reaped.
func (p *Process) poll(events int16) (int16, error) {
	fds := [1]unix.PollFd{{Events: events}}
	err := p.use(func(fd int) error {
		fds[0].Fd = int32(fd)
		return ignoringEINTR(func() error {
			_, err := unix.Poll(fds[:], 0)
			return err
		})
	})
	return fds[0].Revents, err
}

// reaped says whether the process was reaped. It works on every kernel with
// pidfds: the null signal reaches zombies, and nobody after the reaping.
func (p *Process) reaped() (bool, error) {
	err := p.use(func(fd int) error { return unix.PidfdSendSignal(fd, 0, nil, 0) })
	switch {
	case errors.Is(err, unix.ESRCH):
		return true, nil
	case err == nil, errors.Is(err, unix.EPERM): // somebody else's, and there
		return false, nil
	}
	return false, err
}

// ignoringEINTR repeats a system call that a signal cut short; the Go runtime
// sends itself such signals all the time.
func ignoringEINTR(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
