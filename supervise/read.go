package supervise

// EventsAfter copies events with a number above seq to buf, as many as are there and
// fit, and does not wait. lost is how many that follow seq are not kept any more. more
// is closed when another event comes; it is nil when all was copied and none will ever
// come. It is [Supervisor.Events] for who has something else to wait for.
func (s *Supervisor) EventsAfter(seq uint64, buf []Event) (n int, lost uint64, more <-chan struct{}) {
	return s.ring.after(seq, buf)
}

// LastEvent returns the number of the newest event, 0 before the first.
func (s *Supervisor) LastEvent() uint64 {
	s.ring.mu.Lock()
	defer s.ring.mu.Unlock()
	return s.ring.last
}
