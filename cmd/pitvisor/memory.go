package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// settleTime is how long after the last worker was ready for the first time the
	// memory of the start is returned: nothing hangs on it, so it may come after
	// everything that does.
	settleTime = 100 * time.Millisecond
	// smallHeap is how many bytes of heap may stay as they are. Later the runtime
	// itself returns what is not used, in minutes.
	smallHeap = 8 << 20
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

// releaseStartup gives back the memory that only the start needed: the pages of
// the program itself that were touched on the way, and a heap that is worth the
// price of a collection. Code that runs again is mapped again from the page cache.
// A supervisor that does nothing for months keeps little of either.
func releaseStartup() error {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	if m.HeapSys-m.HeapReleased > smallHeap {
		debug.FreeOSMemory()
	}
	return releaseProgram()
}

// releaseProgram unmaps what nobody can have written to.
func releaseProgram() error {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(maps)) {
		if err := releaseMapping(line, exe); err != nil {
			return fmt.Errorf("release %q: %w", line, err)
		}
	}
	return nil
}

// releaseMapping unmaps the pages of one mapping, as proc_pid_maps(5) shows it,
// if it is a part of exe that is not written to.
func releaseMapping(line, exe string) error {
	fields := strings.Fields(line)
	if len(fields) != 6 || fields[5] != exe || fields[1] != "r-xp" && fields[1] != "r--p" {
		return nil
	}
	first, last, _ := strings.Cut(fields[0], "-")
	from, err := strconv.ParseUint(first, 16, 64)
	if err != nil {
		return err
	}
	to, err := strconv.ParseUint(last, 16, 64)
	if err != nil {
		return err
	}
	_, _, errno := unix.Syscall(unix.SYS_MADVISE, uintptr(from), uintptr(to-from), unix.MADV_DONTNEED)
	if errno != 0 {
		return errno
	}
	return nil
}
