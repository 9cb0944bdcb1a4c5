package units

import (
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Signal reads the name or number of a signal: "TERM", "SIGTERM", "15", "RTMIN+3".
func Signal(text string) (unix.Signal, bool) {
	name := strings.TrimPrefix(strings.ToUpper(text), "SIG")
	if n, err := strconv.Atoi(text); err == nil && n >= 1 && n <= 64 {
		return unix.Signal(n), true
	}
	if s, ok := realTime(name); ok {
		return s, true
	}
	s := unix.SignalNum("SIG" + name)
	return s, s != 0
}

// The real-time signals, as programs of the C library count them.
const firstRealTime, lastRealTime = 34, 64

// SignalName is the name of a signal, which [Signal] reads back: "SIGTERM", "SIGRTMIN+3".
func SignalName(s unix.Signal) string {
	name := unix.SignalName(s)
	switch {
	case name != "":
		return name
	case s == firstRealTime:
		return "SIGRTMIN"
	case s > firstRealTime && s <= lastRealTime:
		return "SIGRTMIN+" + strconv.Itoa(int(s)-firstRealTime)
	}
	return strconv.Itoa(int(s))
}

// realTime reads RTMIN+n and RTMAX-n.
func realTime(name string) (unix.Signal, bool) {
	base, sign := firstRealTime, 1
	rest, ok := strings.CutPrefix(name, "RTMIN")
	if !ok {
		base, sign = lastRealTime, -1
		if rest, ok = strings.CutPrefix(name, "RTMAX"); !ok {
			return 0, false
		}
	}
	n := 0
	if rest != "" {
		var err error
		if n, err = strconv.Atoi(rest); err != nil || n*sign < 0 || (rest[0] != '+' && rest[0] != '-') {
			return 0, false
		}
	}
	s := base + n
	return unix.Signal(s), s >= firstRealTime && s <= lastRealTime
}
