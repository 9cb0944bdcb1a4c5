package logfile

import (
	"bytes"
	"errors"
	"time"
)

const (
	maxLine   = 64 << 10 // a longer line comes in pieces
	leastRead = 4 << 10  // thousands of streams are read side by side
	mostRead  = 256 << 10
)

// Line is one line of a stream.
type Line struct {
	Off   int64     // of its first byte
	At    time.Time // when its last byte was written, to about 20 ms
	Start uint64    // the number of the worker's start; 0 means unknown
	Text  []byte    // without the newline; any bytes at all; valid until the next call
	Split bool      // the line is longer than 64 KiB: it goes on in the next one
	Lost  int64     // bytes before this line that are not there; Text may be empty then
}

// Lines cuts a stream into lines. It belongs to one goroutine.
type Lines struct {
	stream *Stream
	buf    []byte // what has been read and not handed out; its first byte is at off
	off    int64
	used   int  // of buf
	torn   bool // off is in the middle of a line that is not wanted
	lost   int64
	told   bool // of what is missing at the end
}

// NewLines returns the lines of a stream from offset off on. If inLine, off may
// be in the middle of a line, whose rest is passed over.
func NewLines(s *Stream, off int64, inLine bool) *Lines {
	s.MoveTo(off)
	return &Lines{stream: s, off: off, torn: inLine && off > 0}
}

// Next returns the next line; ok is false if there is none yet. With last, a
// line that is not finished counts as one. After a *DamagedError lines go on.
func (l *Lines) Next(last bool) (line Line, ok bool, err error) {
	for {
		if line, ok := l.cut(); ok {
			return line, true, nil
		}
		more, gap, err := l.fill()
		var damaged *DamagedError
		if err != nil && !errors.As(err, &damaged) {
			return Line{}, false, err
		}
		if gap > 0 {
			line, ok = l.jump(gap)
		}
		if err != nil || ok {
			return line, ok, err
		}
		if more || gap > 0 {
			continue
		}
		if last && (l.used < len(l.buf) || l.lost > 0) {
			return l.take(len(l.buf)-l.used, 0, false), true, nil
		}
		if last && !l.told && l.stream.times.Missing(l.off, l.off+1) > 0 {
			l.told = true // nothing came after what could not be written
			return Line{Off: l.off, At: l.stream.changed, Lost: l.stream.times.Missing(l.off, l.off+1)}, true, nil
		}
		return Line{}, false, nil
	}
}

// fill reads more. gap is how many bytes are not there before what was read.
func (l *Lines) fill() (more bool, gap int64, err error) {
	if l.used > 0 {
		l.buf = l.buf[:copy(l.buf, l.buf[l.used:])]
		l.used = 0
	}
	if len(l.buf) == cap(l.buf) {
		size := min(max(leastRead, 4*cap(l.buf)), mostRead)
		l.buf = append(make([]byte, 0, size), l.buf...)
	}
	space := l.buf[len(l.buf):cap(l.buf)]
	n, at, err := l.stream.Read(space)
	want := l.off + int64(len(l.buf))
	if at == want || n == 0 && err == nil {
		l.buf = l.buf[:len(l.buf)+n]
		return n > 0, 0, err
	}
	// What was read comes after a gap: it is read again after what is before it.
	l.stream.MoveTo(at)
	return false, at - want, err
}

// jump hands out what was there before a gap, as a line of its own, and goes on after it.
func (l *Lines) jump(gap int64) (line Line, ok bool) {
	if rest := len(l.buf) - l.used; l.torn {
		l.skip(rest)
	} else if rest > 0 {
		line, ok = l.take(rest, 0, false), true
	}
	l.lost += gap + l.stream.times.Missing(l.off, l.off+gap)
	l.off += gap
	return line, ok
}

// cut returns the first line of what has been read.
func (l *Lines) cut() (Line, bool) {
	for l.used < len(l.buf) {
		rest := l.buf[l.used:]
		border := l.stream.times.Border(l.off) - l.off
		i := bytes.IndexByte(rest[:min(len(rest), maxLine+1)], '\n')
		switch {
		case border > 0 && border <= int64(len(rest)) && (i < 0 || int64(i) >= border) && border <= maxLine:
			if !l.torn { // a start ended in the middle of a line
				return l.take(int(border), 0, false), true
			}
			l.skip(int(border))
		case i >= 0 && l.torn:
			l.skip(i + 1)
		case i >= 0:
			return l.take(i, 1, false), true
		case l.torn:
			l.skip(len(rest))
			l.torn = true
		case len(rest) > maxLine:
			return l.take(maxLine, 0, true), true
		default:
			return Line{}, false
		}
	}
	return Line{}, false
}

// skip passes over the rest of a line that is not wanted.
func (l *Lines) skip(n int) {
	l.off += int64(n)
	l.used += n
	l.torn = false
}

// take makes a line of the next n bytes and passes over the newline's.
func (l *Lines) take(n, newline int, split bool) Line {
	end := l.off + int64(n+newline)
	t := &l.stream.times
	line := Line{
		Off: l.off, At: l.stream.Time(end), Start: t.Start(l.off),
		Text: l.buf[l.used : l.used+n], Split: split, Lost: l.lost + t.Missing(l.off, end),
	}
	l.off, l.used, l.lost = end, l.used+n+newline, 0
	return line
}
