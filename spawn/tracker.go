package spawn

import "sync"

// tracked knows the children of this process that Start has made. It is a package
// variable because the thing it guards against is one of the process: a wait for
// "any child" finds the children of everybody in it.
var tracked tracker

// tracker tells children that somebody here waits for from orphans.
type tracker struct {
	mu      sync.Mutex // guards what follows
	begun   uint64     // number of starts begun
	flying  map[uint64]struct{}
	own     map[int]*Process // by PID: started and not reaped
	waiting chan struct{}    // of the running ReapOrphans, nil if there is none
	held    bool             // ReapOrphans found a zombie that it must leave for now
}

// begin announces a start. Its child is unknown until end.
func (t *tracker) begin() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.begun++
	if t.flying == nil {
		t.flying = map[uint64]struct{}{}
		t.own = map[int]*Process{}
	}
	t.flying[t.begun] = struct{}{}
	return t.begun
}

// end says what became of a start; p is nil if it failed.
func (t *tracker) end(ticket uint64, p *Process) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.flying, ticket)
	if p != nil {
		t.own[p.PID()] = p
	}
	t.wake()
}

// forget says that p was reaped, or that nobody will. Its number may belong to a
// later child by now.
func (t *tracker) forget(p *Process) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.own[p.PID()] == p {
		delete(t.own, p.PID())
	}
	t.wake()
}

// wake lets ReapOrphans look again, if there is something that it could not decide
// or that hid others from it: a look costs more the more children there are. The
// caller holds mu.
func (t *tracker) wake() {
	if !t.held {
		return
	}
	t.held = false
	select {
	case t.waiting <- struct{}{}:
	default: // nobody waits, or somebody has already been woken
	}
}

// claim makes the caller the one that is woken, or returns nil if there is one.
func (t *tracker) claim() chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.waiting != nil {
		return nil
	}
	t.waiting = make(chan struct{}, 1)
	return t.waiting
}

func (t *tracker) release() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.waiting = nil
}

// now returns a mark for [tracker.verdict].
func (t *tracker) now() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.begun
}

// verdict is what is known of a child.
type verdict uint8

const (
	undecided verdict = iota // a start that may be its own has not returned
	owned                    // somebody here waits for it
	orphan                   // nobody does
)

// verdict says whose the child is that was seen with this number at the mark. Only
// a start that had begun by then can have made it.
func (t *tracker) verdict(pid int, mark uint64) verdict {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.held = true
	if t.own[pid] != nil {
		return owned
	}
	for ticket := range t.flying {
		if ticket <= mark {
			return undecided
		}
	}
	t.held = false
	return orphan
}
