package logfile

import (
	"bytes"
	"compress/gzip"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

const sampleTimes = "@ 10 1764392318000000\n+ 5 30000\ns 0 1764392317000000 1\ns 12 1764392318020000 2\ne 15 1764392318040000\nb 4\ni 8\nx 12 100\n"

// FuzzTimes: whatever is in a .times file, what is understood of it is in order,
// comes in pieces as in one, and stays the same when it is made smaller.
func FuzzTimes(f *testing.F) {
	f.Add([]byte(sampleTimes), 20)
	f.Add([]byte("+ 1 1\n+ -5 1\n@ 99999999999999999999 1\nb -1\n@ 1\nx\n\n"), 3)
	f.Add([]byte("@ 1152921504606846976 1\n+ 1152921504606846976 1\n"), 0)
	f.Fuzz(func(t *testing.T, data []byte, at int) {
		var whole, parts Times
		used := whole.Parse(data)
		if rest := data[used:]; bytes.IndexByte(rest, '\n') >= 0 {
			t.Errorf("%q is left", rest)
		}
		cut := max(0, min(at, len(data)))
		n := parts.Parse(data[:cut])
		parts.Parse(data[n:])
		if !slices.Equal(whole.Marks, parts.Marks) || !slices.Equal(whole.Starts, parts.Starts) || whole.Base != parts.Base || whole.Bad != parts.Bad {
			t.Errorf("%+v in one piece, %+v in two", whole, parts)
		}
		if !slices.IsSortedFunc(whole.Marks, func(a, b Mark) int { return int(min(1, max(-1, a.Off-b.Off))) }) {
			t.Errorf("marks %v are not in order", whole.Marks)
		}
		off := int64(at)
		before, ok := whole.At(off)
		var small Times
		out := whole.Compact(off)
		if n := small.Parse(out); n != len(out) || small.Bad != 0 || small.Base != whole.Base {
			t.Errorf("Compact made %q, of which %d lines make no sense", out, small.Bad)
		}
		if after, still := small.At(off); still != ok || !after.Equal(before) {
			t.Errorf("At(%d) = %v, %v; after Compact %v, %v", off, before, ok, after, still)
		}
		if b := whole.Border(off); b >= 0 && b <= off {
			t.Errorf("Border(%d) = %d", off, b)
		}
		whole.Start(off)
		whole.Since(time.UnixMicro(off))
		whole.Missing(off, off+100)
	})
}

// FuzzStream: whatever the three files of a stream hold, reading ends, does not
// crash, and hands out nothing that is not in them.
func FuzzStream(f *testing.F) {
	f.Add([]byte("one\ntwo\nthr"), []byte(sampleTimes), zipped("a\nb\n"), int64(0), int64(4), uint8(2))
	f.Add([]byte("\xff\x00\n\n"), []byte("b 100\n"), []byte("no gzip"), int64(0), int64(50), uint8(1))
	f.Add([]byte{}, []byte("i 5\nb 3\n"), zipped("short"), int64(3), int64(1000), uint8(9))
	dir := f.TempDir()
	if err := os.Mkdir(filepath.Join(dir, RotatedDir), 0o755); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, live, times, piece []byte, from, to int64, tail uint8) {
		p := Piece{From: from, To: to, Gzip: true}
		path := filepath.Join(dir, RotatedDir, p.Name(0, Stdout))
		if _, _, _, ok := ParsePiece(filepath.Base(path)); ok {
			write(t, path, piece)
			defer os.Remove(path)
		}
		write(t, filepath.Join(dir, LiveName(0, Stdout)), live)
		write(t, filepath.Join(dir, TimesName(0, Stdout)), times)
		s := OpenStream(dir, 0, Stdout)
		defer s.Close()
		off, err := s.Tail(int(tail), time.Time{})
		var damaged *DamagedError
		if err != nil && !errors.As(err, &damaged) {
			t.Fatalf("Tail(%d) = %v", tail, err)
		}
		if off < 0 {
			t.Errorf("Tail(%d) = %d", tail, off)
		}
		readAll(t, NewLines(s, off, false), len(live)+maxUnzipped)
		readAll(t, NewLines(s, 0, true), len(live)+maxUnzipped)
	})
}

const maxUnzipped = 16 << 20

// readAll reads lines to their end.
func readAll(t *testing.T, l *Lines, most int) {
	t.Helper()
	total := 0
	for {
		line, ok, err := l.Next(true)
		var damaged *DamagedError
		if err != nil && !errors.As(err, &damaged) {
			t.Fatal(err)
		}
		if !ok && err == nil {
			return
		}
		if total += len(line.Text) + 1; total > most+2 || len(line.Text) > maxLine || bytes.IndexByte(line.Text, '\n') >= 0 || line.Lost < 0 {
			t.Fatalf("line of %d bytes at %d, lost %d; %d in all, want at most %d", len(line.Text), line.Off, line.Lost, total, most)
		}
	}
}

func zipped(text string) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = z.Write([]byte(text))
	_ = z.Close()
	return b.Bytes()
}

func write(tb testing.TB, path string, data []byte) {
	tb.Helper()
	if err := os.WriteFile(path, data, 0o640); err != nil {
		tb.Fatal(err)
	}
}
