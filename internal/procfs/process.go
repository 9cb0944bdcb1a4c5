// Package procfs reads what /proc says about one process, and about no other.
//
// It is not for finding processes: it scans nothing, and it takes a number only to
// open a directory whose owner the caller must know how to verify.
package procfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/pitvisor/pitvisor/pidfd"
	"golang.org/x/sys/unix"
)

// smallFile bounds the files of a few lines.
const smallFile = 4096

// Process is one process, held by its directory below /proc: what is read through
// that descriptor is about this process or fails once it was reaped, whoever has
// the number then.
type Process struct {
	fd  int
	pid int
}

// Ours says whether the numbers in /proc are those that the kernel gives us. They
// are not where /proc was mounted in another PID namespace.
func Ours() bool {
	self, err := os.Readlink("/proc/self")
	return err == nil && self == strconv.Itoa(os.Getpid())
}

// Open holds the process that has the number now. It fails with [os.ErrNotExist]
// when there is none that this /proc shows.
func Open(pid int) (*Process, error) {
	for {
		fd, err := unix.Open("/proc/"+strconv.Itoa(pid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("open /proc/%d: %w", pid, err)
		}
		return &Process{fd: fd, pid: pid}, nil
	}
}

// OpenHeld holds the process of a pidfd; [os.ErrProcessDone] if it has exited.
func OpenHeld(p *pidfd.Process) (*Process, error) {
	pr, err := Open(p.PID())
	// As long as it lives nobody else can have had the number.
	exited, exitErr := p.Exited()
	if err == nil && exitErr == nil && !exited {
		return pr, nil
	}
	if err == nil {
		pr.Close()
	}
	if exited {
		return nil, os.ErrProcessDone
	}
	return nil, errors.Join(err, exitErr)
}

// Close gives the descriptor back.
func (p *Process) Close() {
	_ = unix.Close(p.fd) // a path; nothing to lose
}

// PID returns its number, for printing.
func (p *Process) PID() int { return p.pid }

// Open opens a file of the process, such as "ns/net"; the caller closes it.
func (p *Process) Open(name string) (int, error) {
	for {
		fd, err := unix.Openat(p.fd, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return -1, fmt.Errorf("open /proc/%d/%s: %w", p.pid, name, err)
		}
		return fd, nil
	}
}

// Read returns the first bytes of a file of the process, at most so many.
func (p *Process) Read(name string, most int) ([]byte, error) {
	fd, err := p.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(fd) }() // read-only; nothing to lose
	b := make([]byte, 0, min(most, smallFile))
	for len(b) < most {
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
		n, err := unix.Read(fd, b[len(b):min(cap(b), most)])
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return nil, fmt.Errorf("read /proc/%d/%s: %w", p.pid, name, err)
		case n == 0:
			return b, nil
		}
		b = b[:len(b)+n]
	}
	return b, nil
}

// Link returns what a link of the process says, such as "ns/net".
func (p *Process) Link(name string) (string, error) {
	buf := make([]byte, smallFile)
	n, err := unix.Readlinkat(p.fd, name, buf)
	if err != nil {
		return "", fmt.Errorf("read /proc/%d/%s: %w", p.pid, name, err)
	}
	return string(buf[:n]), nil
}

// State returns the process's state letter: R, S, D, T, t, Z, X or I.
func (p *Process) State() (byte, error) {
	s, err := p.Stat()
	return s.State, err
}

// String names the process for people.
func (p *Process) String() string {
	comm, err := p.Read("comm", smallFile)
	if err != nil {
		return strconv.Itoa(p.pid)
	}
	return fmt.Sprintf("%d:%s", p.pid, bytes.TrimSpace(comm))
}

// Sockets calls f with the inode of each socket that the process has open, until
// f returns false or so many descriptors of any kind were looked at; it returns
// how many. It fails with [os.ErrPermission] when the descriptors are hidden from
// the caller.
func (p *Process) Sockets(most int, f func(inode uint64) bool) (looked int, err error) {
	fd, err := p.Open("fd")
	if err != nil {
		return 0, err
	}
	dir := os.NewFile(uintptr(fd), "fd")
	defer func() { _ = dir.Close() }() // read-only; nothing to lose
	link := make([]byte, 64)
	for {
		names, err := dir.Readdirnames(256)
		for _, name := range names {
			if looked == most {
				return looked, nil
			}
			looked++
			n, err := unix.Readlinkat(fd, name, link)
			if errors.Is(err, os.ErrPermission) {
				return looked, fmt.Errorf("read /proc/%d/fd/%s: %w", p.pid, name, err)
			}
			if err != nil {
				continue // closed meanwhile
			}
			if inode, ok := socketInode(string(link[:n])); ok && !f(inode) {
				return looked, nil
			}
		}
		if errors.Is(err, io.EOF) {
			return looked, nil
		}
		if err != nil {
			return looked, fmt.Errorf("read /proc/%d/fd: %w", p.pid, err)
		}
	}
}

// socketInode reads "socket:[4711]".
func socketInode(link string) (uint64, bool) {
	s, ok := strings.CutPrefix(link, "socket:[")
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(strings.TrimSuffix(s, "]"), 10, 64)
	return n, err == nil
}
