package probe

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/pidfd"
	"golang.org/x/sys/unix"
)

// proc is one process, held by its directory below /proc: what is read through
// that descriptor is about this process or fails once it was reaped, whoever
// has the number then.
type proc struct {
	fd  int
	pid int
}

// openProc holds the process that has the number now.
func openProc(pid int) (*proc, error) {
	fd, err := unix.Open("/proc/"+strconv.Itoa(pid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /proc/%d: %w", pid, err)
	}
	return &proc{fd: fd, pid: pid}, nil
}

// openHeld holds the process of a pidfd; os.ErrProcessDone if it has exited.
func openHeld(p *pidfd.Process) (*proc, error) {
	pr, err := openProc(p.PID())
	// As long as it lives nobody else can have had the number.
	exited, exitErr := p.Exited()
	if err == nil && exitErr == nil && !exited {
		return pr, nil
	}
	if err == nil {
		pr.close()
	}
	if exited {
		return nil, os.ErrProcessDone
	}
	return nil, errors.Join(err, exitErr)
}

func (p *proc) close() {
	_ = unix.Close(p.fd) // a path; nothing to lose
}

// read returns a small file of the process.
func (p *proc) read(name string) ([]byte, error) {
	fd, err := unix.Openat(p.fd, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /proc/%d/%s: %w", p.pid, name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 4096))
	if err != nil {
		return nil, fmt.Errorf("read /proc/%d/%s: %w", p.pid, name, err)
	}
	return b, nil
}

// state returns the process's state letter: R, S, D, T, t, Z, X or I.
func (p *proc) state() (byte, error) {
	b, err := p.read("stat")
	if err != nil {
		return 0, err
	}
	// pid (comm) state ...; comm may hold anything.
	if i := bytes.LastIndexByte(b, ')'); i >= 0 && i+2 < len(b) {
		return b[i+2], nil
	}
	return 0, fmt.Errorf("read /proc/%d/stat: no state in %q", p.pid, b)
}

// String names the process for people.
func (p *proc) String() string {
	comm, err := p.read("comm")
	if err != nil {
		return strconv.Itoa(p.pid)
	}
	return fmt.Sprintf("%d:%s", p.pid, bytes.TrimSpace(comm))
}

// sockets calls f with the inode of each socket that the process has open.
func (p *proc) sockets(f func(inode uint64)) error {
	fd, err := unix.Openat(p.fd, "fd", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open /proc/%d/fd: %w", p.pid, err)
	}
	dir := os.NewFile(uintptr(fd), "fd")
	defer dir.Close()
	link := make([]byte, 64)
	for {
		names, err := dir.Readdirnames(256)
		for _, name := range names {
			n, err := unix.Readlinkat(fd, name, link)
			if errors.Is(err, os.ErrPermission) {
				return fmt.Errorf("read /proc/%d/fd/%s: %w", p.pid, name, err)
			}
			if err != nil {
				continue // closed meanwhile
			}
			if inode, ok := socketInode(string(link[:n])); ok {
				f(inode)
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read /proc/%d/fd: %w", p.pid, err)
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

// heldSockets returns which of the sockets the leaf's processes have open, and
// the processes whose descriptors may not be read.
func heldSockets(leaf *cgroup.Dir, want []uint64) (held map[uint64]bool, hidden []string, err error) {
	pids, err := leaf.PIDsRecursive()
	if err != nil {
		return nil, nil, err
	}
	held = make(map[uint64]bool)
	for _, pid := range pids {
		if len(held) == len(want) {
			break
		}
		p, err := openProc(pid)
		if err != nil {
			continue // gone
		}
		found, err := p.hasSockets(want)
		if errors.Is(err, os.ErrPermission) {
			hidden = append(hidden, p.String())
		}
		// Only now is it certain that it was a member: it has had the number
		// since before the list was read again, and has it still.
		if len(found) > 0 && p.stillIn(leaf) {
			for _, inode := range found {
				held[inode] = true
			}
		}
		p.close()
	}
	return held, hidden, nil
}

func (p *proc) hasSockets(want []uint64) ([]uint64, error) {
	var found []uint64
	err := p.sockets(func(inode uint64) {
		if slices.Contains(want, inode) && !slices.Contains(found, inode) {
			found = append(found, inode)
		}
	})
	return found, err
}

// stillIn reports whether the process is alive and in the leaf.
func (p *proc) stillIn(leaf *cgroup.Dir) bool {
	pids, err := leaf.PIDsRecursive()
	if err != nil || !slices.Contains(pids, p.pid) {
		return false
	}
	_, err = p.state()
	return err == nil
}

// findHolder names a process anywhere on the machine that has the socket open,
// "" when none can be seen. For messages only.
func findHolder(inode uint64) string {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return ""
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		p, err := openProc(pid)
		if err != nil {
			continue
		}
		found, _ := p.hasSockets([]uint64{inode})
		name := p.String()
		p.close()
		if len(found) > 0 {
			return name
		}
	}
	return ""
}
