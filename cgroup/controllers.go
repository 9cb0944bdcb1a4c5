package cgroup

import (
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Controllers returns the controllers that this cgroup may hand to its children.
func (d *Dir) Controllers() ([]string, error) {
	var buf [256]byte
	b, err := readAt(d.fd, "cgroup.controllers", buf[:0])
	if err != nil {
		return nil, d.wrap("read cgroup.controllers", err)
	}
	return strings.Fields(string(b)), nil
}

// Enable hands controllers down to the children of this cgroup. It writes to this
// cgroup only and to none above it. A controller that cannot be had gives a
// *[ControllerError]; those before it in the list stay enabled.
func (d *Dir) Enable(controllers ...string) error {
	var buf [256]byte
	b, err := readAt(d.fd, "cgroup.subtree_control", buf[:0])
	if err != nil {
		return d.wrap("read cgroup.subtree_control", err)
	}
	enabled := strings.Fields(string(b))
	for _, c := range controllers {
		if slices.Contains(enabled, c) {
			continue
		}
		err := writeAt(d.fd, "cgroup.subtree_control", "+"+c)
		if err == unix.EINVAL {
			// Not a controller's name, or one of cgroup v1 only.
			err = join(ErrNotSupported, err)
		}
		if err != nil {
			return d.controllerError(c, "", d.translate(err))
		}
	}
	return nil
}

func (d *Dir) controllerError(controller, file string, err error) *ControllerError {
	return &ControllerError{
		Controller: controller,
		File:       file,
		Path:       d.Path(),
		Hybrid:     file == "" && heldByV1(controller),
		Container:  file == "" && belowTop(d.Path()),
		Err:        err,
	}
}

// belowTop says whether a cgroup is directly below the top of a cgroup namespace, as in
// a container. Other than the root of all cgroups such a top has a type.
func belowTop(dir string) bool {
	top := path.Dir(dir)
	var above unix.Statfs_t
	if err := unix.Statfs(path.Dir(top), &above); err != nil || int64(above.Type) == unix.CGROUP2_SUPER_MAGIC {
		return false
	}
	_, err := readAt(unix.AT_FDCWD, path.Join(top, "cgroup.type"), nil)
	return err == nil
}

// v1Name returns what cgroup v1 calls a controller.
func v1Name(controller string) string {
	if controller == "io" {
		return "blkio"
	}
	return controller
}

// heldByV1 says whether a cgroup v1 hierarchy of this host has the controller: one
// of v1 cannot be used in v2.
func heldByV1(controller string) bool {
	b, err := readAt(unix.AT_FDCWD, "/proc/self/cgroup", make([]byte, 0, 1024))
	return err == nil && heldByV1In(string(b), v1Name(controller))
}

// heldByV1In looks for "4:cpu,cpuacct:/path".
func heldByV1In(procSelfCgroup, v1Name string) bool {
	for line := range strings.Lines(procSelfCgroup) {
		fields := strings.SplitN(line, ":", 3)
		if len(fields) == 3 && slices.Contains(strings.Split(fields[1], ","), v1Name) {
			return true
		}
	}
	return false
}
