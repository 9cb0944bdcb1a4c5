package capture

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/linuxtest"
)

func TestMain(m *testing.M) {
	linuxtest.Main(m, helperModes())
}

const soon = 10 * time.Second

// open returns a store of a fresh directory that is closed at the end of the
// test, and fails the test on any warning.
func open(tb testing.TB, o Options) *Store {
	tb.Helper()
	if o.Dir == "" {
		o.Dir = filepath.Join(tb.TempDir(), "run")
	}
	if o.Warn == nil {
		o.Warn = func(err error) { tb.Errorf("warning: %v", err) }
	}
	s, err := Open(o)
	if err != nil {
		tb.Fatalf("Open(%+v): %v", o, err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			tb.Errorf("Close: %v", err)
		}
	})
	return s
}

// start opens the streams of a start; the files are closed at the end of the test.
func start(tb testing.TB, s *Store, slot int, number uint64) *Streams {
	tb.Helper()
	st, err := s.Start(fmt.Sprintf("web/%d", slot), "web", slot, number)
	if err != nil {
		tb.Fatalf("Start(web/%d, %d): %v", slot, number, err)
	}
	tb.Cleanup(func() {
		_ = st.Stdout.Close() // closed already, or nothing to lose
		_ = st.Stderr.Close()
	})
	return st
}

func write(tb testing.TB, f *os.File, text string) {
	tb.Helper()
	if _, err := f.WriteString(text); err != nil {
		tb.Fatalf("write: %v", err)
	}
}

// seen is what a follower was given. The texts are copies.
type seen struct {
	mu    sync.Mutex
	lines []Line
	err   error
	done  chan struct{}
}

// follow runs a follower for the time of the test.
func follow(tb testing.TB, s *Store) *seen {
	tb.Helper()
	return followBut(tb, s, "")
}

// followBut keeps no lines of one worker.
func followBut(tb testing.TB, s *Store, worker string) *seen {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	got := &seen{done: make(chan struct{})}
	fl := s.NewFollower()
	go func() {
		defer close(got.done)
		got.err = fl.Run(ctx, func(l Line) {
			if l.Worker != worker {
				got.add(l)
			}
		})
	}()
	tb.Cleanup(func() {
		cancel()
		<-got.done
	})
	return got
}

func (g *seen) add(l Line) {
	l.Text = append([]byte(nil), l.Text...)
	g.mu.Lock()
	g.lines = append(g.lines, l)
	g.mu.Unlock()
}

func (g *seen) all() []Line {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]Line(nil), g.lines...)
}

// of returns the texts of one stream of one worker.
func (g *seen) of(worker, stream string) []string {
	var texts []string
	for _, l := range g.all() {
		if l.Worker == worker && l.Stream == stream {
			texts = append(texts, string(l.Text))
		}
	}
	return texts
}

// waitFor waits until the texts of a stream are want.
func (g *seen) waitFor(tb testing.TB, worker, stream string, want ...string) {
	tb.Helper()
	linuxtest.Wait(tb, soon, func() (bool, string) {
		got := g.of(worker, stream)
		return fmt.Sprintf("%q", got) == fmt.Sprintf("%q", want), fmt.Sprintf("%s of %s = %.2000q, want %.2000q", stream, worker, got, want)
	})
}
