package probe

import (
	"strconv"
	"strings"
)

// What a ready worker says on the notification socket.

// care lets the notice take note of a trigger, and hand counts on.
func (n *notice) care(watchdog bool, count func(uint64)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if watchdog && n.trigger == nil {
		n.trigger = make(chan struct{})
	}
	n.count = count
}

// hearLive takes in one line. Only Serve's goroutine calls it.
func (n *notice) hearLive(line string) {
	switch {
	case line == "WATCHDOG=1":
		n.mu.Lock()
		n.beats++
		n.mu.Unlock()
	case line == "WATCHDOG=trigger":
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.trigger == nil {
			return
		}
		select {
		case <-n.trigger:
		default:
			close(n.trigger)
		}
	default:
		text, ok := strings.CutPrefix(line, "X_PITVISOR_COUNT=")
		if !ok {
			return
		}
		n.mu.Lock()
		count := n.count
		n.mu.Unlock()
		if done, err := strconv.ParseUint(text, 10, 64); err == nil && count != nil {
			count(done)
		}
	}
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
