package logfile

import (
	"bytes"
	"errors"
	"fmt"
	"time"
)

const tailBlock = 64 << 10

// End returns the offset behind the last byte of the stream.
func (s *Stream) End() (int64, error) {
	l, err := s.openLive()
	if err != nil {
		return 0, err
	}
	l.close()
	return l.end, nil
}

// Tail returns the offset at which the last n lines begin, or that of the oldest
// byte if there are fewer. A line that is not finished counts. Of lines that were
// written before until, unless that is zero, it returns an offset at or before that.
func (s *Stream) Tail(n int, until time.Time) (int64, error) {
	end, err := s.End()
	if err != nil || n <= 0 {
		return end, err
	}
	if !until.IsZero() {
		end = min(end, s.times.Since(until))
		n++ // the line that was being written then may be finished later
	}
	off, left, err := s.tailLive(n, end)
	if err != nil || left == 0 {
		return off, err
	}
	upTo := off
	if off == end {
		upTo-- // nothing of it is in the live file: no line begins where it ends
	}
	pieces, err := s.pieces()
	if err != nil {
		return 0, err
	}
	for i := len(pieces) - 1; i >= 0 && left > 0; i-- {
		if pieces[i].From >= off {
			continue
		}
		off, left, err = s.tailPiece(pieces[i], upTo, left)
		upTo = off
		var damaged *DamagedError
		if err != nil && !errors.As(err, &damaged) { // who reads it is told of damage
			return 0, err
		}
	}
	return off, nil
}

// tailLive looks for the last n lines before the offset end in the live file. left is
// how many it lacks; off is its beginning then, or end if that is before it.
func (s *Stream) tailLive(n int, end int64) (off int64, left int, err error) {
	l, err := s.openLive()
	if err != nil || l.f == nil {
		return min(l.head, end), n, err
	}
	defer l.close()
	end = min(end, l.end)
	buf := make([]byte, tailBlock)
	left = n
	for to := end; to > l.head; {
		from := max(l.head, to-tailBlock)
		m, err := l.f.ReadAt(buf[:to-from], from-l.base)
		if m < int(to-from) {
			return 0, 0, fmt.Errorf("read output %s: %w", s.livePath(), err)
		}
		block := buf[:m]
		if to == end {
			block = block[:m-1] // its newline ends the last line
		}
		for i := bytes.LastIndexByte(block, '\n'); i >= 0; i = bytes.LastIndexByte(block[:i], '\n') {
			if left--; left == 0 {
				return from + int64(i) + 1, 0, nil
			}
		}
		to = from
	}
	return min(l.head, end), left, nil
}

// tailPiece looks for the last n lines that begin at the offset to or before it,
// in a rotated file and behind it.
func (s *Stream) tailPiece(p Piece, to int64, n int) (off int64, left int, err error) {
	s.MoveTo(p.From)
	defer s.closePiece()
	if err := s.openPiece(p); err != nil || s.piece == nil {
		return p.From, n, err
	}
	// A ring of where the last n lines begin.
	ring, count := make([]int64, 0, min(n, 4096)), 0
	buf := make([]byte, tailBlock)
	for s.piece != nil && s.off <= to {
		m, err := s.readPiece(buf)
		if err != nil {
			return p.From, n, err
		}
		base := s.off - int64(m)
		for i := 0; i < m; i++ {
			j := bytes.IndexByte(buf[i:m], '\n')
			if j < 0 {
				break
			}
			i += j
			begin := base + int64(i) + 1
			if begin > to {
				break // counted already
			}
			if len(ring) < n {
				ring = append(ring, begin)
			} else {
				ring[count%n] = begin
			}
			count++
		}
	}
	if count < n {
		return p.From, n - count, nil
	}
	return ring[count%n], 0, nil
}

// Since returns an offset before which nothing was written at or after at. It
// may be in the middle of a line.
func (s *Stream) Since(at time.Time) (int64, error) {
	l, err := s.openLive()
	if err != nil {
		return 0, err
	}
	l.close()
	return s.times.Since(at), nil
}
