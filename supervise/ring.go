package supervise

import (
	"context"
	"fmt"
	"iter"
	"sync"
)

// defaultRing is how many events are kept where nothing else is said.
const defaultRing = 1024

// ring keeps the newest events, and wakes who waits for more.
type ring struct {
	most int

	mu     sync.Mutex // guards what follows
	events []Event    // at most twice most; the newest are last
	last   uint64     // Seq of the newest event
	more   chan struct{}
	waited bool // somebody waits on more
	closed bool
}

func newRing(most int) *ring {
	if most == 0 {
		most = defaultRing
	}
	return &ring{most: most, more: make(chan struct{})}
}

// add takes events over, in their order.
func (r *ring) add(events []Event) {
	if len(events) == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last = events[len(events)-1].Seq
	events = events[max(0, len(events)-r.most):]
	if len(r.events)+len(events) > 2*r.most {
		kept := copy(r.events, r.events[len(r.events)-(r.most-len(events)):])
		clear(r.events[kept:])
		r.events = r.events[:kept]
	}
	r.events = append(r.events, events...)
	r.wake()
}

// watch returns what tells that an event has come.
func (r *ring) watch() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waited = true
	return r.more
}

func (r *ring) wake() {
	if r.waited {
		r.waited = false
		close(r.more)
		r.more = make(chan struct{})
	}
}

// close lets everybody read what is there, and then end.
func (r *ring) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed, r.waited = true, true
	r.wake()
}

// after returns events that follow the one with the number seq, at most as many as
// fit into buf, and how many are not there any more. With none it returns what
// tells that there are more, or nil if there never will be.
func (r *ring) after(seq uint64, buf []Event) (n int, lost uint64, more <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if seq >= r.last || len(r.events) == 0 {
		if r.closed {
			return 0, 0, nil
		}
		r.waited = true
		return 0, 0, r.more
	}
	first := r.events[max(0, len(r.events)-r.most)].Seq
	if seq+1 < first {
		lost = first - seq - 1
		seq = first - 1
	}
	from := len(r.events) - int(r.last-seq)
	return copy(buf, r.events[from:]), lost, r.more
}

// LostError says that a reader of events was too slow, or began too late.
type LostError struct {
	After uint64 // the last event before the gap
	Count uint64 // how many there were
}

// Error says how many events are missing, and after which.
func (e *LostError) Error() string {
	return fmt.Sprintf("%d events after number %d are not kept any more", e.Count, e.After)
}

// Events yields every event with a number above after, in order, and waits for
// more. The newest are kept (Options.EventRing); where older ones are gone, a
// *[LostError] is yielded in their place and those that are kept follow. A slow
// reader delays nobody. The sequence ends with ctx, and with Run when everything was
// yielded.
//
// Each event has its number, so a reader that was cut off goes on where it was.
func (s *Supervisor) Events(ctx context.Context, after uint64) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		buf := make([]Event, 64)
		for seq := after; ctx.Err() == nil; {
			n, lost, more := s.ring.after(seq, buf)
			if lost > 0 {
				if !yield(Event{}, &LostError{After: seq, Count: lost}) {
					return
				}
			}
			for _, e := range buf[:n] {
				if !yield(e, nil) {
					return
				}
				seq = e.Seq
			}
			if n > 0 {
				continue
			}
			if more == nil {
				return
			}
			select {
			case <-more:
			case <-ctx.Done():
			}
		}
	}
}
