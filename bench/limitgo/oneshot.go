package main

import (
	"fmt"
	"os"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// oneshotMode makes this program the floor of one command: `limitgo oneshot ROOT FILE|- COMMAND...`.
const oneshotMode = "oneshot"

// shot is one command in a run of its own. It does what oneshot.c does, and as that no more.
type shot struct {
	root, run, leaf int
	name            string
	record          int // -1: none
}

// oneshot runs one command and returns its exit code.
func oneshot(args []string) (int, error) {
	if len(args) < 3 {
		return 0, fmt.Errorf("usage: limitgo %s ROOT FILE|- COMMAND [ARG]", oneshotMode)
	}
	s := shot{name: "run-" + strconv.Itoa(os.Getpid()), record: -1}
	if args[1] != "-" {
		fd, err := unix.Open(args[1], unix.O_WRONLY|unix.O_CREAT|unix.O_APPEND|unix.O_CLOEXEC, 0o644)
		if err != nil {
			return 0, fmt.Errorf("open %s: %w", args[1], err)
		}
		s.record = fd
	}
	if err := s.makeRun(args[0]); err != nil {
		return 0, err
	}
	if err := s.write("start", 0); err != nil {
		return 0, err
	}
	code, err := s.execute(args[2:])
	if err != nil {
		return 0, err
	}
	if err := s.removeRun(); err != nil {
		return 0, err
	}
	return code, s.write("end", code)
}

func (s *shot) makeRun(root string) error {
	var err error
	if s.root, err = unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return fmt.Errorf("open %s: %w", root, err)
	}
	if s.run, err = makeCgroup(s.root, s.name); err != nil {
		return err
	}
	if err := unix.Flock(s.run, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("lock the run: %w", err)
	}
	if err := unix.Fsetxattr(s.run, "user.bench.run", []byte(s.name), unix.XATTR_CREATE); err != nil {
		return fmt.Errorf("label the run: %w", err)
	}
	job, err := makeCgroup(s.run, "job")
	if err != nil {
		return err
	}
	s.leaf, err = makeCgroup(job, "0.1")
	_ = unix.Close(job) // read-only; nothing to lose
	return err
}

func (s *shot) write(event string, code int) error {
	if s.record < 0 {
		return nil
	}
	line := fmt.Appendf(nil, "{\"event\":%q,\"run\":%q,\"code\":%d}\n", event, s.name, code)
	if _, err := unix.Write(s.record, line); err != nil {
		return fmt.Errorf("write the record: %w", err)
	}
	if err := unix.Fdatasync(s.record); err != nil {
		return fmt.Errorf("sync the record: %w", err)
	}
	return nil
}

// execute starts the command inside the leaf and waits for it by its pidfd.
func (s *shot) execute(command []string) (int, error) {
	pidfd := -1
	_, err := syscall.ForkExec(command[0], command, &syscall.ProcAttr{
		Env: os.Environ(), Files: []uintptr{0, 1, 2},
		Sys: &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: s.leaf, PidFD: &pidfd},
	})
	if err != nil {
		return 0, fmt.Errorf("start %s: %w", command[0], err)
	}
	var info unix.Siginfo
	for {
		err := unix.Waitid(unix.P_PIDFD, pidfd, &info, unix.WEXITED, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("reap the command: %w", err)
		}
		return exitCode(&info), nil
	}
}

// exitCode is the code as shells give it. x/sys leaves the part of siginfo_t blank that a child fills: behind three
// numbers and their padding pid, uid and status.
func exitCode(info *unix.Siginfo) int {
	const exited = 1 // CLD_EXITED
	status := int((*[7]int32)(unsafe.Pointer(info))[6])
	if info.Code == exited {
		return status
	}
	return 128 + status
}

func (s *shot) removeRun() error {
	err := unix.Unlinkat(s.run, "job/0.1", unix.AT_REMOVEDIR)
	if err == unix.EBUSY {
		if err := killCgroup(s.leaf); err != nil {
			return err
		}
		err = unix.Unlinkat(s.run, "job/0.1", unix.AT_REMOVEDIR)
	}
	if err != nil {
		return fmt.Errorf("remove the leaf: %w", err)
	}
	if err := unix.Unlinkat(s.run, "job", unix.AT_REMOVEDIR); err != nil {
		return fmt.Errorf("remove the job: %w", err)
	}
	if err := unix.Unlinkat(s.root, s.name, unix.AT_REMOVEDIR); err != nil {
		return fmt.Errorf("remove the run: %w", err)
	}
	return nil
}
