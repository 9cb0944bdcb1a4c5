package main

import (
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-systemd/v22/journal"
	"golang.org/x/sys/unix"
)

// processTime is what this process has used of the processors.
func processTime(t *testing.T) time.Duration {
	t.Helper()
	var use unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &use); err != nil {
		t.Fatal(err)
	}
	return time.Duration(use.Utime.Nano() + use.Stime.Nano())
}

// listenAsJournal makes a socket like the journal's.
func listenAsJournal(t *testing.T, path string) *net.UnixConn {
	t.Helper()
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() }) // a second time, mostly
	return l
}

// fill sends to the socket until it takes no more, and returns how often.
func fill(t *testing.T, path string) (n int) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	for ; ; n++ {
		err := unix.Sendto(fd, []byte("MESSAGE=another's\n"), 0, &unix.SockaddrUnix{Name: path})
		if errors.Is(err, unix.EAGAIN) {
			return n
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// A journal that does not read is waited for, and that costs nothing.
func TestJournalThatIsBusy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	l := listenAsJournal(t, path)
	others := fill(t, path)
	s := &journalSocket{path: path}
	sent := make(chan error, 1)
	go func() { sent <- s.send("two\nlines", journal.PriErr, map[string]string{"A": "b"}) }()
	begin := processTime(t)
	select {
	case err := <-sent:
		t.Fatalf("sent to a full socket: %v", err)
	case <-time.After(time.Second):
	}
	if used := processTime(t) - begin; used > 100*time.Millisecond {
		t.Errorf("waiting for a second has used %v of the processor", used)
	}
	buf := make([]byte, 4096)
	n := 0
	for range others + 1 {
		var err error
		_ = l.SetReadDeadline(time.Now().Add(patience))
		if n, err = l.Read(buf); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := string(buf[:n]), "PRIORITY=3\nMESSAGE\n\x09\x00\x00\x00\x00\x00\x00\x00two\nlines\nA=b\n"; got != want {
		t.Errorf("the journal got %q, want %q", got, want)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
	_ = s.conn.Close()
}

// The supervisor's own log waits for a while, then it says how much is missing.
func TestLogToAJournalThatIsBusy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	l := listenAsJournal(t, path)
	others := fill(t, path)
	s := &journalSocket{path: path, patience: 50 * time.Millisecond}
	log := slog.New(&journalHandler{level: slog.LevelInfo, socket: s})
	for range 3 { // with a journal that takes nothing, a log that waits for ever would do so here
		log.Info("lost")
	}
	buf := make([]byte, 4096)
	for range others {
		if n, err := l.Read(buf); err != nil || !strings.Contains(string(buf[:n]), "another's") {
			t.Fatalf("%q, %v", buf[:n], err)
		}
	}
	s.patience = patience
	for _, want := range []string{"MESSAGE=one (3 messages before were lost: the journal took none)\n", "MESSAGE=two\n"} {
		log.Info(strings.TrimPrefix(strings.Fields(want)[0], "MESSAGE="))
		n, err := l.Read(buf)
		if err != nil || !strings.Contains(string(buf[:n]), want) {
			t.Errorf("the journal got %q, %v, want %q", buf[:n], err, want)
		}
	}
	_ = s.conn.Close()
}

// A journal that is started again has a new socket, and one that is gone is an error.
func TestJournalThatIsStartedAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	s := &journalSocket{path: path}
	for _, text := range []string{"first", "second"} {
		l := listenAsJournal(t, path)
		if err := s.send(text, journal.PriInfo, nil); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 4096)
		_ = l.SetReadDeadline(time.Now().Add(patience))
		n, err := l.Read(buf)
		if err != nil || !strings.Contains(string(buf[:n]), "MESSAGE="+text+"\n") {
			t.Errorf("the journal got %q, %v", buf[:n], err)
		}
		if err := errors.Join(l.Close(), os.Remove(path)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.send("lost", journal.PriInfo, nil); !errors.Is(err, unix.ENOENT) {
		t.Errorf("without a journal: %v, want %v", err, unix.ENOENT)
	}
}
