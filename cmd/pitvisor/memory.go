package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// settleTime is how long after the last worker was ready for the first time the
	// memory of the start is returned: nothing hangs on it, so it may come after
	// everything that does.
	settleTime = 100 * time.Millisecond
	// startTime is how long a start keeps its memory if some worker is never ready.
	startTime = time.Minute
)

// slimDown waits until everything is up, and then sees to it that all is done that
// the start has left to do, and returns the memory that it needed. From then on a
// supervisor sleeps until something happens.
func (s *session) slimDown(ctx context.Context) {
	timer := time.NewTimer(startTime)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return
	case <-timer.C:
	case <-s.events.allReady:
	}
	s.history.Hurry()
	timer.Reset(settleTime)
	select {
	case <-ctx.Done():
	case <-timer.C:
		if err := releaseStartup(); err != nil {
			s.log.Debug("keep the memory of the start: " + err.Error())
		}
	}
}

// releaseStartup gives back the memory that only the start needed: free heap,
// and the pages of the program itself that were touched on the way. Code that
// runs again is mapped again from the page cache. A supervisor that does
// nothing for months keeps little of either.
func releaseStartup() error {
	debug.FreeOSMemory()
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return err
	}
	defer maps.Close()
	lines := bufio.NewScanner(maps)
	for lines.Scan() {
		if err := releaseMapping(lines.Text(), exe); err != nil {
			return fmt.Errorf("release %q: %w", lines.Text(), err)
		}
	}
	return lines.Err()
}

// releaseMapping unmaps the pages of one mapping, as proc_pid_maps(5) shows it,
// if it is a part of exe that nobody can have written to.
func releaseMapping(line, exe string) error {
	fields := strings.Fields(line)
	if len(fields) != 6 || fields[5] != exe || fields[1] != "r-xp" && fields[1] != "r--p" {
		return nil
	}
	var from, to uintptr
	if _, err := fmt.Sscanf(fields[0], "%x-%x", &from, &to); err != nil {
		return err
	}
	_, _, errno := unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED)
	if errno != 0 {
		return errno
	}
	return nil
}
