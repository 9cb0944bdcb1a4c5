package server

import (
	"encoding/json"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/api"
	"github.com/pitvisor/pitvisor/supervise"
)

// heldEvents is how many events can be told again: those of a thousand workers that
// start and are ready, and some more. One takes about 300 bytes.
const heldEvents = 4096

// batchBytes is about how much of a stream is written at a time.
const batchBytes = 64 << 10

// Events is the ring of the newest events. Make it with [NewEvents] and let
// [Events.Observe] get the supervisor's events.
type Events struct {
	mu     sync.Mutex // guards what follows; nothing that waits is done under it
	ring   []*entry   // grows to size, then goes round
	oldest int        // index of the oldest entry once the ring is full
	size   int
	newest uint64        // Seq of the newest event, also when nothing is held
	lost   bool          // an event has left the ring
	wake   chan struct{} // closed at the next event; nil while nobody waits
	ended  bool
}

// entry is one event with its text, which is made when the first reader wants it.
type entry struct {
	event supervise.Event
	once  sync.Once
	line  []byte
}

// NewEvents returns a ring that holds n events; 0 means the usual number.
func NewEvents(n int) *Events {
	if n <= 0 {
		n = heldEvents
	}
	return &Events{size: n}
}

// Observe takes the next event. It does not block.
func (r *Events) Observe(e supervise.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.newest = e.Seq
	if len(r.ring) < r.size {
		r.ring = append(r.ring, &entry{event: e})
	} else {
		r.ring[r.oldest] = &entry{event: e}
		r.oldest = (r.oldest + 1) % r.size
		r.lost = true
	}
	r.wakeAll()
}

// End says that no event follows.
func (r *Events) End() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = true
	r.wakeAll()
}

func (r *Events) wakeAll() {
	if r.wake != nil {
		close(r.wake)
		r.wake = nil
	}
}

// Newest is the number of the newest event; 0 before the first.
func (r *Events) Newest() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.newest
}

// batch is what a reader gets at a time.
type batch struct {
	entries []*entry
	next    uint64          // where to go on
	missing *api.Gap        // events after the place that was asked for which are gone
	wait    <-chan struct{} // closed when there is more; nil when there is more already
	ended   bool            // and there will never be more
}

// after returns events that come after a number, at most about a batch.
func (r *Events) after(seq uint64, want *filter) batch {
	const most = 256
	r.mu.Lock()
	defer r.mu.Unlock()
	b := batch{next: seq}
	i := r.find(seq)
	if r.lost && i == 0 {
		if first := r.at(0).event.Seq; seq+1 < first {
			b.missing = &api.Gap{From: seq + 1, To: first - 1}
			b.next = first - 1
		}
	}
	for ; i < len(r.ring); i++ {
		if len(b.entries) == most {
			return b
		}
		e := r.at(i)
		b.next = e.event.Seq
		if want.holds(&e.event) {
			b.entries = append(b.entries, e)
		}
	}
	if b.ended = r.ended; !b.ended {
		if r.wake == nil {
			r.wake = make(chan struct{})
		}
		b.wait = r.wake
	}
	return b
}

// at returns the i-th entry, from the oldest.
func (r *Events) at(i int) *entry { return r.ring[(r.oldest+i)%len(r.ring)] }

// find returns the index of the first entry after a number.
func (r *Events) find(seq uint64) int {
	low, high := 0, len(r.ring)
	for low < high {
		if middle := (low + high) / 2; r.at(middle).event.Seq > seq {
			high = middle
		} else {
			low = middle + 1
		}
	}
	return low
}

// last returns the newest n events of one worker, the oldest first.
func (r *Events) last(id supervise.WorkerID, n int) []api.Event {
	r.mu.Lock()
	var found []*entry
	for i := len(r.ring) - 1; i >= 0 && len(found) < n; i-- {
		if e := r.at(i); e.event.Worker == id {
			found = append(found, e)
		}
	}
	r.mu.Unlock()
	slices.Reverse(found)
	events := make([]api.Event, len(found))
	for i, e := range found {
		events[i] = wireEvent(&e.event)
	}
	return events
}

// text is the event as JSON.
func (e *entry) text() []byte {
	e.once.Do(func() {
		line, err := json.Marshal(wireEvent(&e.event))
		if err == nil { // always: there is nothing in an event that JSON has no form for
			e.line = line
		}
	})
	return e.line
}

// filter says which events a reader wants. A nil filter wants all.
type filter struct {
	selected selection
	kinds    []string
}

func (f *filter) holds(e *supervise.Event) bool {
	if f == nil {
		return true
	}
	if len(f.kinds) > 0 && !slices.Contains(f.kinds, e.Kind.String()) {
		return false
	}
	return f.selected.holds(e.Worker, e.Start)
}

// wireEvent is the event as it travels.
func wireEvent(e *supervise.Event) api.Event {
	w := api.Event{
		Seq: e.Seq, At: e.At, Kind: e.Kind.String(), Worker: workerName(e.Worker), Pool: e.Worker.Pool, Slot: e.Worker.Slot,
		Start: e.Start, Reason: e.Reason.String(), From: api.State(e.From.String()), To: api.State(e.To.String()), Ready: e.Ready,
		PID: e.PID, Port: e.Port, Escalated: e.Escalated, Leftover: e.Leftover, Elapsed: e.Elapsed, Delay: e.Delay,
	}
	if e.Exit != nil {
		w.Exit = wireExit(e)
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

func wireExit(e *supervise.Event) *api.Exit {
	out := &api.Exit{Code: e.Exit.Code, Core: e.Exit.Core, Text: e.Exit.String()}
	if e.Exit.Signal != 0 {
		out.Signal = unix.SignalName(e.Exit.Signal)
	}
	return out
}
