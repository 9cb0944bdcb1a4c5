package confine

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Refusal is a system call that is answered with an error and not run.
type Refusal struct {
	Call  uintptr       `json:"call"` // its number on this machine, such as unix.SYS_CLONE3
	Errno unix.Errno    `json:"errno"`
	If    *ArgumentMask `json:"if,omitempty"` // nil is always
}

// ArgumentMask holds for a call in whose argument one of the bits is set. Only the
// low half of an argument is looked at.
type ArgumentMask struct {
	Argument int    `json:"argument"` // the first is 0
	Bits     uint32 `json:"bits"`
}

// RefuseClone3 is what the default profiles of Docker (since 20.10.10), Podman and
// Kubernetes do to a program without CAP_SYS_ADMIN: a filter cannot see the flags of
// clone3, so the call is made to look like one that the kernel does not know, and
// programs take clone instead.
func RefuseClone3() []Refusal { return []Refusal{{Call: unix.SYS_CLONE3, Errno: unix.ENOSYS}} }

// DenyClone3 is what older ones do, and systemd's RestrictNamespaces=: every call that
// the profile does not know is not permitted.
func DenyClone3() []Refusal { return []Refusal{{Call: unix.SYS_CLONE3, Errno: unix.EPERM}} }

// DockerRefusals is what Docker's default profile does without CAP_SYS_ADMIN, as far
// as it touches programs that start and hold others: no namespaces, no mounts, no
// clone3. It is not the whole profile.
func DockerRefusals() []Refusal {
	const namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC |
		unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET
	refuse := RefuseClone3()
	refuse = append(refuse, Refusal{Call: unix.SYS_CLONE, Errno: unix.EPERM, If: &ArgumentMask{0, namespaces}})
	for _, call := range []uintptr{
		unix.SYS_UNSHARE, unix.SYS_SETNS, unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_PIVOT_ROOT, unix.SYS_MOUNT_SETATTR,
		unix.SYS_MOVE_MOUNT, unix.SYS_OPEN_TREE, unix.SYS_FSOPEN, unix.SYS_FSCONFIG, unix.SYS_FSMOUNT, unix.SYS_FSPICK,
		unix.SYS_OPEN_BY_HANDLE_AT, unix.SYS_BPF, unix.SYS_PERF_EVENT_OPEN, unix.SYS_USERFAULTFD, unix.SYS_KEYCTL,
		unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY, unix.SYS_SETHOSTNAME, unix.SYS_SETDOMAINNAME, unix.SYS_QUOTACTL,
		unix.SYS_SYSLOG, unix.SYS_FANOTIFY_INIT, unix.SYS_REBOOT, unix.SYS_SWAPON, unix.SYS_SWAPOFF,
	} {
		refuse = append(refuse, Refusal{Call: call, Errno: unix.EPERM})
	}
	return refuse
}

// Filter compiles refusals to a seccomp program for this machine's own calls. All
// other calls, and those of other architectures, are let through. The first refusal
// that fits a call answers it.
//
// The program is, for each refusal without a condition,
//
//	if nr != call goto next
//	return ERRNO
//
// and with one
//
//	if nr != call goto next
//	load argument; if argument & bits == 0 goto restore
//	return ERRNO
//	restore: load nr
func Filter(refuse []Refusal) []unix.SockFilter {
	const (
		load   = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equal  = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		set    = unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K
		result = unix.BPF_RET | unix.BPF_K
	)
	// Offsets in struct seccomp_data: nr 0, arch 4, arguments 16 and on, 8 bytes each;
	// the low half comes first on the machines that are known here.
	const number, arch, arguments = 0, 4, 16
	filter := []unix.SockFilter{
		{Code: load, K: arch},
		{Code: equal, K: auditArch(), Jt: 1},
		{Code: result, K: unix.SECCOMP_RET_ALLOW},
		{Code: load, K: number},
	}
	for _, r := range refuse {
		answer := unix.SockFilter{Code: result, K: unix.SECCOMP_RET_ERRNO | uint32(r.Errno)&unix.SECCOMP_RET_DATA}
		if r.If == nil {
			filter = append(filter, unix.SockFilter{Code: equal, K: uint32(r.Call), Jf: 1}, answer)
			continue
		}
		filter = append(filter,
			unix.SockFilter{Code: equal, K: uint32(r.Call), Jf: 4},
			unix.SockFilter{Code: load, K: arguments + 8*uint32(r.If.Argument)},
			unix.SockFilter{Code: set, K: r.If.Bits, Jf: 1},
			answer,
			unix.SockFilter{Code: load, K: number})
	}
	return append(filter, unix.SockFilter{Code: result, K: unix.SECCOMP_RET_ALLOW})
}

// Install puts a filter on the calling thread, what it starts, and what it becomes. The
// caller has locked the goroutine to the thread. Without CAP_SYS_ADMIN the thread
// loses the right to gain privileges (no_new_privs), as the kernel demands.
func Install(filter []unix.SockFilter) error {
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	install := func() unix.Errno {
		_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&program)))
		return errno
	}
	errno := install()
	if errno == unix.EACCES {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("set no_new_privs: %w", err)
		}
		errno = install()
	}
	if errno != 0 {
		return fmt.Errorf("install the seccomp filter: %w", errno)
	}
	return nil
}

func auditArch() uint32 {
	if runtime.GOARCH == "arm64" {
		return unix.AUDIT_ARCH_AARCH64
	}
	return unix.AUDIT_ARCH_X86_64
}
