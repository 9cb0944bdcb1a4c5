package logfile

import (
	"bytes"
	"fmt"
	"sort"
	"strconv"
	"time"
)

// Mark says that the bytes before Off were written by At, and those from the
// mark before on not before the At of that one.
type Mark struct {
	Off int64
	At  int64 // microseconds since 1970
}

// Time is At as a time.
func (m Mark) Time() time.Time { return time.UnixMicro(m.At) }

// StartMark says that a start of the worker began at Off.
type StartMark struct {
	Mark
	Start uint64 // its number
}

// Gap says that Bytes bytes are missing before Off, because they could not be written.
type Gap struct{ Off, Bytes int64 }

// Times is what a .times file says. The file is lines of text, each a letter
// and decimal numbers:
//
//	@ off µs     a mark
//	+ off µs     a mark, relative to the one before
//	s off µs n   start n began here
//	e off µs     the start that began last is over
//	b off        the first byte of the live file has this offset
//	i off        the same will be so once the hole at the file's front is taken out
//	x off n      n bytes that should have come here could not be written
//
// What comes after the last mark was written when the live file was modified
// last. Lines that are none of these are passed over: the last one of a file
// whose writer was killed may be torn.
type Times struct {
	Marks  []Mark // in order of Off; At may go back when the clock was set
	Starts []StartMark
	Base   int64 // offset of the first byte of the live file
	Intent int64 // if not 0: the offset that it has if its front is no hole
	Ended  int64 // where the newest start ended; below the newest of Starts if it is not over
	Gaps   []Gap // in order of Off
	Bad    int   // lines that made no sense
}

// Parse adds complete lines of a .times file and returns how many bytes they
// are. A line without an end is left for the next call.
func (t *Times) Parse(data []byte) (used int) {
	for {
		i := bytes.IndexByte(data[used:], '\n')
		if i < 0 {
			return used
		}
		if !t.line(data[used : used+i]) {
			t.Bad++
		}
		used += i + 1
	}
}

const (
	maxFields = 3
	maxOffset = 1 << 60 // so that sums do not overflow
)

func (t *Times) line(line []byte) bool {
	if len(line) < 3 || line[1] != ' ' {
		return false
	}
	var n [maxFields]int64
	count := 0
	for field := range bytes.SplitSeq(line[2:], []byte{' '}) {
		if count == maxFields {
			return false
		}
		v, err := strconv.ParseInt(string(field), 10, 64)
		if err != nil || v > maxOffset || v < -maxOffset {
			return false
		}
		n[count], count = v, count+1
	}
	switch line[0] {
	case '@':
		return count == 2 && t.mark(Mark{n[0], n[1]})
	case '+':
		last := t.last()
		return count == 2 && t.mark(Mark{last.Off + n[0], last.At + n[1]})
	case 's':
		return count == 3 && t.start(StartMark{Mark{n[0], n[1]}, uint64(n[2])})
	case 'e':
		return count == 2 && set(&t.Ended, n[0])
	case 'b':
		return count == 1 && set(&t.Base, n[0]) && set(&t.Intent, 0)
	case 'i':
		return count == 1 && set(&t.Intent, n[0])
	case 'x':
		return count == 2 && t.gap(Gap{n[0], n[1]})
	}
	return false
}

func set(field *int64, v int64) bool {
	if v < 0 {
		return false
	}
	*field = v
	return true
}

func (t *Times) last() Mark {
	if len(t.Marks) == 0 {
		return Mark{}
	}
	return t.Marks[len(t.Marks)-1]
}

// mark adds a mark unless it goes back.
func (t *Times) mark(m Mark) bool {
	if m.Off < t.last().Off || m.Off > maxOffset || m.At < 0 || m.At > maxOffset {
		return false
	}
	t.Marks = append(t.Marks, m)
	return true
}

func (t *Times) start(s StartMark) bool {
	if n := len(t.Starts); s.Off < 0 || n > 0 && s.Off < t.Starts[n-1].Off {
		return false
	}
	t.Starts = append(t.Starts, s)
	return true
}

func (t *Times) gap(g Gap) bool {
	n := len(t.Gaps)
	if g.Off < 0 || g.Bytes < 0 || n > 0 && g.Off < t.Gaps[n-1].Off {
		return false
	}
	t.Gaps = append(t.Gaps, g)
	return true
}

// Missing returns how many bytes are missing from offset from on, before to.
func (t *Times) Missing(from, to int64) (n int64) {
	for i := sort.Search(len(t.Gaps), func(i int) bool { return t.Gaps[i].Off >= from }); i < len(t.Gaps) && t.Gaps[i].Off < to; i++ {
		n += t.Gaps[i].Bytes
	}
	return n
}

// smooth is up to which distance of two marks what is between them is taken to
// have been written evenly.
const smooth = 50 * time.Millisecond

// At returns when the byte before off was written; ok is false behind the last mark.
func (t *Times) At(off int64) (at time.Time, ok bool) {
	i := sort.Search(len(t.Marks), func(i int) bool { return t.Marks[i].Off >= off })
	if i == len(t.Marks) {
		return time.Time{}, false
	}
	m := t.Marks[i]
	if i == 0 || m.Off == off {
		return m.Time(), true
	}
	before := t.Marks[i-1]
	if span := m.At - before.At; span > 0 && span <= smooth.Microseconds() {
		part := float64(off-before.Off) / float64(m.Off-before.Off)
		m.At = before.At + int64(part*float64(span))
	}
	return m.Time(), true
}

// Since returns an offset before which nothing was written at or after at.
func (t *Times) Since(at time.Time) int64 {
	// Not a search: the clock may have been set back.
	for i, m := range t.Marks {
		if m.At >= at.UnixMicro() {
			if i == 0 {
				return 0
			}
			return t.Marks[i-1].Off
		}
	}
	return t.last().Off
}

// Border returns the first offset above off at which a start begins or the
// newest one has ended, or -1.
func (t *Times) Border(off int64) int64 {
	i := sort.Search(len(t.Starts), func(i int) bool { return t.Starts[i].Off > off })
	if i < len(t.Starts) {
		return t.Starts[i].Off
	}
	if n := len(t.Starts); n > 0 && t.Ended > off && t.Ended >= t.Starts[n-1].Off {
		return t.Ended
	}
	return -1
}

// Start returns the number of the start that wrote the byte at off; 0 means unknown.
func (t *Times) Start(off int64) uint64 {
	i := sort.Search(len(t.Starts), func(i int) bool { return t.Starts[i].Off > off })
	if i == 0 {
		return 0
	}
	return t.Starts[i-1].Start
}

// AppendMark appends the line of a mark that comes after last.
func AppendMark(dst []byte, last, m Mark) []byte {
	if last == (Mark{}) {
		return fmt.Appendf(dst, "@ %d %d\n", m.Off, m.At)
	}
	return fmt.Appendf(dst, "+ %d %d\n", m.Off-last.Off, m.At-last.At)
}

// AppendStart appends the line of a start that begins.
func AppendStart(dst []byte, s StartMark) []byte {
	return fmt.Appendf(dst, "s %d %d %d\n", s.Off, s.At, s.Start)
}

// AppendEnd appends the line of a start that is over.
func AppendEnd(dst []byte, m Mark) []byte { return fmt.Appendf(dst, "e %d %d\n", m.Off, m.At) }

// AppendBase appends the line that says which offset the first byte of the live
// file has; intent, that it will have it soon.
func AppendBase(dst []byte, off int64, intent bool) []byte {
	if intent {
		return fmt.Appendf(dst, "i %d\n", off)
	}
	return fmt.Appendf(dst, "b %d\n", off)
}

// AppendGap appends the line that says that bytes could not be written.
func AppendGap(dst []byte, g Gap) []byte { return fmt.Appendf(dst, "x %d %d\n", g.Off, g.Bytes) }

// maxTimes is what Compact makes of a .times file at most, roughly.
const maxTimes = 256 << 10

// Compact returns the lines that say the same about the bytes from off on. If
// those are too many every other mark goes: times become less precise.
func (t *Times) Compact(off int64) []byte {
	first := sort.Search(len(t.Marks), func(i int) bool { return t.Marks[i].Off >= off })
	marks := t.Marks[max(0, first-1):] // the one before says where the first one's bytes begin
	for step := 1; ; step *= 2 {
		var out []byte
		var last Mark
		for i := (len(marks) - 1) % step; i >= 0 && i < len(marks); i += step {
			out = AppendMark(out, last, marks[i])
			last = marks[i]
		}
		if len(out) <= maxTimes {
			return append(t.state(off), out...)
		}
	}
}

// state is all but the marks.
func (t *Times) state(off int64) []byte {
	out := AppendBase(nil, t.Base, false)
	if t.Intent > 0 {
		out = AppendBase(out, t.Intent, true)
	}
	gaps := t.Gaps[sort.Search(len(t.Gaps), func(i int) bool { return t.Gaps[i].Off >= off }):]
	for _, g := range gaps[max(0, len(gaps)-maxTimes/64):] {
		out = AppendGap(out, g)
	}
	first := sort.Search(len(t.Starts), func(i int) bool { return t.Starts[i].Off > off })
	starts := t.Starts[max(0, first-1):]
	for _, s := range starts[max(0, len(starts)-maxTimes/64):] {
		out = AppendStart(out, s)
	}
	if n := len(t.Starts); n > 0 && t.Ended >= t.Starts[n-1].Off && t.Ended > 0 {
		out = AppendEnd(out, Mark{Off: t.Ended})
	}
	return out
}
