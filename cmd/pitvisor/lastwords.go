package main

import (
	"time"

	"golang.org/x/sys/unix"
)

// lastWordsTime is how long the journal may take to read what was said.
const lastWordsTime = time.Second

// lastWords waits until the journal has read what was printed, before the process ends.
// The journal finds out the unit by the process: words that it reads too late have none,
// and `systemctl status` does not show them.
func lastWords() {
	if stderrIsJournal() {
		waitRead(unix.Stderr, lastWordsTime)
	}
}

// waitRead waits until the other end of a socket has read everything.
func waitRead(fd int, within time.Duration) {
	look := time.NewTicker(time.Millisecond) // there is no event for it
	defer look.Stop()
	for begin := time.Now(); time.Since(begin) < within; <-look.C {
		if unread, err := unix.IoctlGetInt(fd, unix.SIOCOUTQ); err != nil || unread == 0 {
			return
		}
	}
}
