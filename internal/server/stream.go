package server

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pitvisor/pitvisor/api"
	"github.com/pitvisor/pitvisor/internal/suggest"
	"github.com/pitvisor/pitvisor/supervise"
)

// slowTime is how long a reader may take for what is written at a time before it has
// lost its stream.
const slowTime = 10 * time.Second

// restPerStream is how long streams rest after each batch, for each stream there is:
// a thousand of them wake ten times a second at most, so that they do not slow the
// supervisor down.
const restPerStream = 100 * time.Microsecond

// stream is one reader of events.
type stream struct {
	w      http.ResponseWriter
	rc     *http.ResponseController
	slow   time.Duration
	events bool // server-sent events, not lines
	buf    []byte
}

func (s *Server) getEvents(w http.ResponseWriter, c *call) error {
	since, want, follow, err := s.streamOptions(c)
	if err != nil {
		return err
	}
	st := &stream{w: w, rc: http.NewResponseController(w), slow: s.slow, events: wantsEvents(c.r)}
	w.Header().Set("Content-Type", textLines)
	if st.events {
		w.Header().Set("Content-Type", textEvents)
	}
	w.Header().Set("Connection", "close") // a stream that was lost is to be seen as such
	// A stream has no end of its own. The kernel tells when the other side is gone.
	if err := st.rc.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	w.WriteHeader(http.StatusOK)
	if st.flush() != nil {
		return nil // gone already
	}
	s.countStream(1)
	defer s.countStream(-1)
	s.tell(st, c, since, want, follow)
	return nil
}

// tell writes events until there are no more, or nobody reads them.
func (s *Server) tell(st *stream, c *call, since uint64, want *filter, follow bool) {
	began := true
	var rest *time.Timer
	for {
		b := s.o.Events.after(since, want)
		if b.missing != nil {
			st.add(gapEvent(b.missing))
		}
		overtaken := b.missing != nil && !began
		if !overtaken {
			for _, e := range b.entries {
				st.addText(e.event.Seq, e.event.Kind.String(), e.text())
			}
			since = b.next
		}
		done := overtaken || b.ended || !follow && b.wait != nil
		if b.ended && follow {
			st.add(api.Event{Seq: b.next, At: time.Now(), Kind: api.EventEnd, Slot: -1})
		}
		if st.flush() != nil || done {
			return
		}
		began = false
		if b.wait == nil {
			continue
		}
		select {
		case <-b.wait:
		case <-c.r.Context().Done():
			return
		}
		if pause := s.rest(); pause > 0 {
			if rest == nil {
				rest = time.NewTimer(pause)
				defer rest.Stop()
			} else {
				rest.Reset(pause)
			}
			select {
			case <-rest.C:
			case <-c.r.Context().Done():
				return
			}
		}
	}
}

func gapEvent(g *api.Gap) api.Event {
	return api.Event{Seq: g.To, At: time.Now(), Kind: api.EventGap, Slot: -1, Missing: g}
}

func (s *Server) countStream(n int) {
	s.mu.Lock()
	s.streams += n
	s.mu.Unlock()
}

// rest is how long a stream gathers events before it writes them. A few streams need
// not.
func (s *Server) rest() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.streams < 20 {
		return 0
	}
	return time.Duration(s.streams) * restPerStream
}

// add appends an event that is about the stream.
func (st *stream) add(e api.Event) { st.addText(e.Seq, e.Kind, appendJSON(nil, e)) }

func (st *stream) addText(seq uint64, kind string, text []byte) {
	if st.events {
		st.buf = append(st.buf, "id: "...)
		st.buf = strconv.AppendUint(st.buf, seq, 10)
		st.buf = append(st.buf, "\nevent: "...)
		st.buf = append(st.buf, kind...)
		st.buf = append(st.buf, "\ndata: "...)
		st.buf = append(st.buf, text...)
		st.buf = append(st.buf, "\n\n"...)
	} else {
		st.buf = append(st.buf, text...)
		st.buf = append(st.buf, '\n')
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
	if cap(st.buf) > 4*batchBytes {
		st.buf = nil // a burst must not stay in memory
	}
	st.buf = st.buf[:0]
	return st.rc.SetWriteDeadline(time.Time{}) // an idle stream has no timer
}

func wantsEvents(r *http.Request) bool {
	return strings.Contains(r.Header.Get("Accept"), textEvents)
}

// streamOptions reads what a stream is to have.
func (s *Server) streamOptions(c *call) (since uint64, want *filter, follow bool, err error) {
	want = &filter{kinds: c.query["kind"]}
	if want.selected, err = c.selected(); err != nil {
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
	text := c.query.Get("since")
	if text == "" {
		text = c.r.Header.Get("Last-Event-ID")
	}
	newest := s.o.Events.Newest()
	if text == "" {
		return newest, want, follow, nil
	}
	since, parseErr := strconv.ParseUint(text, 10, 64)
	if parseErr != nil {
		return 0, nil, false, badRequest("write the number of an event", "since is %.40q", text)
	}
	if since > newest {
		return 0, nil, false, conflict("it is the number of an event of another supervisor: begin with its status",
			"since is %d, but the newest event is %d", since, newest)
	}
	return since, want, follow, nil
}

// checkKinds refuses kinds that no event has.
func checkKinds(kinds []string) error {
	known := knownKinds()
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

// knownKinds are the kinds of events that the supervisor has.
func knownKinds() []string {
	var kinds []string
	for k := supervise.EventKind(1); !strings.HasPrefix(k.String(), "event("); k++ {
		kinds = append(kinds, k.String())
	}
	return kinds
}
