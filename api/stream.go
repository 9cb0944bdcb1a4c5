package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// EventOptions says which events a stream has. The zero value is all events from
// now on.
type EventOptions struct {
	// Since is the number of the event after which the stream begins; 0 is now,
	// unless All is set. Events that are no longer held are told as EventGap.
	Since uint64
	All   bool // begin with the oldest event that is held

	Select []string // of which workers; none is all
	Kinds  []string // which kinds; none is all
	NoWait bool     // end after the newest event instead of waiting for more

	// Cursor goes on where an earlier iteration with it has ended, in place of Since and
	// All. An empty one begins as those say.
	Cursor *EventCursor
}

// EventCursor is how far the events of one supervisor were read. The zero value is not
// at all. Each supervisor counts its events from 1 on, so the one that has come in the place
// of another refuses its cursors, with [CodeOtherRun].
type EventCursor struct {
	run   string
	seq   uint64
	begun bool // seq is where to go on, 0 as well
}

// Cursor is where events go on that the status does not show.
func (s *Status) Cursor() *EventCursor { return &EventCursor{s.Run.ID, s.Seq, true} }

// RunHeader names the run of a supervisor in its answers that are streams.
const RunHeader = "Pitvisor-Run"

func (o *EventOptions) query() url.Values {
	q := url.Values{"select": o.Select, "kind": o.Kinds}
	if o.Cursor != nil && o.Cursor.run != "" {
		q.Set("run", o.Cursor.run)
	}
	switch {
	case o.Cursor != nil && o.Cursor.begun:
		q.Set("since", strconv.FormatUint(o.Cursor.seq, 10))
	case o.Since > 0:
		q.Set("since", strconv.FormatUint(o.Since, 10))
	case o.All:
		q.Set("since", "0")
	}
	if o.NoWait {
		q.Set("follow", "false")
	}
	return q
}

// maxLine bounds one event: its longest part is the last lines of stderr.
const maxLine = 1 << 20

// ErrStreamLost says that the supervisor closed a stream before it was over, because
// it was read too slowly or the supervisor ended. An
// [EventCursor] and a [LogCursor] know how to go on.
var ErrStreamLost = errors.New("the stream was closed by the supervisor")

// Events returns the events of a stream as they come. The iteration ends with an
// error, which may be that of ctx; after EventEnd, and with NoWait, it ends without
// one.
func (c *Client) Events(ctx context.Context, o EventOptions) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		resp, err := c.do(ctx, http.MethodGet, "/v1/events", o.query(), nil)
		if err != nil {
			yield(Event{}, err)
			return
		}
		defer func() { _ = resp.Body.Close() }() // ends the stream
		if o.Cursor != nil {
			o.Cursor.run = resp.Header.Get(RunHeader)
		}
		ended := false
		err = readLines(resp.Body, func(line []byte) (bool, error) {
			var e Event
			if err := json.Unmarshal(line, &e); err != nil {
				return false, fmt.Errorf("decode an event: %w", err)
			}
			ended = e.Kind == EventEnd
			if o.Cursor != nil {
				o.Cursor.seq, o.Cursor.begun = e.Seq, true
			}
			return yield(e, nil), nil
		})
		if err := endOfStream(ctx, err, ended || o.NoWait); err != nil {
			yield(Event{}, err)
		}
	}
}

// endOfStream is what a reader of a stream is told in the end: nil if it has had
// enough, or the supervisor has said that this is the end.
func endOfStream(ctx context.Context, err error, ended bool) error {
	switch {
	case err == nil, errors.Is(err, errEnough):
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, io.EOF) && ended:
		return nil
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return ErrStreamLost
	}
	return fmt.Errorf("read a stream: %w", err)
}

// errEnough is the end of a stream that its reader wants.
var errEnough = errors.New("enough")

// readLines gives each line to f, until it has enough or there is an error, io.EOF
// at least.
func readLines(r io.Reader, f func([]byte) (more bool, err error)) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 4096), maxLine)
	for lines.Scan() {
		line := bytes.TrimSpace(lines.Bytes())
		if len(line) == 0 {
			continue
		}
		more, err := f(line)
		if err != nil {
			return err
		}
		if !more {
			return errEnough
		}
	}
	if lines.Err() != nil {
		return lines.Err()
	}
	return io.EOF
}

// settle is how long a burst of events is left alone before the status is asked
// for again.
const settle = 20 * time.Millisecond

// WaitFor returns the first status that pleases done, which it asks again whenever
// something has happened. It ends with an error when ctx is done, or the supervisor
// is; the status is the last one then, nil if there was none.
func (c *Client) WaitFor(ctx context.Context, done func(*Status) bool, selected ...string) (*Status, error) {
	status, err := c.Status(ctx, selected...)
	if err != nil || done(status) {
		return status, err
	}
	inner, cancel := context.WithCancel(ctx)
	happened := make(chan struct{}, 1)
	ended := make(chan error, 1)
	go func() { ended <- c.listen(inner, status.Cursor(), happened) }()
	defer func() {
		cancel()
		<-ended
	}()
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-happened:
		case err := <-ended:
			ended <- err // for the deferred wait
			return status, err
		}
		<-pause.C
		next, err := c.Status(ctx, selected...)
		if err != nil {
			return status, err
		}
		if next.Run.ID != status.Run.ID {
			return status, ErrEnded
		}
		if status = next; done(status) {
			return status, nil
		}
		pause.Reset(settle)
	}
}

// ErrEnded is why a wait is in vain: nobody is there to tell. Another supervisor may have
// come in the place of the one that was asked.
var ErrEnded = errors.New("the supervisor has ended")

// listen says that something has happened, until the stream ends.
func (c *Client) listen(ctx context.Context, from *EventCursor, happened chan<- struct{}) error {
	o := EventOptions{Cursor: from}
	for {
		for e, err := range c.Events(ctx, o) {
			if errors.Is(err, ErrStreamLost) {
				break
			}
			if errors.Is(err, &Error{Code: CodeOtherRun}) {
				return ErrEnded
			}
			if err != nil {
				return err
			}
			if e.Kind == EventEnd {
				return ErrEnded
			}
			select {
			case happened <- struct{}{}:
			default:
			}
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}
