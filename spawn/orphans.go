package spawn

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ReapOrphans makes this process the one that orphans below it are given to, and
// reaps them until ctx ends. It is for a supervisor whose workers make daemons: the
// daemons stay in its tree and their zombies do not pile up. As PID 1 of a
// container a process has that duty anyway.
//
// It does not touch a child of [Start], running or dead, nor one whose start is
// just failing. It cannot tell any other child of this process from an orphan: a
// program that runs it must start all its children through this package, and so
// not with os/exec.
//
// An orphan is seen only when no child of Start that exited earlier waits to be
// reaped: the kernel shows them one at a time. Returns the cause of ctx.
func ReapOrphans(ctx context.Context) error {
	woken := tracked.claim()
	if woken == nil {
		return errors.New("reap orphans: that is being done already")
	}
	defer tracked.release()
	before, err := subreaper()
	if err != nil {
		return fmt.Errorf("reap orphans: become subreaper: %w", err)
	}
	defer func() { _ = setSubreaper(before) }() // it worked with 1
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGCHLD)
	defer signal.Stop(signals)
	const retry = time.Second // there is no event for "descriptors are to be had again"
	timer := time.NewTimer(retry)
	defer timer.Stop()
	var s sweeper
	defer s.drop()
	for {
		again := (<-chan time.Time)(nil)
		if err := s.sweep(); err != nil {
			timer.Reset(retry)
			again = timer.C
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-signals:
		case <-woken:
		case <-again:
		}
	}
}

// ChildLeft says whether this process has any child, one that has exited and was not
// reaped included. False from a process that has been one that orphans are given to
// is the kernel's word that it has no descendant left.
func ChildLeft() (bool, error) {
	_, err := waitAny(unix.WNOWAIT)
	if err == unix.ECHILD {
		return false, nil
	}
	if err != nil {
		return true, fmt.Errorf("look for children: %w", err)
	}
	return true, nil
}

// subreaper sets the attribute and returns what it was.
func subreaper() (before int, err error) {
	var was int32
	if err := unix.Prctl(unix.PR_GET_CHILD_SUBREAPER, uintptr(unsafe.Pointer(&was)), 0, 0, 0); err != nil {
		return 0, err
	}
	return int(was), setSubreaper(1)
}

func setSubreaper(on int) error {
	return unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, uintptr(on), 0, 0, 0)
}

// sweeper reaps the orphans that are zombies. What it looks at it holds by a pidfd:
// by its number a zombie could turn into somebody else between two looks, because a
// start that fails reaps its own child.
type sweeper struct {
	fd   int // pidfd of the zombie that is not decided; 0 is none
	pid  int
	mark uint64 // of the moment when it was held
}

// sweep returns when there is no zombie, or the first is not to be reaped now;
// whoever changes that wakes it.
func (s *sweeper) sweep() error {
	for {
		if s.fd == 0 {
			if found, err := s.next(); err != nil || !found {
				return err
			}
		}
		switch tracked.verdict(s.pid, s.mark) {
		case undecided:
			return nil
		case owned:
			s.drop()
			return nil
		case orphan:
			// ECHILD: its failing start has reaped it. No error and nothing reaped: the
			// number had a new owner when the pidfd was opened. Both are left alone.
			_, err := waitPidfd(s.fd, 0)
			s.drop()
			if err != nil && err != unix.ECHILD {
				return err
			}
		}
	}
}

// next takes hold of a zombie.
func (s *sweeper) next() (found bool, err error) {
	for {
		c, err := waitAny(unix.WNOWAIT)
		if err == unix.ECHILD || err == nil && c.pid == 0 {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		fd, err := unix.PidfdOpen(c.pid, 0)
		if err == unix.ESRCH {
			continue // reaped meanwhile
		}
		if err != nil {
			return false, err
		}
		// The mark comes after the pidfd: whatever it holds was made before.
		s.fd, s.pid, s.mark = fd, c.pid, tracked.now()
		return true, nil
	}
}

func (s *sweeper) drop() {
	if s.fd != 0 {
		_ = unix.Close(s.fd) // nothing to lose
		s.fd = 0
	}
}
