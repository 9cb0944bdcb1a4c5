package linuxtest

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Proc is what /proc says about a process, for messages. The numbers may belong
// to somebody else by the time they are read; nothing may be signalled by them.
type Proc struct {
	PID, PPID int
	Comm      string
	State     byte // R, S, D, T, Z, X; 0 when the process was gone
	Args      []string
	Start     uint64        // clock ticks after boot
	Age       time.Duration // 0 when the process was gone
	Cgroup    string        // where it was found, "" when not asked
}

// String is one line: number, parent, name, state, age, command line.
func (p Proc) String() string {
	if p.State == 0 {
		return fmt.Sprintf("pid %d (already gone)", p.PID)
	}
	s := fmt.Sprintf("pid %d ppid %d %s state %c age %v", p.PID, p.PPID, p.Comm, p.State, p.Age.Round(time.Millisecond))
	if len(p.Args) > 0 {
		s += fmt.Sprintf(" %q", p.Args)
	}
	if p.Cgroup != "" {
		s += " in " + p.Cgroup
	}
	return s
}

// readProc never fails: a process that is gone has State 0.
func readProc(pid int) Proc {
	p := Proc{PID: pid}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return p
	}
	// The name may hold spaces and brackets: the last bracket ends it.
	open, end := bytes.IndexByte(stat, '('), bytes.LastIndexByte(stat, ')')
	if open < 0 || end < open {
		return p
	}
	p.Comm = string(stat[open+1 : end])
	fields := strings.Fields(string(stat[end+1:]))
	if len(fields) < 20 {
		return p
	}
	p.State = fields[0][0]
	p.PPID, _ = strconv.Atoi(fields[1])                // the kernel writes numbers
	p.Start, _ = strconv.ParseUint(fields[19], 10, 64) // field 22 of stat
	var now unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &now) == nil {
		p.Age = time.Duration(now.Nano()) - time.Duration(p.Start)*tick
	}
	if args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && len(args) > 0 {
		p.Args = strings.Split(strings.TrimSuffix(string(args), "\x00"), "\x00")
	}
	return p
}

// tick is the unit of times in /proc/<pid>/stat: USER_HZ is 100 on all of Linux.
const tick = 10 * time.Millisecond

// allPIDs lists the processes of this PID namespace.
func allPIDs() []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var pids []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// children lists the children of the test process, zombies included.
func children() []Proc {
	var found []Proc
	self := os.Getpid()
	for _, pid := range allPIDs() {
		if p := readProc(pid); p.State != 0 && p.PPID == self {
			found = append(found, p)
		}
	}
	return found
}
