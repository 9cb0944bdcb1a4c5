package server

import (
	"encoding/json"
	"slices"
	"sync"

	"github.com/pitvisor/pitvisor/api"
	"github.com/pitvisor/pitvisor/internal/units"
	"github.com/pitvisor/pitvisor/spawn"
	"github.com/pitvisor/pitvisor/supervise"
)

// batchBytes is about how much of a stream is written at a time.
const batchBytes = 64 << 10

// batchEvents is how many events are looked at before they are written.
const batchEvents = 128

// heldLines is how many events keep their text for other readers.
const heldLines = 1024

// lines keeps the texts of the newest events while there are streams, so that a
// thousand readers do not encode each event a thousand times.
type lines struct {
	mu      sync.Mutex // guards what follows
	readers int
	ring    []line // by the number of the event; nil without readers
}

type line struct {
	seq  uint64
	text []byte
}

// enter and leave count readers, and return how many there are.
func (l *lines) enter(n int) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.readers += n; l.readers == 0 {
		l.ring = nil
	}
	return l.readers
}

// text is the event as JSON.
func (l *lines) text(e *supervise.Event) []byte {
	l.mu.Lock()
	if l.ring == nil {
		l.ring = make([]line, heldLines)
	}
	if held := l.ring[e.Seq%heldLines]; held.seq == e.Seq {
		l.mu.Unlock()
		return held.text
	}
	l.mu.Unlock()
	text, err := json.Marshal(wireEvent(e))
	if err != nil { // never: there is nothing in an event that JSON has no form for
		return []byte("{}")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ring != nil {
		l.ring[e.Seq%heldLines] = line{e.Seq, text}
	}
	return text
}

// filter says which events a reader wants.
type filter struct {
	selected selection
	kinds    []string
	labels   labels
}

func (f *filter) holds(e *supervise.Event) bool {
	if len(f.kinds) > 0 && !slices.Contains(f.kinds, e.Kind.String()) {
		return false
	}
	return f.selected.holds(e.Worker, e.Start, f.labels)
}

// lastEvents returns the newest n events of one worker, the oldest first.
func (s *Server) lastEvents(id supervise.WorkerID, n int) []api.Event {
	var found []api.Event
	buf := make([]supervise.Event, batchEvents)
	for seq := uint64(0); ; {
		got, _, _ := s.o.Supervisor.EventsAfter(seq, buf)
		if got == 0 {
			return found[max(0, len(found)-n):]
		}
		for i := range buf[:got] {
			if e := &buf[i]; e.Worker == id {
				found = append(found, wireEvent(e))
			}
		}
		seq = buf[got-1].Seq
	}
}

// wireEvent is the event as it travels.
func wireEvent(e *supervise.Event) api.Event {
	w := api.Event{
		Seq: e.Seq, At: e.At, Kind: e.Kind.String(), Worker: workerName(e.Worker), Pool: e.Worker.Pool, Slot: e.Worker.Slot,
		Start: e.Start, Reason: e.Reason.String(), Ready: e.Ready, PID: e.PID, Port: e.Port,
		Escalated: e.Escalated, Leftover: e.Leftover, Elapsed: e.Elapsed, Delay: e.Delay, Rollout: e.Rollout,
	}
	if e.Worker.Slot >= 0 {
		w.From, w.To = api.State(e.From.String()), api.State(e.To.String())
	}
	if e.Kind == supervise.EventScaled {
		w.Size, w.WasSize = &e.Size, &e.WasSize
	}
	if e.Exit != nil {
		w.Exit = wireExit(e.Exit)
	}
	if p := e.Pressure; p != nil {
		w.Pressure = &api.Pressure{Where: p.Where.String(), Resource: p.Resource, Kind: p.Kind, Share: p.Share, Over: p.Over}
	}
	if f := e.Failure; f != nil {
		w.Failure = &api.StartFailure{Phase: f.Phase.String(), Cause: f.Cause.String(), Elapsed: f.Elapsed, Stderr: f.Stderr}
		if f.Err != nil {
			w.Failure.Error = f.Err.Error()
		}
	}
	if e.Err != nil {
		w.Error = e.Err.Error()
	}
	return w
}

// workerName is "pool/slot", or the pool where an event is about all of it.
func workerName(id supervise.WorkerID) string {
	if id.Slot < 0 {
		return id.Pool
	}
	return id.String()
}

func wireExit(e *spawn.Exit) *api.Exit {
	out := &api.Exit{Code: e.Code, Core: e.Core, Text: e.String()}
	if e.Signal != 0 {
		out.Signal = units.SignalName(e.Signal)
	}
	return out
}
