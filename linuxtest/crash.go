package linuxtest

import (
	"fmt"
	"iter"
	"sync"
	"testing"
	"time"
)

// Crash is the moment at which a target was killed.
type Crash struct {
	N    int  // it was the N-th matching call, counted from 1
	Call Call // the call, which the kernel did not run
}

// String says where the crash was, for the message of a failed check.
func (c Crash) String() string { return fmt.Sprintf("killed instead of call %d: %s", c.N, c.Call) }

// CrashTest kills a program with SIGKILL at each of its interesting moments in
// turn: a crash point is right before one of the chosen system calls, made by the
// program itself, by its child before exec, or by another copy of its executable.
// Only the target dies; what it had started goes on, as after a real crash.
type CrashTest struct {
	Command  func() Command  // made anew for each run
	Syscalls []string        // names, such as mkdirat, clone3, execve, flock
	Match    func(Call) bool // narrows them further; nil takes all
	// Settled ends a run whose target would live for ever: once it is true and
	// the crash point was not reached, no point is left. Nil: the target ends by
	// itself.
	Settled func() bool
	Max     int           // stop after so many points; 0 is no limit
	Within  time.Duration // longest run; 0 is 30 s, longer fails the test
}

// CrashPoints yields once for each crash point of a command that ends by itself;
// see [CrashTest]. The loop's body checks what the crash left and cleans up:
//
//	for crash := range linuxtest.CrashPoints(t, command, "mkdirat", "clone3") {
//		…
//	}
func CrashPoints(tb testing.TB, command func() Command, syscalls ...string) iter.Seq[Crash] {
	return CrashTest{Command: command, Syscalls: syscalls}.Points(tb)
}

// Points runs the target again and again, killed at its first, second, third
// matching call, until a run has no such call any more. It yields after each
// crash, when the target has been reaped.
func (c CrashTest) Points(tb testing.TB) iter.Seq[Crash] {
	return func(yield func(Crash) bool) {
		tb.Helper()
		for n := 1; c.Max == 0 || n <= c.Max; n++ {
			crash, t := c.run(tb, n)
			more := crash.N != 0 && yield(crash)
			t.end(tb)
			if !more {
				return
			}
		}
	}
}

// At runs the target once and kills it at its n-th matching call. It says false
// when the target ended or settled before; then it is killed too if it lives.
func (c CrashTest) At(tb testing.TB, n int) (Crash, bool) {
	tb.Helper()
	crash, _ := c.run(tb, n)
	return crash, crash.N != 0
}

// run is At; the trap stays for what the target has started.
func (c CrashTest) run(tb testing.TB, n int) (Crash, *trap) {
	tb.Helper()
	var mu sync.Mutex // guards count and crash
	var crash Crash
	count := 0
	judge := func(call Call) verdict {
		if !call.Target || c.Match != nil && !c.Match(call) {
			return verdictContinue
		}
		mu.Lock()
		defer mu.Unlock()
		count++
		if count != n {
			return verdictContinue
		}
		crash = Crash{N: n, Call: call}
		return verdictKill
	}
	t := startTrap(tb, c.Command(), false, c.Syscalls, judge)
	within := c.Within
	if within == 0 {
		within = 30 * time.Second
	}
	ok, _ := poll(within, func() (bool, string) {
		return !t.target.Alive() || c.Settled != nil && c.Settled(), ""
	})
	mu.Lock()
	defer mu.Unlock()
	if !ok {
		tb.Fatalf("crash point %d: neither ended nor settled after %v, %d calls seen: process %s", n, within, count, readProc(t.target.pid))
	}
	t.target.Kill(tb)
	return crash, t
}
