package confine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// groupPrefix starts the name of every cgroup of this package. Its owner holds a lock on it.
const groupPrefix = "linuxtest-confine-"

// group is a cgroup for one program.
type group struct {
	path string
	fd   int // open directory, holds the lock
}

// makeGroup makes a cgroup in the caller's own, or as root at the top of the tree, and
// removes those whose owners are gone.
func makeGroup(kind string) (*group, error) {
	base, err := groupBase()
	if err != nil {
		return nil, err
	}
	removeStale(base)
	path, err := os.MkdirTemp(base, groupPrefix+kind+"-")
	if err != nil {
		return nil, fmt.Errorf("make a cgroup: %w: run this as root, or in a cgroup that is delegated to you: systemd-run --user --scope -p Delegate=yes COMMAND", err)
	}
	g := &group{path: path, fd: -1}
	err = unix.Chmod(path, 0o755)
	if err == nil {
		g.fd, err = lockDir(path)
	}
	if err != nil {
		return nil, errors.Join(err, unix.Rmdir(path))
	}
	return g, nil
}

// groupBase is where the caller may make cgroups.
func groupBase() (string, error) {
	mount, err := findCgroup2()
	if err != nil {
		return "", err
	}
	if os.Geteuid() == 0 {
		return mount, nil
	}
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", fmt.Errorf("find the own cgroup: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if own, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			return filepath.Join(mount, own), nil
		}
	}
	return "", errors.New("find the own cgroup: no cgroup v2 line in /proc/self/cgroup")
}

func lockDir(path string) (int, error) {
	fd, err := unix.Open(path, unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", path, err)
	}
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = unix.Close(fd) // nothing to lose
		return -1, fmt.Errorf("lock %s: %w", path, err)
	}
	return fd, nil
}

// removeStale ends what an earlier caller left that was killed. A young one may be
// between mkdir and flock.
func removeStale(base string) {
	dirs, _ := filepath.Glob(filepath.Join(base, groupPrefix+"*")) // the pattern is good
	for _, dir := range dirs {
		if fd, ok := lockStale(dir); ok {
			_ = (&group{path: dir, fd: fd}).remove() // the next one tries again
		}
	}
}

// lockStale locks a directory whose owner is gone.
func lockStale(dir string) (int, bool) {
	var st unix.Stat_t
	if unix.Lstat(dir, &st) != nil || time.Since(time.Unix(st.Ctim.Unix())) < 10*time.Second {
		return -1, false
	}
	fd, err := lockDir(dir)
	return fd, err == nil
}

// tree lists the cgroup and those below it, deepest first.
func (g *group) tree() []string {
	var dirs []string
	_ = filepath.WalkDir(g.path, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() {
			dirs = append(dirs, path)
		}
		return nil // it may go away meanwhile
	})
	slices.Reverse(dirs)
	return dirs
}

// members are the processes that live in it.
func (g *group) members() []int {
	var pids []int
	for _, dir := range g.tree() {
		text, err := readFile(filepath.Join(dir, "cgroup.procs"))
		if err != nil {
			continue // gone, or threaded
		}
		for _, field := range strings.Fields(text) {
			if pid, err := strconv.Atoi(field); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// settle gives what is left a moment to end by itself, and names what does not.
func (g *group) settle() []string {
	var left []string
	within(100*time.Millisecond, func() bool {
		left = nil
		for _, pid := range g.members() {
			left = append(left, describe(pid))
		}
		return len(left) == 0
	})
	return left
}

// kill ends every process in it and waits for that.
func (g *group) kill() error {
	var left []int
	ok := within(30*time.Second, func() bool {
		if left = g.members(); len(left) > 0 && writeFile(filepath.Join(g.path, "cgroup.kill"), "1") != nil {
			g.killEach(left)
		}
		return len(left) == 0
	})
	if ok {
		return nil
	}
	var names []string
	for _, pid := range left {
		names = append(names, describe(pid))
	}
	return fmt.Errorf("cgroup %s: cannot be killed: %s", g.path, strings.Join(names, ", "))
}

// killEach is kill before Linux 5.14. A number may be reused before it is opened, so
// membership is looked at again when the pidfd is held.
func (g *group) killEach(pids []int) {
	for _, pid := range pids {
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue
		}
		if slices.Contains(g.members(), pid) {
			_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) // the caller looks again
		}
		_ = unix.Close(fd)
	}
}

// remove kills and removes it with all that is below.
func (g *group) remove() error {
	var last error
	within(30*time.Second, func() bool {
		last = g.kill()
		for _, dir := range g.tree() {
			if err := unix.Rmdir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
				last = errors.Join(last, fmt.Errorf("remove cgroup %s: %w", dir, err))
			}
		}
		return last == nil
	})
	_ = unix.Close(g.fd) // only held the lock
	return last
}

// within asks again and again until f holds or the time is over.
func within(limit time.Duration, f func() bool) bool {
	deadline := time.Now().Add(limit)
	pause := time.NewTicker(2 * time.Millisecond)
	defer pause.Stop()
	for !f() {
		if time.Now().After(deadline) {
			return false
		}
		<-pause.C
	}
	return true
}

// writeFile uses bare system calls: an os.File parks for ever where kernfs answers
// EAGAIN.
func writeFile(name, text string) error {
	fd, err := unix.Open(name, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: name, Err: err}
	}
	defer func() { _ = unix.Close(fd) }() // the write is what counts
	if _, err := unix.Write(fd, []byte(text)); err != nil {
		return &fs.PathError{Op: "write " + text + " to", Path: name, Err: err}
	}
	return nil
}

func readFile(name string) (string, error) {
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", &fs.PathError{Op: "open", Path: name, Err: err}
	}
	defer func() { _ = unix.Close(fd) }() // read-only; nothing to lose
	var text []byte
	for buf := make([]byte, 8192); ; {
		n, err := unix.Read(fd, buf)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return "", &fs.PathError{Op: "read", Path: name, Err: err}
		case n == 0:
			return string(text), nil
		default:
			text = append(text, buf[:n]...)
		}
	}
}
