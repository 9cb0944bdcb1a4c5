package supervise

import (
	"fmt"
	"time"
)

// What a rollout has to wait for: that new members stay ready, and that it gets on.

// prove lets a new member that is ready count only when it has stayed so for long enough.
func (c *crew) prove(m *member, now time.Duration) {
	mine := c.roll.id != 0 && (m.mark == markMoving || m.role == roleSurge)
	least := m.rev.spec.Rollout.MinReady
	if !mine || !m.ready || m.due != 0 || m.proved || least == 0 {
		return
	}
	m.due = now + least
	c.pending++
	c.wakeAt(m.due)
}

// count lets a member count from now on, or not wait to be counted any more.
func (c *crew) count(m *member) {
	c.pending -= toInt(m.due != 0)
	m.due, m.proved = 0, false
}

func (c *crew) wakeAt(t time.Duration) {
	if c.wake == 0 || t < c.wake {
		c.wake = t
	}
}

// tick is called when it is time for what wake says.
func (c *crew) tick(now time.Duration) {
	if c.wake == 0 || now < c.wake {
		return
	}
	c.wake = 0
	if c.roll.id == 0 || c.halted {
		return
	}
	for n := range c.members {
		m := &c.members[n]
		switch {
		case m.due == 0:
		case now < m.due:
			c.wakeAt(m.due)
		default:
			c.count(m)
			m.proved = true
			c.roll.movedAt = now
			if m.mark == markMoving {
				c.unmark(m)
			}
		}
	}
	limit := c.rev.spec.Rollout.Progress
	if limit > 0 && now-c.roll.movedAt >= limit && c.roll.queued+c.roll.moving > 0 {
		c.fail(-1, &stuckError{limit}, now)
		return
	}
	c.advance(now)
}

// stuckError says that a rollout did not get on.
type stuckError struct{ limit time.Duration }

func (e *stuckError) Error() string {
	return fmt.Sprintf("no new worker has come to count for %v", e.limit)
}
