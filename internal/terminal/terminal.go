// Package terminal leaves the controlling terminal of a program as the program found
// it, whatever a command does to it meanwhile, and lets the program be stopped like
// the command by the shell that both are a job of.
//
// The command is meant to share the caller's process group, so that `pitvisor run --
// git log | less` stays one job: the terminal then sends its signals to both.
//
// The package makes no pseudo-terminal and copies nothing. It is not for shells: it
// never takes the terminal away from another job.
package terminal

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/pidfd"
)

// Terminal is the controlling terminal.
type Terminal struct {
	fd    int
	modes unix.Termios
	group int  // in the foreground when Save was called
	ours  bool // and it was the caller's
}

// Open opens the controlling terminal. Without one the error is unix.ENXIO, or
// fs.ErrNotExist where there is no /dev/tty.
func Open() (*Terminal, error) {
	for {
		fd, err := unix.Open("/dev/tty", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
		if err == nil {
			return &Terminal{fd: fd}, nil
		}
		if err != unix.EINTR {
			return nil, &os.PathError{Op: "open", Path: "/dev/tty", Err: err}
		}
	}
}

// Save remembers how the terminal is. It fails on one that is hung up.
func (t *Terminal) Save() error {
	modes, err := unix.IoctlGetTermios(t.fd, unix.TCGETS)
	if err != nil {
		return fmt.Errorf("read the modes of the terminal: %w", err)
	}
	group, err := t.foregroundGroup()
	if err != nil {
		return err
	}
	t.modes, t.group, t.ours = *modes, group, group == unix.Getpgrp()
	return nil
}

// Foreground says whether the caller's process group has the terminal now.
func (t *Terminal) Foreground() bool {
	group, err := t.foregroundGroup()
	return err == nil && group == unix.Getpgrp()
}

func (t *Terminal) foregroundGroup() (int, error) {
	group, err := unix.IoctlGetInt(t.fd, unix.TIOCGPGRP)
	if err != nil {
		return 0, fmt.Errorf("ask for the foreground process group of the terminal: %w", err)
	}
	return group, nil
}

// Restore makes the terminal again as Save saw it, where that is the caller's to do:
// the foreground goes back to the caller's process group if it had it and a group
// without a process has it now, and the modes go back if the caller is in the
// foreground. What is as it was is not touched, and neither is a terminal that is gone.
func (t *Terminal) Restore() error {
	if !t.ours {
		return nil
	}
	err := withoutTTOU(t.restore)
	if errors.Is(err, unix.EIO) || errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.ENXIO) {
		return nil // hung up, or no longer ours
	}
	return err
}

func (t *Terminal) restore() error {
	group, err := t.foregroundGroup()
	if err != nil {
		return err
	}
	if group != t.group {
		alive, err := groupAlive(group)
		if err != nil || alive {
			return err
		}
		if err := unix.IoctlSetPointerInt(t.fd, unix.TIOCSPGRP, t.group); err != nil {
			return fmt.Errorf("take the terminal back: %w", err)
		}
	}
	modes, err := unix.IoctlGetTermios(t.fd, unix.TCGETS)
	if err != nil {
		return fmt.Errorf("read the modes of the terminal: %w", err)
	}
	if *modes == t.modes {
		return nil
	}
	if err := unix.IoctlSetTermios(t.fd, unix.TCSETSW, &t.modes); err != nil {
		return fmt.Errorf("restore the modes of the terminal: %w", err)
	}
	return nil
}

// Close gives the descriptor back.
func (t *Terminal) Close() error { return unix.Close(t.fd) }

// StopSelf stops the calling process, and nobody else, as its shell expects of a job
// whose command has stopped. It may return a moment before the process stands still.
// Whoever continues the job continues it.
func (t *Terminal) StopSelf() error {
	self, err := pidfd.Self()
	if err != nil {
		return err
	}
	defer self.Close()
	return self.Signal(unix.SIGSTOP)
}

// withoutTTOU runs f in a thread that writes to a terminal of which it does not have
// the foreground without being stopped for it.
func withoutTTOU(f func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var block, before unix.Sigset_t
	block.Val[0] = 1 << (unix.SIGTTOU - 1)
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &block, &before); err != nil {
		return os.NewSyscallError("rt_sigprocmask", err)
	}
	err := f()
	return errors.Join(err, unix.PthreadSigmask(unix.SIG_SETMASK, &before, nil))
}
