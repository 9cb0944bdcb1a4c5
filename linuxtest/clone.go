package linuxtest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What keeps us from choosing a PID.
var (
	errSetTID   = errors.New("needs CAP_CHECKPOINT_RESTORE to choose a PID")
	errNoClone3 = errors.New("needs clone3 to choose a PID")
)

// needPID skips a test for these two.
func needPID(tb testing.TB, err error) {
	tb.Helper()
	for _, known := range []error{errSetTID, errNoClone3} {
		if errors.Is(err, known) {
			Skip(tb, known.Error())
		}
	}
}

// ForkPID starts a program that has exactly the given PID: clone3 with set_tid,
// Linux 5.5, CAP_CHECKPOINT_RESTORE (or CAP_SYS_ADMIN before 5.9), else the test
// is skipped. The number must be free; [ReusePID] waits for that.
func ForkPID(tb testing.TB, pid int, argv ...string) *Process {
	tb.Helper()
	return Command{Args: argv, PID: pid}.Start(tb)
}

// ReusePID gives the number of a process that has ended to a new one: what a
// busy machine does by chance, done on purpose. It waits up to 10 s until the old
// process is reaped by its parent and fails the test when it is not. The new one
// starts in another hundredth of a second, which is all that tells the two apart
// before Linux 6.9.
func ReusePID(tb testing.TB, pid int, argv ...string) *Process {
	tb.Helper()
	var p *Process
	called := bootTick(tb)
	Wait(tb, 10*time.Second, func() (bool, string) {
		if bootTick(tb) == called {
			return false, "time stands still"
		}
		c := Command{Args: argv, PID: pid}
		var err error
		p, err = c.start()
		needPID(tb, err)
		switch {
		case errors.Is(err, unix.EEXIST):
			return false, "the number is still in use: " + readProc(pid).String()
		case err != nil:
			tb.Fatalf("start %q as process %d: %v", argv, pid, err)
		}
		return true, ""
	})
	tb.Cleanup(func() { p.end(tb) })
	return p
}

// bootTick is the time since boot as the kernel gives the start of a process.
func bootTick(tb testing.TB) int64 {
	tb.Helper()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		tb.Fatalf("read the clock: %v", err)
	}
	return now.Nano() / int64(10*time.Millisecond)
}

// startAs gives the process the number c.PID where clone3 is refused, in a PID
// namespace of our own: the kernel is told which number was the last. A thread of ours
// may take it first.
func (p *Process) startAs(c Command, attr *syscall.ProcAttr) error {
	for range 100 {
		if _, taken := Identify(c.PID); taken {
			return fmt.Errorf("start process %d: %w", c.PID, unix.EEXIST)
		}
		if NextPID(c.PID) != nil {
			return errNoClone3
		}
		var err error
		if p.pid, err = StartProcess(c.Args[0], c.Args, attr); err != nil {
			return err
		}
		if p.pid == c.PID {
			return nil
		}
		_ = p.Signal(unix.SIGKILL) // it may have ended
		if _, ended, err := p.wait(10 * time.Second); !ended {
			return fmt.Errorf("end process %d: %w", p.pid, err)
		}
		_ = unix.Close(p.fd) // of the wrong one
		p.reaped = false
	}
	return fmt.Errorf("start process %d: the kernel gives other numbers", c.PID)
}

// cloneArgs is struct clone_args of linux/sched.h, up to cgroup (Linux 5.7).
type cloneArgs struct {
	flags, pidfd, childTID, parentTID, exitSignal uint64
	stack, stackSize, tls, setTID, setTIDSize     uint64
	cgroup                                        uint64
}

// child is all that the new process needs, prepared before it exists: between
// clone and exec it may not allocate.
type child struct {
	args   cloneArgs
	pidfd  int32
	setTID int32
	path   *byte
	dir    *byte
	argv   []*byte
	env    []*byte
	files  [3]int
	report int
	mask   uint64
	errno  uint32
}

// cloneAs starts c with the number c.PID.
func cloneAs(c Command, env []string, files [3]int, group int) (*Process, error) {
	ch := &child{files: files, setTID: int32(c.PID)}
	if err := ch.prepare(c, env); err != nil {
		return nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make a pipe: %w", err)
	}
	defer func() { _ = r.Close() }() // read-only; nothing to lose
	ch.report = int(w.Fd())
	ch.args = cloneArgs{flags: unix.CLONE_PIDFD, exitSignal: uint64(unix.SIGCHLD), setTIDSize: 1}
	if group >= 0 {
		ch.args.flags |= unix.CLONE_INTO_CGROUP
		ch.args.cgroup = uint64(group)
	}
	// Nothing else may fork while descriptors without CLOEXEC are about.
	syscall.ForkLock.Lock()
	runtime.LockOSThread()
	pid, errno := cloneExec(ch)
	runtime.UnlockOSThread()
	syscall.ForkLock.Unlock()
	_ = w.Close() // the child has its own
	if errno != 0 {
		if clone3Refused() {
			return nil, errNoClone3
		}
		if errno == unix.EPERM {
			return nil, errSetTID
		}
		return nil, fmt.Errorf("clone process %d: %w", c.PID, errno)
	}
	p := &Process{pid: int(pid), fd: int(ch.pidfd)}
	// The pipe closes by itself when exec succeeds.
	msg, err := io.ReadAll(r)
	if err == nil && len(msg) == 0 {
		return p, nil
	}
	_, _, _ = p.wait(10 * time.Second) // it has exited, or is about to
	_ = unix.Close(p.fd)
	if len(msg) >= 4 {
		err = syscall.Errno(uint32(msg[0]) | uint32(msg[1])<<8 | uint32(msg[2])<<16 | uint32(msg[3])<<24)
	}
	return nil, fmt.Errorf("exec %s: %w", c.Args[0], err)
}

func (ch *child) prepare(c Command, env []string) (err error) {
	if ch.path, err = unix.BytePtrFromString(c.Args[0]); err != nil {
		return fmt.Errorf("path %q: %w", c.Args[0], err)
	}
	if ch.argv, err = syscall.SlicePtrFromStrings(c.Args); err != nil {
		return fmt.Errorf("arguments %q: %w", c.Args, err)
	}
	if ch.env, err = syscall.SlicePtrFromStrings(env); err != nil {
		return fmt.Errorf("environment: %w", err)
	}
	if c.Dir != "" {
		if ch.dir, err = unix.BytePtrFromString(c.Dir); err != nil {
			return fmt.Errorf("directory %q: %w", c.Dir, err)
		}
	}
	return nil
}

// cloneExec makes the process. In the child only this function runs, on a copy
// of this thread and its stack: no allocation, no stack growth, no lock, no
// instrumentation. Signals are blocked so that no Go handler runs there.
//
//go:norace
//go:nosplit
func cloneExec(ch *child) (uintptr, unix.Errno) {
	// As numbers these pointers are not followed when a stack grows: set them here,
	// where it cannot.
	ch.args.pidfd = uint64(uintptr(unsafe.Pointer(&ch.pidfd)))
	ch.args.setTID = uint64(uintptr(unsafe.Pointer(&ch.setTID)))
	all := ^uint64(0)
	unix.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&all)), uintptr(unsafe.Pointer(&ch.mask)), 8, 0, 0)
	pid, _, errno := unix.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&ch.args)), unsafe.Sizeof(ch.args), 0)
	if errno != 0 || pid != 0 {
		unix.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&ch.mask)), 0, 8, 0, 0)
		return pid, errno
	}
	if ch.dir != nil {
		_, _, errno = unix.RawSyscall(unix.SYS_CHDIR, uintptr(unsafe.Pointer(ch.dir)), 0, 0)
	}
	// The three files are above 2 or already where they belong: os.File numbers
	// of the test process never are 0 to 2 unless they are the test's own.
	for i := 0; i < len(ch.files) && errno == 0; i++ {
		if ch.files[i] == i {
			_, _, errno = unix.RawSyscall(unix.SYS_FCNTL, uintptr(i), unix.F_SETFD, 0)
		} else {
			_, _, errno = unix.RawSyscall(unix.SYS_DUP3, uintptr(ch.files[i]), uintptr(i), 0)
		}
	}
	if errno == 0 {
		unix.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&ch.mask)), 0, 8, 0, 0)
		_, _, errno = unix.RawSyscall(unix.SYS_EXECVE, uintptr(unsafe.Pointer(ch.path)),
			uintptr(unsafe.Pointer(&ch.argv[0])), uintptr(unsafe.Pointer(&ch.env[0])))
	}
	ch.errno = uint32(errno)
	unix.RawSyscall(unix.SYS_WRITE, uintptr(ch.report), uintptr(unsafe.Pointer(&ch.errno)), 4)
	for {
		unix.RawSyscall(unix.SYS_EXIT_GROUP, 253, 0, 0)
	}
}
