package spawn

import (
	"errors"

	"golang.org/x/sys/unix"
)

// Cause says why a start failed.
type Cause uint8

// The causes. The error's Detail names the file, directory or cgroup.
const (
	CauseUnknown          Cause = iota
	CauseNotFound               // the program does not exist
	CauseNotExecutable          // it exists and may not be executed by anybody
	CauseBadFormat              // it is neither a program for this machine nor a script
	CauseNoInterpreter          // it names an interpreter or loader that does not work
	CauseCgroupGone             // the leaf was removed
	CauseCgroupFrozen           // the leaf is frozen
	CauseCgroupOutside          // the leaf is outside of our cgroup namespace, which is a border
	CauseKilledBeforeExec       // the helper was killed; see also Exit.BeforeExec
	CauseForkLimit              // the kernel gave no process
	CauseBadDir                 // the working directory does not exist or may not be entered
	CauseCredential             // the caller may not become that user
	CausePermission             // the user may not execute the program, or the caller not use the leaf
	CauseTooManyFiles           // no descriptors left, here or on the machine
	CauseSetting                // umask, nice, a resource limit or the like was refused
	CauseNetwork                // the network namespace could not be made
	CauseNamespace              // the namespaces of another process cannot be entered
	CauseHelper                 // the helper is needed and this program does not call HelperMain
	CauseInvalid                // the Cmd makes no sense
)

// String returns the cause in lower case with hyphens.
func (c Cause) String() string {
	switch c {
	case CauseUnknown:
		return "unknown"
	case CauseNotFound:
		return "not-found"
	case CauseNotExecutable:
		return "not-executable"
	case CauseBadFormat:
		return "bad-format"
	case CauseNoInterpreter:
		return "no-interpreter"
	case CauseCgroupGone:
		return "cgroup-gone"
	case CauseCgroupFrozen:
		return "cgroup-frozen"
	case CauseCgroupOutside:
		return "cgroup-outside"
	case CauseKilledBeforeExec:
		return "killed-before-exec"
	case CauseForkLimit:
		return "fork-limit"
	case CauseBadDir:
		return "bad-dir"
	case CauseCredential:
		return "credential"
	case CausePermission:
		return "permission"
	case CauseTooManyFiles:
		return "too-many-files"
	case CauseSetting:
		return "setting"
	case CauseNetwork:
		return "network"
	case CauseNamespace:
		return "namespace"
	case CauseHelper:
		return "helper"
	case CauseInvalid:
		return "invalid"
	}
	return "unknown"
}

// Error is a start that failed. Nothing of it is left.
type Error struct {
	Path   string // the program
	Leaf   string // the cgroup it should have been in, "" when there was none
	Cause  Cause
	Detail string // what exactly is wrong, such as "interpreter /bin/nope does not exist"; may be ""
	Err    error  // what the kernel said
}

// Error returns one line.
func (e *Error) Error() string {
	s := "start " + e.Path
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns what the kernel said.
func (e *Error) Unwrap() error { return e.Err }

// Hint returns the way out in one sentence, or "" if there is none to name.
func (e *Error) Hint() string {
	switch e.Cause {
	case CauseNotFound:
		return "check the path, or PATH in the environment of the command if it is a bare name"
	case CauseNotExecutable:
		return "make the file executable (chmod +x), and keep it on a file system that is not mounted noexec"
	case CauseBadFormat:
		return "a script must begin with a line like #!/bin/sh; a program must be built for this machine"
	case CauseNoInterpreter:
		return "install the interpreter, or correct the first line of the script"
	case CauseCgroupGone:
		return "the run was stopped or swept; start it again"
	case CauseCgroupFrozen:
		return "thaw the run: write 0 to cgroup.freeze of it and of the cgroups above"
	case CauseCgroupOutside:
		return "start pitvisor outside of that cgroup namespace, or give it a cgroup inside: --cgroup-root, PITVISOR_CGROUP_ROOT"
	case CauseKilledBeforeExec:
		return "see the kernel log for the out-of-memory killer, and who else kills in this cgroup"
	case CauseForkLimit:
		return "raise pids.max of the pool (TasksMax= of the service), RLIMIT_NPROC of the user, or kernel.pid_max"
	case CauseBadDir:
		return "create the working directory, and let the command's user enter it and those above it"
	case CauseCredential:
		return "only root can change the user of a worker; run as root, or leave user and groups out"
	case CausePermission:
		return "let the command's user read and execute the program and pass the directories above it, and run pitvisor inside a delegated cgroup"
	case CauseTooManyFiles:
		return "raise LimitNOFILE= of the service (ulimit -n), or fs.file-max of the machine"
	case CauseSetting:
		return "raising limits and priorities needs root (CAP_SYS_RESOURCE, CAP_SYS_NICE)"
	case CauseNetwork:
		return "network namespaces need root (CAP_SYS_ADMIN) and user.max_net_namespaces above 0"
	case CauseNamespace:
		return "entering namespaces needs root, or a user namespace that this user has made"
	case CauseHelper:
		return "call spawn.HelperMain first in main, and in TestMain of tests"
	case CauseUnknown, CauseInvalid:
	}
	return ""
}

// causeOf is the cause of an errno that means the same wherever it comes from.
func causeOf(err error) Cause {
	switch {
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
		return CauseTooManyFiles
	case errors.Is(err, unix.EAGAIN):
		return CauseForkLimit
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return CausePermission
	}
	return CauseUnknown
}
