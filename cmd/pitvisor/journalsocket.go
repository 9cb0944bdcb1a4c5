package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"

	"github.com/coreos/go-systemd/v22/journal"
	"golang.org/x/sys/unix"
)

const journalPath = "/run/systemd/journal/socket"

// journalSocket sends entries to systemd's journal, and waits while that does not take them.
//
// Its socket is connected. That of package journal is not, and the kernel does not tell when
// there is room again for one that is not: while the journal is busy or stopped that package
// tries again and again, at the cost of a processor.
type journalSocket struct {
	path string

	mu   sync.Mutex // guards conn, and is held while an entry waits: the next one would wait, too
	conn net.Conn   // nil: to be made
}

// send sends one entry.
func (s *journalSocket) send(message string, priority journal.Priority, fields map[string]string) error {
	entry := journalEntry(message, priority, fields)
	s.mu.Lock()
	defer s.mu.Unlock()
	var err error
	for range 2 { // the second time when the journal has made a new socket
		if s.conn == nil {
			if s.conn, err = net.Dial("unixgram", s.path); err != nil {
				s.conn = nil
				return err
			}
		}
		if _, err = s.conn.Write(entry); err == nil {
			return nil
		}
		if errors.Is(err, unix.EMSGSIZE) || errors.Is(err, unix.ENOBUFS) {
			return journal.Send(message, priority, fields) // in a file
		}
		_ = s.conn.Close() // the other error matters
		s.conn = nil
	}
	return err
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
