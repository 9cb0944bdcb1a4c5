package cgroup

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// The answers that a caller may want to branch on. They are wrapped together with
// the kernel's own error, so errors.Is finds both.
var (
	// ErrNoCgroup2 says that this host has no usable cgroup2 mount.
	ErrNoCgroup2 = errors.New("no cgroup2 file system is mounted")
	// ErrNotSupported says that this kernel, mount or cgroup does not offer it.
	ErrNotSupported = errors.New("not supported here")
	// ErrPopulated says that a cgroup still holds processes or cgroups.
	ErrPopulated = errors.New("the cgroup holds processes or cgroups")
	// ErrGone says that the cgroup was removed, even if another now has its name.
	ErrGone = errors.New("the cgroup is gone")
	// ErrLocked says that somebody else holds the lock on the cgroup.
	ErrLocked = errors.New("the cgroup is locked by another process")
	// ErrSelf says that the operation would have hit the calling process or one of
	// its ancestors.
	ErrSelf = errors.New("the cgroup holds the calling process or one of its ancestors")
)

// wrap names what was done to which cgroup and translates the kernel's answer.
func (d *Dir) wrap(act string, err error) error {
	return fmt.Errorf("%s of %s: %w", act, d.Path(), d.translate(err))
}

// translate gives the kernel's answer about d or a file in it one of this package's
// meanings. Answers about a child, where ENOENT and EBUSY mean something else, are
// translated in childError.
func (d *Dir) translate(err error) error {
	var errno unix.Errno
	if !errors.As(err, &errno) {
		return err
	}
	switch errno {
	case unix.ENODEV:
		return join(ErrGone, err)
	case unix.ENOENT:
		// The same answer for "no such file in this cgroup" and "no such cgroup".
		if there, existsErr := d.Exists(); existsErr == nil && !there {
			return join(ErrGone, err)
		}
		return join(ErrNotSupported, err)
	case unix.EOPNOTSUPP, unix.ENOSYS:
		return join(ErrNotSupported, err)
	case unix.EBADF:
		return join(os.ErrClosed, err)
	}
	return err
}

// childError is translate for answers about a child of d. ENOENT stays as it is,
// which is fs.ErrNotExist, unless d itself is gone.
func (d *Dir) childError(act, name string, err error) error {
	switch err {
	case unix.ENOENT:
		if there, existsErr := d.Exists(); existsErr == nil && !there {
			err = join(ErrGone, err)
		}
	case unix.EBUSY:
		err = join(ErrPopulated, err)
	case unix.EAGAIN:
		// cgroup_mkdir says so for cgroup.max.descendants and cgroup.max.depth.
		if limit := d.treeLimit(); limit != nil {
			err = limit
		}
	case unix.EBADF:
		err = join(os.ErrClosed, err)
	}
	return fmt.Errorf("%s cgroup %s/%s: %w", act, d.Path(), name, err)
}

// join puts our meaning before the kernel's own words and keeps both findable.
func join(meaning, err error) error {
	return fmt.Errorf("%w (%w)", meaning, err)
}

// Blocker is a process that keeps a cgroup from ending. It is for printing only:
// the number may belong to another process by the time it is read.
type Blocker struct {
	PID   int
	Comm  string
	State string // as in /proc/<pid>/stat: "D" is uninterruptible sleep
	Wchan string // the kernel function it sleeps in, "" where the host hides it
}

// String returns "4711 dd D nfs_wait_bit_killable".
func (b Blocker) String() string {
	s := fmt.Sprintf("%d %s %s", b.PID, b.Comm, b.State)
	if b.Wchan != "" {
		s += " " + b.Wchan
	}
	return s
}

// BlockedError says that a cgroup could not be emptied in time, and what is left.
type BlockedError struct {
	Path     string
	Blockers []Blocker // at most 16; empty when only directories are left
	Total    int       // how many processes are left
	Err      error     // why the waiting ended
}

// Error names the first processes that are left.
func (e *BlockedError) Error() string {
	if e.Total == 0 {
		return fmt.Sprintf("remove cgroup %s: %v", e.Path, e.Err)
	}
	names := make([]string, 0, 3)
	for _, b := range e.Blockers {
		if len(names) == cap(names) {
			names = append(names, "...")
			break
		}
		names = append(names, b.String())
	}
	noun := "processes"
	if e.Total == 1 {
		noun = "process"
	}
	return fmt.Sprintf("end cgroup %s: %d %s left (%s): %v",
		e.Path, e.Total, noun, strings.Join(names, ", "), e.Err)
}

// Unwrap returns why the waiting ended, as a rule the cause of the context.
func (e *BlockedError) Unwrap() error { return e.Err }

// ControllerError says that a limit needs a controller which the cgroup lacks.
type ControllerError struct {
	Controller string // "memory", "pids", "cpu", ...
	File       string // the missing file, "" when it is the controller itself
	Path       string // of the cgroup
	Hybrid     bool   // the controller is bound to a cgroup v1 hierarchy here
	Container  bool   // the cgroup above is the top of a container's tree
	Err        error
}

// Error names the controller and the cgroup.
func (e *ControllerError) Error() string {
	if e.File != "" {
		return fmt.Sprintf("no %s in cgroup %s: %v", e.File, e.Path, e.Err)
	}
	return fmt.Sprintf("no %s controller in cgroup %s: %v", e.Controller, e.Path, e.Err)
}

// Unwrap returns the kernel's answer together with [ErrNotSupported] where it has
// that meaning.
func (e *ControllerError) Unwrap() error { return e.Err }

// Hint says what would make the controller available.
func (e *ControllerError) Hint() string {
	switch {
	case e.Hybrid:
		return fmt.Sprintf("cgroup v1 holds the %s controller on this host: boot with systemd.unified_cgroup_hierarchy=1 or cgroup_no_v1=%s, or leave this limit out",
			e.Controller, v1Name(e.Controller))
	case e.File == "memory.swap.max":
		return "the kernel does not account swap: boot with swapaccount=1, or leave this limit out"
	case e.File != "":
		return fmt.Sprintf("this kernel has the %s controller but not %s: leave this limit out", e.Controller, e.File)
	case errors.Is(e.Err, unix.EBUSY):
		return "processes live in this very cgroup: move them to a leaf below it (cgroup v2 allows no processes beside enabled controllers)"
	case e.Container:
		return "the processes of this container are at the top of its cgroup tree, from where the kernel hands no controller down: move them to a leaf first, as the entry point in docs/containers.md does, or leave this limit out"
	case errors.Is(e.Err, unix.EACCES), errors.Is(e.Err, unix.EPERM):
		return "the cgroup is not delegated: systemd-run --user --scope -p Delegate=yes, or Delegate=yes in the unit"
	}
	return fmt.Sprintf("the cgroup above does not hand the %s controller down: Delegate=%s in the unit, or echo +%s into cgroup.subtree_control of each cgroup above, or leave this limit out",
		e.Controller, e.Controller, e.Controller)
}
