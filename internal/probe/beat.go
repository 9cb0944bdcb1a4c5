package probe

import "time"

// What a ready worker says on the notification socket.

// care lets the notice take note of a trigger and of another interval, and hand counts on.
func (n *notice) care(watchdog bool, count func(uint64)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if watchdog && n.trigger == nil {
		n.trigger, n.retimed = make(chan struct{}), make(chan struct{}, 1)
	}
	n.count = count
}

// beatsSoFar returns how many heartbeats have come.
func (n *notice) beatsSoFar() uint64 {
	if n == nil {
		return 0
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.beats
}

// interval returns the time within which the worker has chosen to send a heartbeat; 0 is
// that it sends none.
func (n *notice) interval() time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.watchdog
}
