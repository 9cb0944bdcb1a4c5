package linuxtest

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// forkModes leave processes behind. The copies are bare forks that run no Go
// code: one costs under a millisecond, where a helper of its own costs ten. They
// block every signal but TERM, KILL and STOP, and end after HelperLife.
func forkModes() []builtin {
	return []builtin{
		{usage: "double-fork [stay]", does: "leaves a daemon in its own session; exits, or lives with stay", run: modeDoubleFork},
		{usage: "hold-pipe", does: "exits at once; a daemon keeps stdout and stderr open", run: modeHoldPipe},
		{usage: "setsid-storm N", does: "starts N children, each in a session of its own; prints ready, lives", run: modeSetsidStorm},
		{usage: "late-setsid AFTER", does: "starts a child that leaves for its own session later; prints ready", run: modeLateSetsid},
		{usage: "fork-bomb DEPTH", does: "becomes 2^DEPTH processes (DEPTH up to 10), prints ready, lives", run: modeForkBomb},
		{usage: "fork-chain N", does: "N chains of fork, setsid and exit, for 10 s at most: never the same PID", run: modeForkChain},
		{usage: "zombies N", does: "has N children that have ended and are not reaped; prints ready, lives", run: modeZombies},
	}
}

// forked is what a forked copy needs to know; the copy may not allocate.
type forked struct {
	until  unix.Timespec // on CLOCK_MONOTONIC
	late   unix.Timespec // when to leave for a session of its own; 0 is at once
	null   int           // put in place of 0, 1 and 2; -1 keeps them
	dfl    [4]uint64     // struct sigaction: SIG_DFL
	unmask uint64
}

// newForked prepares copies that live for so many seconds.
func newForked(seconds int64) (*forked, error) {
	f := &forked{null: -1, unmask: ^uint64(1 << (unix.SIGTERM - 1))}
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &f.until); err != nil {
		return nil, fmt.Errorf("read the clock: %w", err)
	}
	f.until.Sec += seconds
	return f, nil
}

func modeDoubleFork(args []string) int {
	null, err := unix.Open(os.DevNull, unix.O_RDWR, 0)
	if err != nil {
		return complain(err)
	}
	if err := daemon(null); err != nil {
		return complain(err)
	}
	fmt.Println("ready")
	if arg(args, 0, "") == "stay" {
		return live(nil)
	}
	return 0
}

func modeHoldPipe([]string) int {
	if err := daemon(-1); err != nil {
		return complain(err)
	}
	return 0
}

// daemon leaves a grandchild in its own session. null replaces its files.
func daemon(null int) error {
	f, err := newForked(int64(HelperLife.Seconds()))
	if err != nil {
		return err
	}
	f.null = null
	pid, errno := forkDaemon(f)
	if errno != 0 {
		return fmt.Errorf("fork: %w", errno)
	}
	// Once the child has ended the grandchild exists.
	for {
		_, err = unix.Wait4(pid, nil, 0, nil)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func modeSetsidStorm(args []string) int {
	n, err := number(args, 0, 20)
	if err != nil {
		return complain(err)
	}
	f, err := newForked(int64(HelperLife.Seconds()))
	if err != nil {
		return complain(err)
	}
	for range min(n, 5000) {
		if errno := forkSession(f); errno != 0 {
			return complain(fmt.Errorf("fork: %w", errno))
		}
	}
	fmt.Println("ready")
	return live(nil)
}

func modeLateSetsid(args []string) int {
	f, err := newForked(int64(HelperLife.Seconds()))
	if err != nil {
		return complain(err)
	}
	after, err := time.ParseDuration(arg(args, 0, "100ms"))
	if err != nil {
		return complain(err)
	}
	f.late = unix.NsecToTimespec(f.until.Nano() - (HelperLife - min(after, HelperLife)).Nanoseconds())
	if errno := forkSession(f); errno != 0 {
		return complain(fmt.Errorf("fork: %w", errno))
	}
	fmt.Println("ready")
	return live(nil)
}

func modeForkBomb(args []string) int {
	depth, err := number(args, 0, 6)
	if err != nil {
		return complain(err)
	}
	f, err := newForked(int64(HelperLife.Seconds()))
	if err != nil {
		return complain(err)
	}
	if errno := forkTree(f, min(depth, 10)); errno != 0 {
		return complain(fmt.Errorf("fork: %w", errno))
	}
	fmt.Println("ready")
	return live(nil)
}

func modeForkChain(args []string) int {
	n, err := number(args, 0, 4)
	if err != nil {
		return complain(err)
	}
	f, err := newForked(10)
	if err != nil {
		return complain(err)
	}
	for range min(n, 50) {
		if errno := forkChain(f); errno != 0 {
			return complain(fmt.Errorf("fork: %w", errno))
		}
	}
	fmt.Println("ready")
	return live(nil)
}

func modeZombies(args []string) int {
	n, err := number(args, 0, 1)
	if err != nil {
		return complain(err)
	}
	f := &forked{null: -1} // its time is over already
	for range min(n, 1000) {
		if errno := forkSession(f); errno != 0 {
			return complain(fmt.Errorf("fork: %w", errno))
		}
	}
	fmt.Println("ready")
	return live(nil)
}

// The functions below run in copies of this thread. No Go runtime is there: no
// allocation, no stack growth, no lock, no instrumentation. Signals are blocked
// around each fork, so no Go handler runs in a copy.

//go:norace
//go:nosplit
func rawFork(old *uint64) (uintptr, syscall.Errno) {
	all := ^uint64(0)
	unix.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&all)), uintptr(unsafe.Pointer(old)), 8, 0, 0)
	pid, _, errno := unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if pid != 0 || errno != 0 {
		unix.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(old)), 0, 8, 0, 0)
	}
	return pid, errno
}

//go:norace
//go:nosplit
func rawExit() {
	for {
		unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	}
}

// rawLive is the rest of a copy's life: it dies of TERM or when its time is over.
//
//go:norace
//go:nosplit
func rawLive(f *forked) {
	if f.null >= 0 {
		for i := uintptr(0); i < 3; i++ {
			unix.RawSyscall(unix.SYS_DUP3, uintptr(f.null), i, 0)
		}
	}
	unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(unix.SIGTERM), uintptr(unsafe.Pointer(&f.dfl)), 0, 8, 0, 0)
	unix.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&f.unmask)), 0, 8, 0, 0)
	rawSleep(&f.until)
	rawExit()
}

//go:norace
//go:nosplit
func rawSleep(until *unix.Timespec) {
	for {
		_, _, errno := unix.RawSyscall6(unix.SYS_CLOCK_NANOSLEEP, unix.CLOCK_MONOTONIC, unix.TIMER_ABSTIME, uintptr(unsafe.Pointer(until)), 0, 0, 0)
		if errno != unix.EINTR {
			return
		}
	}
}

//go:norace
//go:nosplit
func forkDaemon(f *forked) (int, syscall.Errno) {
	var old uint64
	pid, errno := rawFork(&old)
	if pid != 0 || errno != 0 {
		return int(pid), errno
	}
	unix.RawSyscall(unix.SYS_SETSID, 0, 0, 0)
	if pid, _ = rawFork(&old); pid == 0 {
		rawLive(f)
	}
	rawExit()
	return 0, 0
}

//go:norace
//go:nosplit
func forkSession(f *forked) syscall.Errno {
	var old uint64
	pid, errno := rawFork(&old)
	if pid != 0 || errno != 0 {
		return errno
	}
	rawSleep(&f.late)
	unix.RawSyscall(unix.SYS_SETSID, 0, 0, 0)
	rawLive(f)
	return 0
}

// forkTree doubles the number of processes so many times. It returns only in the
// first one.
//
//go:norace
//go:nosplit
func forkTree(f *forked, depth int) syscall.Errno {
	var old uint64
	first := true
	for ; depth > 0; depth-- {
		pid, errno := rawFork(&old)
		if errno != 0 && first {
			return errno
		}
		if errno == 0 && pid == 0 {
			first = false
		}
	}
	if !first {
		rawLive(f)
	}
	return 0
}

// forkChain starts a process that forks and exits, and so does its child, until
// the time is over. Each is in a session of its own.
//
//go:norace
//go:nosplit
func forkChain(f *forked) syscall.Errno {
	var old uint64
	pid, errno := rawFork(&old)
	if pid != 0 || errno != 0 {
		return errno
	}
	var now unix.Timespec
	for {
		unix.RawSyscall(unix.SYS_SETSID, 0, 0, 0)
		unix.RawSyscall(unix.SYS_CLOCK_GETTIME, unix.CLOCK_MONOTONIC, uintptr(unsafe.Pointer(&now)), 0)
		if now.Sec >= f.until.Sec {
			rawExit()
		}
		if pid, errno = rawFork(&old); pid != 0 || errno != 0 {
			rawExit()
		}
	}
}
