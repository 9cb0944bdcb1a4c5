package capture

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"time"
)

const (
	maxLine    = 64 << 10               // a longer line is handed out in pieces
	bufferSize = 256 << 10              // what is read of one stream before the next one has its turn
	tailSize   = 64 << 10               // how far back Tail looks
	retryPace  = 100 * time.Millisecond // between attempts to read while descriptors or memory are short
)

// Line is one complete line of one stream.
type Line struct {
	Worker string    // as given to Start, such as "web/3"
	Stream string    // Stdout or Stderr
	Start  uint64    // as given to Start
	At     time.Time // when it was read
	Text   []byte    // without the newline; any bytes at all; valid only during the call
	Split  bool      // the line is longer than 64 KiB: it goes on in the next Line of this stream
	Lost   int64     // bytes of this stream before this line that were cut away before they were read; Text may be empty then
}

// Follower hands out the lines of all workers.
type Follower struct {
	store *Store
	queue *queue
}

// Follow is NewFollower and Run in one.
func (s *Store) Follow(ctx context.Context, f func(Line)) error {
	return s.NewFollower().Run(ctx, f)
}

// NewFollower returns a follower of every start that is not over, from its
// beginning, and of every later one. The caller owes a Run.
func (s *Store) NewFollower() *Follower {
	fl := &Follower{store: s, queue: newQueue()}
	s.mu.Lock()
	s.followers[fl] = true
	if s.closed {
		fl.queue.close()
	}
	s.mu.Unlock()
	for _, seg := range s.current() {
		if seg.ended() < 0 {
			s.attachOnce(seg, fl.queue)
		}
	}
	return fl
}

// attachOnce attaches a reader unless a Start that ran at the same time did.
func (s *Store) attachOnce(seg *segment, q *queue) {
	s.mu.RLock()
	for _, c := range seg.cursors {
		if c.queue == q {
			s.mu.RUnlock()
			return
		}
	}
	s.mu.RUnlock()
	s.attach(seg, q)
}

// Run hands every complete line to f, and the unfinished last one of a start
// that is over. Lines of one stream come in order; streams take turns, so that a
// flood delays the others only a little. f is called by one goroutine; while it
// blocks nothing else does, but lines may be lost to the bound on the files.
//
// Run returns nil once the store was closed and everything was handed out, or
// the cause of ctx at once.
func (fl *Follower) Run(ctx context.Context, f func(Line)) error {
	defer fl.leave()
	for {
		c, open := fl.queue.pop()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if c == nil && !open {
			return nil
		}
		if c == nil {
			select {
			case <-fl.queue.wake:
			case <-ctx.Done():
			}
			continue
		}
		fl.store.turn(c, func(l Line) bool {
			f(l)
			return ctx.Err() == nil
		})
	}
}

// leave takes the follower out of the store and out of every segment.
func (fl *Follower) leave() {
	s := fl.store
	all := s.current()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.followers, fl)
	for _, seg := range all {
		seg.cursors = slices.DeleteFunc(seg.cursors, func(c *cursor) bool { return c.queue == fl.queue })
	}
}

// lines is the follower of a single segment.
func (s *Store) lines(ctx context.Context, seg *segment, yield func(string) bool) {
	q := newQueue()
	c := s.attach(seg, q)
	defer s.detach(c)
	more := true
	for more {
		select {
		case <-q.wake:
		case <-ctx.Done():
			return
		}
		for next, _ := q.pop(); next != nil && more; next, _ = q.pop() {
			over := s.turn(c, func(l Line) bool {
				if len(l.Text) == 0 && l.Lost > 0 {
					return true // no line, only news of a loss
				}
				more = yield(string(l.Text)) && ctx.Err() == nil
				return more
			})
			more = more && !over
		}
	}
}

// turn reads once from the cursor's place and hands out the lines that are
// complete. If there may be more the cursor goes to the end of its queue; if
// the segment has been read to its end the cursor is detached and over is true.
func (s *Store) turn(c *cursor, f func(Line) bool) (over bool) {
	if c.over {
		return true // a late event put it into the queue again
	}
	p := s.buffers.Get().(*[]byte)
	defer s.buffers.Put(p)
	n, at, end, err := c.seg.read(*p, c.off)
	if err != nil {
		s.warnOnce("read", explain("read", "an output file", err))
		if isShortage(err) {
			time.AfterFunc(retryPace, func() { c.queue.push(c) })
			return false
		}
		n, at = 0, max(c.off, end)
	}
	if at > c.off {
		c.lost += at - c.off
		c.torn = true
	}
	c.off = at
	full := n == len(*p)
	data := (*p)[:n]
	used, ok := c.split(data, f)
	c.off += int64(used)
	if !ok {
		return false
	}
	if full {
		c.queue.push(c)
		return false
	}
	if end < 0 {
		return false
	}
	if rest := data[used:]; len(rest) > 0 || c.lost > 0 {
		f(c.line(rest, time.Now(), false))
	}
	c.over = true
	s.detach(c)
	return true
}

// split hands out the complete lines in data and the pieces of long ones, and
// returns how much of data that was and whether f wants more.
func (c *cursor) split(data []byte, f func(Line) bool) (used int, ok bool) {
	now := time.Now()
	if c.torn {
		used = c.skip(data)
	}
	for used < len(data) {
		rest := data[used:]
		i := bytes.IndexByte(rest[:min(len(rest), maxLine+1)], '\n')
		switch {
		case i >= 0:
			used += i + 1
			ok = f(c.line(rest[:i], now, false))
		case len(rest) > maxLine:
			used += maxLine
			ok = f(c.line(rest[:maxLine], now, true))
		default:
			return used, true
		}
		if !ok {
			return used, false
		}
	}
	return used, true
}

// skip passes over the rest of a line whose beginning was cut away.
func (c *cursor) skip(data []byte) (used int) {
	used = len(data)
	if i := bytes.IndexByte(data, '\n'); i >= 0 {
		used, c.torn = i+1, false
	}
	c.lost += int64(used)
	return used
}

// line makes a Line and tells what was lost before it, once.
func (c *cursor) line(text []byte, at time.Time, split bool) Line {
	l := Line{Worker: c.seg.worker, Stream: c.seg.name, Start: c.seg.start, At: at, Text: text, Split: split, Lost: c.lost}
	c.lost = 0
	return l
}

// Tail returns at most n of the last lines of stderr of this start, of the last
// 64 KiB. It reads the file when it is called, so it works while nobody follows
// and after the start is over.
func (st *Streams) Tail(n int) []string {
	seg := st.segments[1]
	if seg.pipe != nil {
		seg.pipe.mover.drain(seg.pipe, false)
	}
	end, err := seg.file.size()
	if ended := seg.ended(); ended >= 0 {
		end, err = ended, nil
	}
	if err != nil || n <= 0 {
		return nil
	}
	from := max(seg.from, end-tailSize)
	buf := make([]byte, max(0, end-max(0, from)))
	m, at, err := seg.file.read(buf, from, end)
	if err != nil {
		st.store.warnOnce("read", explain("read", "an output file", err))
	}
	if m == 0 {
		return nil
	}
	lines := strings.Split(strings.TrimSuffix(string(buf[:m]), "\n"), "\n")
	if at > seg.from && len(lines) > 1 {
		lines = lines[1:] // most likely not the beginning of a line
	}
	return lines[max(0, len(lines)-n):]
}
