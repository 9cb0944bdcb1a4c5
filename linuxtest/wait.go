package linuxtest

import (
	"testing"
	"time"
)

// Wait asks cond until it is true, and fails the test with the last reason it
// gave when that takes longer than within. The first question comes at once, the
// next after 1 ms, later ones up to 50 ms apart. It is for what has no event to
// wait for; a process and a cgroup have one ([Process.Wait], [WaitEmpty]).
func Wait(tb testing.TB, within time.Duration, cond func() (ok bool, reason string)) {
	tb.Helper()
	ok, reason := poll(within, cond)
	if !ok {
		tb.Fatalf("not so after %v: %s", within, reason)
	}
}

// poll is Wait without the test.
func poll(within time.Duration, cond func() (bool, string)) (bool, string) {
	start := time.Now()
	pause := time.Millisecond
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		ok, reason := cond()
		if ok || time.Since(start) >= within {
			return ok, reason
		}
		<-timer.C
		pause = min(2*pause, 50*time.Millisecond)
		timer.Reset(pause)
	}
}
