package procfs

import (
	"bytes"
	"fmt"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Stat is what /proc/<pid>/stat says.
type Stat struct {
	Comm    string // may hold any bytes but a zero
	State   byte   // R, S, D, T, t, Z, X or I
	PPID    int    // 0 when the parent is outside this /proc's PID namespace
	Group   int    // process group; 0 when its leader was outside the namespace
	Session int    // 0 likewise
	Start   uint64 // clock ticks since boot

	// Where its code and its environment begin in its memory. The kernel sets the first
	// when it has laid out a program with arguments and environment. Code is 0 before
	// that and for a process without memory, 1 if it is hidden from the caller.
	Code, Env uint64
}

// ticks is USER_HZ, which is part of the kernel's interface on the architectures
// that Go knows.
const ticks = 100

// Stat reads the process's stat line, which needs no right but to see the process.
func (p *Process) Stat() (Stat, error) {
	b, err := p.Read("stat", smallFile)
	if err != nil {
		return Stat{}, err
	}
	s, ok := parseStat(b)
	if !ok {
		return Stat{}, fmt.Errorf("read /proc/%d/stat: unknown line %q", p.pid, b)
	}
	return s, nil
}

// parseStat reads "pid (comm) state ppid pgrp session ... starttime ...".
func parseStat(b []byte) (Stat, bool) {
	open := bytes.IndexByte(b, '(')
	end := bytes.LastIndexByte(b, ')') // comm may hold brackets
	if open < 0 || end < open {
		return Stat{}, false
	}
	s := Stat{Comm: string(b[open+1 : end])}
	fields := bytes.Fields(b[end+1:])
	const start, code, env = 22 - 3, 26 - 3, 50 - 3 // fields counted from the one behind the name
	if len(fields) <= env || len(fields[0]) != 1 {
		return Stat{}, false
	}
	s.State = fields[0][0]
	for i, to := range []*int{&s.PPID, &s.Group, &s.Session} {
		n, err := strconv.Atoi(string(fields[1+i]))
		if err != nil {
			return Stat{}, false
		}
		*to = n
	}
	for i, to := range map[int]*uint64{start: &s.Start, code: &s.Code, env: &s.Env} {
		n, err := strconv.ParseUint(string(fields[i]), 10, 64)
		if err != nil {
			return Stat{}, false
		}
		*to = n
	}
	return s, true
}

// Age returns how long the process has been there, to a hundredth of a second.
func (s Stat) Age() time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return 0
	}
	return max(0, time.Duration(now.Nano())-time.Duration(s.Start)*(time.Second/ticks))
}

// UID returns the effective user ID, whose files the process may use.
func (p *Process) UID() (uint32, error) {
	b, err := p.Read("status", smallFile)
	if err != nil {
		return 0, err
	}
	uid, ok := parseUID(b)
	if !ok {
		return 0, fmt.Errorf("read /proc/%d/status: no user in %q", p.pid, b)
	}
	return uid, nil
}

// parseUID finds "Uid: real effective saved file-system".
func parseUID(status []byte) (uint32, bool) {
	for line := range bytes.Lines(status) {
		rest, ok := bytes.CutPrefix(line, []byte("Uid:"))
		if ids := bytes.Fields(rest); ok && len(ids) == 4 {
			n, err := strconv.ParseUint(string(ids[1]), 10, 32)
			return uint32(n), err == nil
		}
	}
	return 0, false
}
