package terminal

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// StopSelf stops this process as the terminal's suspend key does, whatever it has
// made of that signal otherwise, and returns when it has been continued. The shell
// sees a stopped job.
//
// It returns at once where the kernel does not stop it, since nobody could continue
// it (no shell with job control is above), and where SIGTSTP is ignored.
func (*Terminal) StopSelf() error {
	err := stopSelf(stopThread)
	if errors.Is(err, errors.ErrUnsupported) {
		err = stopSelf(stopByPipe)
	}
	if err != nil {
		return fmt.Errorf("stop as a job: %w", err)
	}
	return nil
}

// stopSelf sends the signal in some way, while it has its default action.
func stopSelf(send func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before, err := sigaction(unix.SIGTSTP, nil)
	if err != nil || before.handler == ignore {
		return err
	}
	if _, err := sigaction(unix.SIGTSTP, &action{}); err != nil {
		return err
	}
	err = send()
	_, restoreErr := sigaction(unix.SIGTSTP, &before)
	return errors.Join(err, restoreErr)
}

// Flags of pidfd_open and pidfd_send_signal, from linux/pidfd.h.
const (
	pidfdThread       = 0x80
	pidfdSignalThread = 1
)

// stopThread sends the signal to the calling thread, which takes it on its way out of
// the system call: so it is stopped, and continued, when that returns. A stop is
// always one of the whole process. Linux 6.9.
func stopThread() error {
	fd, err := unix.PidfdOpen(unix.Gettid(), pidfdThread)
	if err == unix.EINVAL {
		return errors.ErrUnsupported
	}
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }() // nothing to lose
	return unix.PidfdSendSignal(fd, unix.SIGTSTP, nil, pidfdSignalThread)
}

// stopByPipe does the same on older kernels: the thread is told of a byte in a pipe
// by a signal of its choice.
func stopByPipe() error {
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return err
	}
	defer func() { _, _ = unix.Close(ends[0]), unix.Close(ends[1]) }() // nobody reads the byte
	owner := struct{ kind, id int32 }{ownerThread, int32(unix.Gettid())}
	_, err := unix.FcntlInt(uintptr(ends[0]), unix.F_SETSIG, int(unix.SIGTSTP))
	if err == nil {
		_, _, errno := unix.Syscall(unix.SYS_FCNTL, uintptr(ends[0]), unix.F_SETOWN_EX, uintptr(unsafe.Pointer(&owner)))
		if errno != 0 {
			err = errno
		}
	}
	if err == nil {
		_, err = unix.FcntlInt(uintptr(ends[0]), unix.F_SETFL, unix.O_NONBLOCK|unix.O_ASYNC)
	}
	if err == nil {
		_, err = unix.Write(ends[1], []byte{1})
	}
	return err
}

// ownerThread is F_OWNER_TID of asm-generic/fcntl.h.
const ownerThread = 0

// action is the kernel's struct sigaction; zero is the default action.
type action struct {
	handler, flags, restorer uintptr
	mask                     uint64
}

// ignore is SIG_IGN.
const ignore = 1

// sigaction sets the action of a signal, unless it is nil, and returns the former one.
func sigaction(sig unix.Signal, set *action) (action, error) {
	var before action
	_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(set)),
		uintptr(unsafe.Pointer(&before)), unsafe.Sizeof(before.mask), 0, 0)
	if errno != 0 {
		return before, errno
	}
	return before, nil
}
