package server

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pitvisor/pitvisor/api"
	"github.com/pitvisor/pitvisor/internal/suggest"
	"github.com/pitvisor/pitvisor/supervise"
)

// slowTime is how long a reader may take for what is written at a time before it has
// lost its stream.
const slowTime = 10 * time.Second

// restPerStream is how long a stream lets events gather before it writes them, for each
// stream there is: a thousand of them write once a second, so that they do not slow the
// supervisor down. fewStreams need not rest, and none rests longer than longestRest.
const (
	restPerStream = time.Millisecond
	fewStreams    = 20
	longestRest   = 2 * time.Second
)

// stream is one reader of events.
type stream struct {
	w      http.ResponseWriter
	rc     *http.ResponseController
	slow   time.Duration
	from   *buffers
	events bool        // server-sent events, not lines
	buf    []byte      // what is to be written; nil between two times, as most streams idle
	timer  *time.Timer // of pause
}

// buffers are what streams work with while there is something to tell. A thousand of
// them that idle hold none, and the collector has none to look through.
type buffers struct {
	events, texts sync.Pool
}

func (b *buffers) takeEvents() *[]supervise.Event {
	if buf, ok := b.events.Get().(*[]supervise.Event); ok {
		return buf
	}
	buf := make([]supervise.Event, batchEvents)
	return &buf
}

func (b *buffers) giveEvents(buf *[]supervise.Event) {
	clear(*buf) // what they point to
	b.events.Put(buf)
}

func (b *buffers) takeText() []byte {
	if buf, ok := b.texts.Get().(*[]byte); ok {
		return (*buf)[:0]
	}
	return make([]byte, 0, 2*batchBytes)
}

func (b *buffers) giveText(buf []byte) {
	if cap(buf) <= 4*batchBytes { // a burst must not stay in memory
		b.texts.Put(&buf)
	}
}

func (s *Server) getEvents(w http.ResponseWriter, c *call) error {
	if err := s.ofRun(w, c); err != nil {
		return err
	}
	since, want, follow, err := s.streamOptions(c)
	if err != nil {
		return err
	}
	st := &stream{w: w, rc: http.NewResponseController(w), slow: s.slow, from: &s.buffers, events: wantsEvents(c.r)}
	w.Header().Set("Content-Type", textLines)
	if st.events {
		w.Header().Set("Content-Type", textEvents)
	}
	w.Header().Set("Connection", "close") // a stream that was lost is to be seen as such
	// A stream has no end of its own. The kernel tells when the other side is gone.
	if err := st.rc.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	s.lines.enter(1)
	defer s.lines.enter(-1)
	w.WriteHeader(http.StatusOK)
	if st.flush() != nil {
		return nil // gone already
	}
	s.tell(st, c, since, want, follow)
	return nil
}

// ofRun tells the reader of a stream whose it is. One that is to go on with the stream of
// another supervisor is refused: numbers and offsets are of that one's run.
func (s *Server) ofRun(w http.ResponseWriter, c *call) error {
	id := ""
	if s.o.Run != nil { // else a test of something else
		id = s.o.Run.ID().String()
		w.Header().Set(api.RunHeader, id)
	}
	if want := c.query.Get("run"); want != "" && want != id {
		return refuse(http.StatusConflict, api.CodeOtherRun, "that supervisor has ended: ask this one from the beginning",
			"run %.40s is asked for, and this is the supervisor of run %s", want, id)
	}
	return nil
}

// tell writes events until there are no more, or nobody reads them.
func (s *Server) tell(st *stream, c *call, since uint64, want *filter, follow bool) {
	for began := true; ; began = false {
		n, lost, more := s.gather(st, &since, want, began)
		if n == batchEvents && len(st.buf) < batchBytes {
			continue
		}
		if more == nil && follow && (lost == 0 || began) {
			st.add(api.Event{Seq: since, At: time.Now(), Kind: api.EventEnd, Slot: -1})
		}
		if st.flush() != nil || lost > 0 && !began || n < batchEvents && (more == nil || !follow) {
			return
		}
		if n > 0 {
			continue // only who has read everything is told of more
		}
		select {
		case <-more:
		case <-c.r.Context().Done():
			return
		}
		if !s.pause(c.r.Context(), st) {
			return
		}
	}
}

// gather adds the next events. A stream that has begun and is told of a gap was too slow:
// nothing follows, and it has to ask again.
func (s *Server) gather(st *stream, since *uint64, want *filter, began bool) (n int, lost uint64, more <-chan struct{}) {
	held := s.buffers.takeEvents()
	defer s.buffers.giveEvents(held)
	buf := *held
	n, lost, more = s.o.Supervisor.EventsAfter(*since, buf)
	if lost > 0 {
		st.add(gapEvent(&api.Gap{From: *since + 1, To: *since + lost}))
		if !began {
			return 0, lost, more
		}
	}
	for i := range buf[:n] {
		e := &buf[i]
		if want.holds(e) {
			st.addText(e.Seq, e.Kind, s.lines.text(e))
		}
		*since = e.Seq
	}
	return n, lost, more
}

// pause lets events gather when there are many streams.
func (s *Server) pause(ctx context.Context, st *stream) bool {
	rest := s.rest()
	if rest == 0 {
		return ctx.Err() == nil
	}
	if st.timer == nil {
		st.timer = time.NewTimer(rest)
	} else {
		st.timer.Reset(rest)
	}
	select {
	case <-st.timer.C:
		return true
	case <-ctx.Done():
		st.timer.Stop()
		return false
	}
}

func gapEvent(g *api.Gap) api.Event {
	return api.Event{Seq: g.To, At: time.Now(), Kind: api.EventGap, Slot: -1, Missing: g}
}

// rest is how long a stream gathers events before it writes them. A few streams need
// not.
func (s *Server) rest() time.Duration {
	streams := s.lines.enter(0)
	if streams < fewStreams {
		return 0
	}
	rest := min(time.Duration(streams)*restPerStream, longestRest)
	return rest/2 + rand.N(rest) // not all at once
}

// add appends an event that is about the stream.
func (st *stream) add(e api.Event) { st.addText(e.Seq, word(e.Kind), appendJSON(nil, e)) }

// word is a kind of event that only streams have.
type word string

func (w word) String() string { return string(w) }

func (st *stream) addText(seq uint64, kind fmt.Stringer, text []byte) {
	st.room()
	if st.events {
		st.buf = append(st.buf, "id: "...)
		st.buf = strconv.AppendUint(st.buf, seq, 10)
		st.buf = append(st.buf, "\nevent: "...)
		st.buf = append(st.buf, kind.String()...)
		st.buf = append(st.buf, "\ndata: "...)
		st.buf = append(st.buf, text...)
		st.buf = append(st.buf, "\n\n"...)
	} else {
		st.buf = append(st.buf, text...)
		st.buf = append(st.buf, '\n')
	}
}

// room takes a buffer to add to.
func (st *stream) room() {
	if st.buf == nil {
		st.buf = st.from.takeText()
	}
}

// flush writes what was added. Whoever does not take it in time loses the stream.
func (st *stream) flush() error {
	if err := st.rc.SetWriteDeadline(time.Now().Add(st.slow)); err != nil {
		return err
	}
	if len(st.buf) > 0 {
		if _, err := st.w.Write(st.buf); err != nil {
			return err
		}
	}
	if err := st.rc.Flush(); err != nil {
		return err
	}
	if st.buf != nil {
		st.from.giveText(st.buf)
		st.buf = nil
	}
	return st.rc.SetWriteDeadline(time.Time{}) // an idle stream has no timer
}

func wantsEvents(r *http.Request) bool {
	return strings.Contains(r.Header.Get("Accept"), textEvents)
}

// streamOptions reads what a stream is to have.
func (s *Server) streamOptions(c *call) (since uint64, want *filter, follow bool, err error) {
	want = &filter{kinds: c.query["kind"], labels: s.labels()}
	if want.selected, err = c.selectedByName(); err != nil {
		return 0, nil, false, err
	}
	if err := checkKinds(want.kinds); err != nil {
		return 0, nil, false, err
	}
	switch text := c.query.Get("follow"); text {
	case "", "true":
		follow = true
	case "false":
	default:
		return 0, nil, false, badRequest("write true or false", "follow is %.40q", text)
	}
	name, text := "since", c.query.Get("since")
	if last := c.r.Header.Get("Last-Event-ID"); last != "" {
		name, text = "Last-Event-ID", last // since is where the stream began that is to go on
	}
	newest := s.o.Supervisor.LastEvent()
	if text == "" {
		return newest, want, follow, nil
	}
	since, parseErr := strconv.ParseUint(text, 10, 64)
	if parseErr != nil {
		return 0, nil, false, badRequest("write the number of an event", "%s is %.40q", name, text)
	}
	if since > newest {
		return 0, nil, false, conflict("it is the number of an event of another supervisor: begin with its status",
			"%s is %d, but the newest event is %d", name, since, newest)
	}
	return since, want, follow, nil
}

// checkKinds refuses kinds that no event has.
func checkKinds(kinds []string) error {
	known := EventKinds()
	for _, kind := range kinds {
		if slices.Contains(known, kind) {
			continue
		}
		cure := "there are " + strings.Join(known, ", ")
		if word := suggest.Word(kind, known); word != "" {
			cure = "did you mean " + word + "?"
		}
		return badRequest(cure, "no event is of the kind %.40q", kind)
	}
	return nil
}

// EventKinds are the kinds of events that the supervisor has.
func EventKinds() []string {
	var kinds []string
	for k := supervise.EventKind(1); !strings.HasPrefix(k.String(), "event("); k++ {
		kinds = append(kinds, k.String())
	}
	return kinds
}
