// Package exit holds the exit codes of pitvisor, and errors that carry one
// together with the way out.
//
// It is not for choosing codes: that is for the verbs.
package exit

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"syscall"
)

// The exit codes. The help of each verb prints those that it uses.
const (
	OK            = 0
	Failed        = 1   // something did not start or was given up; for listings: something is wrong
	Usage         = 2   // wrong flags, arguments or configuration
	Unclean       = 3   // the stop was not clean: something was killed after its grace, or is still there
	Leaked        = 123 // the command left processes behind, and that was to be an error
	TimedOut      = 124 // the command was ended by its time limit
	Self          = 125 // pitvisor itself could not do its work: no cgroup, no permission, no space
	NotExecutable = 126 // the command exists and cannot be executed
	NotFound      = 127 // the command does not exist
	signalBase    = 128
)

// Signalled is the exit code of who was ended by a signal.
func Signalled(sig syscall.Signal) int { return signalBase + int(sig) }

// Error carries an exit code. A nil Err means that everything was said already.
type Error struct {
	Code int
	Err  error
	Way  string // the way out; "" leaves it to the error itself
}

// Fail makes an error with an exit code.
func Fail(code int, err error) error { return &Error{Code: code, Err: err} }

// FailHint makes an error with an exit code and a way out.
func FailHint(code int, err error, hint string) error { return &Error{Code: code, Err: err, Way: hint} }

// Error returns the text of the cause.
func (e *Error) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("exit code %d", e.Code)
	}
	return e.Err.Error()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Hint is the way out, for a line of its own.
func (e *Error) Hint() string { return e.Way }

// AsSelf marks an error as pitvisor's own failure unless it has a code already.
func AsSelf(err error) error {
	var e *Error
	if err == nil || errors.As(err, &e) {
		return err
	}
	return Fail(Self, err)
}

// Report prints an error for a person, with the way out if there is one, and
// returns the exit code; code is that of no error.
func Report(w io.Writer, code int, err error) int {
	if err == nil {
		return code
	}
	var coded *Error
	code = Self
	if errors.As(err, &coded) {
		code = coded.Code
		if coded.Err == nil {
			return code
		}
	}
	fmt.Fprintf(w, "pitvisor: %s\n", err)
	if hint := Hint(err); hint != "" {
		fmt.Fprintf(w, "pitvisor: hint: %s\n", hint)
	}
	return code
}

// hinter is implemented by errors that know what would cure them.
type hinter interface{ Hint() string }

// Hint returns what would cure an error, "" if nobody knows.
func Hint(err error) string {
	for e := err; e != nil; e = errors.Unwrap(e) {
		var h hinter
		if !errors.As(e, &h) {
			break
		}
		if hint := h.Hint(); hint != "" {
			return hint
		}
	}
	switch {
	case errors.Is(err, syscall.ENOSPC):
		return "free some space there, or name another place (for logs and history: --state-dir)"
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return "raise the limit of open files (ulimit -n, or LimitNOFILE= in the unit)"
	case errors.Is(err, syscall.EROFS):
		return "the file system is read-only: name a writable place with --state-dir or --cgroup-root"
	case errors.Is(err, fs.ErrPermission):
		return "run as root, or in a delegated cgroup: systemd-run --user --scope -p Delegate=yes pitvisor …"
	}
	return ""
}
