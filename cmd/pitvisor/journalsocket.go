package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/journal"
	"golang.org/x/sys/unix"
)

const (
	journalPath = "/run/systemd/journal/socket"
	// logPatience is how long the supervisor waits for the journal before it goes on without
	// having said something: workers are not to wait for it. After that it does not wait,
	// until the journal takes something again.
	logPatience = time.Second
)

// journalSocket sends entries to systemd's journal, and waits while that does not take them.
//
// Its socket is connected. That of package journal is not, and the kernel does not tell when
// there is room again for one that is not: while the journal is busy or stopped that package
// tries again and again, at the cost of a processor.
type journalSocket struct {
	path     string
	patience time.Duration // how long an entry waits; 0: for ever

	mu   sync.Mutex    // guards what follows, and is held while an entry waits: the next one would wait, too
	conn *net.UnixConn // nil: to be made
	lost int           // entries that have waited in vain since the last one that was sent
}

// send sends one entry. One after others that were lost says how many.
func (s *journalSocket) send(message string, priority journal.Priority, fields map[string]string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lost > 0 {
		message += fmt.Sprintf(" (%d messages before were lost: the journal took none)", s.lost)
	}
	entry := journalEntry(message, priority, fields)
	var err error
	for range 2 { // the second time when the journal has made a new socket
		if s.conn == nil {
			if s.conn, err = net.DialUnix("unixgram", nil, &net.UnixAddr{Net: "unixgram", Name: s.path}); err != nil {
				return err
			}
		}
		if err = s.write(entry); err == nil {
			s.lost = 0
			return nil
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			s.lost++
			return err
		}
		if errors.Is(err, unix.EMSGSIZE) || errors.Is(err, unix.ENOBUFS) {
			return journal.Send(message, priority, fields) // in a file
		}
		_ = s.conn.Close() // the other error matters
		s.conn = nil
	}
	return err
}

// write waits as long as it may. The caller holds the lock.
func (s *journalSocket) write(entry []byte) error {
	var until time.Time // never
	if s.patience > 0 && s.lost == 0 {
		until = time.Now().Add(s.patience)
	}
	if err := s.conn.SetWriteDeadline(until); err != nil {
		return err
	}
	if s.lost > 0 {
		return s.try(entry)
	}
	_, err := s.conn.Write(entry)
	return err
}

// try does not wait. The caller holds the lock.
func (s *journalSocket) try(entry []byte) error {
	raw, err := s.conn.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	err = raw.Write(func(fd uintptr) bool {
		_, sent = unix.Write(int(fd), entry)
		return true
	})
	if errors.Is(sent, unix.EAGAIN) {
		sent = os.ErrDeadlineExceeded
	}
	return errors.Join(err, sent)
}

// journalEntry is an entry in the journal's own form: systemd.io/JOURNAL_NATIVE_PROTOCOL.
func journalEntry(message string, priority journal.Priority, fields map[string]string) []byte {
	out := appendField(nil, "PRIORITY", strconv.Itoa(int(priority)))
	out = appendField(out, "MESSAGE", message)
	for name, value := range fields {
		out = appendField(out, name, value)
	}
	return out
}

func appendField(out []byte, name, value string) []byte {
	if !strings.Contains(value, "\n") {
		return fmt.Appendf(out, "%s=%s\n", name, value)
	}
	out = append(append(out, name...), '\n')
	out = binary.LittleEndian.AppendUint64(out, uint64(len(value)))
	return append(append(out, value...), '\n')
}
