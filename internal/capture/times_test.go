package capture

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/internal/logfile"
)

// Starts have numbers, and the unfinished last line of one does not run into the next.
func TestTimesTellStartsApart(t *testing.T) {
	s := open(t, Options{})
	for n := range uint64(3) {
		st := start(t, s, 0, 7+n)
		write(t, st.Stdout, fmt.Sprintf("one of %d\nrest of %d", n, n))
		st.Done()
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	lines := logfile.NewLines(logfile.OpenStream(filepath.Join(s.dir, "web"), 0, Stdout), 0, false)
	for n := range uint64(3) {
		for _, text := range []string{"one", "rest"} {
			line, ok, err := lines.Next(false)
			if want := fmt.Sprintf("%s of %d", text, n); err != nil || !ok || string(line.Text) != want || line.Start != 7+n {
				t.Errorf("line = %q of start %d, %v, %v; want %q of start %d", line.Text, line.Start, ok, err, want, 7+n)
			}
		}
	}
}

// A line's time is that of its writing, also behind a pause that has no mark of its own.
func TestLinesHaveTimes(t *testing.T) {
	s := open(t, Options{})
	st := start(t, s, 0, 1)
	var before, after []time.Time
	for i := range 20 {
		before = append(before, time.Now())
		write(t, st.Stdout, fmt.Sprintf("line %d\n", i))
		after = append(after, time.Now())
		if err := eventually(func() error { return marked(s, int64((i+1)*7)) }); err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Duration(i%4) * 15 * time.Millisecond)
	}
	lines := logfile.NewLines(logfile.OpenStream(filepath.Join(s.dir, "web"), 0, Stdout), 0, false)
	for i := range 20 {
		line, ok, err := lines.Next(false)
		if err != nil || !ok {
			t.Fatal(err, ok)
		}
		early, late := before[i].Sub(line.At), line.At.Sub(after[i])
		if early > 5*time.Millisecond || late > 2*time.Second { // the trimmer may wait for the processor
			t.Errorf("%s: time is %v, written from %v to %v", line.Text, line.At, before[i], after[i])
		}
	}
}

// marked says whether the trimmer has seen that much.
func marked(s *Store, end int64) error {
	f := s.pools["web"].slots[0].streams[0].file
	f.mu.Lock()
	defer f.mu.Unlock()
	if seen := max(f.times.last.Off, f.times.pending.Off); seen < end {
		return fmt.Errorf("%d bytes seen, want %d", seen, end)
	}
	return nil
}

// What a .times file says stays bounded.
func TestTimesStaySmall(t *testing.T) {
	dir := t.TempDir()
	r := &recorder{path: filepath.Join(dir, "0.stdout.times")}
	now := time.Now()
	for i := range 60_000 {
		now = now.Add(time.Second)
		if err := r.note(int64(i+1)*50, -1, now, i%10 == 0); err != nil {
			t.Fatal(err)
		}
		if i%100 == 0 {
			if err := r.compact(0); err != nil {
				t.Fatal(err)
			}
		}
	}
	data, err := os.ReadFile(r.path)
	var times logfile.Times
	if err != nil || len(data) > timesFull+8<<10 || times.Parse(data) != len(data) || times.Bad != 0 {
		t.Errorf("%d bytes, %d bad lines: %v", len(data), times.Bad, err)
	}
	if at, ok := times.At(60_000 * 50); !ok || at.UnixMicro() != now.UnixMicro() {
		t.Errorf("time of the last byte = %v, %v; want %v", at, ok, now)
	}
	if bytes.Count(data, []byte("@")) == 0 {
		t.Error("no absolute mark")
	}
}

// A line that came just after another one and before a pause has its own time,
// not that of the line after the pause.
func TestMarkBeforeAPause(t *testing.T) {
	r := &recorder{path: filepath.Join(t.TempDir(), "0.stdout.times")}
	first := time.Now()
	at := []time.Time{first, first.Add(5 * time.Millisecond), first.Add(time.Hour)}
	for i, now := range at {
		if err := r.note(int64(i+1)*10, -1, now, false); err != nil {
			t.Fatal(err)
		}
	}
	times, _, err := readTimes(r.path)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range at {
		if got, ok := times.At(int64(i+1) * 10); !ok || got.UnixMicro() != want.UnixMicro() {
			t.Errorf("time of line %d = %v, %v; want %v", i, got, ok, want)
		}
	}
}
