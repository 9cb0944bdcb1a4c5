package report

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Save writes a report file. Whoever reads the path sees the old file or the whole
// new one, because the new one gets its name only when it is complete. Where that is
// impossible (a device, a pipe, a file in a directory that may not be written, a file
// that is a mount of its own) it is written in place.
//
// "-" and /dev/stdout are standard output, /dev/stderr and /dev/fd/N are what they
// say. A symbolic link stays one, and what it points to is written.
func Save(path string, write func(io.Writer) error) error {
	if err := save(path, write); err != nil {
		return fmt.Errorf("write report %s: %w", name(path), err)
	}
	return nil
}

// Check tells before a command runs whether Save will fail as things are: no such
// directory, a directory of that name, no permission. It changes nothing.
func Check(path string) error {
	if fd := descriptor(path); fd >= 0 {
		return nil
	}
	err := check(path)
	if err != nil {
		return fmt.Errorf("write report %s: %w", name(path), err)
	}
	return nil
}

func name(path string) string {
	if path == "-" {
		return "to standard output"
	}
	return path
}

func check(path string) error {
	if path == "" {
		return fs.ErrInvalid
	}
	st, err := os.Stat(path)
	switch {
	case err == nil && st.IsDir():
		return unix.EISDIR
	case err == nil:
		return unix.Faccessat(unix.AT_FDCWD, path, unix.W_OK, unix.AT_EACCESS)
	case !errors.Is(err, fs.ErrNotExist):
		return bare(err)
	}
	dir := filepath.Dir(path)
	if err := unix.Faccessat(unix.AT_FDCWD, dir, unix.W_OK|unix.X_OK, unix.AT_EACCESS); err != nil {
		return fmt.Errorf("directory %s: %w", dir, err)
	}
	return nil
}

// bare is the cause without the path, which is named already.
func bare(err error) error {
	var path *fs.PathError
	var link *os.LinkError
	switch {
	case errors.As(err, &path):
		return path.Err
	case errors.As(err, &link):
		return link.Err
	}
	return err
}

func save(path string, write func(io.Writer) error) error {
	var b bytes.Buffer
	if err := write(&b); err != nil {
		return err
	}
	if fd := descriptor(path); fd >= 0 {
		return writeFD(fd, b.Bytes())
	}
	if err := check(path); err != nil {
		return err
	}
	// The file itself is replaced and not a link to it.
	target, err := filepath.EvalSymlinks(path)
	switch {
	case err == nil:
	case !errors.Is(err, fs.ErrNotExist):
		return bare(err)
	case isLink(path): // to a file that is not there yet
		return writeInPlace(path, b.Bytes())
	default:
		return create(path, nil, b.Bytes())
	}
	old, err := os.Stat(target)
	if err != nil {
		return bare(err)
	}
	if old.Mode().IsRegular() {
		if err = create(target, old, b.Bytes()); !inPlaceOnly(err) {
			return err
		}
	}
	return writeInPlace(target, b.Bytes())
}

// inPlaceOnly says that there can be no new file, while the old one may be writable:
// in a directory of somebody else, as a mount of its own, with an owner that only
// root can give.
func inPlaceOnly(err error) bool {
	for _, errno := range []error{unix.EACCES, unix.EPERM, unix.EROFS, unix.EBUSY} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// descriptor returns the number of an open file that a path stands for, or -1.
func descriptor(path string) int {
	switch path {
	case "-", "/dev/stdout":
		return 1
	case "/dev/stderr":
		return 2
	}
	for _, dir := range []string{"/dev/fd/", "/proc/self/fd/"} {
		if rest, ok := strings.CutPrefix(path, dir); ok {
			if n, err := strconv.ParseUint(rest, 10, 31); err == nil {
				return int(n)
			}
		}
	}
	return -1
}

func writeFD(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := unix.Write(fd, b)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN: // a descriptor that somebody else made non-blocking
			fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
			if _, err := unix.Poll(fds, -1); err != nil && err != unix.EINTR {
				return err
			}
			continue
		case err != nil:
			return err
		}
		b = b[n:]
	}
	return nil
}

func isLink(path string) bool {
	st, err := os.Lstat(path)
	return err == nil && st.Mode()&fs.ModeSymlink != 0
}

// create writes a new file and gives it its name when it is complete. It takes mode
// and owner over from an old one, which may be nil.
func create(path string, old fs.FileInfo, b []byte) error {
	temp := filepath.Join(filepath.Dir(path), fmt.Sprintf(".pitvisor-report-%d-%d", os.Getpid(), time.Now().UnixNano()))
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return fmt.Errorf("in directory %s: %w", filepath.Dir(path), bare(err))
	}
	_, err = f.Write(b)
	if err == nil && old != nil {
		err = likeOld(f, old)
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		return errors.Join(bare(err), os.Remove(temp))
	}
	return nil
}

func likeOld(f *os.File, old fs.FileInfo) error {
	if st, ok := old.Sys().(*syscall.Stat_t); ok {
		if err := f.Chown(int(st.Uid), int(st.Gid)); err != nil {
			return err
		}
	}
	return f.Chmod(old.Mode().Perm())
}

// writeInPlace writes to what is there.
func writeInPlace(path string, b []byte) error {
	// A pipe without a reader is an error and no reason to wait.
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0o666)
	if err != nil {
		return err
	}
	return errors.Join(writeFD(fd, b), unix.Close(fd))
}
