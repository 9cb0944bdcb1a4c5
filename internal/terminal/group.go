package terminal

import (
	"bytes"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// occupied says whether a process group has a member that has not exited, beside one
// that is known. When that cannot be seen it says so too.
func occupied(group, known int) bool {
	if group <= 0 {
		return false
	}
	// The only question about a group that the kernel answers without a signal. It
	// counts zombies in.
	if _, err := unix.Getpriority(unix.PRIO_PGRP, group); err == unix.ESRCH {
		return false
	}
	proc, err := os.Open("/proc")
	if err != nil {
		return true
	}
	defer func() { _ = proc.Close() }() // was only read
	names, err := proc.Readdirnames(-1)
	if err != nil {
		return true
	}
	explained := false // by zombies, and by the known one
	for _, name := range names {
		if name == strconv.Itoa(known) {
			explained = true
			continue
		}
		member, alive := memberOf(group, name)
		if alive {
			return true
		}
		explained = explained || member
	}
	return !explained
}

// memberOf says whether a process is in a group, and alive. The number is only used
// to read: a stranger who has it by then is none of the group.
func memberOf(group int, pid string) (member, alive bool) {
	if pid[0] < '1' || pid[0] > '9' {
		return false, false
	}
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return false, false // gone
	}
	// pid (name) state ppid pgrp; the name may hold spaces and brackets.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 3 || fields[2] != strconv.Itoa(group) {
		return false, false
	}
	return true, fields[0] != "Z" && fields[0] != "X"
}
