package logfile

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestNames(t *testing.T) {
	for _, p := range []Piece{{From: 0, To: 1}, {From: 7, To: 1 << 40, Gzip: true}} {
		slot, stream, got, ok := ParsePiece(p.Name(12, Stderr))
		if !ok || slot != 12 || stream != Stderr || got != p {
			t.Errorf("ParsePiece(%q) = %d, %s, %+v, %v", p.Name(12, Stderr), slot, stream, got, ok)
		}
	}
	for _, name := range []string{
		"", "0", "0.stdout", "0.stdout.log", "x.stdout.1-2.log", "00.stdout.1-2.log", "-1.stdout.1-2.log", "0.stdlog.1-2.log",
		"0.stdout.2-2.log", "0.stdout.-2.log", "0.stdout.1-.log", "0.stdout.1-2.log.gz.tmp", "0.stdout.1-2.txt", "0.stdout.+1-2.log",
	} {
		if _, _, p, ok := ParsePiece(name); ok {
			t.Errorf("ParsePiece(%q) = %+v", name, p)
		}
	}
	for name, want := range map[string]bool{"3.stdout.log": true, "3.stderr.times": true, "3.stdout.log.1": false, "stdout.log": false, "3.stdout.tmp": false} {
		if _, _, ok := ParseLive(name); ok != want {
			t.Errorf("ParseLive(%q) = %v, want %v", name, ok, want)
		}
	}
}

// What a stream's files say when its supervisor was killed at any moment of a
// rotation or a collapse.
func TestStatesOfACrash(t *testing.T) {
	const text = "aaaa\nbbbb\ncccc\ndddd\n"
	for _, tc := range []struct {
		name         string
		times        string
		hole         int64 // at the front of the live file
		live         string
		pieces       map[string]string
		want         string
		lost, damage int64
	}{
		{name: "nothing yet", live: text, want: text},
		{name: "rotated file made, nothing cut", live: text, pieces: map[string]string{"0.stdout.0-10.log": text[:10]}, want: text},
		{name: "rotated file not finished", live: text, pieces: map[string]string{"0.stdout.0-10.log.gz.tmp": "half"}, want: text},
		{name: "cut", hole: 4096, live: text, pieces: map[string]string{"0.stdout.0-4096.log": strings.Repeat("xxx\n", 1024)}, want: strings.Repeat("xxx\n", 1024) + text},
		{name: "cut, and the rotated file is removed", hole: 4096, live: text, want: text, lost: 4096},
		{name: "meant to collapse, not done", times: "i 4096\n", hole: 4096, live: text, want: text, lost: 4096},
		{name: "collapsed, not written down", times: "i 4096\n", live: text, want: text, lost: 4096},
		{name: "collapsed", times: "i 4096\nb 4096\n", live: text, want: text, lost: 4096},
		{name: "could not collapse", times: "i 4096\nb 0\n", hole: 4096, live: text, want: text, lost: 4096},
		{name: "times torn", times: "i 4096\nb 4096\n@ 41", live: text, want: text, lost: 4096},
		{name: "overlap", times: "b 10\n", live: text[10:], pieces: map[string]string{"0.stdout.0-15.log": text[:15]}, want: text},
		{name: "a piece is missing", times: "b 15\n", live: text[15:], pieces: map[string]string{"0.stdout.0-5.log": text[:5]}, want: text[:5] + text[15:], lost: 10},
		{name: "a piece is short", times: "b 15\n", live: text[15:], pieces: map[string]string{"0.stdout.0-15.log": text[:10]}, want: text[:10] + text[15:], lost: 5, damage: 1},
		{name: "a piece is long", times: "b 15\n", live: text[15:], pieces: map[string]string{"0.stdout.0-15.log": text}, want: text, damage: 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.Mkdir(filepath.Join(dir, RotatedDir), 0o755); err != nil {
				t.Fatal(err)
			}
			if tc.times != "" {
				write(t, filepath.Join(dir, TimesName(0, Stdout)), []byte(tc.times))
			}
			for name, data := range tc.pieces {
				if slot, stream, p, ok := ParsePiece(name); ok {
					name = p.Name(slot, stream)
				}
				write(t, filepath.Join(dir, RotatedDir, name), []byte(data))
			}
			live, err := os.Create(filepath.Join(dir, LiveName(0, Stdout)))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := live.WriteAt([]byte(tc.live), tc.hole); err != nil {
				t.Fatal(err)
			}
			if err := live.Close(); err != nil {
				t.Fatal(err)
			}
			got, lost, damage := contents(NewLines(OpenStream(dir, 0, Stdout), 0, false))
			if got != tc.want || lost != tc.lost || damage != tc.damage {
				t.Errorf("read %q, lost %d, damaged %d; want %q, %d, %d", got, lost, damage, tc.want, tc.lost, tc.damage)
			}
		})
	}
}

// contents puts lines together again.
func contents(l *Lines) (text string, lost, damage int64) {
	for {
		line, ok, err := l.Next(true)
		if err != nil {
			damage++
		} else if !ok {
			return text, lost, damage
		}
		lost += line.Lost
		if ok && (len(line.Text) > 0 || line.Lost == 0) {
			text += string(line.Text) + "\n"
		}
	}
}

func TestTailCountsLines(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, RotatedDir), 0o755); err != nil {
		t.Fatal(err)
	}
	var all []string
	text := ""
	for i := range 30 {
		all = append(all, fmt.Sprintf("line %02d\n", i)) // 8 bytes
		text += all[i]
	}
	write(t, filepath.Join(dir, RotatedDir, Piece{From: 0, To: 80, Gzip: true}.Name(0, Stdout)), zipped(text[:80]))
	write(t, filepath.Join(dir, RotatedDir, Piece{From: 80, To: 164}.Name(0, Stdout)), []byte(text[80:164])) // ends in the middle of a line
	for name, end := range map[string]int{"whole": len(text), "unfinished": len(text) - 4, "empty": 164} {
		write(t, filepath.Join(dir, LiveName(0, Stdout)), []byte(text[164:end]))
		write(t, filepath.Join(dir, TimesName(0, Stdout)), []byte("b 164\n"))
		for n := range 33 {
			off, err := OpenStream(dir, 0, Stdout).Tail(n, time.Time{})
			lines := (end + 7) / 8
			want := int64(max(0, lines-n) * 8)
			if n == 0 {
				want = int64(end)
			}
			if err != nil || off != want {
				t.Errorf("%s: Tail(%d) = %d, %v; want %d", name, n, off, err, want)
			}
		}
	}
}

// TestTailBefore: the last lines before a time begin at or after what Tail says, wherever they are.
func TestTailBefore(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, RotatedDir), 0o755); err != nil {
		t.Fatal(err)
	}
	text, times := "", "b 80\n"
	for i := range 30 {
		text += fmt.Sprintf("line %02d\n", i) // 8 bytes, written in second i+1
		times += fmt.Sprintf("@ %d %d\n", len(text), (i+1)*1_000_000)
	}
	write(t, filepath.Join(dir, RotatedDir, Piece{From: 0, To: 80, Gzip: true}.Name(0, Stdout)), zipped(text[:80]))
	write(t, filepath.Join(dir, LiveName(0, Stdout)), []byte(text[80:]))
	write(t, filepath.Join(dir, TimesName(0, Stdout)), []byte(times))
	for until := range 33 {
		for _, n := range []int{1, 2, 12, 40} {
			m := NewMerger(Query{Tail: n, Until: time.Unix(int64(until), 0)}, func(err error) { t.Error(err) })
			m.Add(Source{Pool: "web", Stream: Stdout}, dir)
			got := ""
			m.DrainTail(true, func(it Item) bool {
				got += string(it.Text) + "\n"
				return true
			})
			m.Close()
			last := max(0, min(30, until-1)) // lines before it
			if want := text[8*max(0, last-n) : 8*last]; got != want {
				t.Errorf("the last %d lines before second %d: %q, want %q", n, until, got, want)
			}
			off, err := OpenStream(dir, 0, Stdout).Tail(n, time.Unix(int64(until), 0))
			if least := int64(8 * max(0, last-n-2)); err != nil || off < least {
				t.Errorf("Tail(%d) before second %d = %d, %v: more is read than from %d", n, until, off, err, least)
			}
		}
	}
}

// TestLossInAGap: what could not be written is missing, too, where its surroundings are cut away.
func TestLossInAGap(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, LiveName(0, Stdout)), []byte("end\n"))
	write(t, filepath.Join(dir, TimesName(0, Stdout)), []byte("b 1000\nx 500 70\nx 1000 3\n"))
	text, lost, _ := contents(NewLines(OpenStream(dir, 0, Stdout), 0, false))
	if text != "end\n" || lost != 1073 {
		t.Errorf("%q and %d bytes are missing, want 1073", text, lost)
	}
}

func TestSinceBeginsEarlyEnough(t *testing.T) {
	var times Times
	times.Parse([]byte("@ 10 1000\n+ 10 1000\n+ 10 1000\n"))
	for at, want := range map[int64]int64{0: 0, 1000: 0, 1001: 10, 2000: 10, 2500: 20, 3000: 20, 3001: 30} {
		if got := times.Since(time.UnixMicro(at)); got != want {
			t.Errorf("Since(%d) = %d, want %d", at, got, want)
		}
	}
}

func TestLongLinesComeInPieces(t *testing.T) {
	dir := t.TempDir()
	long := strings.Repeat("l", 3*maxLine+17)
	write(t, filepath.Join(dir, LiveName(0, Stdout)), []byte("a\n"+long+"\nb\n"))
	l := NewLines(OpenStream(dir, 0, Stdout), 0, false)
	var sizes []int
	var splits int
	for {
		line, ok, err := l.Next(false)
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			break
		}
		sizes = append(sizes, len(line.Text))
		if line.Split {
			splits++
		}
	}
	if want := []int{1, maxLine, maxLine, maxLine, 17, 1}; fmt.Sprint(sizes) != fmt.Sprint(want) || splits != 3 {
		t.Errorf("lines of %v bytes, %d of them split; want %v and 3", sizes, splits, want)
	}
}
