package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"syscall"

	"github.com/pitvisor/pitvisor/internal/config"
)

// The exit codes of pitvisor. `pitvisor help up` prints the same table.
const (
	exitOK      = 0
	exitFailed  = 1   // a worker did not start or was given up; for listings: something is wrong
	exitUsage   = 2   // wrong flags, arguments or configuration
	exitUnclean = 3   // the stop was not clean: something was killed after its grace, or is still there
	exitSelf    = 125 // pitvisor itself could not do its work: no cgroup, no permission, no space
)

// exitError carries an exit code through cobra. A nil err means that everything
// was said already.
type exitError struct {
	code int
	err  error
	hint string
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// Hint is the way out, printed on a line of its own.
func (e *exitError) Hint() string { return e.hint }

func fail(code int, err error) error { return &exitError{code: code, err: err} }

func failHint(code int, err error, hint string) error {
	return &exitError{code: code, err: err, hint: hint}
}

// hinter is implemented by errors that know what would cure them.
type hinter interface{ Hint() string }

// report prints an error for a person and returns the exit code that it means.
func report(w io.Writer, err error) int {
	if err == nil {
		return exitOK
	}
	var exit *exitError
	code := exitUsage // cobra's own errors are about flags and arguments
	if errors.As(err, &exit) {
		code = exit.code
		if exit.err == nil {
			return code
		}
	}
	var list config.Errors
	if errors.As(err, &list) {
		fmt.Fprintln(w, list) // "file:line:column: …", as editors and CI read it
	} else {
		fmt.Fprintf(w, "pitvisor: %s\n", err)
	}
	if hint := hintFor(err); hint != "" {
		fmt.Fprintf(w, "pitvisor: hint: %s\n", hint)
	}
	return code
}

func hintFor(err error) string {
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
		return "free some space there, or name another place with --state-dir"
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return "raise the limit of open files (ulimit -n, or LimitNOFILE= in the unit)"
	case errors.Is(err, syscall.EROFS):
		return "the file system is read-only: name a writable place with --state-dir or --cgroup-root"
	case errors.Is(err, fs.ErrPermission):
		return "run as root, or in a delegated cgroup: systemd-run --user --scope -p Delegate=yes pitvisor …"
	}
	return ""
}
