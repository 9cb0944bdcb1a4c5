package capture

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/pitvisor/pitvisor/internal/logfile"
	"github.com/pitvisor/pitvisor/linuxtest"
	"golang.org/x/sys/unix"
)

// A flood of writes that fill no page gets a large pipe too, and all of it arrives.
func TestBusyPipesBecomeLarge(t *testing.T) {
	for _, size := range []int{100, 4000, 2049, 1 << 16} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			s := open(t, Options{MaxSize: 1 << 30})
			st := startPiped(t, s, 0, 1)
			block := bytes.Repeat([]byte("b"), size)
			var total int64
			linuxtest.Wait(t, soon, func() (bool, string) {
				for range 64<<20/size/16 + 1 {
					write(t, st.Stdout, string(block))
					total += int64(size)
				}
				_, now, err := inPipe(fmt.Sprintf("/proc/self/fd/%d", st.Stdout.Fd()))
				return err == nil && now == pipeLarge, fmt.Sprintf("the pipe holds %d bytes, %v; want %d", now, err, pipeLarge)
			})
			_, _ = st.Stdout.Close(), st.Stderr.Close()
			st.Done()
			if end, err := logfile.OpenStream(filepath.Join(s.dir, "web"), 0, Stdout).End(); err != nil || end != total {
				t.Errorf("%d bytes arrived, %v; want %d", end, err, total)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// Many floods that end at different times: one that ends keeps none of the others waiting.
func TestManyFloodsThroughPipes(t *testing.T) {
	s := open(t, Options{MaxSize: 1 << 30})
	const pipes, block = 60, 4000
	var writers sync.WaitGroup
	var starts []*Streams
	for slot := range pipes {
		st := startPiped(t, s, slot, 1)
		starts = append(starts, st)
		writers.Go(func() {
			text := strings.Repeat("b", block)
			for range 100 + 10*slot {
				write(t, st.Stdout, text)
			}
			_, _ = st.Stdout.Close(), st.Stderr.Close()
		})
	}
	done := make(chan struct{})
	go func() { writers.Wait(); close(done) }()
	linuxtest.Wait(t, 3*soon, func() (bool, string) {
		select {
		case <-done:
			return true, ""
		default:
			return false, "there are writers that wait"
		}
	})
	for slot, st := range starts {
		st.Done()
		if end, err := logfile.OpenStream(filepath.Join(s.dir, "web"), slot, Stdout).End(); err != nil || end != int64(100+10*slot)*block {
			t.Errorf("%d bytes of writer %d arrived, %v; want %d", end, slot, err, (100+10*slot)*block)
		}
	}
}

// heldPipe is a start whose pipe has "first\n" in a relay, as an error leaves it, and
// "second\n" in itself. The mover is kept away.
func heldPipe(t *testing.T, s *Store) (*Streams, *pipe) {
	t.Helper()
	st := startPiped(t, s, 0, 1)
	p := st.segments[0].pipe
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.mover.poller.Remove(p.fd); err != nil {
		t.Fatal(err)
	}
	r, err := newRelay()
	if err != nil {
		t.Fatal(err)
	}
	p.relay = r
	write(t, st.Stdout, "first\n")
	if n, err := r.fill(p.fd, pipeBlock); n != 6 || err != nil {
		t.Fatalf("fill() = %d, %v", n, err)
	}
	write(t, st.Stdout, "second\n")
	return st, p
}

// What a relay holds goes to the file first, also where the file system cannot splice.
func TestRelayGoesFirst(t *testing.T) {
	for _, copied := range []bool{false, true} {
		s := open(t, Options{})
		st, p := heldPipe(t, s)
		p.copy = copied
		p.mover.drain(p, false)
		data, err := os.ReadFile(filepath.Join(s.dir, "web", "0.stdout.log"))
		if err != nil || string(data) != "first\nsecond\n" {
			t.Errorf("copied %v: file = %q, %v", copied, data, err)
		}
		if p.relay != nil {
			t.Errorf("copied %v: the pipe keeps an empty relay", copied)
		}
		if err := p.mover.poller.Add(p.fd, unix.EPOLLIN, p.token); err != nil {
			t.Fatal(err)
		}
		_, _ = st.Stdout.Close(), st.Stderr.Close()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// While a file cannot be written to, a relay is emptied like the pipe, and counted.
func TestRelayIsDiscardedAndCounted(t *testing.T) {
	s := open(t, Options{Warn: func(error) {}})
	st, p := heldPipe(t, s)
	p.mu.Lock()
	if n := p.mover.discard(p, unix.ENOSPC); n != 6 || p.relay != nil {
		t.Errorf("discard() = %d, relay %v; want 6 and none", n, p.relay)
	}
	p.mu.Unlock()
	wantLost(t, s, st, 6, "second\n")
}

// What is held when the start is over and nothing helps is counted.
func TestRelayOfADroppedPipeIsCounted(t *testing.T) {
	s := open(t, Options{})
	st, p := heldPipe(t, s)
	p.mu.Lock()
	p.mover.drop(p)
	p.mu.Unlock()
	wantLost(t, s, st, 6, "")
}

// wantLost ends a start and reads what is left of it.
func wantLost(t *testing.T, s *Store, st *Streams, lost int64, text string) {
	t.Helper()
	_, _ = st.Stdout.Close(), st.Stderr.Close()
	st.Done()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	dir := filepath.Join(s.dir, "web")
	in := logfile.NewLines(logfile.OpenStream(dir, 0, Stdout), 0, false)
	var got int64
	var read []byte
	for {
		line, ok, err := in.Next(true)
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			break
		}
		got += line.Lost
		if len(line.Text) > 0 {
			read = append(append(read, line.Text...), '\n')
		}
	}
	if got != lost || string(read) != text {
		t.Errorf("%d bytes told as lost, and %q; want %d, and %q", got, read, lost, text)
	}
}
