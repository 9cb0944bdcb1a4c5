package main

import (
	"bufio"
	"fmt"
	"os"
	"runtime/debug"
	"strings"

	"golang.org/x/sys/unix"
)

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
