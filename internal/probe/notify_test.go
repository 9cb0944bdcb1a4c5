package probe

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/pidfd"
	"github.com/pitvisor/pitvisor/supervise"
	"golang.org/x/sys/unix"
)

// serveNotify runs a server until the end of the test.
func serveNotify(t *testing.T) *NotifyServer {
	t.Helper()
	s, err := NewNotifyServer(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Serve = %v, want its context's end", err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

func (s *NotifyServer) mustIgnore(t *testing.T, n uint64) {
	t.Helper()
	linuxtest.Wait(t, 10*time.Second, func() (bool, string) {
		return s.Counts().Ignored >= n, "messages are not ignored yet"
	})
	if got := s.Counts().Ignored; got != n {
		t.Errorf("%d messages were ignored, want %d", got, n)
	}
}

func TestNotifyFromTheLeafMeansReady(t *testing.T) {
	linuxtest.NoLeaks(t)
	r, s := place(t), serveNotify(t)
	r.prepare(Rules{Notify: true}, Deps{Notify: s}, supervise.Output{})
	r.start(nil, linuxtest.Helper(t, "notify", "20ms")...)
	r.ready()
	s.mustIgnore(t, 0)
}

// The message that comes before anybody waits, from a process that has ended
// and was reaped, still counts.
func TestNotifyFromASenderThatIsGone(t *testing.T) {
	linuxtest.NeedKernel(t, 6, 17, "pidfd of a reaped sender with a message")
	r := place(t)
	s, err := NewNotifyServer(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	r.prepare(Rules{Notify: true}, Deps{Notify: s}, supervise.Output{})
	r.start(nil, linuxtest.Helper(t, "sit")...)
	say := r.startIn(r.leaf.Path(), nil, linuxtest.Helper(t, "say", "READY=1")...)
	say.Wait(t, 10*time.Second)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Serve(ctx) }()
	r.ready()
	cancel()
	<-done
}

func TestNotifyFromBelowTheLeafCounts(t *testing.T) {
	r, s := place(t), serveNotify(t)
	sub, err := r.leaf.Create("sub")
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Close()
	r.prepare(Rules{Notify: true}, Deps{Notify: s}, supervise.Output{})
	r.start(nil, linuxtest.Helper(t, "sit")...)
	r.startIn(r.leaf.Path(), nil, linuxtest.Helper(t, "say", "live", "move", sub.Path(), "READY=1")...)
	r.ready()
}

func TestNotifySpoofIsIgnoredAndCounted(t *testing.T) {
	linuxtest.NoLeaks(t)
	r, s, out := place(t), serveNotify(t), newPrinted(t)
	other, err := r.pool.Create("1.1")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	r.prepare(Rules{Notify: true}, Deps{Notify: s}, supervise.Output{})
	r.start(nil, linuxtest.Helper(t, "sit")...)
	r.startIn(other.Path(), out.write, linuxtest.Helper(t, "say", "live", "READY=1", "READY=1")...)
	r.startIn("", out.write, linuxtest.Helper(t, "say", "live", "READY=1")...)
	s.mustIgnore(t, 3)
	r.notReady(300*time.Millisecond, "sd_notify READY=1: no such message from the worker$")
	// A leaf that is made later must not suffer from what is remembered.
	r.startIn(r.leaf.Path(), nil, linuxtest.Helper(t, "say", "live", "READY=1")...)
	r.ready()
}

// The credentials that a privileged sender may choose do not count where the
// kernel passes a pidfd; nor may they hit a stranger.
func TestNotifyReadsOnlyREADY1(t *testing.T) {
	r, s := place(t), serveNotify(t)
	r.prepare(Rules{Notify: true}, Deps{Notify: s}, supervise.Output{})
	r.start(nil, linuxtest.Helper(t, "say", "live", "READY=0", "XREADY=1", "READY=1x", "STATUS=loading\nMAINPID=1", strings.Repeat("x", 5000))...)
	linuxtest.Wait(t, 10*time.Second, func() (bool, string) { return s.Counts().Received == 5, "not all received" })
	r.notReady(200*time.Millisecond, `its last status was "loading"$`)
	s.mustIgnore(t, 1) // what is too long
}

func TestNotifyTwiceIsHarmless(t *testing.T) {
	r, s := place(t), serveNotify(t)
	r.prepare(Rules{Notify: true}, Deps{Notify: s}, supervise.Output{})
	r.start(nil, linuxtest.Helper(t, "say", "live", "READY=1", "STATUS=up\nREADY=1\nREADY=1")...)
	linuxtest.Wait(t, 10*time.Second, func() (bool, string) { return s.Counts().Received == 2, "not all received" })
	r.ready()
}

// What somebody sends along is closed at once: sd_notify_barrier waits for it,
// and a stranger cannot fill our table of files.
func TestNotifyClosesDescriptorsSentAlong(t *testing.T) {
	linuxtest.NoLeaks(t)
	s := serveNotify(t)
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	pr, pw, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer pr.Close()
	err = unix.Sendmsg(fd, []byte("BARRIER=1"), unix.UnixRights(int(pw.Fd())), &unix.SockaddrUnix{Name: s.Path()}, 0)
	if err := errors.Join(err, pw.Close()); err != nil {
		t.Fatal(err)
	}
	if err := pr.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if n, err := pr.Read(make([]byte, 1)); n != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Read = %d, %v, want the end of the pipe", n, err)
	}
}

func TestNotifySocketIsOpenToAllUsers(t *testing.T) {
	s := serveNotify(t)
	st, err := os.Stat(s.Path())
	if err != nil {
		t.Fatal(err)
	}
	if got := st.Mode().Perm(); got != 0o666 {
		t.Errorf("mode of the socket is %o, want 666", got)
	}
}

func TestNotifyPathTooLong(t *testing.T) {
	_, err := NewNotifyServer(filepath.Join(t.TempDir(), strings.Repeat("d", 120)))
	mustMatch(t, err, "choose a shorter runtime directory")
}

func TestNotifyForgetsAfterClose(t *testing.T) {
	r, s := place(t), serveNotify(t)
	rd, err := New(Rules{Notify: true}, Deps{Notify: s})
	if err != nil {
		t.Fatal(err)
	}
	a, err := rd.Prepare(r.info, supervise.Output{})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.waiting) != 0 {
		t.Errorf("%d starts are kept after Close, want none", len(s.waiting))
	}
}

// Without SCM_PIDFD (before Linux 6.5) the number and the user have to do, and
// without a cgroup id (before 6.13) the leaf's list of processes.
func TestNotifySenderByCredentials(t *testing.T) {
	r := place(t)
	p := r.startIn(r.leaf.Path(), nil, linuxtest.Helper(t, "sit")...)
	ucred := &unix.Ucred{Pid: int32(p.PID()), Uid: uint32(os.Geteuid())}
	from, _ := parseSender(unix.UnixCredentials(ucred))
	if from == nil {
		t.Fatal("the sender was not found")
	}
	defer from.Close()
	n := &notice{leaf: r.leaf.Path(), id: r.leaf.ID()}
	if !n.holds(from, 0) {
		t.Error("a member of the leaf is not found by its list")
	}
	if n.id++; n.holds(from, 0) {
		t.Error("a leaf with another id is believed")
	}
	ucred.Uid++
	if from, _ := parseSender(unix.UnixCredentials(ucred)); from != nil {
		t.Error("a sender of another user is believed")
	}
}

// The last words of a worker that has ended and is not reaped, where the kernel tells no
// cgroup id of it (before 6.13).
func TestNotifySenderThatHasEnded(t *testing.T) {
	r := place(t)
	ended := func(group string) *pidfd.Process {
		t.Helper()
		p := r.startIn(group, nil, "/bin/true")
		from, err := pidfd.Open(p.PID())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = from.Close() })
		if err := from.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		return from
	}
	n := &notice{leaf: r.leaf.Path(), id: r.leaf.ID()}
	if !n.holds(ended(r.leaf.Path()), 0) {
		t.Error("a process of the leaf that has ended is a stranger")
	}
	if n.holds(ended(r.pool.Path()), 0) || n.holds(ended(""), 0) {
		t.Error("a stranger that has ended is believed")
	}
}

func FuzzParseSender(f *testing.F) {
	f.Add(unix.UnixCredentials(&unix.Ucred{Pid: 1, Uid: 0}))
	f.Add([]byte{})
	gone := make([]byte, unix.CmsgSpace(4))
	binary.NativeEndian.PutUint64(gone, uint64(unix.CmsgLen(4)))
	binary.NativeEndian.PutUint32(gone[8:], unix.SOL_SOCKET)
	binary.NativeEndian.PutUint32(gone[12:], unix.SCM_PIDFD)
	binary.NativeEndian.PutUint32(gone[16:], 0xfffffffd)
	f.Add(gone)
	f.Fuzz(func(t *testing.T, oob []byte) {
		messages, err := unix.ParseSocketControlMessage(oob)
		if err != nil {
			return
		}
		for _, m := range messages {
			// These would name descriptors of the test itself.
			if m.Header.Type == unix.SCM_RIGHTS || m.Header.Type == unix.SCM_PIDFD && len(m.Data) >= 4 && m.Data[3] < 0x80 {
				return
			}
		}
		if p, _ := parseSender(oob); p != nil {
			_ = p.Close()
		}
	})
}
