package capture

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Error is a failure with an object and, if there is one, a cure.
type Error struct {
	Op   string // a verb, such as "create"
	Path string
	Err  error
	hint string
}

func (e *Error) Error() string { return fmt.Sprintf("%s %s: %v", e.Op, e.Path, e.Err) }

// Unwrap returns the cause, so that errors.Is finds the errno.
func (e *Error) Unwrap() error { return e.Err }

// Hint says what to do about it; it may be empty.
func (e *Error) Hint() string { return e.hint }

// explain wraps err with what was done and the cure for the errors that have one.
func explain(op, path string, err error) error {
	if err == nil {
		return nil
	}
	var pe *fs.PathError
	if errors.As(err, &pe) {
		path, err = pe.Path, pe.Err
	}
	return &Error{Op: op, Path: path, Err: err, hint: cure(err)}
}

func cure(err error) string {
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return `free some space or inodes, put state_dir on another disk, or set output = "none"`
	case errors.Is(err, unix.EROFS), errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return `set state_dir to a directory that this user may write, or set output = "none"`
	case errors.Is(err, unix.EMFILE):
		return "raise the limit on open files of the supervisor (ulimit -n, LimitNOFILE=)"
	case errors.Is(err, unix.ENFILE):
		return "the whole system is out of open files; raise it with sysctl fs.file-max"
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		return "a part of the path is a file or a symbolic link; remove it or set state_dir"
	}
	return ""
}

// explainInotify tells the limits of inotify apart from the errors whose numbers it borrows.
func explainInotify(op, path string, err error) error {
	switch {
	case errors.Is(err, unix.ENOSPC):
		return &Error{
			Op: op, Path: path, Err: fmt.Errorf("inotify watch limit of this user reached (%w)", err),
			hint: raise("fs.inotify.max_user_watches", 65536),
		}
	case errors.Is(err, unix.EMFILE):
		return &Error{
			Op: op, Path: path, Err: fmt.Errorf("limit on inotify instances of this user or on open files reached (%w)", err),
			hint: raise("fs.inotify.max_user_instances", 512) + ", or raise the limit on open files",
		}
	}
	return explain(op, path, err)
}

func raise(sysctl string, least int) string {
	now, err := os.ReadFile("/proc/sys/" + strings.ReplaceAll(sysctl, ".", "/"))
	if err != nil {
		return fmt.Sprintf("raise it: sysctl -w %s=%d", sysctl, least)
	}
	return fmt.Sprintf("it is %s; raise it: sysctl -w %s=%d", strings.TrimSpace(string(now)), sysctl, least)
}

// isShortage says that trying again later may help.
func isShortage(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOMEM)
}
