package linuxtest

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ownModes are what linuxtest starts for itself.
func ownModes() []builtin {
	return []builtin{
		{usage: "trap-exec", run: modeTrapExec},
		{usage: "pidns-init", run: modePIDNSInit},
		{usage: "join", run: modeJoin},
		{usage: "container", run: modeContainer},
		{usage: "systemd", run: modeSystemd},
		{usage: "beside", run: modeBeside},
	}
}

// trapSocket is the descriptor on which trap-exec hands out its listener.
const trapSocket = 3

// modeTrapExec makes itself the target of a trap: numbers of system calls joined
// by commas, "self" if those with the own PID as first argument are let through,
// then the command line to become.
//
// The filter is on the thread that execs, so it is on all that comes after. The
// listener is sent by another thread: were sendmsg among the calls, nobody could
// answer for it before it has arrived.
func modeTrapExec(args []string) int {
	if len(args) < 3 {
		return complain(errors.New("usage: trap-exec NUMBERS self|all PATH [ARG...]"))
	}
	var numbers []uint32
	for text := range strings.SplitSeq(args[0], ",") {
		n, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			return complain(fmt.Errorf("system call %q: %w", text, err))
		}
		numbers = append(numbers, uint32(n))
	}
	self := -1
	if args[1] == "self" {
		self = os.Getpid()
	}
	fds := make(chan int)
	sent := make(chan error)
	go func() { sent <- sendFD(<-fds) }()
	runtime.LockOSThread()
	fd, err := installFilter(trapFilter(numbers, self))
	if err != nil {
		return complain(err)
	}
	fds <- fd
	if err := <-sent; err != nil {
		return complain(err)
	}
	err = syscall.Exec(args[2], args[2:], os.Environ())
	return complain(fmt.Errorf("exec %s: %w", args[2], err))
}

func sendFD(fd int) error {
	if err := unix.Sendmsg(trapSocket, []byte{0}, unix.UnixRights(fd), nil, 0); err != nil {
		return fmt.Errorf("send the listener: %w", err)
	}
	unix.CloseOnExec(trapSocket)
	return nil
}

// installFilter puts the filter on this thread and returns its listener.
func installFilter(filter []unix.SockFilter) (int, error) {
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	install := func() (int, unix.Errno) {
		fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
			unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, uintptr(unsafe.Pointer(&prog)))
		return int(fd), errno
	}
	fd, errno := install()
	if errno == unix.EACCES {
		// Without CAP_SYS_ADMIN only a thread that can gain no privilege may.
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return -1, fmt.Errorf("set no_new_privs: %w", err)
		}
		fd, errno = install()
	}
	if errno != 0 {
		return -1, fmt.Errorf("install the filter: %w", errno)
	}
	return fd, nil
}

// trapFilter reports the given system calls. With self >= 0 it lets those through
// whose first argument is self. Calls of another architecture are let through.
func trapFilter(numbers []uint32, self int) []unix.SockFilter {
	const (
		load   = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equal  = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		result = unix.BPF_RET | unix.BPF_K
	)
	// Offsets in struct seccomp_data: nr 0, arch 4, low half of args[0] 16.
	filter := []unix.SockFilter{
		{Code: load, K: 4},
		{Code: equal, K: auditArch(), Jt: 1},
		{Code: result, K: unix.SECCOMP_RET_ALLOW},
		{Code: load, K: 0},
	}
	for i, n := range numbers {
		// Jump over the numbers that follow and the "none of them" behind.
		filter = append(filter, unix.SockFilter{Code: equal, K: n, Jt: uint8(len(numbers) - i)})
	}
	filter = append(filter, unix.SockFilter{Code: result, K: unix.SECCOMP_RET_ALLOW})
	if self >= 0 {
		filter = append(filter,
			unix.SockFilter{Code: load, K: 16},
			unix.SockFilter{Code: equal, K: uint32(self), Jf: 1},
			unix.SockFilter{Code: result, K: unix.SECCOMP_RET_ALLOW})
	}
	return append(filter, unix.SockFilter{Code: result, K: unix.SECCOMP_RET_USER_NOTIF})
}

// auditArch is what the kernel calls this architecture. 0 is none that has a trap: on s390x the
// halves of an argument are the other way round.
func auditArch() uint32 {
	return map[string]uint32{
		"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64, "riscv64": unix.AUDIT_ARCH_RISCV64,
		"ppc64le": unix.AUDIT_ARCH_PPC64LE, "loong64": unix.AUDIT_ARCH_LOONGARCH64,
	}[runtime.GOARCH]
}

// trapCalls are the system calls that a trap knows by name, with the argument
// that is a path (-1 none) or a descriptor to be named.
func trapCalls() []trapCall {
	return slices.Concat(archCalls(), []trapCall{
		{"mkdirat", unix.SYS_MKDIRAT, 1, -1},
		{"unlinkat", unix.SYS_UNLINKAT, 1, -1},
		{"openat", unix.SYS_OPENAT, 1, -1},
		{"openat2", unix.SYS_OPENAT2, 1, -1},
		{"renameat2", unix.SYS_RENAMEAT2, 3, -1},
		{"execve", unix.SYS_EXECVE, 0, -1},
		{"write", unix.SYS_WRITE, -1, 0},
		{"pwrite64", unix.SYS_PWRITE64, -1, 0},
		{"fsync", unix.SYS_FSYNC, -1, 0},
		{"fdatasync", unix.SYS_FDATASYNC, -1, 0},
		{"ftruncate", unix.SYS_FTRUNCATE, -1, 0},
		{"flock", unix.SYS_FLOCK, -1, 0},
		{"fsetxattr", unix.SYS_FSETXATTR, -1, 0},
		{"setxattr", unix.SYS_SETXATTR, 0, -1},
		{"close", unix.SYS_CLOSE, -1, 0},
		{"clone", unix.SYS_CLONE, -1, -1},
		{"clone3", unix.SYS_CLONE3, -1, -1},
		{"prctl", unix.SYS_PRCTL, -1, -1},
		{"waitid", unix.SYS_WAITID, -1, -1},
		{"wait4", unix.SYS_WAIT4, -1, -1},
		{"pidfd_open", unix.SYS_PIDFD_OPEN, -1, -1},
		{"pidfd_send_signal", unix.SYS_PIDFD_SEND_SIGNAL, -1, 0},
		{"epoll_ctl", unix.SYS_EPOLL_CTL, -1, 2},
		{"kill", unix.SYS_KILL, -1, -1},
		{"tkill", unix.SYS_TKILL, -1, -1},
		{"tgkill", unix.SYS_TGKILL, -1, -1},
		{"rt_sigqueueinfo", unix.SYS_RT_SIGQUEUEINFO, -1, -1},
		{"rt_tgsigqueueinfo", unix.SYS_RT_TGSIGQUEUEINFO, -1, -1},
	})
}

// trapCall is one row of trapCalls.
type trapCall struct {
	name     string
	number   uint32
	path, fd int // which argument
}
