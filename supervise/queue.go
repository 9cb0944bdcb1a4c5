package supervise

import (
	"sync"
	"time"
)

// queue hands items from anybody to a few goroutines, in order and without a
// bound: what is pushed are orders of the engine, at most a few per worker.
type queue[T any] struct {
	mu     sync.Mutex // guards what follows
	more   *sync.Cond
	items  []T
	head   int // items before it are taken
	closed bool
}

func newQueue[T any]() *queue[T] {
	q := &queue[T]{}
	q.more = sync.NewCond(&q.mu)
	return q
}

func (q *queue[T]) push(item T) {
	q.mu.Lock()
	q.items = append(q.items, item)
	q.mu.Unlock()
	q.more.Signal()
}

// pop waits for an item. It returns false when the queue is closed and empty.
func (q *queue[T]) pop() (T, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.head == len(q.items) && !q.closed {
		q.more.Wait()
	}
	var zero T
	if q.head == len(q.items) {
		return zero, false
	}
	item := q.items[q.head]
	q.items[q.head] = zero
	q.head++
	if q.head == len(q.items) {
		q.items, q.head = q.items[:0], 0
		if cap(q.items) > spareItems {
			q.items = nil // a burst must not stay in memory
		}
	}
	return item, true
}

// idle says that nothing waits to be taken.
func (q *queue[T]) idle() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.head == len(q.items)
}

// close lets pop return false once everything has been taken.
func (q *queue[T]) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.more.Broadcast()
}

// spareItems is how much room a queue keeps for the next burst.
const spareItems = 256

// inbox takes messages to the engine from everybody.
type inbox struct {
	wake chan struct{} // has an element when msgs may have some

	mu    sync.Mutex // guards what follows
	msgs  []message
	later *time.Timer // wakes the engine for messages that were laid
	armed bool
}

// layTime bounds how long a message waits that was laid.
const layTime = 10 * time.Millisecond

func newInbox() *inbox {
	b := &inbox{wake: make(chan struct{}, 1)}
	b.later = time.AfterFunc(time.Hour, b.ring)
	b.later.Stop()
	return b
}

// post leaves a message and wakes the engine.
func (b *inbox) post(m message) {
	b.add(m)
	b.ring()
}

// add leaves a message for who takes them next.
func (b *inbox) add(m message) {
	b.mu.Lock()
	b.msgs = append(b.msgs, m)
	b.mu.Unlock()
}

// lay leaves a message that more will follow soon. Waking the engine for each
// start of a big pool costs as much as everything else that we do for it.
func (b *inbox) lay(m message) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.msgs = append(b.msgs, m)
	if !b.armed {
		b.armed = true
		b.later.Reset(layTime)
	}
}

func (b *inbox) close() { b.later.Stop() }

func (b *inbox) ring() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// take returns what has been posted, and takes spare to collect the next in.
func (b *inbox) take(spare []message) []message {
	clear(spare)
	if cap(spare) > spareItems {
		spare = nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	msgs := b.msgs
	b.msgs = spare[:0]
	if b.armed {
		b.armed = false
		b.later.Stop()
	}
	return msgs
}
