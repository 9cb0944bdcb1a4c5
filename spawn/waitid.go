package spawn

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// ended is what waitid says of a child.
type ended struct {
	pid    int // 0: no child has exited
	code   int32
	status int32
}

// The codes of a child that has exited, from asm-generic/siginfo.h.
const (
	cldExited = 1
	cldDumped = 3
)

// waitPidfd is waitid of one child. It never blocks.
func waitPidfd(fd, flags int) (ended, error) {
	return waitid(unix.P_PIDFD, fd, flags|unix.WEXITED)
}

// waitAny is waitid of any child. It never blocks.
func waitAny(flags int) (ended, error) {
	return waitid(unix.P_ALL, 0, flags|unix.WEXITED)
}

func waitid(idType, id, flags int) (ended, error) {
	for {
		var info unix.Siginfo
		_, _, errno := unix.Syscall6(unix.SYS_WAITID, uintptr(idType), uintptr(id),
			uintptr(unsafe.Pointer(&info)), uintptr(flags|unix.WNOHANG), 0, 0)
		switch errno {
		case 0:
			c := (*childInfo)(unsafe.Pointer(&info))
			return ended{pid: int(c.pid), code: info.Code, status: c.status}, nil
		case unix.EINTR:
		default:
			return ended{}, errno
		}
	}
}

// childInfo is the beginning of siginfo_t for a child, which x/sys leaves blank:
// behind three numbers, a union that is aligned like a pointer.
type childInfo struct {
	_      [3]int32
	_      [unsafe.Sizeof(uintptr(0))/4 - 1]int32
	pid    int32
	_      uint32 // uid
	status int32
}
