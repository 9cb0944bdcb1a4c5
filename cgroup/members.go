package cgroup

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// PIDs returns the numbers of the processes in this very cgroup, without those
// below it and without zombies. Numbers are for printing and auditing: a process
// may be gone, and its number somebody else's, before the caller reads it. A
// process outside the caller's PID namespace is listed as 0.
func (d *Dir) PIDs() ([]int, error) {
	pids, err := pidsAt(d.fd, nil)
	if err != nil {
		return nil, d.wrap("read processes", err)
	}
	return pids, nil
}

// PIDsRecursive is like [Dir.PIDs] for this cgroup and all below it.
func (d *Dir) PIDsRecursive() ([]int, error) {
	var pids []int
	err := d.walk(func(dirfd int) (err error) {
		pids, err = pidsAt(dirfd, pids)
		return err
	})
	if err != nil {
		return nil, d.wrap("read processes", err)
	}
	return pids, nil
}

// pidsAt appends the processes of one cgroup to pids.
func pidsAt(dirfd int, pids []int) ([]int, error) {
	var buf [4096]byte
	b, err := readAt(dirfd, "cgroup.procs", buf[:0])
	if err == unix.EOPNOTSUPP {
		return threadGroupsAt(dirfd, pids)
	}
	if err != nil {
		return pids, err
	}
	return appendInts(pids, b), nil
}

// threadGroupsAt lists the processes that have a thread in a threaded cgroup,
// where cgroup.procs cannot be read.
func threadGroupsAt(dirfd int, pids []int) ([]int, error) {
	b, err := readAt(dirfd, "cgroup.threads", nil)
	if err != nil {
		return pids, err
	}
	first := len(pids)
	for _, tid := range appendInts(nil, b) {
		pid := threadGroup(tid)
		if pid != 0 && !slices.Contains(pids[first:], pid) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// threadGroup returns the process that a thread belongs to, 0 if it is gone.
func threadGroup(tid int) int {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", tid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(status), "\nTgid:")
	line, _, _ := strings.Cut(rest, "\n")
	pid, _ := strconv.Atoi(strings.TrimSpace(line))
	return pid
}

// appendInts appends the numbers of a file with one number per line.
func appendInts(ints []int, b []byte) []int {
	for len(b) > 0 {
		line, rest, _ := bytes.Cut(b, []byte{'\n'})
		b = rest
		if n, err := strconv.Atoi(string(line)); err == nil {
			ints = append(ints, n)
		}
	}
	return ints
}

// HoldsSelf says whether the calling process or one of its ancestors is in this
// cgroup or below it. Ancestors are found through /proc as far as it shows them.
func (d *Dir) HoldsSelf() (bool, error) {
	st, err := statFD(d.fd)
	if err == nil && st.Nlink > 2 { // there may be thousands of cgroups below
		if held, known := d.holdsAny(ownLine()); known {
			return held, nil
		}
	}
	var ours []int
	held := false
	var pids []int
	err = d.walk(func(dirfd int) (err error) {
		pids, err = pidsAt(dirfd, pids[:0])
		if len(pids) > 0 && ours == nil {
			ours = ownLine()
		}
		held = held || slices.ContainsFunc(pids, func(pid int) bool { return slices.Contains(ours, pid) })
		return err
	})
	if err != nil {
		return false, d.wrap("look for ourselves in processes", err)
	}
	return held, nil
}

// refuseSelf gives ErrSelf if the operation would hit the caller.
func (d *Dir) refuseSelf(act string) error {
	held, err := d.HoldsSelf()
	if err == nil && held {
		err = fmt.Errorf("%s of %s: %w", act, d.Path(), ErrSelf)
	}
	return err
}

// ownLine returns the caller's own number and those of its ancestors. The numbers
// cannot be stale in a way that matters: a living process keeps its own, and so
// does its parent until the process is given another one.
func ownLine() []int {
	line := []int{os.Getpid()}
	ppid := os.Getppid()
	for ppid > 0 && !slices.Contains(line, ppid) {
		line = append(line, ppid)
		if len(line) == 2 && !procIsOurs() {
			break // /proc counts in another PID namespace
		}
		ppid = parentOf(ppid)
	}
	return line
}

// procIsOurs says whether the numbers in /proc are those that the kernel gives us.
func procIsOurs() bool {
	self, err := os.Readlink("/proc/self")
	return err == nil && self == strconv.Itoa(os.Getpid())
}

// parentOf returns the parent of a process, 0 if it is not to be seen.
func parentOf(pid int) int {
	var buf [512]byte
	stat, err := readAt(unix.AT_FDCWD, "/proc/"+strconv.Itoa(pid)+"/stat", buf[:0])
	if err != nil {
		return 0
	}
	// pid (comm) state ppid ...; comm may hold spaces and brackets.
	rest := stat[bytes.LastIndexByte(stat, ')')+1:]
	if len(rest) < 3 {
		return 0
	}
	ppid, _, _ := bytes.Cut(rest[3:], []byte{' '})
	n, _ := strconv.Atoi(string(ppid))
	return n
}

// Contains says whether the cgroup with that id, as PIDFD_GET_INFO reports it for a
// process, is this one or one below it.
func (d *Dir) Contains(id uint64) (bool, error) {
	found := false
	err := d.walk(func(dirfd int) error {
		st, err := statFD(dirfd)
		found = found || st.Ino == id
		return err
	})
	if err != nil {
		return false, d.wrap("look for a cgroup id in the tree", err)
	}
	return found, nil
}

// MoveSelf moves the calling process, with all its threads, into this cgroup.
func (d *Dir) MoveSelf() error {
	if err := writeAt(d.fd, "cgroup.procs", "0"); err != nil {
		return d.wrap("move ourselves into cgroup.procs", err)
	}
	return nil
}
