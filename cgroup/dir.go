package cgroup

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

const dirFlags = unix.O_RDONLY | unix.O_DIRECTORY

// Dir is one open cgroup v2 directory. It stays bound to that cgroup: once the
// cgroup is removed every method gives [ErrGone], whatever has its name by then.
//
// The methods may be called from several goroutines; Close must come after all of
// them have returned. A Dir holds one file descriptor, and an open Dir does not
// keep the cgroup from being removed.
type Dir struct {
	fd int
	id uint64
	// The path is kept in two parts so that opening a child joins no strings.
	parent, name string
}

// Open opens the cgroup at path, which must be a directory of a cgroup2 file
// system; anything else is refused with [ErrNoCgroup2]. A symbolic link as the
// last element is refused too.
func Open(path string) (*Dir, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("open cgroup %s: %w", path, err)
	}
	fd, err := openAt(unix.AT_FDCWD, path, dirFlags)
	if err != nil {
		return nil, fmt.Errorf("open cgroup %s: %w", path, err)
	}
	ok, err := isCgroup2(fd)
	if err == nil && !ok {
		err = ErrNoCgroup2
	}
	if err != nil {
		closeFD(fd)
		return nil, fmt.Errorf("open cgroup %s: %w", path, err)
	}
	parent, name := filepath.Split(path)
	return newDir(fd, strings.TrimSuffix(parent, "/"), name)
}

func newDir(fd int, parent, name string) (*Dir, error) {
	st, err := statFD(fd)
	if err != nil {
		closeFD(fd)
		return nil, fmt.Errorf("stat cgroup %s/%s: %w", parent, name, err)
	}
	return &Dir{fd: fd, id: st.Ino, parent: parent, name: name}, nil
}

func isCgroup2(fd int) (bool, error) {
	var st unix.Statfs_t
	for {
		err := unix.Fstatfs(fd, &st)
		if err != unix.EINTR {
			return err == nil && int64(st.Type) == unix.CGROUP2_SUPER_MAGIC, err
		}
	}
}

// Path returns where the cgroup was when it was opened. It is for printing: another
// cgroup may be there by now.
func (d *Dir) Path() string { return d.parent + "/" + d.name }

// Name returns the last element of the path.
func (d *Dir) Name() string { return d.name }

// FD returns the directory descriptor, for clone3 and for polling. It is only
// valid until Close and must not be closed by the caller.
func (d *Dir) FD() int { return d.fd }

// ID returns the cgroup id: the inode of the directory, never used twice in a boot
// (on 64-bit kernels), and what PIDFD_GET_INFO reports for a process.
func (d *Dir) ID() uint64 { return d.id }

// Close gives the descriptor back, and with it a lock taken by [Dir.Lock]. A second
// Close gives [os.ErrClosed].
func (d *Dir) Close() error {
	if d.fd < 0 {
		return fmt.Errorf("close cgroup %s: %w", d.Path(), os.ErrClosed)
	}
	fd := d.fd
	d.fd = -1 // a late call must not reach whatever gets this number next
	if err := unix.Close(fd); err != nil && err != unix.EINTR {
		return fmt.Errorf("close cgroup %s: %w", d.Path(), err)
	}
	return nil
}

// Create makes a child cgroup and opens it. An existing one gives [fs.ErrExist], a
// name that cannot be a cgroup's [fs.ErrInvalid], and [ErrGone] means that d was
// removed. If somebody removed the child between the two steps the error is
// [fs.ErrNotExist]. A limit on the number or depth of cgroups gives a *TreeLimitError.
// Whatever fails, no child is left behind.
func (d *Dir) Create(name string) (*Dir, error) {
	if err := checkName(name); err != nil {
		return nil, fmt.Errorf("create cgroup in %s: %w", d.Path(), err)
	}
	if err := mkdirAt(d.fd, name); err != nil {
		return nil, d.childError("create", name, err)
	}
	fd, err := openAt(d.fd, name, dirFlags)
	if err != nil {
		if err != unix.ENOENT {
			_ = rmdirAt(d.fd, name) // the error that counts is the one of the open
		}
		return nil, fmt.Errorf("open the new cgroup %s/%s: %w", d.Path(), name, err)
	}
	return newDir(fd, d.Path(), name)
}

func mkdirAt(dirfd int, name string) error {
	for {
		err := unix.Mkdirat(dirfd, name, 0o755)
		if err != unix.EINTR {
			return err
		}
	}
}

// OpenChild opens a child cgroup. It gives [fs.ErrNotExist] if there is none and
// [ErrGone] if d itself was removed.
func (d *Dir) OpenChild(name string) (*Dir, error) {
	if err := checkName(name); err != nil {
		return nil, fmt.Errorf("open cgroup in %s: %w", d.Path(), err)
	}
	fd, err := openAt(d.fd, name, dirFlags)
	if err != nil {
		return nil, d.childError("open", name, err)
	}
	return newDir(fd, d.Path(), name)
}

// Children returns the names of the child cgroups, sorted.
func (d *Dir) Children() ([]string, error) {
	names, err := childNames(d.fd)
	if err == nil && len(names) == 0 {
		// A removed directory reads as an empty one.
		var there bool
		if there, err = d.Exists(); err == nil && !there {
			err = ErrGone
		}
	}
	if err != nil {
		return nil, d.wrap("read children", err)
	}
	slices.Sort(names)
	return names, nil
}

// childNames lists the directories below dirfd through a descriptor of its own,
// because a directory's read position belongs to the open file.
func childNames(dirfd int) ([]string, error) {
	st, err := statFD(dirfd)
	if err != nil {
		return nil, err
	}
	if st.Nlink == 2 {
		return nil, nil // kernfs counts sub-directories in the link count
	}
	fd, err := openAt(dirfd, ".", dirFlags)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "cgroup")
	defer f.Close()
	entries, err := f.ReadDir(-1)
	names := make([]string, 0, int(max(st.Nlink, 2))-2)
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, err
}

// Exists says whether the cgroup is still there. Once false it stays false.
func (d *Dir) Exists() (bool, error) {
	there, err := existsAt(d.fd, "cgroup.procs")
	if err != nil {
		return false, d.wrap("look for cgroup.procs", err)
	}
	return there, nil
}

// RemoveChild removes an empty child cgroup. It gives [ErrPopulated] while the
// child holds processes or cgroups; zombies do not count. It gives nil if there is
// no such child, and [ErrGone] if another cgroup than id has the name; id 0 takes
// whatever is there.
func (d *Dir) RemoveChild(name string, id uint64) error {
	if err := checkName(name); err != nil {
		return fmt.Errorf("remove cgroup in %s: %w", d.Path(), err)
	}
	if err := removeAt(d.fd, name, id); err != nil {
		return d.childError("remove", name, err)
	}
	return nil
}

// removeAt is RemoveChild for a name that is known to be good. rmdir works by name
// only, so a cgroup could take the name between the two calls; what is lost then
// is an empty cgroup, never a process.
func removeAt(dirfd int, name string, id uint64) error {
	if id != 0 {
		st, err := statAt(dirfd, name)
		if err == unix.ENOENT {
			return nil
		}
		if err != nil {
			return err
		}
		if st.Ino != id {
			return fmt.Errorf("%w: its name now belongs to cgroup %d, not %d", ErrGone, st.Ino, id)
		}
	}
	err := rmdirAt(dirfd, name)
	if err == unix.ENOENT {
		return nil
	}
	return err
}

// checkName refuses what cannot be the name of a cgroup, or would not be read as
// one by a person.
func checkName(name string) error {
	reason := ""
	switch {
	case name == "":
		reason = "is empty"
	case name == "." || name == "..":
		reason = "is a directory of its own"
	case len(name) > 255:
		reason = fmt.Sprintf("has %d bytes, 255 are allowed", len(name))
		name = strings.ToValidUTF8(name[:32], "") + "..."
	case strings.Contains(name, "/"):
		reason = "holds a slash"
	case strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }):
		reason = "holds a control character"
	case !utf8.ValidString(name):
		reason = "is not valid UTF-8"
	case strings.HasPrefix(name, "cgroup."):
		reason = `begins with "cgroup.", which the kernel keeps for its files`
	default:
		return nil
	}
	return fmt.Errorf("name %q %s: %w", name, reason, fs.ErrInvalid)
}
