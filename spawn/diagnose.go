package spawn

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// diagnose finds out what an errno of startDirect means. The kernel gives the same
// few for a fork, a cgroup, a user, a directory and a program, so each is looked at,
// in the order in which the start meets them. What is found is true a moment later;
// when nothing is found the errno stands for itself.
func (c *Cmd) diagnose(err error) error {
	switch {
	case errors.Is(err, unix.EAGAIN):
		return c.fail(CauseForkLimit, "fork", err)
	case causeOf(err) == CauseTooManyFiles:
		return c.fail(CauseTooManyFiles, "fork", err)
	}
	if e := c.diagnoseLeaf(err); e != nil {
		return e
	}
	if errors.Is(err, unix.EINVAL) {
		if e := c.checkStrings(); e != nil {
			return e
		}
	}
	if c.Credential != nil && (errors.Is(err, unix.EPERM) || errors.Is(err, unix.EINVAL)) {
		return c.fail(CauseCredential, c.Credential.String(), err)
	}
	return c.diagnoseExec(err)
}

// String names the user and the groups.
func (cr *Credential) String() string {
	return fmt.Sprintf("become user %d, group %d, groups %d", cr.UID, cr.GID, cr.Groups)
}

// diagnoseLeaf returns nil if the leaf is not to blame.
func (c *Cmd) diagnoseLeaf(err error) *Error {
	if c.Weak {
		return nil
	}
	path := c.Leaf.Path()
	switch {
	case errors.Is(err, unix.EBUSY), errors.Is(err, unix.EOPNOTSUPP):
		return c.fail(CauseInvalid, "cgroup "+path+" cannot hold processes", err)
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.EACCES):
	default:
		return nil
	}
	switch unix.Faccessat(c.Leaf.FD(), "cgroup.procs", unix.W_OK, unix.AT_EACCESS) {
	case unix.ENOENT, unix.ENODEV:
		return c.fail(CauseCgroupGone, "cgroup "+path+" is gone", err)
	case unix.EACCES, unix.EPERM, unix.EROFS:
		return c.fail(CausePermission, "put a process into cgroup "+path, err)
	}
	return nil
}

// diagnoseExec looks at the working directory and the program.
func (c *Cmd) diagnoseExec(err error) *Error {
	if errors.Is(err, unix.E2BIG) {
		return c.fail(CauseInvalid, "the arguments and the environment are too long", err)
	}
	if e := c.diagnoseDir(err); e != nil {
		return e
	}
	path := c.absolute(c.Path)
	info, statErr := os.Stat(path)
	switch {
	case errors.Is(statErr, fs.ErrNotExist), errors.Is(statErr, unix.ENOTDIR), errors.Is(statErr, unix.ELOOP):
		return c.fail(CauseNotFound, "", err)
	case statErr != nil:
		return c.fail(causeOf(err), "", err)
	}
	switch {
	case errors.Is(err, unix.ENOEXEC):
		return c.fail(CauseBadFormat, "neither a program for this machine nor a script", err)
	case errors.Is(err, unix.ETXTBSY):
		return c.fail(CauseNotExecutable, "somebody is still writing the file", err)
	case errors.Is(err, unix.EACCES):
		return c.diagnoseAccess(path, info, err)
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELIBBAD), errors.Is(err, unix.ELOOP):
		if detail := c.interpreterFault(path); detail != "" {
			return c.fail(CauseNoInterpreter, detail, err)
		}
		if errors.Is(err, unix.ENOENT) && !c.Weak && bordered() {
			// All that exec looks for is there, so it was the clone.
			return c.fail(CauseCgroupOutside, "cgroup "+c.Leaf.Path()+" is outside of the cgroup namespace of this process, which is a border here (nsdelegate)", err)
		}
	}
	return c.fail(causeOf(err), "", err)
}

// bordered says whether cgroup namespaces are borders that no process may cross: an
// option of the mount of cgroup2, for all of its mounts.
func bordered() bool {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(mounts)) {
		_, options, ok := strings.Cut(line, " - cgroup2 ")
		if ok && slices.Contains(strings.Split(strings.TrimSpace(options[strings.LastIndex(options, " ")+1:]), ","), "nsdelegate") {
			return true
		}
	}
	return false
}

// diagnoseDir returns nil if the working directory is not to blame.
func (c *Cmd) diagnoseDir(err error) *Error {
	if c.Dir == "" {
		return nil
	}
	info, statErr := os.Stat(c.Dir)
	switch {
	case statErr != nil:
		return c.fail(CauseBadDir, "enter directory "+c.Dir, statErr.(*fs.PathError).Err)
	case !info.IsDir():
		return c.fail(CauseBadDir, c.Dir+" is not a directory", err)
	}
	if blocked := c.blockedDir(c.Dir); blocked != "" && errors.Is(err, unix.EACCES) {
		return c.fail(CauseBadDir, fmt.Sprintf("%s may not enter directory %s", c.user(), blocked), err)
	}
	return nil
}

// diagnoseAccess explains EACCES for a program that exists.
func (c *Cmd) diagnoseAccess(path string, info fs.FileInfo, err error) *Error {
	switch {
	case info.IsDir():
		return c.fail(CauseNotExecutable, "it is a directory", err)
	case !info.Mode().IsRegular():
		return c.fail(CauseNotExecutable, "it is not a regular file", err)
	case info.Mode()&0o111 == 0:
		return c.fail(CauseNotExecutable, fmt.Sprintf("its mode is %v", info.Mode()), err)
	}
	if blocked := c.blockedDir(filepath.Dir(path)); blocked != "" {
		return c.fail(CausePermission, fmt.Sprintf("%s may not enter directory %s", c.user(), blocked), err)
	}
	if !c.mayExecute(path) {
		return c.fail(CausePermission, fmt.Sprintf("%s may not execute it, its mode is %v", c.user(), info.Mode()), err)
	}
	var st unix.Statfs_t
	if unix.Statfs(path, &st) == nil && st.Flags&unix.ST_NOEXEC != 0 {
		return c.fail(CauseNotExecutable, "its file system is mounted noexec", err)
	}
	if detail := c.interpreterFault(path); detail != "" {
		return c.fail(CauseNoInterpreter, detail, err)
	}
	return c.fail(CausePermission, "the program or the cgroup is closed to us", err)
}

// absolute resolves a path as the process would.
func (c *Cmd) absolute(path string) string {
	if filepath.IsAbs(path) || c.Dir == "" {
		return path
	}
	return filepath.Join(c.Dir, path)
}

// user names the user the process would have.
func (c *Cmd) user() string {
	if c.Credential == nil {
		return fmt.Sprintf("user %d", os.Geteuid())
	}
	return fmt.Sprintf("user %d", c.Credential.UID)
}

// blockedDir returns the topmost directory on the way to dir that the process may
// not enter, or "".
func (c *Cmd) blockedDir(dir string) string {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return ""
	}
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	at := "/"
	for _, name := range strings.Split(dir, "/") {
		at = filepath.Join(at, name)
		if !c.mayExecute(at) {
			return at
		}
	}
	return ""
}

// mayExecute says whether the user may execute a file or enter a directory. For
// another user than the caller it goes by the mode alone and knows no ACLs.
func (c *Cmd) mayExecute(path string) bool {
	if c.Credential == nil {
		return unix.Faccessat(unix.AT_FDCWD, path, unix.X_OK, unix.AT_EACCESS) != unix.EACCES
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return true // not for the reason that is looked for
	}
	switch {
	case c.Credential.UID == 0:
		return st.Mode&0o111 != 0
	case c.Credential.UID == st.Uid:
		return st.Mode&0o100 != 0
	case c.Credential.GID == st.Gid, slices.Contains(c.Credential.Groups, st.Gid):
		return st.Mode&0o010 != 0
	}
	return st.Mode&0o001 != 0
}
