package linuxtest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// StartProcess is syscall.StartProcess for tests that set CgroupFD: where clone3 is
// refused, as in most containers, the process joins the cgroup by itself before it
// becomes the program. What cannot be executed is then no error but a process that
// ends with exit code 125, and a program with another user or with Ptrace cannot be
// started so.
func StartProcess(path string, argv []string, attr *syscall.ProcAttr) (pid int, err error) {
	pid, _, err = syscall.StartProcess(path, argv, attr)
	refused := errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM)
	if !refused || attr.Sys == nil || !attr.Sys.UseCgroupFD || !clone3Refused() {
		return pid, err
	}
	joining, sys := *attr, *attr.Sys
	sys.UseCgroupFD = false
	joining.Sys = &sys
	joining.Files = append(append([]uintptr{}, attr.Files...), uintptr(attr.Sys.CgroupFD))
	place := strconv.Itoa(len(attr.Files))
	argv = append([]string{"/proc/self/exe", helperPrefix + "join", place, path}, argv...)
	pid, _, err = syscall.StartProcess(argv[0], argv, &joining)
	return pid, err
}

// Into makes a command start in the cgroup of an open directory, as [StartProcess]
// does.
func Into(cmd *exec.Cmd, group int) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	if !clone3Refused() {
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, group
		return nil
	}
	theirs, err := unix.FcntlInt(uintptr(group), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return fmt.Errorf("copy the descriptor of a cgroup: %w", err)
	}
	place := strconv.Itoa(3 + len(cmd.ExtraFiles))
	cmd.ExtraFiles = append(cmd.ExtraFiles, os.NewFile(uintptr(theirs), "cgroup")) // closed by the garbage collector
	cmd.Args = append([]string{"/proc/self/exe", helperPrefix + "join", place, cmd.Path}, cmd.Args...)
	cmd.Path = "/proc/self/exe"
	return nil
}

// clone3Refused says whether a sandbox keeps clone3 from us. A call without arguments
// starts nothing; the kernel itself answers it with EINVAL.
func clone3Refused() bool {
	_, _, errno := unix.RawSyscall(unix.SYS_CLONE3, 0, 0, 0)
	return errno == unix.ENOSYS || errno == unix.EPERM
}

// modeJoin moves itself to the cgroup of an inherited descriptor and becomes a
// program: descriptor, path, arguments.
func modeJoin(args []string) int {
	if len(args) < 3 {
		return complain(errors.New("join is for linuxtest itself"))
	}
	group, err := strconv.Atoi(args[0])
	if err != nil {
		return complain(err)
	}
	procs, err := unix.Openat(group, "cgroup.procs", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return complain(fmt.Errorf("open cgroup.procs: %w", err))
	}
	runtime.LockOSThread()
	if _, err := unix.Write(procs, []byte("0")); err != nil {
		return complain(fmt.Errorf("join the cgroup: %w", err))
	}
	unix.CloseOnExec(group)
	return complain(fmt.Errorf("execute %s: %w", args[1], syscall.Exec(args[1], args[2:], os.Environ())))
}
