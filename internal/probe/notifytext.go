package probe

import (
	"bytes"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// maxWish bounds a length of time that a worker asks for: a month, which no phase of its
// life is to last.
const maxWish = 30 * 24 * time.Hour

// said is one message in the words of sd_notify(3).
type said struct {
	ready, reloading, stopping bool
	hasStatus                  bool
	status                     string
	errno                      int
	extend                     time.Duration // EXTEND_TIMEOUT_USEC=
	hasWatchdog                bool
	watchdog                   time.Duration // WATCHDOG_USEC=; 0 is none
	beat, trigger              bool          // WATCHDOG=1, WATCHDOG=trigger
	mainPID                    int
	hasCount                   bool
	count                      uint64 // X_PITVISOR_COUNT=

	store, remove bool   // FDSTORE=1, FDSTOREREMOVE=1
	keep          bool   // FDPOLL=0: stored whatever happens to its other end
	name          string // FDNAME=; "" if there is none, or none that is one

	unknown, invalid int
}

// parseNotify reads a message: lines of NAME=value. Of a name that comes twice the last
// counts. It keeps nothing of text.
func parseNotify(text []byte) said {
	var m said
	for line := range bytes.SplitSeq(text, []byte{'\n'}) {
		if len(line) == 0 {
			continue
		}
		name, value, ok := strings.Cut(string(line), "=")
		if !ok {
			m.invalid++
			continue
		}
		m.assign(name, value)
	}
	return m
}

// assign takes one assignment.
func (m *said) assign(name, value string) {
	ok := true
	switch name {
	case "READY":
		m.ready, ok = value == "1" || m.ready, value == "1"
	case "RELOADING":
		m.reloading, ok = value == "1" || m.reloading, value == "1"
	case "STOPPING":
		m.stopping, ok = value == "1" || m.stopping, value == "1"
	case "STATUS":
		if ok = utf8.ValidString(value); ok {
			m.status, m.hasStatus = shorten(value), true
		}
	case "ERRNO":
		n, err := strconv.ParseUint(value, 10, 16)
		if ok = err == nil && n < 4096; ok {
			m.errno = int(n)
		}
	case "MAINPID":
		n, err := strconv.ParseUint(value, 10, 31)
		if ok = err == nil && n > 0; ok {
			m.mainPID = int(n)
		}
	case "EXTEND_TIMEOUT_USEC":
		m.extend, ok = microseconds(value)
	case "MONOTONIC_USEC": // says of which reload a RELOADING=1 is, which matters only to who asked for one
		_, err := strconv.ParseUint(value, 10, 64)
		ok = err == nil
	case "X_PITVISOR_COUNT":
		n, err := strconv.ParseUint(value, 10, 64)
		if ok = err == nil; ok {
			m.count, m.hasCount = n, true
		}
	default:
		m.assignMore(name, value)
		return
	}
	if !ok {
		m.invalid++
	}
}

// assignMore takes what concerns the watchdog and descriptors.
func (m *said) assignMore(name, value string) {
	ok := true
	switch name {
	case "WATCHDOG":
		m.beat, m.trigger = m.beat || value == "1", m.trigger || value == "trigger"
		ok = value == "1" || value == "trigger"
	case "WATCHDOG_USEC":
		var d time.Duration
		if d, ok = microseconds(value); ok {
			m.watchdog, m.hasWatchdog = d, true
		}
	case "FDSTORE":
		m.store, ok = value == "1", value == "1"
	case "FDSTOREREMOVE":
		m.remove, ok = value == "1", value == "1"
	case "FDPOLL":
		m.keep, ok = value == "0", value == "0" || value == "1"
	case "FDNAME":
		if ok = validFDName(value); ok {
			m.name = value
		}
	case "BARRIER": // its descriptor is closed with the rest, which is all that it asks for
		ok = value == "1"
	default:
		m.unknown++
	}
	if !ok {
		m.invalid++
	}
}

// microseconds reads a length of time, and makes what is too long as long as may be.
func microseconds(text string) (time.Duration, bool) {
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, false
	}
	return time.Duration(min(n, uint64(maxWish/time.Microsecond))) * time.Microsecond, true
}

// validFDName says whether a descriptor may have the name: it is one of many in
// LISTEN_FDNAMES, with colons between them.
func validFDName(name string) bool {
	if name == "" || len(name) > 255 {
		return false
	}
	for _, c := range []byte(name) {
		if c <= ' ' || c >= 0x7f || c == ':' {
			return false
		}
	}
	return true
}
