package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/pitvisor/pitvisor/internal/config"
	"github.com/pitvisor/pitvisor/internal/exit"
)

// The exit codes of pitvisor. `pitvisor help up` prints the same table.
const (
	exitOK      = exit.OK
	exitFailed  = exit.Failed
	exitUsage   = exit.Usage
	exitUnclean = exit.Unclean
	exitSelf    = exit.Self
)

func fail(code int, err error) error { return exit.Fail(code, err) }

func failHint(code int, err error, hint string) error { return exit.FailHint(code, err, hint) }

// tellSystemd shows in `systemctl status` why a service has ended, and passes the
// error on. It does nothing where nobody listens.
func tellSystemd(err error) error {
	var coded *exit.Error
	if err == nil || errors.As(err, &coded) && coded.Err == nil {
		return err
	}
	text, _, _ := strings.Cut(err.Error(), "\n")
	if hint := exit.Hint(err); hint != "" {
		text += "; " + hint
	}
	_, _ = daemon.SdNotify(false, "STATUS="+text)
	return err
}

// printError prints an error for a person and returns the exit code that it means.
func printError(w io.Writer, err error) int {
	if err == nil {
		return exitOK
	}
	var coded *exit.Error
	code := exitUsage // cobra's own errors are about flags and arguments
	if errors.As(err, &coded) {
		code = coded.Code
		if coded.Err == nil {
			return code
		}
	}
	var list config.Errors
	if errors.As(err, &list) {
		fmt.Fprintln(w, list) // "file:line:column: …", as editors and CI read it
	} else {
		fmt.Fprintf(w, "pitvisor: %s\n", err)
	}
	if hint := exit.Hint(err); hint != "" {
		fmt.Fprintf(w, "pitvisor: hint: %s\n", hint)
	}
	return code
}
