package weak

import (
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// striker kills descendants as fast as it can. What forks is beaten by being found
// within one time slice, all of it; so there is no looking at a process that a list
// can prove to be ours, no list of threads, and no garbage.
//
// It may miss some, and stays away from every number that it has killed once. What
// it has missed [kin.each] finds.
type striker struct {
	children func(pid int) []int
	killed   map[int]bool
}

func newStriker() *striker {
	l := lister{buf: make([]byte, 1<<16)}
	return &striker{children: l.children, killed: map[int]bool{}}
}

// target is a process that was on a list of children before it was opened.
type target struct{ pid, fd int }

// below kills the children of a process and theirs, and returns how many it has
// killed. parent is the pidfd of that process; -1 is this one. A number is opened
// first and then looked up in the list once more: what is there, below a parent that
// has its number still, is the process that was opened.
func (s *striker) below(pid, parent int) int {
	targets := s.open(s.children(pid))
	if len(targets) == 0 {
		return 0
	}
	again := s.children(pid)
	slices.Sort(again)
	proven := parent < 0 || unix.PidfdSendSignal(parent, 0, nil, 0) == nil
	n := 0
	for _, t := range targets {
		if _, listed := slices.BinarySearch(again, t.pid); listed && proven {
			n += s.kill(t)
		}
		_ = unix.Close(t.fd) // nothing to lose
	}
	return n
}

// kill kills one and what is below it: of a process that got SIGKILL the list of
// children is final.
func (s *striker) kill(t target) int {
	// The group first, in one step; only a leader has one. Before Linux 6.9 nobody.
	_ = unix.PidfdSendSignal(t.fd, unix.SIGKILL, nil, unix.PIDFD_SIGNAL_PROCESS_GROUP)
	if unix.PidfdSendSignal(t.fd, unix.SIGKILL, nil, 0) != nil {
		return 0 // gone, or not ours to kill
	}
	s.killed[t.pid] = true
	return 1 + s.below(t.pid, t.fd)
}

// open takes hold of what was not killed before.
func (s *striker) open(pids []int) []target {
	var targets []target
	for _, pid := range pids {
		if s.killed[pid] {
			continue
		}
		if fd, err := unix.PidfdOpen(pid, 0); err == nil {
			targets = append(targets, target{pid, fd})
		}
	}
	return targets
}

// lister reads lists of children.
type lister struct{ buf []byte }

// children returns the children of a process's first thread. That is where orphans
// come to, and all there is in most programs.
func (l lister) children(pid int) (pids []int) {
	name := strconv.Itoa(pid)
	fd, err := unix.Open("/proc/"+name+"/task/"+name+"/children", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil // gone
	}
	defer func() { _ = unix.Close(fd) }() // read-only; nothing to lose
	number := 0
	for {
		n, err := unix.Read(fd, l.buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return pids
		}
		for _, b := range l.buf[:n] {
			switch {
			case b >= '0' && b <= '9':
				number = 10*number + int(b-'0')
			case number > 0:
				pids = append(pids, number)
				number = 0
			}
		}
	}
}
