package pidfd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"

	"github.com/pitvisor/pitvisor/linuxtest"
	"golang.org/x/sys/unix"
)

func newPoller(t *testing.T) *Poller {
	t.Helper()
	p, err := NewPoller()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() }) // a test may have closed it
	return p
}

func TestPollerReportsEachExitOnce(t *testing.T) {
	poller := newPoller(t)
	const n = 50
	const high = uint64(1) << 63 // all 64 bits of a token come back
	held := map[uint64]*Process{}
	for i := range uint64(n) {
		child := linuxtest.Start(t, linuxtest.Helper(t, "exit", "0")...)
		p := open(t, child.PID())
		held[high+i] = p
		if err := poller.Add(p.FD(), unix.EPOLLIN, high+i); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	var seen []uint64
	err := poller.Run(ctx, func(token uint64, events uint32) {
		if events&unix.EPOLLIN == 0 {
			t.Errorf("token %#x: events %#x", token, events)
		}
		seen = append(seen, token)
		if err := poller.Remove(held[token].FD()); err != nil {
			t.Error(err)
		}
		if len(seen) == n {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Run = %v after %d of %d", err, len(seen), n)
	}
	slices.Sort(seen)
	if distinct := slices.Compact(seen); len(distinct) != n {
		t.Errorf("%d distinct tokens, want %d", len(distinct), n)
	}
}

// eventfds makes descriptors that are readable at once.
func eventfds(t *testing.T, n int) []int {
	t.Helper()
	var fds []int
	for range n {
		fd, err := unix.Eventfd(1, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Close(fd) })
		fds = append(fds, fd)
	}
	return fds
}

func TestPollerForgetsWhatFRemoved(t *testing.T) {
	poller := newPoller(t)
	fds := eventfds(t, 3*batch)
	for i, fd := range fds {
		if err := poller.Add(fd, unix.EPOLLIN, uint64(i)); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	calls := 0
	_ = poller.Run(ctx, func(uint64, uint32) {
		if calls++; calls > 1 {
			return
		}
		for _, fd := range fds { // all were reported ready, most are in the batch
			if err := poller.Remove(fd); err != nil {
				t.Error(err)
			}
		}
		go cancel() // any stale call would come first: they are already fetched
	})
	if calls != 1 {
		t.Errorf("f was called %d times, want 1", calls)
	}
}

func TestPollerAddWhileRunning(t *testing.T) {
	poller := newPoller(t)
	found := make(chan uint64)
	done := make(chan error)
	fds := eventfds(t, 1)
	go func() {
		done <- poller.Run(t.Context(), func(token uint64, _ uint32) {
			if err := poller.Remove(fds[0]); err != nil {
				t.Error(err)
			}
			found <- token
		})
	}()
	for range 100 {
		if err := poller.Add(fds[0], unix.EPOLLIN, 7); err != nil {
			t.Fatal(err)
		}
		if token := <-found; token != 7 {
			t.Errorf("token %d, want 7", token)
		}
	}
	if err := poller.Run(t.Context(), nil); err == nil {
		t.Error("a second Run was let in")
	}
	if err := poller.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, os.ErrClosed) {
		t.Errorf("Run = %v after Close, want ErrClosed", err)
	}
	if err := poller.Add(fds[0], unix.EPOLLIN, 7); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Add = %v after Close, want ErrClosed", err)
	}
}

func TestPollerRunsAgainAfterItsContextEnded(t *testing.T) {
	poller := newPoller(t)
	why := errors.New("enough")
	for range 100 {
		ctx, cancel := context.WithCancelCause(t.Context())
		go cancel(why)
		if err := poller.Run(ctx, nil); !errors.Is(err, why) {
			t.Fatalf("Run = %v, want %v", err, why)
		}
	}
	fds := eventfds(t, 1)
	if err := poller.Add(fds[0], unix.EPOLLIN, 7); err != nil {
		t.Fatal(err)
	}
	// Cancelled from inside: Run sees the end before its deadline is set.
	for range 1000 {
		ctx, cancel := context.WithTimeoutCause(t.Context(), within, errors.New("nothing was reported"))
		err := poller.Run(ctx, func(uint64, uint32) { cancel() })
		cancel()
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("Run = %v, want Canceled", err)
		}
	}
}

func TestPollerChangesWhatIsReported(t *testing.T) {
	poller := newPoller(t)
	fds := eventfds(t, 2) // both are ready
	if err := errors.Join(poller.Add(fds[0], unix.EPOLLIN, 1), poller.Add(fds[1], 0, 2)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeoutCause(t.Context(), within, errors.New("nothing was reported"))
	defer cancel()
	var got []uint64
	_ = poller.Run(ctx, func(token uint64, _ uint32) {
		switch got = append(got, token); len(got) {
		case 3:
			if err := errors.Join(poller.Change(fds[0], 0, 1), poller.Change(fds[1], unix.EPOLLIN, 3)); err != nil {
				t.Error(err)
			}
		case 6:
			cancel()
		}
	})
	if want := []uint64{1, 1, 1, 3, 3, 3}; !slices.Equal(got, want) {
		t.Errorf("reported %v, want %v", got, want)
	}
}

func TestPollerErrors(t *testing.T) {
	poller := newPoller(t)
	fds := eventfds(t, 1)
	if err := poller.Remove(fds[0]); !errors.Is(err, unix.ENOENT) {
		t.Errorf("Remove of what was not added = %v, want ENOENT", err)
	}
	if err := poller.Change(fds[0], unix.EPOLLIN, 0); !errors.Is(err, unix.ENOENT) {
		t.Errorf("Change of what was not added = %v, want ENOENT", err)
	}
	if err := poller.Add(-1, unix.EPOLLIN, 0); !errors.Is(err, unix.EBADF) {
		t.Errorf("Add(-1) = %v, want EBADF", err)
	}
}

func BenchmarkWait(b *testing.B) {
	p, err := Self()
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = p.Close() }()
	for b.Loop() {
		ctx, cancel := context.WithTimeout(b.Context(), 1)
		if err := p.Wait(ctx); err == nil {
			b.Fatal("we have exited")
		}
		cancel()
	}
}

func BenchmarkIdentity(b *testing.B) {
	p, err := Self()
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = p.Close() }()
	for tier, f := range map[Tier]func() (Identity, error){TierB: p.Identity, TierC: p.identityByStart} {
		b.Run(fmt.Sprint("tier=", tier), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := f(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
