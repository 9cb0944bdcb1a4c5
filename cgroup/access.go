package cgroup

import (
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// ReadFile reads a file of the cgroup, such as "cpu.stat". A file that this cgroup
// does not have gives [ErrNotSupported].
func (d *Dir) ReadFile(name string) ([]byte, error) {
	if err := checkFile(name); err != nil {
		return nil, d.wrap("read a file", err)
	}
	b, err := readAt(d.fd, name, make([]byte, 0, 512))
	if err != nil {
		return nil, d.wrap("read "+name, err)
	}
	return b, nil
}

// WriteFile writes value to a file of the cgroup, such as "pids.max", in one call.
// A file that this cgroup does not have gives [ErrNotSupported]; it is never made.
func (d *Dir) WriteFile(name, value string) error {
	if err := checkFile(name); err != nil {
		return d.wrap("write a file", err)
	}
	if err := writeAt(d.fd, name, value); err != nil {
		return d.wrap(fmt.Sprintf("set %s=%s", name, value), err)
	}
	return nil
}

// checkFile keeps a name within the directory itself.
func checkFile(name string) error {
	if name == "" || name == "." || name == ".." || strings.Contains(name, "/") {
		return fmt.Errorf("name %q is not one of a file: %w", name, fs.ErrInvalid)
	}
	return nil
}

// Missing says why the cgroup lacks a file of a controller: a *[ControllerError]
// about the controller or, where it is enabled, about the file in this kernel; or
// [ErrGone].
func (d *Dir) Missing(controller, file string) error {
	enabled, err := d.Controllers()
	if err != nil {
		return err
	}
	if !slices.Contains(enabled, controller) {
		file = ""
	}
	return d.controllerError(controller, file, join(ErrNotSupported, unix.ENOENT))
}

// MemoryCurrent returns the memory in use, in bytes, by one read of one file. It
// gives false without a memory controller, and for a cgroup that is gone.
func (d *Dir) MemoryCurrent() (uint64, bool) {
	n, ok := readInt(d.fd, "memory.current")
	return uint64(max(n, 0)), ok
}
