package api

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// LogLine is one line that a worker has printed, or the word that nothing follows.
type LogLine struct {
	Time    time.Time `json:"time"` // of writing, to about 20 milliseconds
	Pool    string    `json:"pool,omitempty"`
	Slot    int       `json:"slot"`                     // -1 with end
	Start   uint64    `json:"start,omitempty"`          // which start of the worker; absent when that is not known
	Stream  string    `json:"stream,omitempty"`         // "stdout" or "stderr"
	Offset  int64     `json:"offset"`                   // of its first byte in the stream, over all starts and rotations: names the line
	Message *string   `json:"message,omitempty"`        // without the newline
	Base64  string    `json:"message_base64,omitempty"` // in place of message: it is no UTF-8
	Partial bool      `json:"partial,omitempty"`        // longer than 64 KiB: it goes on in the next line of the stream
	Lost    int64     `json:"lost_bytes,omitempty"`     // bytes before this line that are no longer there
	End     bool      `json:"end,omitempty"`            // the supervisor has ended; nothing follows
}

// Worker is the name of the worker.
func (l *LogLine) Worker() string { return l.Pool + "/" + strconv.Itoa(l.Slot) }

// Text is the line as it was printed.
func (l *LogLine) Text() []byte {
	if l.Message != nil {
		return []byte(*l.Message)
	}
	text, _ := base64.StdEncoding.DecodeString(l.Base64) // the supervisor has encoded it
	return text
}

// LogOptions says which lines are asked for. The zero value is all of the run's that
// are kept.
type LogOptions struct {
	Select       []string  // of which workers, as for events; none is all
	Stream       string    // "stdout" or "stderr"; "" is both
	Since, Until time.Time // zero is no bound; a line at Until is not wanted
	Tail         int       // only the newest so many, of all workers together; 0 is all of them
	Follow       bool      // go on with what is printed from now on
	None         bool      // with Follow: nothing that was printed before

	// Cursor goes on where an earlier iteration with it has ended, in place of Since,
	// Tail and None: no line is missed and none comes twice. An empty one begins as the
	// others say.
	Cursor *LogCursor
}

// LogCursor is how far the lines of one supervisor's run were read. The zero value is not
// at all. The one that has come in the place of another refuses its cursors, with
// [CodeOtherRun].
type LogCursor struct {
	run  string
	at   time.Time
	next map[logStream]int64
}

type logStream struct {
	pool, stream string
	slot         int
}

// overlap is how much earlier a cursor goes on: lines of several workers come nearly in
// the order of time, and not quite when they are read slowly.
const overlap = 30 * time.Second

// fresh says whether a line was not seen yet, and notes it.
func (c *LogCursor) fresh(l *LogLine) bool {
	key := logStream{l.Pool, l.Stream, l.Slot}
	next, known := c.next[key]
	if known && l.Offset < next {
		return false
	}
	if c.next == nil {
		c.next = map[logStream]int64{}
	}
	c.next[key] = l.Offset + 1
	if l.Time.After(c.at) {
		c.at = l.Time
	}
	return true
}

func (o *LogOptions) query() url.Values {
	q := url.Values{"select": o.Select}
	set := func(name, value string, wanted bool) {
		if wanted {
			q.Set(name, value)
		}
	}
	resumed := o.Cursor != nil && !o.Cursor.at.IsZero()
	since := o.Since
	if o.Cursor != nil {
		set("run", o.Cursor.run, o.Cursor.run != "")
	}
	if resumed {
		since = o.Cursor.at.Add(-overlap)
	}
	set("stream", o.Stream, o.Stream != "")
	set("since", since.Format(time.RFC3339Nano), !since.IsZero())
	set("until", o.Until.Format(time.RFC3339Nano), !o.Until.IsZero())
	set("n", strconv.Itoa(o.Tail), !resumed && (o.Tail > 0 || o.None))
	set("follow", "true", o.Follow)
	return q
}

// Logs returns lines that workers have printed, nearly in the order of time. The
// iteration ends without an error after the last one, and with Follow after the
// supervisor has ended; with [ErrStreamLost] when they were read too slowly: a Cursor
// goes on from there.
func (c *Client) Logs(ctx context.Context, o LogOptions) iter.Seq2[LogLine, error] {
	return func(yield func(LogLine, error) bool) {
		resp, err := c.do(ctx, http.MethodGet, "/v1/logs", o.query(), nil)
		if err != nil {
			yield(LogLine{}, err)
			return
		}
		defer func() { _ = resp.Body.Close() }() // ends the stream
		if o.Cursor != nil {
			o.Cursor.run = resp.Header.Get(RunHeader)
		}
		ended := false
		err = readLines(resp.Body, func(line []byte) (bool, error) {
			var l LogLine
			if err := json.Unmarshal(line, &l); err != nil {
				return false, fmt.Errorf("decode a line: %w", err)
			}
			if l.End {
				ended = true
				return true, nil
			}
			if o.Cursor != nil && !o.Cursor.fresh(&l) {
				return true, nil
			}
			return yield(l, nil), nil
		})
		if err := endOfStream(ctx, err, ended); err != nil {
			yield(LogLine{}, err)
		}
	}
}
