package pidfd

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

var (
	// ErrGone says that the process has ended and was reaped, or that the PID
	// now belongs to another process.
	ErrGone = errors.New("process is gone")

	// ErrNotSupported says that this kernel, or the sandbox around this
	// process, cannot answer.
	ErrNotSupported = errors.New("not supported by this kernel")

	// ErrNotReaped says that a process has no exit status yet: it runs, or it
	// is a zombie that its parent has not reaped.
	ErrNotReaped = errors.New("process is not reaped yet")
)

// openError translates what pidfd_open answers. EINVAL and ENOENT come for a
// number that is now the thread of another process.
func openError(pid int, errno error) error {
	switch {
	case errors.Is(errno, unix.ESRCH), errors.Is(errno, unix.EINVAL), errors.Is(errno, unix.ENOENT):
		return fmt.Errorf("open process %d: %w", pid, ErrGone)
	case errors.Is(errno, unix.ENOSYS):
		return fmt.Errorf("open process %d: pidfd_open: %w", pid, ErrNotSupported)
	}
	return fmt.Errorf("open process %d: %w", pid, os.NewSyscallError("pidfd_open", errno))
}
