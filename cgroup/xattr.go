package cgroup

import (
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"
)

// SetXattr labels the cgroup. Names begin with "user." (Linux 5.7) or, for root,
// with "trusted.". The labels live and die with the cgroup. One cgroup holds at
// most 128 user labels and 128 KiB of them in all; more gives ENOSPC.
func (d *Dir) SetXattr(name string, value []byte) error {
	for {
		err := unix.Fsetxattr(d.fd, name, value, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return d.wrap("set xattr "+name, err)
		}
		return nil
	}
}

// Xattr returns a label of the cgroup, or [fs.ErrNotExist] if it is not set.
func (d *Dir) Xattr(name string) ([]byte, error) {
	buf := make([]byte, 256)
	for {
		n, err := unix.Fgetxattr(d.fd, name, buf)
		switch err {
		case nil:
			return buf[:n], nil
		case unix.EINTR:
		case unix.ERANGE:
			size, err := unix.Fgetxattr(d.fd, name, nil)
			if err != nil {
				return nil, d.wrap("size of xattr "+name, err)
			}
			buf = make([]byte, size+64)
		case unix.ENODATA:
			return nil, fmt.Errorf("xattr %s of %s: %w", name, d.Path(), join(fs.ErrNotExist, err))
		default:
			return nil, d.wrap("read xattr "+name, err)
		}
	}
}
