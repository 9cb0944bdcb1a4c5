package spawn

import (
	"errors"
	"fmt"

	"github.com/pitvisor/pitvisor/pidfd"
	"golang.org/x/sys/unix"
)

// reapedByKernel is reap of a process that the kernel reaps itself, with the exit that
// the kernel keeps at the pidfd. That is there a moment after the pidfd has become
// readable.
func (p *Process) reapedByKernel() (Exit, error) {
	exit, err := p.stolenExit()
	if errors.Is(err, pidfd.ErrNotReaped) {
		exited, err := p.handle.Exited()
		if err != nil {
			return Exit{}, err
		}
		if !exited {
			return Exit{}, ErrRunning
		}
		if err := p.waitReleased(); err != nil {
			return Exit{}, err
		}
		if exit, err = p.stolenExit(); err != nil {
			return Exit{}, err
		}
	} else if err != nil {
		return Exit{}, err
	}
	exit.BeforeExec = exit.Signal != 0 && !p.executed
	return exit, nil
}

// waitReleased waits until the kernel has let go of a process that has exited. Only a
// debugger can make that long.
func (p *Process) waitReleased() error {
	const patience = 1000                            // milliseconds
	fds := []unix.PollFd{{Fd: int32(p.handle.FD())}} // POLLHUP needs no asking
	for {
		n, err := unix.Poll(fds, patience)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return fmt.Errorf("wait for the kernel to reap it: %w", err)
		case n == 0:
			return ErrRunning
		default:
			return nil
		}
	}
}
