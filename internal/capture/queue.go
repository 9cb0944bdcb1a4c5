package capture

import "sync"

// queue holds the cursors whose files have changed, each at most once, first
// come first served, so that one busy stream can not starve the others.
type queue struct {
	wake chan struct{} // holds one token when something was pushed or the queue was closed

	mu     sync.Mutex // guards the fields below and the queued flag of every cursor of this queue
	items  []*cursor
	head   int
	closed bool
}

func newQueue() *queue { return &queue{wake: make(chan struct{}, 1)} }

// cursor is one reader's place in one segment.
type cursor struct {
	seg    *segment
	queue  *queue
	queued bool
	off    int64 // where the next line begins; only the reader touches it
	lost   int64 // cut away before it was read, not yet told; only the reader touches it
	torn   bool  // the line at off lost its beginning; only the reader touches it
	over   bool  // read to the segment's end; only the reader touches it
}

func (q *queue) push(c *cursor) {
	q.mu.Lock()
	if !c.queued {
		c.queued = true
		q.items = append(q.items, c)
	}
	q.mu.Unlock()
	q.signal()
}

// pop returns the next cursor, or nil and whether more may come. From here on a
// change puts the cursor back into the queue, so the reader must read after pop.
func (q *queue) pop() (c *cursor, open bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.head == len(q.items) {
		q.items, q.head = q.items[:0], 0
		if cap(q.items) > 1024 {
			q.items = nil // a burst is no reason to keep the memory
		}
		return nil, !q.closed
	}
	c = q.items[q.head]
	q.items[q.head] = nil
	q.head++
	if q.head > 1024 && q.head*2 > len(q.items) {
		q.items = append(q.items[:0], q.items[q.head:]...)
		q.head = 0
	}
	c.queued = false
	return c, true
}

func (q *queue) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.signal()
}

func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default: // a token is there already
	}
}
