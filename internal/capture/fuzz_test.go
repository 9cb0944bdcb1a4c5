package capture

import (
	"bytes"
	"context"
	"strings"
	"testing"
)

// FuzzLines writes bytes in pieces of any sizes and puts what comes out together
// again: nothing is lost, added or out of order, and no line is too long.
func FuzzLines(f *testing.F) {
	addPieces(f)
	s := open(f, Options{MaxSize: 64 << 20})
	n := 0
	f.Fuzz(func(t *testing.T, data []byte, piece uint16, times uint8) {
		n++
		st := start(t, s, n%10, uint64(n))
		data = writePieces(t, st, data, piece, times)
		st.Done()
		c := s.attach(st.segments[0], newQueue())
		var all []byte
		split := false
		for over := false; !over; {
			over = s.turn(c, func(l Line) bool {
				if len(l.Text) > maxLine || l.Lost != 0 || bytes.IndexByte(l.Text, '\n') >= 0 || l.Split && len(l.Text) != maxLine {
					t.Errorf("line of %d bytes, lost %d, split %v", len(l.Text), l.Lost, l.Split)
				}
				all = append(all, l.Text...)
				if split = l.Split; !split {
					all = append(all, '\n')
				}
				return true
			})
		}
		want := data
		if len(data) > 0 && data[len(data)-1] != '\n' && !split {
			want = append(bytes.Clone(data), '\n') // the unfinished last line
		}
		if !bytes.Equal(all, want) {
			t.Errorf("%d bytes came out of %d", len(all), len(want))
		}
		lines := 0
		for range st.Lines(context.Background(), Stdout) {
			lines++
		}
		if wantLines := bytes.Count(all, []byte("\n")); lines < wantLines {
			t.Errorf("%d lines, want at least %d", lines, wantLines)
		}
		if tail := st.Tail(5); len(tail) != 0 {
			t.Errorf("stderr = %q", tail)
		}
	})
}

// FuzzPipedLines is FuzzLines for a worker that writes to pipes.
func FuzzPipedLines(f *testing.F) {
	addPieces(f)
	s := open(f, Options{MaxSize: 64 << 20})
	n := 0
	f.Fuzz(func(t *testing.T, data []byte, piece uint16, times uint8) {
		n++
		st := startPiped(t, s, n%10, uint64(n))
		data = writePieces(t, st, data, piece, times)
		_, _ = st.Stdout.Close(), st.Stderr.Close() // what is written is with the store
		st.Done()
		var all []byte
		for line := range st.Lines(context.Background(), Stdout) {
			if len(line) > maxLine || strings.ContainsRune(line, '\n') {
				t.Errorf("line of %d bytes", len(line))
			}
			all = append(all, line...)
		}
		if want := bytes.ReplaceAll(data, []byte("\n"), nil); !bytes.Equal(all, want) {
			t.Errorf("%d bytes came out of %d", len(all), len(want))
		}
	})
}

func addPieces(f *testing.F) {
	f.Add([]byte("one\ntwo"), uint16(2), uint8(1))
	f.Add([]byte("\n\n\xff\x00\n"), uint16(1), uint8(0))
	f.Add(bytes.Repeat([]byte("x"), 100), uint16(7), uint8(200)) // long lines
	f.Add([]byte{}, uint16(0), uint8(0))
}

// writePieces writes data so often in pieces of that size, and returns what it wrote.
func writePieces(t *testing.T, st *Streams, data []byte, piece uint16, times uint8) []byte {
	t.Helper()
	data = bytes.Repeat(data, 1+int(times)*10)[:min(len(data)*(1+int(times)*10), 1<<20)]
	for rest := data; len(rest) > 0; {
		size := min(len(rest), max(1+int(piece), len(data)/500))
		write(t, st.Stdout, string(rest[:size]))
		rest = rest[size:]
	}
	return data
}
