package main

import (
	"errors"
	"io"
)

// answer is standard output, and remembers that it could not be written: who has not
// heard an answer must not take the exit code for one.
type answer struct {
	io.Writer
	err error
}

func (o *answer) Write(p []byte) (int, error) {
	n, err := o.Writer.Write(p)
	if err != nil {
		o.err = err
	}
	return n, err
}

// unheard puts the answer's own error in the place of success, and of the code that a
// verb has given to it.
func (o *answer) unheard(err error) error {
	if o.err != nil && (err == nil || errors.Is(err, o.err)) {
		return fail(exitSelf, o.err)
	}
	return err
}

// bare is standard output where nobody asks for an answer: pools run on without it.
func bare(w io.Writer) io.Writer {
	if out, ok := w.(*answer); ok {
		return out.Writer
	}
	return w
}
