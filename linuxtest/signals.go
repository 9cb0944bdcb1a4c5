package linuxtest

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
)

// signalCalls send a signal to whoever has a number.
func signalCalls() []string {
	return []string{"kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo"}
}

// SignalWatch is a program whose signals by number are watched.
type SignalWatch struct {
	Process *Process

	mu    sync.Mutex // guards calls
	calls []Call
}

// Foreign returns the calls so far that were aimed at another process.
func (w *SignalWatch) Foreign() []Call {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.calls)
}

// NoForeignSignals starts a program and fails the test if it calls kill, tkill,
// tgkill, rt_sigqueueinfo or rt_tgsigqueueinfo with any number but its own, be it
// with signal 0. Such a call is not carried out: it gets EPERM. What the program
// starts is not judged unless it runs the same executable. The numbers are those
// of the test's PID namespace, so the program must stay in it.
func NoForeignSignals(tb testing.TB, c Command) *Process {
	tb.Helper()
	w := WatchSignals(tb, c)
	tb.Cleanup(func() {
		for _, call := range w.Foreign() {
			tb.Errorf("signal to a process by its number: %s", call)
		}
	})
	return w.Process
}

// WatchSignals is NoForeignSignals without the verdict, for a program that is
// expected to do it.
func WatchSignals(tb testing.TB, c Command) *SignalWatch {
	tb.Helper()
	w := &SignalWatch{}
	t := startTrap(tb, c, true, signalCalls(), func(call Call) verdict {
		if !call.Target || toItself(call) {
			return verdictContinue
		}
		call.Path = fmt.Sprintf("signal %d to %s", signalOf(call), receiver(call))
		w.mu.Lock()
		defer w.mu.Unlock()
		w.calls = append(w.calls, call)
		return verdictDeny
	})
	w.Process = t.target
	return w
}

// toItself says whether the number is the caller's, or with tkill a thread of it.
func toItself(call Call) bool {
	number := int(int32(call.Args[0]))
	if call.Name != "tkill" {
		return number == call.PID
	}
	_, err := os.Stat(filepath.Join("/proc", strconv.Itoa(call.PID), "task", strconv.Itoa(number)))
	return number > 0 && err == nil
}

// signalOf finds the signal among the arguments: third for calls on a thread of
// a process.
func signalOf(call Call) uint64 {
	if call.Name == "tgkill" || call.Name == "rt_tgsigqueueinfo" {
		return call.Args[2]
	}
	return call.Args[1]
}

// receiver describes the number a signal was aimed at.
func receiver(call Call) string {
	number := int(int32(call.Args[0]))
	switch {
	case number == -1:
		return "every process"
	case number <= 0:
		return fmt.Sprintf("process group %d", -number)
	default:
		return readProc(number).String()
	}
}
