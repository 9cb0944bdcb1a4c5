package probe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// fdWait is a pipe whose write end the worker gets under a chosen number.
type fdWait struct {
	read  *os.File
	files []*os.File // for the worker, from descriptor 3 on; the last one is the write end
}

// prepareFD makes the pipe. Descriptors below the chosen one are /dev/null.
func prepareFD(number int) (*fdWait, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make the pipe for fd %d: %w", number, err)
	}
	f := &fdWait{read: r}
	for range number - 3 {
		null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
		if err != nil {
			f.files = append(f.files, w)
			f.close()
			return nil, fmt.Errorf("open %s below fd %d: %w", os.DevNull, number, err)
		}
		f.files = append(f.files, null)
	}
	f.files = append(f.files, w)
	return f, nil
}

// release closes the worker's ends in this process, so that the pipe ends when
// the worker's does.
func (f *fdWait) release() {
	for _, file := range f.files {
		_ = file.Close() // nothing was written
	}
	f.files = nil
}

func (f *fdWait) close() {
	f.release()
	_ = f.read.Close() // read-only; nothing to lose
}

// awaitFD waits for a newline on the worker's descriptor. What stands before it
// does not matter.
func (a *attempt) awaitFD(ctx context.Context) error {
	a.fd.release()
	rule := fmt.Sprintf("newline on fd %d", a.rules.FD)
	stop := context.AfterFunc(ctx, func() {
		_ = a.fd.read.SetReadDeadline(time.Unix(1, 0)) // fails only when closed already
	})
	defer stop()
	buf := make([]byte, 256)
	last := errors.New("nothing was written")
	for {
		n, err := a.fd.read.Read(buf)
		if bytes.IndexByte(buf[:n], '\n') >= 0 {
			return nil
		}
		if n > 0 {
			last = fmt.Errorf("no newline yet, the last bytes are %q", shorten(string(buf[:n])))
		}
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return notReady(ctx, rule, last)
		case errors.Is(err, io.EOF):
			return &NotReadyError{Rule: rule, Last: errors.New("the worker closed it without writing one")}
		case err != nil:
			return &NotReadyError{Rule: rule, Last: err}
		}
	}
}
