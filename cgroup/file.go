package cgroup

import (
	"errors"

	"golang.org/x/sys/unix"
)

// Cgroup files are read and written with bare system calls. They are pollable, so
// os.File would put them into the runtime's poller, and a file that answers EAGAIN
// (memory.reclaim does) would then park the caller for ever.

// openAt opens a file or directory of the cgroup. O_NOFOLLOW and a single name
// component keep it inside this very directory.
func openAt(dirfd int, name string, flags int) (int, error) {
	for {
		fd, err := unix.Openat(dirfd, name, flags|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// readAt appends the whole content of the file to buf.
func readAt(dirfd int, name string, buf []byte) ([]byte, error) {
	fd, err := openAt(dirfd, name, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer closeFD(fd)
	return readAll(fd, buf)
}

func readAll(fd int, buf []byte) ([]byte, error) {
	for {
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
		n, err := unix.Read(fd, buf[len(buf):cap(buf)])
		switch {
		case err == unix.EINTR:
		case err != nil:
			return nil, err
		case n == 0:
			return buf, nil
		default:
			buf = buf[:len(buf)+n]
		}
	}
}

// writeAt writes value in one call, which is how cgroup files want it.
func writeAt(dirfd int, name, value string) error {
	fd, err := openAt(dirfd, name, unix.O_WRONLY)
	if err != nil {
		return err
	}
	defer closeFD(fd)
	for {
		_, err := unix.Write(fd, []byte(value))
		if err != unix.EINTR {
			return err
		}
	}
}

// existsAt says whether the directory has an entry of that name.
func existsAt(dirfd int, name string) (bool, error) {
	_, err := statAt(dirfd, name)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	return err == nil, err
}

func statAt(dirfd int, name string) (unix.Stat_t, error) {
	var st unix.Stat_t
	for {
		err := unix.Fstatat(dirfd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
		if err != unix.EINTR {
			return st, err
		}
	}
}

func statFD(fd int) (unix.Stat_t, error) {
	var st unix.Stat_t
	for {
		err := unix.Fstat(fd, &st)
		if err != unix.EINTR {
			return st, err
		}
	}
}

// rmdirAt removes an empty cgroup.
func rmdirAt(dirfd int, name string) error {
	for {
		err := unix.Unlinkat(dirfd, name, unix.AT_REMOVEDIR)
		if err != unix.EINTR {
			return err
		}
	}
}

// closeFD gives a descriptor back. Close is not repeated after EINTR: Linux has
// freed the number by then, and it may already be somebody else's.
func closeFD(fd int) {
	_ = unix.Close(fd) // nothing was buffered, so nothing can be lost
}
