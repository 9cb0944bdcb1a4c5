//go:build amd64 || arm64

package spawn

import (
	"unsafe"

	"github.com/pitvisor/pitvisor/internal/steps"
	"github.com/pitvisor/pitvisor/pidfd"
	"golang.org/x/sys/unix"
)

// autokillFlags go together only, and without an exit signal.
const autokillFlags = unix.CLONE_PIDFD | unix.CLONE_AUTOREAP | unix.CLONE_PIDFD_AUTOKILL

// autokillKnown says whether clone3 knows autokillFlags and lets us have them, by a call
// that never makes a process: the flags are looked at before the cgroup, which there is
// not.
func autokillKnown() bool {
	var fd int32
	args := steps.CloneArgs{
		Flags:  autokillFlags | unix.CLONE_INTO_CGROUP | unix.CLONE_VM, // see Clone3Refused
		PidFD:  uint64(uintptr(unsafe.Pointer(&fd))),
		Cgroup: 1<<31 - 1,
	}
	_, _, errno := unix.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&args)), unsafe.Sizeof(args), 0)
	return errno == unix.EBADF
}

// startAutokill is startSteps with autokillFlags. [ReapOrphans] need not know the process:
// it is never a zombie.
func (c *Cmd) startAutokill(files []uintptr) (*Process, error) {
	born, err := c.vfork(files, autokillFlags, 0)
	if err != nil {
		return nil, c.diagnose(err)
	}
	if born.failed != 0 {
		_ = unix.Close(born.fd) // the process has ended
		return c.afterFailure(born, files)
	}
	return &Process{handle: pidfd.FromFD(born.fd, born.pid), autokill: true, executed: born.executing}, nil
}
