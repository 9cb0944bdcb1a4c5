package linuxtest

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// snapshot is what the test process held at one moment.
type snapshot struct {
	fds        map[int]string
	goroutines map[string]bool // "goroutine 7"
	children   map[int]uint64  // pid: start time
}

// takeSnapshot makes the runtime open its own descriptors first.
func takeSnapshot() snapshot {
	if r, w, err := os.Pipe(); err == nil {
		_ = r.Close()
		_ = w.Close()
	}
	s := snapshot{fds: openFiles(), goroutines: map[string]bool{}, children: map[int]uint64{}}
	for _, g := range goroutines() {
		s.goroutines[goroutineName(g)] = true
	}
	for _, p := range children() {
		s.children[p.PID] = p.Start
	}
	return s
}

// settle is how long something may take to end that was already told to.
const settle = 2 * time.Second

// leftovers names what is there now and was not then. Goroutines and descriptors
// get a moment to end; a process does not: whoever ends a process waits for it.
func (s snapshot) leftovers() []string {
	// A file that only the garbage collector closes is a leak too.
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	var left []string
	for _, p := range children() {
		if start, ok := s.children[p.PID]; ok && start == p.Start {
			continue
		}
		if p.State == 'Z' {
			left = append(left, "zombie (exited, not reaped): "+p.String())
			continue
		}
		left = append(left, "child process "+p.String())
	}
	var rest []string
	poll(settle, func() (bool, string) {
		rest = append(s.newFiles(), s.newGoroutines()...)
		return len(rest) == 0, ""
	})
	return append(left, rest...)
}

func (s snapshot) newFiles() []string {
	var left []string
	for fd, target := range openFiles() {
		if s.fds[fd] != target {
			left = append(left, fmt.Sprintf("open file %d: %s", fd, target))
		}
	}
	slices.Sort(left)
	return left
}

func (s snapshot) newGoroutines() []string {
	var left []string
	for _, g := range goroutines() {
		if !s.goroutines[goroutineName(g)] && !ownedByRuntime(g) {
			left = append(left, strings.TrimSpace(g))
		}
	}
	return left
}

// openFiles maps each descriptor of the test process to what it is.
func openFiles() map[int]string {
	// The directory is read by hand so that the descriptor of the listing itself
	// is known and left out.
	dir, err := unix.Open("/proc/self/fd", unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer func() { _ = unix.Close(dir) }() // read-only; nothing to lose
	files := map[int]string{}
	buf := make([]byte, 8192)
	for {
		n, err := unix.ReadDirent(dir, buf)
		if err != nil || n <= 0 {
			return files
		}
		_, _, names := unix.ParseDirent(buf[:n], -1, nil)
		for _, name := range names {
			fd, err := strconv.Atoi(name)
			if err != nil || fd == dir {
				continue
			}
			if target, err := os.Readlink(filepath.Join("/proc/self/fd", name)); err == nil {
				files[fd] = target
			}
		}
	}
}

// goroutines returns the stacks of all goroutines but the calling one.
func goroutines() []string {
	buf := make([]byte, 1<<16)
	for {
		n := runtime.Stack(buf, true)
		if n < len(buf) {
			buf = buf[:n]
			break
		}
		buf = make([]byte, 2*len(buf))
	}
	stacks := bytes.Split(buf, []byte("\n\n"))
	var all []string
	for _, s := range stacks[1:] { // the first is the caller
		all = append(all, string(s))
	}
	return all
}

// goroutineName is "goroutine 7" of "goroutine 7 [select]:".
func goroutineName(stack string) string {
	name, _, _ := strings.Cut(stack, " [")
	return name
}

// ownedByRuntime says whether a goroutine belongs to Go or to package testing.
func ownedByRuntime(stack string) bool {
	for _, known := range []string{
		"os/signal.signal_recv", "os/signal.loop", "testing.(*M).", "testing.(*T).Run(", "testing.(*B).", "testing.(*F).",
		"testing.runTests", "testing.tRunner.func", "runtime.ensureSigM", "runtime/trace.", "runtime/pprof.",
	} {
		if strings.Contains(stack, known) {
			return true
		}
	}
	return false
}

// NoLeaks fails the test if, at its end and after the clean-ups registered later
// than this call, it has left a child process, an unreaped zombie, an open file
// or a goroutine. [Main] does the same once for the whole package; NoLeaks says
// which test it was.
func NoLeaks(tb testing.TB) {
	tb.Helper()
	before := takeSnapshot()
	self := currentGoroutine()
	tb.Cleanup(func() {
		for _, l := range before.leftovers() {
			if !strings.HasPrefix(l, self+" ") {
				tb.Errorf("left behind: %s", l)
			}
		}
	})
}

// currentGoroutine names the goroutine that calls it.
func currentGoroutine() string {
	buf := make([]byte, 64)
	return goroutineName(string(buf[:runtime.Stack(buf, false)]))
}
