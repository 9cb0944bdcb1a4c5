package supervise

import (
	"testing"
	"time"
)

// TestTurnsFollowTheMachine: the number of starts at a time grows while workers become
// ready as soon as the best did, and shrinks when they take much longer or time out.
func TestTurnsFollowTheMachine(t *testing.T) {
	s := &Supervisor{epoch: time.Now(), launches: newLaunches(0)}
	s.launches.askedAt, s.launches.waiting = s.now()+time.Hour, make([]startOrder, 1)
	p := &pool{}
	learn := func(took time.Duration, ready bool) float64 {
		s.learn(&slot{pool: p, worker: worker{began: time.Second, readyAt: time.Second + took, wasReady: ready, expired: !ready}})
		return s.launches.window
	}
	first := s.launches.window
	if first < 8 || s.launches.least != first/2 {
		t.Fatalf("begins with %v, at least %v", first, s.launches.least)
	}
	for range 100 {
		learn(time.Second, true)
	}
	grown := s.launches.window
	if grown != first+100 {
		t.Errorf("after 100 good starts %v, want %v", grown, first+100)
	}
	if got := learn(3*time.Second, true); got != grown {
		t.Errorf("after a start that took three times as long %v, want %v still", got, grown)
	}
	if got := learn(10*time.Second, true); got >= grown {
		t.Errorf("after a start that took ten times as long %v, want less than %v", got, grown)
	}
	if got := learn(0, false); got > grown/2 {
		t.Errorf("after one that timed out %v, want at most half of %v", got, grown)
	}
	for range 100 {
		learn(0, false)
	}
	if got := s.launches.window; got != s.launches.least {
		t.Errorf("after a hundred that timed out %v, want %v", got, s.launches.least)
	}
	s.launches.busy = true
	if got := learn(time.Second, true); got != s.launches.least {
		t.Errorf("while all wait for a processor %v, want no more than %v", got, s.launches.least)
	}
	for range 3000 {
		s.launches.busy = false
		learn(time.Second, true)
	}
	if got := s.launches.window; got != mostStarting {
		t.Errorf("after very many good starts %v, want %v", got, mostStarting)
	}
}
