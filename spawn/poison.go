package spawn

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"time"

	"github.com/pitvisor/pitvisor/cgroup"
	"golang.org/x/sys/unix"
)

// Poisoned says whether the kernel kills everything that this process starts in a
// fresh cgroup. That happens in a process that sits in a cgroup which was once
// killed, on kernels from 6.14 to 7.2; moving itself into a fresh leaf cures it
// ([cgroup.Dir.MoveSelf]).
//
// It tries: in a new child of root, removed again, it starts a program that cannot
// exist. A healthy kernel says so. Nothing is left behind.
func Poisoned(root *cgroup.Dir) (bool, error) {
	const tries = 100 // of microseconds, in which a sweep may remove what is empty and not locked
	for try := 1; ; try++ {
		poisoned, err := canary(root)
		if err == nil {
			return poisoned, nil
		}
		if try == tries || !takenAway(err) {
			return false, fmt.Errorf("start a canary in %s: %w", root.Path(), err)
		}
	}
}

// takenAway says that the canary's cgroup was swept before it was locked.
func takenAway(err error) bool {
	return errors.Is(err, cgroup.ErrGone) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, cgroup.ErrLocked)
}

// noProgram cannot exist, and is told from a missing cgroup by its errno: ENOTDIR.
const noProgram = "/dev/null/canary"

func canary(root *cgroup.Dir) (poisoned bool, err error) {
	leaf, err := root.Create(canaryName())
	if err != nil {
		return false, err
	}
	defer func() {
		err = errors.Join(err, root.RemoveChild(leaf.Name(), leaf.ID()), leaf.Close())
	}()
	if err := leaf.Lock(); err != nil { // no sweep removes it then
		return false, err
	}
	events, err := leaf.Events()
	if err != nil {
		return false, err
	}
	if events.Frozen {
		return false, errors.New("the cgroup is frozen")
	}
	var pidfd int
	p, err := startTracked(noProgram, []string{noProgram}, &syscall.ProcAttr{
		Sys: &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: leaf.FD(), PidFD: &pidfd},
	})
	switch {
	case err == nil: // "started": it died before it could say that there is no program
		return true, bury(p)
	case errors.Is(err, unix.ENOTDIR):
		return false, nil
	case Clone3Refused(): // starts go through the helper, which this does not hit
		return false, nil
	case errors.Is(err, unix.ENOENT):
		if there, existsErr := leaf.Exists(); existsErr == nil && !there {
			return false, cgroup.ErrGone
		}
		return false, nil // no /dev/null here
	}
	return false, err
}

// canaryName is one that nobody else has: the kernel's clock counts nanoseconds, and
// two threads of one process do not get the same.
func canaryName() string {
	return fmt.Sprintf("supervisor-canary-%d-%d-%d", unix.Getpid(), unix.Gettid(), time.Now().UnixNano())
}

// bury waits for the end of a process that is about to die.
func bury(p *Process) error {
	_, err := p.Wait(context.Background())
	return errors.Join(err, p.Close())
}
