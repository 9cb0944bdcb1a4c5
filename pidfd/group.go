package pidfd

import (
	"errors"
	"fmt"
	"os"

	"github.com/pitvisor/pitvisor/internal/units"
	"golang.org/x/sys/unix"
)

// SignalGroup sends a signal to all members of the process group that the process
// leads, or led: a group outlives its leader. For SIGKILL the kernel does that in one
// step that no fork can slip through. It returns [os.ErrProcessDone] when there is no
// such group, and [ErrNotSupported] before Linux 6.9. Members that may not be
// signalled are left out; when none may, the error is EPERM.
func (p *Process) SignalGroup(sig unix.Signal) error {
	err := p.use(func(fd int) error { return unix.PidfdSendSignal(fd, sig, nil, unix.PIDFD_SIGNAL_PROCESS_GROUP) })
	switch {
	case errors.Is(err, unix.ESRCH):
		err = os.ErrProcessDone
	case errors.Is(err, unix.EINVAL): // an unknown flag
		err = ErrNotSupported
	}
	if err != nil {
		return fmt.Errorf("send %s to process group %d: %w", units.SignalName(sig), p.pid, err)
	}
	return nil
}
