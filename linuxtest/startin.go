package linuxtest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// StartProcess is syscall.StartProcess for tests that set CgroupFD: where clone3 is
// refused, as in most containers, the process joins the cgroup by itself before it
// becomes the program. A program with Ptrace cannot be started so, and one of another
// user only if that user may join.
func StartProcess(path string, argv []string, attr *syscall.ProcAttr) (pid int, err error) {
	pid, _, err = syscall.StartProcess(path, argv, attr)
	refused := errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM)
	if !refused || attr.Sys == nil || !attr.Sys.UseCgroupFD || !clone3Refused() {
		return pid, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer func() { _ = r.Close() }() // read-only; nothing to lose
	joining, sys := *attr, *attr.Sys
	sys.UseCgroupFD = false
	joining.Sys = &sys
	joining.Files = append(append([]uintptr{}, attr.Files...), uintptr(attr.Sys.CgroupFD), w.Fd())
	pid, _, err = syscall.StartProcess("/proc/self/exe", joinArgs(len(attr.Files), path, argv), &joining)
	_ = w.Close() // the process has its own
	if err != nil {
		return 0, err
	}
	if err := joined(r); err != nil {
		_, _ = unix.Wait4(pid, nil, 0, nil) // as syscall.StartProcess does
		if sys.PidFD != nil {
			_ = unix.Close(*sys.PidFD)
			*sys.PidFD = -1
		}
		return 0, err
	}
	return pid, nil
}

// StartCommand starts a command in the cgroup of an open directory, as [StartProcess]
// does.
func StartCommand(cmd *exec.Cmd, group int) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	if !clone3Refused() {
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, group
		return cmd.Start()
	}
	theirs, err := unix.FcntlInt(uintptr(group), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return fmt.Errorf("copy the descriptor of a cgroup: %w", err)
	}
	dir := os.NewFile(uintptr(theirs), "cgroup")
	defer func() { _ = dir.Close() }() // only named a place
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }() // read-only; nothing to lose
	cmd.Args = joinArgs(3+len(cmd.ExtraFiles), cmd.Path, cmd.Args)
	cmd.Path = "/proc/self/exe"
	cmd.ExtraFiles = append(cmd.ExtraFiles, dir, w)
	err = cmd.Start()
	_ = w.Close() // the process has its own
	if err != nil {
		return err
	}
	if err := joined(r); err != nil {
		_ = cmd.Wait() // it ended without becoming the program
		return err
	}
	return nil
}

func joinArgs(place int, path string, argv []string) []string {
	return append([]string{"/proc/self/exe", helperPrefix + "join", strconv.Itoa(place), path}, argv...)
}

// joined waits until the process is the program: then its end of the pipe closes.
func joined(r *os.File) error {
	text, err := io.ReadAll(r)
	if err != nil || len(text) == 0 {
		return err
	}
	errno, err := strconv.Atoi(string(text))
	if err != nil {
		return fmt.Errorf("join a cgroup: %q", text)
	}
	return unix.Errno(errno)
}

// clone3Refused says whether a sandbox keeps clone3 from us. A call without arguments
// starts nothing; the kernel itself answers it with EINVAL.
func clone3Refused() bool {
	_, _, errno := unix.RawSyscall(unix.SYS_CLONE3, 0, 0, 0)
	return errno == unix.ENOSYS || errno == unix.EPERM
}

// modeJoin moves itself to the cgroup of an inherited descriptor and becomes a
// program: descriptor, path, arguments. What goes wrong is written to the descriptor
// behind the first one, as a number.
func modeJoin(args []string) int {
	if len(args) < 3 {
		return complain(errors.New("join is for linuxtest itself"))
	}
	group, err := strconv.Atoi(args[0])
	if err != nil {
		return complain(err)
	}
	for fd := 3; fd < group; fd++ {
		_, _ = unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0) // main may have kept it from children; it may be closed
	}
	unix.CloseOnExec(group)
	unix.CloseOnExec(group + 1)
	runtime.LockOSThread()
	err = join(group)
	if err == nil {
		err = syscall.Exec(args[1], args[2:], os.Environ())
	}
	var errno unix.Errno
	if !errors.As(err, &errno) {
		return complain(err)
	}
	if _, err := unix.Write(group+1, []byte(strconv.Itoa(int(errno)))); err != nil {
		return complain(err)
	}
	return 125
}

func join(group int) error {
	procs, err := unix.Openat(group, "cgroup.procs", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	_, err = unix.Write(procs, []byte("0"))
	return err
}
