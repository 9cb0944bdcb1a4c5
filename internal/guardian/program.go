package guardian

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/pidfd"
	"golang.org/x/sys/unix"
)

// ready says that Main was called, so that executing this program again gives a
// guardian and not a second copy of the program. It is a fact about the process:
// there is one main.
var ready atomic.Bool

// endTime is how long a program tries to end the run.
const endTime = time.Minute

// ownerFD is where the program finds the pidfd of the owner.
const ownerFD = 3

// Main must be called first in main, and first in TestMain of tests that start a
// guardian. In a guardian that is a program it never returns, else it does at once.
//
// The guardian knows itself by argv[0] and by the pidfd that it has inherited.
func Main() {
	if len(os.Args) == 0 || os.Args[0] != comm {
		ready.Store(true)
		return
	}
	if err := guard(os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", comm, err) // to nobody, if it was started by Start
		os.Exit(1)
	}
	os.Exit(0)
}

// startProgram starts a guardian that is this program, executed again.
func startProgram(o Options) (*Guardian, error) {
	if !ready.Load() {
		return nil, fmt.Errorf("execute the guardian: this program has not called guardian.Main: %w", errors.ErrUnsupported)
	}
	owner, err := self()
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(owner) }() // the guardian has its own
	const closed = ^uintptr(0)
	fd := -1
	argv := []string{comm, o.Root.Path(), strconv.FormatUint(o.Root.ID(), 10), o.Run.Name(), strconv.FormatUint(o.Run.ID(), 10)}
	pid, _, err := syscall.StartProcess("/proc/self/exe", argv, &syscall.ProcAttr{
		Dir: "/",
		// For its own runtime: few threads, and no garbage collection.
		Env:   []string{"GOMAXPROCS=1", "GOGC=off"},
		Files: []uintptr{closed, closed, closed, uintptr(owner)},
		Sys:   &syscall.SysProcAttr{Setsid: true, PidFD: &fd},
	})
	if err != nil {
		return nil, fmt.Errorf("execute the guardian: %w", err)
	}
	return &Guardian{handle: pidfd.FromFD(fd, pid)}, nil
}

// guard is the guardian's main.
func guard(args []string) error {
	signal.Ignore()                                      // all that can be
	_ = os.WriteFile("/proc/self/comm", []byte(comm), 0) // no /proc: only the name is lost
	if len(args) != 4 {
		return errors.New("this is started by pitvisor itself")
	}
	rootID, rootErr := strconv.ParseUint(args[1], 10, 64)
	runID, runErr := strconv.ParseUint(args[3], 10, 64)
	if err := errors.Join(rootErr, runErr); err != nil {
		return err
	}
	if err := unix.PidfdSendSignal(ownerFD, 0, nil, 0); err != nil && err != unix.ESRCH && err != unix.EPERM {
		return fmt.Errorf("use descriptor %d, which is no pidfd: %w", ownerFD, err)
	}
	root, err := cgroup.Open(args[0])
	if err != nil {
		return err
	}
	if root.ID() != rootID {
		return fmt.Errorf("open %s: it is cgroup %d, want %d: %w", args[0], root.ID(), rootID, cgroup.ErrGone)
	}
	if err := pidfd.FromFD(ownerFD, 0).Wait(context.Background()); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), endTime)
	defer cancel()
	return root.Destroy(ctx, args[2], runID)
}
