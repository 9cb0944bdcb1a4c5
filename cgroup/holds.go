package cgroup

import (
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// holdsAny says whether one of the processes is in the cgroup or below it. It goes
// down from the top of the hierarchy to each of them and looks whether it comes by
// d, so it costs the same however many cgroups are below d. It does not know when
// that way does not lead to a process, because /proc hides it, or counts from
// another cgroup than the one that is the top here.
func (d *Dir) holdsAny(pids []int) (held, known bool) {
	top, err := d.top()
	if err != nil {
		return false, false
	}
	defer closeFD(top)
	var seen []string
	for _, pid := range pids {
		name, ok := cgroupOf(pid)
		if !ok {
			return false, false
		}
		if slices.Contains(seen, name) {
			continue
		}
		seen = append(seen, name)
		if held, known = d.onTheWay(top, name, pid); held || !known {
			return held, known
		}
	}
	return false, true
}

// onTheWay says whether d is on the way from the top down to the cgroup of that
// name, ends included. It is known if the process really is in there.
func (d *Dir) onTheWay(top int, name string, pid int) (held, known bool) {
	fd, err := openAt(top, ".", dirFlags)
	if err != nil {
		return false, false
	}
	defer func() { closeFD(fd) }()
	down := strings.FieldsFunc(name, func(r rune) bool { return r == '/' })
	for {
		st, err := statFD(fd)
		if err != nil {
			return false, false
		}
		held = held || st.Ino == d.id
		if len(down) == 0 {
			members, err := pidsAt(fd, nil)
			return held, err == nil && slices.Contains(members, pid)
		}
		next, err := openAt(fd, down[0], dirFlags)
		if err != nil {
			return false, false
		}
		closeFD(fd)
		fd, down = next, down[1:]
	}
}

// top opens the highest cgroup to be seen above d, perhaps d itself.
func (d *Dir) top() (int, error) {
	fd, err := openAt(d.fd, ".", dirFlags)
	for err == nil {
		var up int
		if up, err = above(fd); err == nil && up < 0 {
			return fd, nil
		}
		closeFD(fd)
		fd = up
	}
	return -1, err
}

// cgroupOf returns what /proc calls the cgroup of a process.
func cgroupOf(pid int) (string, bool) {
	var buf [1024]byte
	b, err := readAt(unix.AT_FDCWD, "/proc/"+strconv.Itoa(pid)+"/cgroup", buf[:0])
	if err != nil {
		return "", false
	}
	for line := range strings.Lines(string(b)) {
		if name, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::"); ok {
			return name, true
		}
	}
	return "", false
}

// search looks for the caller in every cgroup that the mount shows.
func (m Mount) search() (string, error) {
	top, err := Open(m.Path)
	if err != nil {
		return "", err
	}
	defer closeFD(top.fd)
	found := ""
	self := os.Getpid()
	err = top.walkNamed(func(dirfd int, way []level) error {
		pids, err := pidsAt(dirfd, nil)
		if err == nil && slices.Contains(pids, self) {
			found = m.Path
			for _, l := range way {
				found = path.Join(found, l.name)
			}
		}
		return nil // what may not be read, or is gone, does not hold us
	})
	if err != nil {
		return "", err
	}
	if found == "" {
		return "", fmt.Errorf("no cgroup below %s lists this process: %w", m.Path, ErrNotSupported)
	}
	return found, nil
}
