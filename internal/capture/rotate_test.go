package capture

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/internal/logfile"
	"github.com/pitvisor/pitvisor/linuxtest"
	"golang.org/x/sys/unix"
)

// numbered returns lines of 100 bytes with the numbers from first on.
func numbered(first, n int) []byte {
	var b []byte
	for i := range n {
		b = fmt.Appendf(b, "%99d\n", first+i)
	}
	return b
}

// numberReader checks numbered lines as they are read from the files: in order,
// whole, and what is missing is told.
type numberReader struct {
	lines *logfile.Lines
	next  int64 // number
	got   int64
	lost  int64 // bytes
}

func newNumberReader(dir string) *numberReader {
	return &numberReader{lines: logfile.NewLines(logfile.OpenStream(dir, 0, Stdout), 0, false)}
}

// read reads all that is there. A line may be cut where bytes were cut away.
func (r *numberReader) read() error {
	for {
		line, ok, err := r.lines.Next(false)
		if err != nil || !ok {
			return err
		}
		if line.Lost > 0 {
			r.lost += line.Lost
			r.next = line.Off / 100
		}
		if len(line.Text) < 99 && (line.Lost > 0 || line.Off%100 == 0) {
			r.got += int64(len(line.Text)) // the piece before a cut, or after it
			if line.Lost > 0 {
				r.got++
				r.next++
			}
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(string(line.Text)), 10, 64)
		if err != nil || n != r.next || line.Off != n*100 {
			return fmt.Errorf("line %.200q at %d (lost %d), want number %d: %v", line.Text, line.Off, line.Lost, r.next, err)
		}
		r.next++
		r.got += 100
	}
}

// rotated lists the rotated files of slot 0.
func rotated(dir string) (names []string, err error) {
	entries, err := os.ReadDir(filepath.Join(dir, logfile.RotatedDir))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}

// rotateScenario writes more than the live file may hold, a part at a time, so
// that the rotation can follow, and reads everything again from the files.
func rotateScenario(dir string) error {
	var warned error
	s, err := Open(Options{Dir: dir, MaxSize: 64 << 10, Rotate: Rotate{Keep: 1000}, Warn: func(err error) { warned = err }})
	if err != nil {
		return err
	}
	st, err := s.Start("web/0", "web", 0, 1)
	if err != nil {
		return err
	}
	const parts, lines = 40, 700
	pool := filepath.Join(dir, "web")
	for part := range parts {
		if _, err := st.Stdout.Write(numbered(part*lines, lines)); err != nil {
			return err
		}
		if err := eventually(func() error { return liveBelow(s, 2*64<<10) }); err != nil {
			return err
		}
	}
	st.Done()
	if err := errors.Join(s.Close(), st.Stdout.Close(), st.Stderr.Close(), warned); err != nil {
		return err
	}
	r := newNumberReader(pool)
	if err := r.read(); err != nil || r.next != parts*lines || r.lost != 0 {
		return fmt.Errorf("read %d lines, lost %d: %v; want all of %d", r.next, r.lost, err, parts*lines)
	}
	names, err := rotated(pool)
	if err != nil || len(names) < 20 || !strings.HasSuffix(names[0], ".log.gz") {
		return fmt.Errorf("rotated files = %v, %v", names, err)
	}
	return nil
}

// liveBelow says whether what is in the live file of slot 0 is less than that.
func liveBelow(s *Store, most int64) error {
	f := s.pools["web"].slots[0].streams[0].file
	f.mu.Lock()
	defer f.mu.Unlock()
	info, err := os.Stat(f.path)
	if err != nil {
		return err
	}
	f.look(info.Size())
	if f.end-f.head >= most || f.busy {
		return fmt.Errorf("%d bytes in the live file, busy %v", f.end-f.head, f.busy)
	}
	return nil
}

func eventually(f func() error) (err error) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for range 20_000 {
		if err = f(); err == nil {
			return nil
		}
		<-tick.C
	}
	return err
}

func TestRotationLosesNothing(t *testing.T) {
	if err := rotateScenario(filepath.Join(t.TempDir(), "run")); err != nil {
		t.Error(err)
	}
}

func TestRotationOnTmpfs(t *testing.T) { runOnTmpfs(t, "tmpfs-rotate", "64M") }

// A reader without us reads while we cut, move and compress, and a flood is
// faster than that: what it gets is whole and in order, and it knows what is missing.
func TestReaderBesideAFlood(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	s := open(t, Options{Dir: dir, MaxSize: 64 << 10, Rotate: Rotate{Keep: 2}})
	st := start(t, s, 0, 1)
	const lines = 60_000
	r := newNumberReader(filepath.Join(dir, "web"))
	written := make(chan error, 1)
	go func() {
		for n := 0; n < lines; n += 400 {
			if _, err := st.Stdout.Write(numbered(n, 400)); err != nil {
				written <- err
				return
			}
		}
		st.Done()
		written <- nil
	}()
	for over := false; !over; {
		select {
		case err := <-written:
			if err != nil {
				t.Fatal(err)
			}
			over = true
		default:
		}
		if err := r.read(); err != nil {
			t.Fatal(err)
		}
	}
	if r.next != lines || r.got+r.lost != lines*100 {
		t.Errorf("read up to line %d, %d bytes and %d lost; want %d", r.next, r.got, r.lost, lines)
	}
	t.Logf("%d bytes read, %d lost to the bound", r.got, r.lost)
}

// rotateFlood is a supervisor whose worker floods; it rotates until it is killed.
func rotateFlood(dir string) error {
	s, err := Open(Options{Dir: dir, MaxSize: 64 << 10, Rotate: Rotate{Keep: 1000}})
	if err != nil {
		return err
	}
	st, err := s.Start("web/0", "web", 0, 1)
	if err != nil {
		return err
	}
	for n := 0; ; n += 100 {
		if _, err := st.Stdout.Write(numbered(n, 100)); err != nil {
			return err
		}
		if n%10_000 == 0 {
			fmt.Println(n)
		}
		if err := eventually(func() error { return liveBelow(s, 64<<14) }); err != nil {
			return err
		}
	}
}

// Whenever the supervisor is killed, each line is there once.
func TestKillWhileRotating(t *testing.T) {
	for round := range 6 {
		dir := filepath.Join(t.TempDir(), "run")
		out, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		owner := linuxtest.Command{Args: linuxtest.Helper(t, "rotate-flood", dir), Stdout: w}.Start(t)
		_ = w.Close()
		progress := bufio.NewReader(out)
		for range 2 + round/2 {
			if _, err := progress.ReadString('\n'); err != nil {
				t.Fatal(err)
			}
		}
		owner.Kill(t)
		_ = out.Close()
		r := newNumberReader(filepath.Join(dir, "web"))
		if err := r.read(); err != nil || r.lost != 0 || r.next < 10_000 {
			names, _ := rotated(filepath.Join(dir, "web"))
			t.Fatalf("read %d lines, lost %d: %v; rotated %q", r.next, r.lost, err, names)
		}
	}
}

func TestRetention(t *testing.T) {
	for _, tc := range []struct {
		name string
		r    Rotate
		most int
	}{
		{"count", Rotate{Keep: 3}, 3},
		{"size", Rotate{Keep: 100, MaxTotal: 200 << 10, Plain: true}, 3},
		{"age", Rotate{Keep: 100, MaxAge: time.Nanosecond}, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := open(t, Options{MaxSize: 64 << 10, Rotate: tc.r})
			st := start(t, s, 0, 1)
			for part := range 10 {
				write(t, st.Stdout, string(numbered(part*700, 700)))
				if err := eventually(func() error { return liveBelow(s, 2*64<<10) }); err != nil {
					t.Fatal(err)
				}
			}
			names, err := rotated(filepath.Join(s.dir, "web"))
			if err != nil || len(names) != tc.most {
				t.Errorf("rotated files = %q, %v; want %d", names, err, tc.most)
			}
			r := newNumberReader(filepath.Join(s.dir, "web"))
			if err := r.read(); err != nil || r.next != 7000 || r.lost == 0 {
				t.Errorf("read up to line %d, lost %d: %v", r.next, r.lost, err)
			}
		})
	}
}

// A file is rotated for its age, when something is written.
func TestRotationByAge(t *testing.T) {
	s := open(t, Options{Rotate: Rotate{Keep: 5, Age: time.Millisecond}})
	st := start(t, s, 0, 1)
	n := 0
	err := eventually(func() error {
		write(t, st.Stdout, string(numbered(n, 1)))
		n++
		names, err := rotated(filepath.Join(s.dir, "web"))
		if err == nil && len(names) < 2 {
			err = fmt.Errorf("rotated files = %q", names)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	r := newNumberReader(filepath.Join(s.dir, "web"))
	if err := r.read(); err != nil || r.next != int64(n) || r.lost != 0 {
		t.Errorf("read %d lines, lost %d: %v; want %d", r.next, r.lost, err, n)
	}
}

// A directory that can not be written to: rotation says so, and loses nothing.
func TestRotationThatFails(t *testing.T) {
	warned := make(chan error, 1)
	s := open(t, Options{MaxSize: 64 << 10, Rotate: Rotate{Keep: 100}, Warn: func(err error) { warned <- err }})
	st := start(t, s, 0, 1)
	path := filepath.Join(s.dir, "web", logfile.RotatedDir)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	write(t, st.Stdout, string(numbered(0, 3000)))
	if err := <-warned; !strings.Contains(err.Error(), path) {
		t.Errorf("warning = %v, want one that names %s", err, path)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	r := newNumberReader(filepath.Join(s.dir, "web"))
	if err := r.read(); err != nil || r.next != 3000 || r.lost != 0 {
		t.Errorf("read %d lines, lost %d: %v", r.next, r.lost, err)
	}
}

// rotateFullDisk runs on a tmpfs with too little room for a rotated file: that is
// said once, nothing is lost, nothing half-made is left, and the worker goes on.
func rotateFullDisk(dir string) error {
	run := filepath.Join(dir, "run")
	var warnings []error
	warned := make(chan struct{})
	s, err := Open(Options{Dir: run, MaxSize: 64 << 10, Rotate: Rotate{Keep: 100, Plain: true}, Warn: func(err error) {
		warnings = append(warnings, err)
		close(warned)
	}})
	if err != nil {
		return err
	}
	st, err := s.Start("web/0", "web", 0, 1)
	if err != nil {
		return err
	}
	if _, err := st.Stdout.Write(numbered(0, 1000)); err != nil { // not enough to rotate
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "filler"), make([]byte, 832<<10), 0o644); err != nil {
		return err
	}
	if _, err := st.Stdout.Write(numbered(1000, 500)); err != nil {
		return err
	}
	<-warned
	if err := scenario(warnings[0], unix.ENOSPC, "free some space"); err != nil {
		return err
	}
	if err := errors.Join(st.Stdout.Close(), st.Stderr.Close()); err != nil {
		return err
	}
	st.Done()
	if err := s.Close(); err != nil {
		return err
	}
	names, err := rotated(filepath.Join(run, "web"))
	if err != nil || len(names) != 0 {
		return fmt.Errorf("rotated files = %q, %v; want none", names, err)
	}
	r := newNumberReader(filepath.Join(run, "web"))
	if err := r.read(); err != nil || r.next != 1500 || r.lost != 0 {
		return fmt.Errorf("read %d lines, lost %d: %v; want 1500", r.next, r.lost, err)
	}
	return nil
}

func TestRotationOnAFullDisk(t *testing.T) { runOnTmpfs(t, "tmpfs-rotate-full", "1M") }
