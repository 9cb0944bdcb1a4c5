package server

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/pitvisor/pitvisor/api"
	"github.com/pitvisor/pitvisor/internal/logfile"
	"github.com/pitvisor/pitvisor/supervise"
)

const (
	// mostReaders bounds who reads lines at a time: each has an inotify descriptor, of which a
	// user often has 128, and some KiB for each stream.
	mostReaders = 16
	// mostTail bounds the lines that are held back to be the newest ones. A line has at
	// most 64 KiB.
	mostTail = 1000
	// resumeOverlap is how much earlier than its last line a stream goes on that was
	// resumed: lines come nearly in the order of time. Who resumes leaves out what it
	// has, by offsets.
	resumeOverlap = 30 * time.Second
)

// logQuery is what a reader asks for.
type logQuery struct {
	logfile.Query
	selected selection
	stream   string
	follow   bool
}

// logs is a reader of lines.
type logs struct {
	*stream
	server  *Server
	query   logQuery
	labels  labels
	run     logfile.Run
	merger  *logfile.Merger
	watch   *logfile.Watch // nil: nothing is followed
	fresh   []logfile.Source
	fits    []bool // which selectors have met a stream
	lost    error  // of writing
	trouble func(error)
}

func (s *Server) getLogs(w http.ResponseWriter, c *call) error {
	if err := s.ofRun(w, c); err != nil {
		return err
	}
	if s.o.Logs == "" {
		return notFound("", "this supervisor keeps no files of what workers print")
	}
	q, err := c.logQuery()
	if err != nil {
		return err
	}
	if n := s.readers.Add(1); n > mostReaders {
		s.readers.Add(-1)
		return refuse(http.StatusServiceUnavailable, api.CodeTooMany, "try again later", "%d callers read lines, at most %d", n-1, mostReaders)
	}
	defer s.readers.Add(-1)
	caller, gone := context.WithCancel(c.r.Context())
	defer gone()
	ctx, cancel := context.WithCancel(caller)
	defer cancel()
	leave, err := s.sessions.enter(cancel)
	if err != nil {
		return err
	}
	defer leave()
	// Lines may come at no time, so nothing else would tell.
	stop, err := onHangup(c.r, gone)
	if err != nil {
		return err
	}
	defer stop()
	l := s.newLogs(w, c, q)
	defer l.merger.Close()
	defer func() {
		if l.watch != nil {
			_ = l.watch.Close() // a second time if it has ended
		}
	}()
	if err := l.open(); err != nil {
		return err
	}
	if err := l.begin(w); err != nil {
		return err
	}
	l.tell(ctx, caller)
	return nil
}

// newLogs returns a reader that has opened nothing yet.
func (s *Server) newLogs(w http.ResponseWriter, c *call, q logQuery) *logs {
	l := &logs{
		stream: &stream{w: w, rc: http.NewResponseController(w), slow: s.slow, from: &s.buffers, events: wantsEvents(c.r)},
		server: s, query: q, labels: s.labels(), fits: make([]bool, len(q.selected)),
		run: logfile.OpenRun(filepath.Dir(s.o.Logs), filepath.Base(s.o.Logs)),
	}
	// What cannot be read of one stream is no reason to leave out the others.
	l.trouble = func(err error) { s.o.Log.Warn("api: logs: " + err.Error()) }
	if slices.ContainsFunc(q.selected, func(one selector) bool { return one.start != 0 }) {
		q.Wanted = func(src logfile.Source, start uint64) bool {
			return q.selected.holds(supervise.WorkerID{Pool: src.Pool, Slot: src.Slot}, start, l.labels)
		}
	}
	l.merger = logfile.NewMerger(q.Query, l.trouble)
	return l
}

// begin sends the head of the answer: there is no error from here on.
func (l *logs) begin(w http.ResponseWriter) error {
	w.Header().Set("Content-Type", textLines)
	if l.events {
		w.Header().Set("Content-Type", textEvents)
	}
	w.Header().Set("Connection", "close") // a stream that was lost is to be seen as such
	if err := l.rc.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

// logQuery reads what is asked for.
func (c *call) logQuery() (q logQuery, err error) {
	if q.selected, err = c.selectedByName(); err != nil {
		return q, err
	}
	if q.stream = c.query.Get("stream"); q.stream != "" && q.stream != logfile.Stdout && q.stream != logfile.Stderr {
		return q, badRequest("write stdout or stderr", "stream is %.40q", q.stream)
	}
	if q.follow, err = c.flag("follow"); err != nil {
		return q, err
	}
	if q.Since, err = c.moment("since"); err != nil {
		return q, err
	}
	if q.Until, err = c.moment("until"); err != nil {
		return q, err
	}
	q.Tail = -1
	if c.query.Has("n") {
		if q.Tail, err = c.whole("n", mostTail); err != nil {
			return q, err
		}
	}
	if last := c.r.Header.Get("Last-Event-ID"); last != "" {
		at, err := time.Parse(time.RFC3339Nano, last)
		if err != nil {
			return q, badRequest("send the id of a line", "Last-Event-ID is %.60q", last)
		}
		if at = at.Add(-resumeOverlap); at.After(q.Since) { // else the stream begins here
			q.Since = at
		}
		q.Tail = -1
	}
	if q.follow && !q.Until.IsZero() {
		return q, badRequest("leave one out", "follow and until are given")
	}
	return q, nil
}

// flag reads a word that is true or false; false without it.
func (c *call) flag(name string) (bool, error) {
	switch text := c.query.Get(name); text {
	case "true":
		return true, nil
	case "false", "":
		return false, nil
	default:
		return false, badRequest("write true or false", "%s is %.40q", name, text)
	}
}

// moment reads a time of the query; zero when it is not given.
func (c *call) moment(name string) (time.Time, error) {
	text := c.query.Get(name)
	if text == "" {
		return time.Time{}, nil
	}
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return at, badRequest("write a time such as 2026-11-29T14:05:30.5Z", "%s is %.60q", name, text)
	}
	return at, nil
}

// open looks for the streams that are wanted.
func (l *logs) open() error {
	if l.query.follow {
		var err error
		if l.watch, err = logfile.NewWatch(filepath.Dir(l.run.Dir)); err == nil {
			err = l.watch.AddRun(l.run)
		}
		if err != nil {
			return fmt.Errorf("follow output: %w", err)
		}
	}
	if err := l.rescan(); err != nil {
		return err
	}
	for i, fits := range l.fits {
		if fits {
			continue
		}
		if _, err := l.query.selected[i:i+1].choose(l.server.o.Supervisor.Status(), l.labels); err != nil {
			return err
		}
	}
	return nil
}

// rescan looks at all pools.
func (l *logs) rescan() error {
	pools, err := l.run.Pools()
	if err != nil {
		return err
	}
	for _, pool := range pools {
		if err := l.addPool(pool); err != nil {
			return err
		}
	}
	return nil
}

func (l *logs) addPool(pool string) error {
	if l.watch != nil {
		if err := l.watch.AddPool(l.run, pool); err != nil {
			return err
		}
	}
	streams, err := l.run.Streams(pool)
	if err != nil {
		return err
	}
	for _, one := range streams {
		l.addStream(pool, one, true)
	}
	return nil
}

// addStream adds a stream unless it is not wanted or known. One that is known is looked at
// again if its directory is new: what was written before that was watched has told nothing.
func (l *logs) addStream(pool string, one logfile.SlotStream, again bool) {
	wanted := len(l.query.selected) == 0
	for i := range l.query.selected {
		if l.query.selected[i].worker.Match(supervise.WorkerID{Pool: pool, Slot: one.Slot}, l.labels[pool]) {
			wanted, l.fits[i] = true, true
		}
	}
	if !wanted || l.query.stream != "" && l.query.stream != one.Stream {
		return
	}
	src := logfile.Source{Run: l.run.ID, Pool: pool, Slot: one.Slot, Stream: one.Stream}
	if l.merger.Add(src, l.run.PoolDir(pool)) || again {
		l.fresh = append(l.fresh, src)
	}
}

// tell writes lines until there are no more, or nobody reads them. ctx ends with the
// supervisor, caller with who asks.
func (l *logs) tell(ctx, caller context.Context) {
	l.fresh = nil
	ok := false
	if l.query.Tail >= 0 {
		l.merger.DrainTail(!l.query.follow, l.line)
		ok = l.lost == nil
	} else {
		ok = l.merger.Drain(!l.query.follow, l.line)
	}
	if !ok || l.flush() != nil {
		return
	}
	if l.watch != nil {
		err := l.watch.Run(ctx, l.changed)
		if err != nil && !errors.Is(err, errLostReader) {
			l.trouble(err)
		}
		if err != nil || caller.Err() != nil {
			return
		}
		_ = l.rescan() // the last lines; what is not there has none
		if !l.merger.Drain(true, l.line) {
			return
		}
	}
	l.addLine(&api.LogLine{Time: time.Now(), Slot: -1, End: true})
	_ = l.flush() // it may be gone
}

// errLostReader says that nobody takes the lines.
var errLostReader = errors.New("nobody reads")

// changed tells what is new.
func (l *logs) changed(changes []logfile.Change) error {
	var changed []logfile.Source
	for _, c := range changes {
		switch {
		case c == (logfile.Change{}): // too much at once
			if err := l.rescan(); err != nil {
				return err
			}
			if !l.merger.Drain(false, l.line) {
				return errLostReader
			}
		case c.Run != l.run.ID || c.Pool == "":
		case c.Stream == "":
			if err := l.addPool(c.Pool); err != nil {
				return err
			}
		default:
			l.addStream(c.Pool, c.SlotStream, false)
			changed = append(changed, logfile.Source{Run: c.Run, Pool: c.Pool, Slot: c.Slot, Stream: c.Stream})
		}
	}
	for _, src := range l.fresh {
		if !slices.Contains(changed, src) {
			changed = append(changed, src)
		}
	}
	l.fresh = nil
	if !l.merger.DrainSome(changed, l.line) || l.flush() != nil {
		return errLostReader
	}
	return nil
}

// line adds one line; it returns false when nobody takes them any more.
func (l *logs) line(it logfile.Item) bool {
	out := api.LogLine{
		Time: it.At, Pool: it.Pool, Slot: it.Slot, Start: it.Start, Stream: it.Stream, Offset: it.Off, Partial: it.Split, Lost: it.Lost,
	}
	if utf8.Valid(it.Text) {
		text := string(it.Text)
		out.Message = &text
	} else {
		out.Base64 = base64.StdEncoding.EncodeToString(it.Text)
	}
	l.addLine(&out)
	if len(l.buf) >= batchBytes {
		l.lost = l.flush()
	}
	return l.lost == nil
}

func (l *logs) addLine(out *api.LogLine) {
	l.room()
	if l.events {
		l.buf = append(l.buf, "id: "...)
		l.buf = out.Time.AppendFormat(l.buf, time.RFC3339Nano)
		l.buf = append(l.buf, "\nevent: line\ndata: "...)
	}
	l.buf = appendJSON(l.buf, out)
	l.buf = append(l.buf, '\n')
	if l.events {
		l.buf = append(l.buf, '\n')
	}
}

// readers counts who reads lines.
type readers struct{ atomic.Int32 }
