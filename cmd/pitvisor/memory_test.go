package main

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/linuxtest"
)

// TestMemoryOfTheStartIsReturned: when all workers are up a supervisor keeps some MiB
// less than it once had, at least the pages of the program that only the start needs.
func TestMemoryOfTheStartIsReturned(t *testing.T) {
	w := newWorld(t)
	u := w.up(w.config("[pool.s]\ncommand = [\"/bin/sleep\", \"1000\"]\nsize = 3\n"))
	linuxtest.Wait(t, patience, func() (bool, string) {
		now, most := u.memory("VmRSS"), u.memory("VmHWM")
		return now > 0 && now < most-4<<10, fmt.Sprintf("%d KiB, and at most there were %d", now, most)
	})
	u.send(unix.SIGTERM)
	u.wait()
}

// memory is one of the numbers of KiB in /proc/<pid>/status.
func (u *upProc) memory(name string) (kib int) {
	u.tb.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", u.proc.PID()))
	if err != nil {
		u.tb.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), name+":")
	_, _ = fmt.Sscan(rest, &kib) // 0 says that there is none
	return kib
}
