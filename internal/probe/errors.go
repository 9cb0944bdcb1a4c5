package probe

import (
	"errors"
	"fmt"
)

// NotReadyError says which rule did not hold and what was last seen of it.
type NotReadyError struct {
	Rule  string // "tcp 127.0.0.1:8080", "ready file /run/x", "sd_notify READY=1"
	Last  error  // what the last look or try gave; may wrap supervise.ErrPortTaken
	Tries int    // of a rule that is tried again and again; 0 for one that waits
	Cause error  // why the waiting ended, from the context; nil when the rule cannot hold any more
}

// Error says it in one line, such as
// "tcp 127.0.0.1:8080: connection refused after 12 tries".
func (e *NotReadyError) Error() string {
	text := e.Rule
	if e.Last != nil {
		text += ": " + e.Last.Error()
	}
	switch {
	case e.Tries == 1:
		text += " after 1 try"
	case e.Tries > 1:
		text += fmt.Sprintf(" after %d tries", e.Tries)
	}
	return text
}

// Unwrap returns Last and Cause.
func (e *NotReadyError) Unwrap() []error {
	var errs []error
	for _, err := range []error{e.Last, e.Cause} {
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// finalError marks what no further try can change.
type finalError struct{ err error }

func (e *finalError) Error() string { return e.err.Error() }
func (e *finalError) Unwrap() error { return e.err }

func final(err error) error { return &finalError{err} }

func isFinal(err error) bool {
	var f *finalError
	return errors.As(err, &f)
}
