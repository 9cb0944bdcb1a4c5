package logfile

import (
	"container/heap"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"
)

// Source is one stream to be merged with others.
type Source struct {
	Run    string // ID
	Pool   string
	Slot   int
	Stream string
}

// Worker is the name of the source's worker.
func (s Source) Worker() string { return fmt.Sprintf("%s/%d", s.Pool, s.Slot) }

// Query says which lines are asked for.
type Query struct {
	Since, Until time.Time                           // zero means no bound; a line at Until is not wanted
	Tail         int                                 // only the last lines, of all streams together; below 0 means all
	Wanted       func(src Source, start uint64) bool // lines of which starts; nil means of all
}

// Merger puts the lines of many streams into the order of their times. It keeps
// no file open but the rotated ones that it reads, and a few KiB for each stream.
type Merger struct {
	query   Query
	report  func(error)
	streams map[Source]*merged
}

// Item is a line with where it comes from.
type Item struct {
	Source
	Line
}

// merged is one stream of a merger.
type merged struct {
	source Source
	lines  *Lines
	line   Line
	order  int       // of streams whose lines have the same time
	key    time.Time // time of line, but never before that of the line before
}

// NewMerger returns a merger. report is told of what can not be read; the rest is
// read nevertheless.
func NewMerger(q Query, report func(error)) *Merger {
	return &Merger{query: q, report: report, streams: map[Source]*merged{}}
}

// Add adds a stream of the pool's directory; it does nothing if it is known. A
// stream that is new while others are followed is read from its beginning.
func (m *Merger) Add(src Source, poolDir string) (added bool) {
	if m.streams[src] != nil {
		return false
	}
	s := OpenStream(poolDir, src.Slot, src.Stream)
	off, err := m.begin(s)
	if err != nil {
		m.report(fmt.Errorf("output of %s: %w", src.Worker(), err))
	}
	m.streams[src] = &merged{source: src, lines: NewLines(s, off, !m.query.Since.IsZero() && m.query.Tail < 0), order: len(m.streams)}
	return true
}

// begin chooses where to begin, before the first line that is wanted.
func (m *Merger) begin(s *Stream) (off int64, err error) {
	if m.query.Tail >= 0 && m.query.Wanted == nil {
		return s.Tail(m.query.Tail, m.query.Until)
	}
	if m.query.Since.IsZero() {
		return 0, nil
	}
	off, err = s.Since(m.query.Since)
	return max(0, off-maxLine-1), err // the line that is being written then is wanted whole
}

// next loads the next line of a stream that is wanted.
func (m *Merger) next(c *merged, last bool) bool {
	for {
		line, ok, err := c.lines.Next(last)
		if err != nil {
			m.report(fmt.Errorf("output of %s: %w", c.source.Worker(), err))
			var damaged *DamagedError
			if !errors.As(err, &damaged) {
				return false
			}
		}
		if !ok && err == nil {
			return false
		}
		if !ok || !m.query.Since.IsZero() && line.At.Before(m.query.Since) {
			continue
		}
		if !m.query.Until.IsZero() && !line.At.Before(m.query.Until) {
			return false
		}
		if m.query.Wanted != nil && !m.query.Wanted(c.source, line.Start) {
			continue
		}
		c.line = line
		if line.At.After(c.key) {
			c.key = line.At
		}
		return true
	}
}

// Drain hands out every line that is there, in order of time, until f returns
// false. With last, lines that are not finished count as lines.
func (m *Merger) Drain(last bool, f func(Item) bool) bool {
	all := make([]*merged, 0, len(m.streams))
	for _, c := range m.streams {
		all = append(all, c)
	}
	return m.drain(all, last, f)
}

// DrainSome is Drain for streams that have changed.
func (m *Merger) DrainSome(sources []Source, f func(Item) bool) bool {
	all := make([]*merged, 0, len(sources))
	for _, src := range sources {
		if c := m.streams[src]; c != nil {
			all = append(all, c)
		}
	}
	return m.drain(all, false, f)
}

func (m *Merger) drain(all []*merged, last bool, f func(Item) bool) bool {
	var h byTime
	for _, c := range all {
		if m.next(c, last) {
			h = append(h, c)
		}
	}
	heap.Init(&h)
	for len(h) > 0 {
		c := h[0]
		if !f(Item{c.source, c.line}) {
			return false
		}
		if m.next(c, last) {
			heap.Fix(&h, 0)
		} else {
			heap.Pop(&h)
		}
	}
	return true
}

// DrainTail is the first Drain of a query with a Tail: it hands out only so many lines.
func (m *Merger) DrainTail(last bool, f func(Item) bool) bool {
	n := m.query.Tail
	var ring []Item
	count := 0
	m.Drain(last, func(it Item) bool {
		if n == 0 {
			return true
		}
		it.Text, it.Lost = slices.Clone(it.Text), 0 // that there is more before is no news
		if len(ring) < n {
			ring = append(ring, it)
		} else {
			ring[count%n] = it
		}
		count++
		return true
	})
	if len(ring) == n && n > 0 {
		ring = append(ring[count%n:], ring[:count%n]...)
	}
	for _, it := range ring {
		if !f(it) {
			return false
		}
	}
	m.query.Tail = -1
	return true
}

// Close closes what is open.
func (m *Merger) Close() {
	for _, c := range m.streams {
		c.lines.stream.Close()
	}
}

// byTime is a heap of streams that have a line.
type byTime []*merged

func (h byTime) Len() int      { return len(h) }
func (h byTime) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *byTime) Push(x any)   { *h = append(*h, x.(*merged)) }
func (h byTime) Less(i, j int) bool {
	if !h[i].key.Equal(h[j].key) {
		return h[i].key.Before(h[j].key)
	}
	return h[i].order < h[j].order
}

func (h *byTime) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}

// PoolDir is the directory of a pool of a run.
func (r Run) PoolDir(pool string) string { return filepath.Join(r.Dir, pool) }
