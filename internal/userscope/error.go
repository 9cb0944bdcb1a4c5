package userscope

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/pitvisor/pitvisor/cgroup"
)

// Cause says why there is no scope.
type Cause uint8

// The causes.
const (
	CauseUnknown      Cause = iota
	CauseNoCgroup2          // no cgroup v2 here, so that a scope would be of no use
	CauseNoSystemd          // the host was not booted with systemd, or its manager cannot be reached
	CauseNoManager          // there is no systemd of this user: not logged in, or by su or sudo
	CauseRefused            // systemd has said no, or could not do it
	CauseNoAnswer           // it did not answer in time
	CauseNotMoved           // it says that it is done, and we are where we were
	CauseLegacy             // the scope is in cgroup v1
	CauseNotDelegated       // we are in the scope and may not work there
)

// String returns the cause in lower case with hyphens.
func (c Cause) String() string {
	switch c {
	case CauseUnknown:
		return "unknown"
	case CauseNoCgroup2:
		return "no-cgroup2"
	case CauseNoSystemd:
		return "no-systemd"
	case CauseNoManager:
		return "no-manager"
	case CauseRefused:
		return "refused"
	case CauseNoAnswer:
		return "no-answer"
	case CauseNotMoved:
		return "not-moved"
	case CauseLegacy:
		return "legacy"
	case CauseNotDelegated:
		return "not-delegated"
	}
	return "unknown"
}

// Error says why there is no scope to work in.
type Error struct {
	Cause  Cause
	Unit   string // the scope that was asked for
	Cgroup string // where this process is if it was moved all the same, as /proc/self/cgroup says; else ""
	Err    error
}

// Error says what went wrong, and where this process is now if that has changed.
func (e *Error) Error() string {
	s := "get " + e.Unit + " from systemd"
	switch e.Cause {
	case CauseNoSystemd:
		s += ": no systemd to ask here"
	case CauseNoManager:
		s += fmt.Sprintf(": user %d has no systemd running", os.Geteuid())
	case CauseNoAnswer:
		s += ": no answer"
	case CauseUnknown, CauseNoCgroup2, CauseRefused, CauseNotMoved, CauseLegacy, CauseNotDelegated:
	}
	if e.Err != nil {
		s += ": " + strings.ReplaceAll(e.Err.Error(), "\n", ", ")
	}
	switch {
	case e.Cgroup != "":
		s += "; this process is in " + e.Cgroup + " now"
	case e.Cause == CauseNoAnswer:
		s += "; systemd may still move this process"
	}
	return s
}

// Unwrap returns what the kernel or systemd said.
func (e *Error) Unwrap() error { return e.Err }

// Hint names the one command that helps, or "" if there is none.
func (e *Error) Hint() string {
	switch e.Cause {
	case CauseNoCgroup2, CauseLegacy:
		return "cgroup v1 rules this host: boot it with systemd.unified_cgroup_hierarchy=1"
	case CauseNoSystemd:
		return fmt.Sprintf("nobody here can give a user a cgroup but root: sudo pitvisor run --uid %d --gid %d -- COMMAND", os.Geteuid(), os.Getegid())
	case CauseNoManager:
		return fmt.Sprintf("start one, now and at every boot: sudo loginctl enable-linger %d", os.Geteuid())
	case CauseRefused:
		return "see why: journalctl --user --unit " + e.Unit
	case CauseNoAnswer:
		return "see what keeps it busy: systemctl --user list-jobs"
	case CauseNotMoved:
		return "systemd lives outside of this container: run pitvisor where systemctl --user shows this shell"
	case CauseNotDelegated:
		return "a drop-in for pitvisor-run-.scope is in the way, take another name: systemd-run --user --scope -p Delegate=yes pitvisor ..."
	case CauseUnknown:
	}
	return ""
}

// asError makes an *Error of one that is none. One that came because the time was
// over says so.
func asError(ctx context.Context, err error) *Error {
	var e *Error
	switch {
	case errors.As(err, &e):
		return e
	case ctx.Err() != nil:
		return &Error{Cause: CauseNoAnswer, Err: context.Cause(ctx)}
	}
	return &Error{Err: err}
}

// located names the scope, and tells where this process is if that is in it.
func (s *Scope) located(e *Error) *Error {
	e.Unit = s.Unit
	for _, path := range ownCgroups() {
		if strings.HasSuffix(path, "/"+s.Unit) {
			e.Cgroup = path
		}
	}
	return e
}

// elsewhere says what it means that this process is not in the scope, although
// systemd says so.
func (s *Scope) elsewhere() error {
	if s.located(&Error{}).Cgroup == "" {
		return &Error{Cause: CauseNotMoved, Err: errors.New("systemd says that it is done, and this process is where it was")}
	}
	// The name is there, but not in cgroup v2, or not below what is mounted here.
	_, err := cgroup.SelfPath()
	if err != nil {
		return &Error{Cause: CauseNotDelegated, Err: err}
	}
	return &Error{Cause: CauseLegacy, Err: errors.New("systemd keeps its units in cgroup v1")}
}

// ownCgroups returns the paths of this process in every hierarchy.
func ownCgroups() []string {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil
	}
	var paths []string
	for line := range strings.Lines(string(text)) {
		if fields := strings.SplitN(strings.TrimSpace(line), ":", 3); len(fields) == 3 {
			paths = append(paths, fields[2])
		}
	}
	return paths
}
