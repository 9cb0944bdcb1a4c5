package confine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Delegated is a cgroup that belongs to an ordinary user, as systemd gives one with
// Delegate=yes, and this user, who has no capabilities and no other groups.
type Delegated struct {
	// User is the uid and gid; 0 is nobody (65534) for root, else the caller.
	User int
}

// User returns whom the programs run as.
func (d Delegated) user() int {
	switch {
	case d.User != 0:
		return d.User
	case os.Geteuid() == 0:
		return 65534
	}
	return os.Geteuid()
}

// Run runs a program in a cgroup of its own to its end, as [Container.Run] does. The
// program is born in a leaf named supervisor, as with systemd's DelegateSubgroup=, so
// that the cgroup above may hand out controllers. HOME and TMPDIR are directories of
// its own, which are removed; XDG_RUNTIME_DIR is not set.
//
// The kernel lets a process start others only in a cgroup that has a common ancestor
// with its own which the user owns: so the delegated cgroup itself, cgroup.procs,
// cgroup.threads and cgroup.subtree_control are the user's, and nothing else is.
func (d Delegated) Run(ctx context.Context, p Program, out io.Writer) (r Result, err error) {
	began := time.Now()
	group, err := makeGroup("delegated")
	if err != nil {
		return r, err
	}
	r, err = d.run(ctx, group, p, out)
	err = errors.Join(err, group.remove())
	r.Took = time.Since(began)
	return r, err
}

func (d Delegated) run(ctx context.Context, group *group, p Program, out io.Writer) (r Result, err error) {
	uid := d.user()
	leaf, err := group.delegate(uid)
	if err != nil {
		return r, err
	}
	defer func() { _ = unix.Close(leaf) }() // only named a place
	home, done, err := makeHome(uid)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, done()) }()
	p.Env = environ(home, filepath.Join(home, "t"), p.Env)
	sys := &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: leaf, Setsid: true}
	if os.Geteuid() == 0 {
		sys.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid), Groups: []uint32{}}
	}
	return started{program: p, path: p.Args[0], argv: p.Args, sys: sys}.run(ctx, group, out)
}

// delegate gives the cgroup to a user and opens the leaf to start in.
func (g *group) delegate(uid int) (int, error) {
	leaf := filepath.Join(g.path, "supervisor")
	if err := unix.Mkdir(leaf, 0o755); err != nil {
		return -1, fmt.Errorf("make %s: %w", leaf, err)
	}
	for _, dir := range []string{g.path, leaf} {
		for _, name := range []string{"", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"} {
			if err := os.Chown(filepath.Join(dir, name), uid, uid); err != nil {
				return -1, fmt.Errorf("delegate: %w", err)
			}
		}
	}
	fd, err := unix.Open(leaf, unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", leaf, err)
	}
	return fd, nil
}

// makeHome makes the user's home with a directory for temporary files in it. Its
// name is short: those of unix sockets end at 107 bytes.
func makeHome(uid int) (string, func() error, error) {
	home, done, err := TempDir()
	if err != nil {
		return "", nil, err
	}
	tmp := filepath.Join(home, "t")
	err = os.Mkdir(tmp, 0o755)
	for _, dir := range []string{home, tmp} {
		if err == nil {
			err = os.Chown(dir, uid, uid)
		}
	}
	if err != nil {
		return "", nil, errors.Join(err, done())
	}
	return home, done, nil
}

// tempPrefix starts the name of a temporary directory, and tempMark is a file in it.
const (
	tempPrefix = "lt-"
	tempMark   = ".linuxtest-confine"
)

// TempDir makes a directory that every user may enter, and removes those whose owners
// were killed before they could. done removes it.
func TempDir() (dir string, done func() error, err error) {
	old, _ := filepath.Glob(filepath.Join(os.TempDir(), tempPrefix+"*", tempMark)) // the pattern is good
	for _, mark := range old {
		dir := filepath.Dir(mark)
		if fd, ok := lockStale(dir); ok {
			_, _ = os.RemoveAll(dir), unix.Close(fd) // the next one tries again
		}
	}
	if dir, err = makeTemp(); err != nil {
		return "", nil, err
	}
	fd, err := lockDir(dir)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, tempMark), nil, 0o644)
	}
	if err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(dir))
	}
	return dir, func() error { return errors.Join(os.RemoveAll(dir), unix.Close(fd)) }, nil
}

// makeTemp makes one with a short name.
func makeTemp() (string, error) {
	for try := 0; ; try++ {
		dir := filepath.Join(os.TempDir(), fmt.Sprintf("%s%04x", tempPrefix, rand.N(1<<16)))
		err := os.Mkdir(dir, 0o755)
		if err == nil {
			return dir, unix.Chmod(dir, 0o755) // whatever the umask is
		}
		if !errors.Is(err, fs.ErrExist) || try == 1000 {
			return "", err
		}
	}
}
