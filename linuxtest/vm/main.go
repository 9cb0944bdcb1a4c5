package vm

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// Main must be the first thing that the main of a binary with [Machine] does. As
// PID 1 of the guest, and in helper processes on the host, it does not return;
// otherwise it returns at once.
func Main() {
	switch {
	case os.Getpid() == 1 && exists(jobFile):
		guestMain()
	case os.Args[0] == probeName:
		probeMain()
	case os.Args[0] == guardName:
		os.Exit(guardMain(os.Args[1:]))
	}
}

// guardName is argv[0] of the process between us and QEMU.
const guardName = "linuxtest-vm-guard"

// guardLine is the guard's descriptor whose end says that nobody needs QEMU any
// more: the other one is held by the program that started it, and by nobody else.
const guardLine = 3

// guardMain starts QEMU and ends it when the guard's line ends, however the
// holder of the other end went. It holds QEMU by a pidfd.
func guardMain(argv []string) int {
	unix.CloseOnExec(guardLine)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	pidfd := -1
	// A session of its own: a Ctrl-C at the terminal is for the program, which
	// ends us in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{PidFD: &pidfd, Setsid: true}
	for fd := guardLine + 1; fd < guardLine+1+qemuFiles; fd++ {
		cmd.ExtraFiles = append(cmd.ExtraFiles, os.NewFile(uintptr(fd), "for qemu"))
	}
	if err := cmd.Start(); err != nil {
		fmt.Fprintf(os.Stderr, "start %s: %v\n", argv[0], err)
		return 1
	}
	fds := []unix.PollFd{{Fd: guardLine, Events: unix.POLLIN}, {Fd: int32(pidfd), Events: unix.POLLIN}}
	for {
		_, err := unix.Poll(fds, -1)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if fds[1].Revents == 0 {
		_ = unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0) // it may have exited just now
	}
	if err := cmd.Wait(); err != nil && fds[1].Revents != 0 {
		fmt.Fprintf(os.Stderr, "%s: %v\n", argv[0], err)
		return 1
	}
	return 0
}
