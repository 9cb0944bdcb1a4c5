package spawn

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// defaultPath is used where the environment has no PATH, as the C library does.
const defaultPath = "/usr/local/bin:/usr/bin:/bin"

// LookPath finds the program that a command names, for [Cmd.Path]. A name with a
// slash is a path, relative to dir, or to the caller's working directory if dir is
// "". A bare name is searched for in PATH of env, which is the environment the
// process will get and not the caller's; entries of PATH that are not absolute are
// skipped. It returns an [*Error] with [CauseNotFound], or [CauseNotExecutable] if
// all it found was a file that nobody may execute.
func LookPath(name string, env []string, dir string) (string, error) {
	if name == "" {
		return "", &Error{Path: name, Cause: CauseInvalid, Detail: "the command has no name", Err: unix.EINVAL}
	}
	if strings.Contains(name, "/") {
		return lookFile(name, dir)
	}
	path := defaultPath
	for _, entry := range env { // the last one counts, as for getenv of most shells
		if value, ok := strings.CutPrefix(entry, "PATH="); ok {
			path = value
		}
	}
	var found error
	for _, in := range filepath.SplitList(path) {
		if !filepath.IsAbs(in) {
			continue
		}
		full := filepath.Join(in, name)
		if _, err := os.Stat(full); err != nil {
			continue // not there, or in a directory that is not for us
		}
		err := executable(full)
		if err == nil {
			return full, nil
		}
		if errors.Is(err, fs.ErrPermission) && found == nil {
			found = &Error{Path: full, Cause: CauseNotExecutable, Err: err}
		}
	}
	if found != nil {
		return "", found
	}
	return "", &Error{Path: name, Cause: CauseNotFound, Detail: "not in PATH=" + path, Err: unix.ENOENT}
}

// lookFile is LookPath for a name that says where the file is.
func lookFile(name, dir string) (string, error) {
	full := name
	if !filepath.IsAbs(name) {
		full = filepath.Join(dir, name)
		abs, err := filepath.Abs(full)
		if err != nil {
			return "", &Error{Path: name, Cause: CauseUnknown, Err: err}
		}
		full = abs
	}
	err := executable(full)
	switch {
	case err == nil:
		return full, nil
	case errors.Is(err, fs.ErrPermission):
		return "", &Error{Path: full, Cause: CauseNotExecutable, Err: err}
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
		return "", &Error{Path: full, Cause: CauseNotFound, Err: err}
	}
	return "", &Error{Path: full, Cause: CauseUnknown, Err: err}
}

// executable returns nil for a file that somebody may execute. Whether the worker's
// user may is seen when it tries.
func executable(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err.(*fs.PathError).Err
	}
	if !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
		return unix.EACCES
	}
	return nil
}
