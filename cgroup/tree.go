package cgroup

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// climber walks a tree of cgroups with at most two descriptors open, however deep
// the tree is: workers can nest cgroups deeper than there are descriptors. It goes
// up through "..", which is safe because a cgroup is never moved.
type climber struct {
	fd    int
	stack []level // the way down from the start, which is the first one
}

type level struct {
	name string
	subs []string // children not visited yet
}

// climb starts a walk at dirfd, which stays the caller's.
func climb(dirfd int) (*climber, error) {
	fd, err := openAt(dirfd, ".", dirFlags)
	if err != nil {
		return nil, err
	}
	c := &climber{fd: fd}
	if err := c.enter(""); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func (c *climber) close() { closeFD(c.fd) }

func (c *climber) enter(name string) error {
	subs, err := childNames(c.fd)
	if err != nil {
		return err
	}
	c.stack = append(c.stack, level{name: name, subs: subs})
	return nil
}

// next takes the next child of the current cgroup off the list.
func (c *climber) next() (string, bool) {
	top := &c.stack[len(c.stack)-1]
	if len(top.subs) == 0 {
		return "", false
	}
	name := top.subs[len(top.subs)-1]
	top.subs = top.subs[:len(top.subs)-1]
	return name, true
}

// down enters a child. It gives false if the child is gone.
func (c *climber) down(name string) (bool, error) {
	fd, err := openAt(c.fd, name, dirFlags)
	if err == unix.ENOENT {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	closeFD(c.fd)
	c.fd = fd
	err = c.enter(name)
	if isGone(err) { // removed while we looked: the way up is still there
		c.stack = append(c.stack, level{name: name})
		err = nil
	}
	return true, err
}

// up goes back to the parent and returns the name of the child it came from; at
// the start it gives false and stays there.
func (c *climber) up() (string, bool, error) {
	top := len(c.stack) - 1
	if top == 0 {
		return "", false, nil
	}
	fd, err := openAt(c.fd, "..", dirFlags)
	if err != nil {
		return "", false, err
	}
	closeFD(c.fd)
	c.fd = fd
	name := c.stack[top].name
	c.stack = c.stack[:top]
	return name, true, nil
}

// walk calls visit with a descriptor of d and of every cgroup below it, parents
// first. The descriptor is only valid during the call. Cgroups that vanish
// meanwhile are left out.
func (d *Dir) walk(visit func(dirfd int) error) error {
	return d.walkNamed(func(dirfd int, _ []level) error { return visit(dirfd) })
}

// walkNamed is walk that also tells the way down to the cgroup: no levels for d
// itself, otherwise one for d and one for each below.
func (d *Dir) walkNamed(visit func(dirfd int, way []level) error) error {
	if err := visit(d.fd, nil); err != nil {
		return err
	}
	st, err := statFD(d.fd)
	if err != nil || st.Nlink == 2 {
		return err // the usual leaf: nothing below it
	}
	c, err := climb(d.fd)
	if err != nil {
		return err
	}
	defer c.close()
	for {
		name, more := c.next()
		if !more {
			if _, ok, err := c.up(); err != nil || !ok {
				return err
			}
			continue
		}
		if ok, err := c.down(name); err != nil {
			return err
		} else if !ok {
			continue
		}
		if err := visit(c.fd, c.stack); err != nil && !isGone(err) {
			return err
		}
	}
}

// removeBelow removes every cgroup below dirfd that can be removed, children
// first, and says whether all of them could.
func removeBelow(dirfd int) (bool, error) {
	if st, err := statFD(dirfd); err != nil || st.Nlink == 2 {
		return err == nil, err
	}
	c, err := climb(dirfd)
	if err != nil {
		return false, err
	}
	defer c.close()
	all := true
	for {
		name, more := c.next()
		if more {
			// Most are empty leaves: try before looking into them.
			err := rmdirAt(c.fd, name)
			if err == nil || err == unix.ENOENT {
				continue
			}
			if err != unix.EBUSY {
				return false, err
			}
			if _, err := c.down(name); err != nil {
				return false, err
			}
			continue
		}
		name, ok, err := c.up()
		if err != nil || !ok {
			return all, err
		}
		if err := rmdirAt(c.fd, name); err == unix.EBUSY {
			all = false // somebody forked or made a cgroup in there meanwhile
		} else if err != nil && err != unix.ENOENT {
			return false, err
		}
	}
}

// isGone says whether the kernel means that the cgroup is not there any more.
func isGone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) || errors.Is(err, ErrGone)
}

// TreeLimitError says that no more cgroups may be made there.
type TreeLimitError struct {
	File  string // "cgroup.max.descendants" or "cgroup.max.depth"
	Path  string // of the cgroup that has the limit
	Limit int
	Err   error
}

// Error names the file, its value and the cgroup.
func (e *TreeLimitError) Error() string {
	return fmt.Sprintf("%s=%d of %s is reached: %v", e.File, e.Limit, e.Path, e.Err)
}

// Unwrap returns the kernel's answer, EAGAIN.
func (e *TreeLimitError) Unwrap() error { return e.Err }

// Hint says how the limit is raised.
func (e *TreeLimitError) Hint() string {
	return fmt.Sprintf("raise it with: echo max > %s/%s, or remove cgroups below it (pitvisor sweep)", e.Path, e.File)
}

// treeLimit looks for the limit that kept a child of d from being made, in d and in
// the cgroups above it. It gives nil if none of them is reached any more.
func (d *Dir) treeLimit() *TreeLimitError {
	fd, err := openAt(d.fd, ".", dirFlags)
	if err != nil {
		return nil
	}
	path := d.Path()
	for depth := 0; ; depth++ {
		for _, file := range []string{"cgroup.max.descendants", "cgroup.max.depth"} {
			used := depth
			if file == "cgroup.max.descendants" {
				used = statField(fd, "cgroup.stat", "nr_descendants")
			}
			if limit, ok := readInt(fd, file); ok && used >= limit {
				closeFD(fd)
				return &TreeLimitError{File: file, Path: path, Limit: limit, Err: unix.EAGAIN}
			}
		}
		up, err := above(fd)
		closeFD(fd)
		if err != nil || up < 0 {
			return nil
		}
		fd = up
		path = path[:max(strings.LastIndexByte(path, '/'), 0)]
	}
}

// above opens the cgroup above the one at fd. It gives -1 if none is to be seen.
func above(fd int) (int, error) {
	up, err := openAt(fd, "..", dirFlags)
	if err != nil {
		return -1, err
	}
	here, err := statFD(fd)
	if err == nil {
		var there unix.Stat_t
		there, err = statFD(up)
		same := there.Dev == here.Dev && there.Ino == here.Ino // above the root directory is itself
		inside, fsErr := isCgroup2(up)
		if err = errors.Join(err, fsErr); err == nil && inside && !same {
			return up, nil
		}
	}
	closeFD(up)
	return -1, err
}

// readInt reads a file that holds one number; "max" and a missing file give false.
func readInt(dirfd int, name string) (int, bool) {
	var buf [64]byte
	b, err := readAt(dirfd, name, buf[:0])
	if err != nil {
		return 0, false
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	return n, err == nil
}

// statField reads one value of a file of "key value" lines; a missing one gives -1.
func statField(dirfd int, name, key string) int {
	var buf [4096]byte
	b, err := readAt(dirfd, name, buf[:0])
	if err != nil {
		return -1
	}
	for line := range strings.Lines(string(b)) {
		if k, v, _ := strings.Cut(strings.TrimSpace(line), " "); k == key {
			if n, err := strconv.Atoi(v); err == nil {
				return n
			}
		}
	}
	return -1
}
