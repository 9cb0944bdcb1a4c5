package capture

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/pitvisor/pitvisor/linuxtest"
)

func TestLinesBeginWithTheStartAndEndWithIt(t *testing.T) {
	s := open(t, Options{})
	old := start(t, s, 0, 1)
	write(t, old.Stdout, "of the start before\nunfinished")
	old.Done()
	st := start(t, s, 0, 2)
	write(t, st.Stdout, "one\ntwo\nthr")
	next := make(chan string)
	go func() {
		defer close(next)
		for line := range st.Lines(context.Background(), Stdout) {
			next <- line
		}
	}()
	for _, want := range []string{"one", "two"} {
		if got := <-next; got != want {
			t.Errorf("line = %q, want %q", got, want)
		}
	}
	write(t, st.Stdout, "ee\nrest")
	if got := <-next; got != "three" {
		t.Errorf("line = %q, want three", got)
	}
	st.Done()
	if got := <-next; got != "rest" {
		t.Errorf("line = %q, want the unfinished one", got)
	}
	if got, more := <-next; more {
		t.Errorf("line = %q after the end", got)
	}
	if got := slices.Collect(old.Lines(context.Background(), Stdout)); fmt.Sprint(got) != "[of the start before unfinished]" {
		t.Errorf("lines of the start before = %q", got)
	}
	if got := slices.Collect(st.Lines(context.Background(), "stdlog")); got != nil {
		t.Errorf("lines of no stream = %q", got)
	}
}

func TestLinesEndWithTheContext(t *testing.T) {
	s := open(t, Options{})
	st := start(t, s, 0, 1)
	write(t, st.Stdout, "one\n")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for line := range st.Lines(ctx, Stdout) {
		if line != "one" {
			t.Errorf("line = %q", line)
		}
		cancel()
	}
	if n := len(st.segments[0].cursors); n != 1 {
		t.Errorf("%d readers are left, want only the one that bounds the size", n)
	}
}

func TestTail(t *testing.T) {
	long := strings.Repeat("z", 40<<10)
	for _, tc := range []struct {
		name, text string
		n          int
		want       []string
	}{
		{"nothing", "", 5, nil},
		{"none asked for", "a\n", 0, nil},
		{"fewer than asked for", "a\nb\n", 5, []string{"a", "b"}},
		{"more than asked for", "a\nb\nc\n", 2, []string{"b", "c"}},
		{"last one unfinished", "a\nb", 1, []string{"b"}},
		{"empty lines", "a\n\n\n", 2, []string{"", ""}},
		{"not UTF-8", "\xff\xfe\x00\n", 2, []string{"\xff\xfe\x00"}},
		{"bounded bytes", long + "\n" + long + "\nend\n", 5, []string{long, "end"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := open(t, Options{})
			before := start(t, s, 0, 1)
			write(t, before.Stderr, "of the start before\n")
			before.Done()
			st := start(t, s, 0, 2)
			write(t, st.Stderr, tc.text)
			if got := st.Tail(tc.n); !slices.Equal(got, tc.want) {
				t.Errorf("Tail(%d) = %.99q, want %.99q", tc.n, got, tc.want)
			}
			st.Done()
			after := start(t, s, 0, 3)
			write(t, after.Stderr, "of the start after\n")
			if got := st.Tail(tc.n); !slices.Equal(got, tc.want) {
				t.Errorf("Tail(%d) when it is over = %.99q, want %.99q", tc.n, got, tc.want)
			}
		})
	}
}

// A start that ends within a millisecond loses nothing either.
func TestShortLivesAreHeardCompletely(t *testing.T) {
	s := open(t, Options{})
	got := follow(t, s)
	var want []string
	for n := range 200 {
		st := start(t, s, 0, uint64(n))
		text := fmt.Sprintf("life %d", n)
		write(t, st.Stdout, text)
		st.Done()
		want = append(want, text)
	}
	got.waitFor(t, "web/0", Stdout, want...)
	linuxtest.Wait(t, soon, func() (bool, string) {
		s.mu.RLock()
		defer s.mu.RUnlock()
		n := len(s.pools["web"].slots[0].streams[0].now.Load().cursors)
		return n == 0, fmt.Sprintf("%d readers are left on a start that is over", n)
	})
}

// A start ends the one before it, also if nobody said Done.
func TestStartEndsTheOneBefore(t *testing.T) {
	s := open(t, Options{})
	first := start(t, s, 0, 1)
	write(t, first.Stdout, "rest")
	second := start(t, s, 0, 2)
	write(t, second.Stdout, "new\n")
	if got := slices.Collect(first.Lines(context.Background(), Stdout)); fmt.Sprint(got) != "[rest]" {
		t.Errorf("lines of the first start = %q, want only its own", got)
	}
}

func TestQueueHoldsACursorOnce(t *testing.T) {
	q := newQueue()
	a, b := &cursor{queue: q}, &cursor{queue: q}
	for range 5000 {
		q.push(a)
		q.push(b)
	}
	for i, want := range []*cursor{a, b, nil} {
		if got, open := q.pop(); got != want || !open {
			t.Errorf("pop %d = %p, %v, want %p", i, got, open, want)
		}
	}
	q.push(a)
	q.close()
	if got, _ := q.pop(); got != a {
		t.Error("what is queued is lost when the queue is closed")
	}
	if _, open := q.pop(); open {
		t.Error("an empty queue that is closed is still open")
	}
}
