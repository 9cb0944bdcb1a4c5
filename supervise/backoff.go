package supervise

import (
	"math"
	"time"
)

// Backoff says how long to wait before a restart.
type Backoff struct {
	Min    time.Duration // the first delay; 0 means 100 ms
	Max    time.Duration // the cap; 0 means 30 s, or Min if that is longer
	Factor float64       // from one delay to the next; 0 means 2
	Jitter float64       // the part of a delay, 0 to 1, that chance may take off
	Reset  time.Duration // a worker that was ready this long starts to count afresh; 0 means 10 s
	Free   int           // consecutive ends of ready workers that are restarted without delay; a failed start is never free
}

// Delay returns the wait after the given number of consecutive failures. The
// rnd of the caller is in [0,1). The first Free failures wait for nothing.
func (b Backoff) Delay(failures int, rnd float64) time.Duration {
	b = b.filled()
	n := failures - b.Free
	if n <= 0 {
		return 0
	}
	d := float64(b.Min) * math.Pow(b.Factor, float64(n-1))
	d = min(d, float64(b.Max)) // also brings +Inf down
	d -= d * b.Jitter * rnd
	return time.Duration(d)
}

// filled returns b with its zero fields replaced by what they mean.
func (b Backoff) filled() Backoff {
	if b.Min == 0 {
		b.Min = 100 * time.Millisecond
	}
	if b.Max == 0 {
		b.Max = max(30*time.Second, b.Min)
	}
	if b.Factor == 0 {
		b.Factor = 2
	}
	if b.Reset == 0 {
		b.Reset = 10 * time.Second
	}
	return b
}
