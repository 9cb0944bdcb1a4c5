package capture

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/linuxtest"
)

// MuonTrap 1.7.0: stdout and stderr could not be told apart.
func TestFollowTellsWorkersAndStreamsApart(t *testing.T) {
	s := open(t, Options{})
	got := follow(t, s)
	for slot := range 3 {
		st := start(t, s, slot, 1)
		c := linuxtest.Command{Args: linuxtest.Helper(t, "both-streams", "3"), Stdout: st.Stdout, Stderr: st.Stderr}
		if ws := c.Start(t).Wait(t, soon); ws.ExitStatus() != 0 {
			t.Fatalf("helper: %v", ws)
		}
		st.Done()
	}
	for slot := range 3 {
		worker := fmt.Sprintf("web/%d", slot)
		got.waitFor(t, worker, Stdout, "out 1", "out 2", "out 3")
		got.waitFor(t, worker, Stderr, "err 1", "err 2", "err 3")
	}
}

func TestFollowHandsOutEachStartOnce(t *testing.T) {
	s := open(t, Options{})
	before := start(t, s, 0, 1)
	write(t, before.Stdout, "before anybody followed\n")
	got := follow(t, s)
	got.waitFor(t, "web/0", Stdout, "before anybody followed")
	before.Done()
	again := start(t, s, 0, 2)
	write(t, again.Stdout, "second\n")
	got.waitFor(t, "web/0", Stdout, "before anybody followed", "second")
	again.Done()
	late := follow(t, s)
	third := start(t, s, 0, 3)
	write(t, third.Stdout, "third\n")
	late.waitFor(t, "web/0", Stdout, "third")
	got.waitFor(t, "web/0", Stdout, "before anybody followed", "second", "third")
}

// H-33 in spirit: what is only half written is not acted upon.
func TestFollowWaitsForTheEndOfALine(t *testing.T) {
	s := open(t, Options{})
	got := follow(t, s)
	st := start(t, s, 0, 1)
	write(t, st.Stdout, "REA")
	write(t, st.Stderr, "mark\n")
	got.waitFor(t, "web/0", Stderr, "mark")
	got.waitFor(t, "web/0", Stdout)
	write(t, st.Stdout, "DY\nlast wor")
	got.waitFor(t, "web/0", Stdout, "READY")
	write(t, st.Stdout, "ds")
	st.Done()
	got.waitFor(t, "web/0", Stdout, "READY", "last words")
}

func TestFollowSplitsLongLines(t *testing.T) {
	for _, tc := range []struct {
		name   string
		length int
		want   []int
	}{
		{"just fits", maxLine, []int{maxLine}},
		{"one more", maxLine + 1, []int{maxLine, 1}},
		{"twice", 2 * maxLine, []int{maxLine, maxLine}},
		{"longer than the buffer", bufferSize + 7, []int{maxLine, maxLine, maxLine, maxLine, 7}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := open(t, Options{})
			got := follow(t, s)
			st := start(t, s, 0, 1)
			write(t, st.Stdout, strings.Repeat("x", tc.length)+"\nnext\n")
			st.Done()
			linuxtest.Wait(t, soon, func() (bool, string) {
				return len(got.all()) == len(tc.want)+1, fmt.Sprintf("%d lines, want %d", len(got.all()), len(tc.want)+1)
			})
			for i, l := range got.all()[:len(tc.want)] {
				if len(l.Text) != tc.want[i] || l.Split != (i < len(tc.want)-1) {
					t.Errorf("piece %d = %d bytes, split %v; want %d bytes", i, len(l.Text), l.Split, tc.want[i])
				}
			}
			if last := got.all()[len(tc.want)]; string(last.Text) != "next" || last.Split {
				t.Errorf("after the long line: %q, split %v", last.Text, last.Split)
			}
		})
	}
}

// MuonTrap 1.4.1: invalid UTF-8 crashed the logger.
func TestFollowIsBinarySafe(t *testing.T) {
	const size = 1 << 20
	s := open(t, Options{})
	got := follow(t, s)
	st := start(t, s, 0, 1)
	c := linuxtest.Command{Args: linuxtest.Helper(t, "binary", fmt.Sprint(size)), Stdout: st.Stdout}
	c.Start(t).Wait(t, soon)
	st.Done()
	if err := s.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	<-got.done
	var all []byte
	for _, l := range got.all() {
		all = append(all, l.Text...)
		if !l.Split {
			all = append(all, '\n')
		}
	}
	want := linuxtest.BinaryOutput(size)
	if !bytes.Equal(bytes.TrimSuffix(all, []byte("\n")), bytes.TrimSuffix(want, []byte("\n"))) {
		t.Errorf("%d bytes came through, not the %d that were written", len(all), len(want))
	}
}

// MuonTrap 1.3.0: a chatty child made the reader grow without bound. Here the
// others are heard at once, and memory stays small.
func TestFloodDoesNotStarveOthers(t *testing.T) {
	s := open(t, Options{MaxSize: 4 << 20})
	fl := s.NewFollower()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	heard := make(chan time.Time, 1)
	flooded, begun := 0, make(chan struct{})
	go func() {
		ended <- fl.Run(ctx, func(l Line) {
			if l.Worker == "web/1" {
				heard <- time.Now()
				return
			}
			if flooded == 0 {
				close(begun)
			}
			flooded += len(l.Text)
		})
	}()
	flood, quiet := start(t, s, 0, 1), start(t, s, 1, 1)
	linuxtest.Command{Args: linuxtest.Helper(t, "flood"), Stdout: flood.Stdout}.Start(t)
	<-begun
	var slowest time.Duration
	for i := range 20 {
		sent := time.Now()
		write(t, quiet.Stdout, fmt.Sprintf("%d\n", i))
		slowest = max(slowest, (<-heard).Sub(sent))
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("Run = %v, want %v", err, context.Canceled)
	}
	t.Logf("slowest quiet line %v beside %d MB of flood", slowest, flooded>>20)
	if slowest > time.Second {
		t.Errorf("a line of a quiet worker took %v beside a flood", slowest)
	}
}

// H-36: a terminal or pipe that takes nothing any more must not hang anything.
func TestH36BlockedReaderHangsNothing(t *testing.T) {
	s := open(t, Options{MaxSize: 1 << 20})
	blocked, release := make(chan struct{}), make(chan struct{})
	fl := s.NewFollower()
	ended := make(chan error, 1)
	go func() {
		first := true
		ended <- fl.Run(context.Background(), func(Line) {
			if first {
				first = false
				close(blocked)
				<-release
			}
		})
	}()
	st := start(t, s, 0, 1)
	write(t, st.Stdout, "one\n")
	<-blocked
	for range st.Lines(context.Background(), Stdout) {
		break
	}
	line := strings.Repeat("y", 999) + "\n"
	for range 5 << 10 {
		write(t, st.Stdout, line)
	}
	write(t, st.Stderr, "the end\n")
	if got := st.Tail(5); fmt.Sprint(got) != "[the end]" {
		t.Errorf("Tail(5) = %q", got)
	}
	linuxtest.Wait(t, soon, func() (bool, string) {
		used := onDisk(t, st.Stdout.Name())
		return used <= (1<<20)*3/2, fmt.Sprintf("%d bytes on disk while the reader is blocked", used)
	})
	st.Done()
	other := start(t, s, 1, 1)
	other.Done()
	if err := s.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	close(release)
	if err := <-ended; err != nil {
		t.Errorf("Run = %v, want nil after Close", err)
	}
}

func TestCloseHandsOutTheRest(t *testing.T) {
	s := open(t, Options{})
	got := follow(t, s)
	st := start(t, s, 0, 1)
	var want strings.Builder
	for i := range 100_000 {
		fmt.Fprintln(&want, i)
	}
	write(t, st.Stdout, want.String()+"unfinished")
	if err := s.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	<-got.done
	if got.err != nil {
		t.Errorf("Run = %v, want nil", got.err)
	}
	texts := got.of("web/0", Stdout)
	if strings.Join(texts, "\n") != want.String()+"unfinished" {
		t.Errorf("%d lines came, want 100001", len(texts))
	}
}

func TestRunEndsWithItsContextAtOnce(t *testing.T) {
	s := open(t, Options{})
	st := start(t, s, 0, 1)
	write(t, st.Stdout, strings.Repeat("line\n", 1000))
	ctx, cancel := context.WithCancelCause(context.Background())
	enough, calls := errors.New("enough"), 0
	err := s.Follow(ctx, func(Line) {
		calls++
		cancel(enough)
	})
	if !errors.Is(err, enough) || calls != 1 {
		t.Errorf("Follow = %v after %d lines, want %v after one", err, calls, enough)
	}
}

// A shell's `echo > /dev/stdout` truncates the file when the worker may open it.
func TestFollowSurvivesTruncation(t *testing.T) {
	s := open(t, Options{})
	got := follow(t, s)
	st := start(t, s, 0, 1)
	write(t, st.Stderr, "a long line that will be thrown away\n")
	got.waitFor(t, "web/0", Stderr, "a long line that will be thrown away")
	if err := st.Stderr.Truncate(0); err != nil {
		t.Fatal(err)
	}
	write(t, st.Stderr, "new\n")
	got.waitFor(t, "web/0", Stderr, "a long line that will be thrown away", "new")
	if tail := st.Tail(9); fmt.Sprint(tail) != "[new]" {
		t.Errorf("Tail(9) = %q, want [new]", tail)
	}
}

// The kernel drops events when too many wait; then every file is looked at.
func TestFollowSurvivesLostEvents(t *testing.T) {
	s := open(t, Options{})
	got := follow(t, s)
	a, b, c := start(t, s, 0, 1), start(t, s, 1, 1), start(t, s, 2, 1)
	write(t, a.Stdout, "first\n")
	got.waitFor(t, "web/0", Stdout, "first")
	s.mu.Lock() // keeps the watch from reading events
	for range 20_000 {
		write(t, a.Stderr, "x\n") // by turns, so that the kernel can not merge them
		write(t, b.Stderr, "x\n")
	}
	write(t, c.Stdout, "its event was dropped\n")
	s.mu.Unlock()
	got.waitFor(t, "web/2", Stdout, "its event was dropped")
}

// A reader that is slow to read the file of a start comes upon the lines of later starts in
// it, which are not that start's.
func TestLinesOfQuickStartsAreHandedOutOnce(t *testing.T) {
	s := open(t, Options{})
	got := follow(t, s)
	var want []string
	for n := range uint64(linuxtest.Times(3000, 1000)) {
		st := start(t, s, 0, n)
		line := fmt.Sprint("line of ", n)
		write(t, st.Stdout, line+"\n")
		_, _ = st.Stdout.Close(), st.Stderr.Close()
		st.Done()
		want = append(want, line)
	}
	got.waitFor(t, "web/0", Stdout, want...)
	for _, l := range got.all() {
		if string(l.Text) != fmt.Sprint("line of ", l.Start) {
			t.Fatalf("start %d is said to have written %q", l.Start, l.Text)
		}
	}
}
