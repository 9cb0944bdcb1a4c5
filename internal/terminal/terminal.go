package terminal

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Terminal is the controlling terminal of the process. One goroutine uses it at a time.
type Terminal struct {
	fd    int
	saved state
}

// state is what can be restored.
type state struct {
	known bool
	modes unix.Termios
	ours  bool // the foreground process group was that of this process
}

// Open opens the controlling terminal. Where the process has none, the error is
// unix.ENXIO, or [fs.ErrNotExist] without a /dev. It does not read from the terminal.
func Open() (*Terminal, error) {
	for {
		// Nonblocking, because a serial line may wait for its carrier.
		fd, err := unix.Open("/dev/tty", unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		switch err {
		case nil:
			return &Terminal{fd: fd}, nil
		case unix.EINTR:
		default:
			return nil, fmt.Errorf("open the controlling terminal: %w", err)
		}
	}
}

// Save remembers the modes of the terminal, and whether this process is in the
// foreground, for [Terminal.Restore].
func (t *Terminal) Save() error {
	modes, err := t.modes()
	if err != nil {
		return fmt.Errorf("read the modes of the terminal: %w", err)
	}
	t.saved = state{known: true, modes: modes, ours: t.Foreground()}
	return nil
}

// Foreground says whether the process group of this process is the one that the
// terminal gives its keys to.
func (t *Terminal) Foreground() bool {
	group, err := t.group()
	return err == nil && group == unix.Getpgrp()
}

// Restore brings the terminal back to what [Terminal.Save] has seen, if this process
// was in the foreground then. A foreground process group that has no living member,
// such as that of a killed job, is replaced by this process's own; a living one is
// left in peace, and the modes with it. So are they while the process group of this
// process has another member, such as the pager of a pipeline, and if they were those
// of a program that reads single keys in the first place. Nothing is written where
// nothing differs, and a terminal that was hung up is no error.
func (t *Terminal) Restore() error { return t.restore(t.restoreModes) }

// RestoreGroup is [Terminal.Restore] without the modes: for a command that has ended by
// itself, and may have been started to change them.
func (t *Terminal) RestoreGroup() error { return t.restore(nil) }

func (t *Terminal) restore(modes func() error) error {
	if !t.saved.known || !t.saved.ours {
		return nil
	}
	err := quietly(func() error {
		if err := t.restoreGroup(); err != nil || modes == nil {
			return err
		}
		return modes()
	})
	if errors.Is(err, unix.EIO) || errors.Is(err, unix.ENOTTY) {
		return nil // hung up, or not ours any more
	}
	if err != nil {
		return fmt.Errorf("restore the terminal: %w", err)
	}
	return nil
}

func (t *Terminal) restoreGroup() error {
	group, err := t.group()
	if err != nil || group == unix.Getpgrp() || occupied(group, 0) {
		return err
	}
	return ignoringEINTR(func() error { return unix.IoctlSetPointerInt(t.fd, unix.TIOCSPGRP, unix.Getpgrp()) })
}

func (t *Terminal) restoreModes() error {
	if !t.Foreground() || t.saved.modes.Lflag&unix.ICANON == 0 {
		return nil
	}
	modes, err := t.modes()
	if err != nil || modes == t.saved.modes || occupied(unix.Getpgrp(), os.Getpid()) {
		return err
	}
	// After what was written has been sent: it was meant for the modes before.
	return ignoringEINTR(func() error { return unix.IoctlSetTermios(t.fd, unix.TCSETSW, &t.saved.modes) })
}

// Close closes the terminal, for this package only. A second Close returns [os.ErrClosed].
func (t *Terminal) Close() error {
	if t.fd < 0 {
		return fmt.Errorf("close the terminal: %w", os.ErrClosed)
	}
	fd := t.fd
	t.fd = -1
	if err := unix.Close(fd); err != nil {
		return fmt.Errorf("close the terminal: %w", err)
	}
	return nil
}

func (t *Terminal) modes() (unix.Termios, error) {
	modes, err := unix.IoctlGetTermios(t.fd, unix.TCGETS)
	if err != nil {
		return unix.Termios{}, err
	}
	return *modes, nil
}

// group is the foreground process group; 0 is none, or one in another PID namespace.
func (t *Terminal) group() (int, error) {
	return unix.IoctlGetInt(t.fd, unix.TIOCGPGRP)
}

// quietly runs f on a thread that has SIGTTOU blocked. A process in the background
// that changes its terminal is stopped else.
func quietly(f func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var set, old unix.Sigset_t
	set.Val[0] = 1 << (unix.SIGTTOU - 1)
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &set, &old); err != nil {
		return err
	}
	err := f()
	return errors.Join(err, unix.PthreadSigmask(unix.SIG_SETMASK, &old, nil))
}

// ignoringEINTR repeats a system call that a signal cut short.
func ignoringEINTR(f func() error) error {
	for {
		if err := f(); err != unix.EINTR {
			return err
		}
	}
}
