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

// realTime reads RTMIN+n and RTMAX-n as programs of the C library count them: from 34 to 64.
func realTime(name string) (unix.Signal, bool) {
	const first, last = 34, 64
	base, sign := first, 1
	rest, ok := strings.CutPrefix(name, "RTMIN")
	if !ok {
		base, sign = last, -1
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
	return unix.Signal(s), s >= first && s <= last
}
