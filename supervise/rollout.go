package supervise

import (
	"errors"
	"time"
)

var errSuperseded = errors.New("another rollout took its place")

// restart begins a rollout of the members for which want is true, whatever state
// they are in.
func (c *crew) restart(want func(n int) bool, now time.Duration) uint64 {
	c.begin(ReasonRestart, c.rev, now)
	for n := range c.members {
		m := &c.members[n]
		if m.role == roleRegular && want(n) {
			c.enqueue(n)
		}
	}
	id := c.roll.id
	c.advance(now)
	return id
}

// reload gives the pool another spec. With soft none of the members has to be
// replaced for it.
func (c *crew) reload(rev *revision, soft bool, now time.Duration) uint64 {
	before := c.rev
	if soft {
		c.refresh(before, rev)
		return 0
	}
	c.begin(ReasonReload, rev, now)
	for n := range c.members {
		m := &c.members[n]
		switch {
		case m.role != roleRegular && m.role != roleSurge:
		case c.held, m.parked, m.absent && !m.failed:
			m.rev = rev
			c.order(crewSet, n, rev, ReasonReload)
		default:
			c.enqueue(n)
		}
	}
	id := c.roll.id
	c.advance(now)
	return id
}

// refresh puts one revision in the place of another everywhere.
func (c *crew) refresh(from, to *revision) {
	for n := range c.members {
		m := &c.members[n]
		if m.rev == from {
			m.rev = to
			c.out = append(c.out, crewOrder{do: crewSet, n: n, rev: to, soft: true})
		}
		if m.old == from {
			m.old = to
		}
	}
	if c.roll.base == from {
		c.roll.base = to
	}
	if c.rev == from {
		c.rev = to
	}
}

// recycle begins, or joins, a rollout of one member.
func (c *crew) recycle(n int, why Reason, now time.Duration) {
	if !c.mayRecycle(n, now) {
		return
	}
	if c.roll.id == 0 {
		c.begin(why, c.rev, now)
	}
	c.enqueue(n)
	c.advance(now)
}

// mayRecycle says whether a member may be recycled. A surge member goes anyway.
func (c *crew) mayRecycle(n int, now time.Duration) bool {
	if c.halted || now < c.quietUntil || n >= len(c.members) {
		return false
	}
	m := &c.members[n]
	return m.ready && m.mark == markNone && m.role == roleRegular
}

// begin begins a rollout, in the place of one that is under way.
func (c *crew) begin(why Reason, to *revision, now time.Duration) {
	base := c.rev
	if c.roll.id != 0 {
		base = c.roll.base
		c.report(Event{Kind: EventRolloutStopped, Reason: c.roll.why, Rollout: c.roll.id, Err: errSuperseded, Elapsed: now - c.roll.began})
	}
	c.rolls++
	c.roll.id, c.roll.why, c.roll.base, c.roll.began, c.roll.movedAt = c.rolls, why, base, now, now
	c.rev = to
	for n := range c.members {
		m := &c.members[n]
		m.fails = 0
		switch {
		case m.mark == markMoving && m.rev != to:
			// It is on its way to what nobody wants any more.
			c.enqueue(n)
		case m.role == roleSurge && m.rev != to:
			c.enqueue(n)
		}
	}
	c.report(Event{Kind: EventRollout, Reason: why, Rollout: c.roll.id})
}

// enqueue lets the rollout replace member n.
func (c *crew) enqueue(n int) {
	m := &c.members[n]
	switch m.mark {
	case markQueued:
		return
	case markMoving:
		c.roll.moving--
	case markNone:
		m.old = m.rev
	}
	c.count(m) // it serves until it is replaced
	m.mark = markQueued
	c.roll.queued++
	c.roll.queue = append(c.roll.queue, n)
}

// spare takes member n, which is to stay down, out of the rollout. The new spec is
// that of its next start.
func (c *crew) spare(n int) {
	m := &c.members[n]
	c.unmark(m)
	m.rev = c.rev
	c.order(crewSet, n, c.rev, c.roll.why)
}

// advance goes on with the rollout as far as it may.
func (c *crew) advance(now time.Duration) {
	if c.roll.id == 0 || c.halted {
		return
	}
	c.replaceIdle()
	c.hireSurge()
	c.replaceReady()
	if c.roll.queued == 0 && c.roll.moving == 0 {
		c.finish(now)
		return
	}
	if limit := c.rev.spec.Rollout.Progress; limit > 0 {
		c.wakeAt(c.roll.movedAt + limit)
	}
}

// replaceIdle replaces what is not ready, but not what may just have completed.
func (c *crew) replaceIdle() {
	kept := c.roll.queue[:0]
	for _, n := range c.roll.queue {
		m := &c.members[n]
		switch {
		case m.mark != markQueued:
		case m.ready, m.ending && m.rev.spec.Restart != RestartAlways:
			kept = append(kept, n)
		default:
			c.move(n)
		}
	}
	c.roll.queue = kept
}

// hireSurge starts as many surge members as may help.
func (c *crew) hireSurge() {
	most := c.rev.surge
	n := c.size
	for c.surge < min(most, c.roll.queued) {
		for n < len(c.members) && c.members[n].role != roleNone {
			n++
		}
		c.hire(n, roleSurge, ReasonSurge)
		c.surge++
	}
}

// replaceReady replaces ready members while enough others are ready.
func (c *crew) replaceReady() {
	least := c.size - c.absent - c.rev.unavailable
	kept := c.roll.queue[:0]
	for _, n := range c.roll.queue {
		if c.members[n].ready && c.ready-c.pending-1 >= least {
			c.move(n)
		} else {
			kept = append(kept, n)
		}
	}
	c.roll.queue = kept
}

// move stops member n and lets it start again with the new spec.
func (c *crew) move(n int) {
	m := &c.members[n]
	c.setReady(m, false)
	c.setAbsent(m, false)
	c.roll.queued--
	c.roll.moving++
	m.mark, m.rev, m.parked, m.failed = markMoving, c.rev, false, false
	c.order(crewRestart, n, c.rev, c.roll.why)
}

// finish ends a rollout that has replaced everybody.
func (c *crew) finish(now time.Duration) {
	c.dismissSurge()
	c.report(Event{Kind: EventRolledOut, Reason: c.roll.why, Rollout: c.roll.id, Elapsed: now - c.roll.began})
	c.end()
	c.pause = 0
}

func (c *crew) dismissSurge() {
	for n := range c.members {
		if c.members[n].role == roleSurge {
			c.dismiss(n, ReasonSurge)
		}
	}
}

// end forgets a rollout.
func (c *crew) end() {
	for n := range c.members {
		c.count(&c.members[n])
	}
	c.roll, c.wake = rollout{}, 0
}

// fail ends a rollout because member n does not become ready, or for err.
func (c *crew) fail(n int, err error, now time.Duration) {
	bad, roll := c.rev, c.roll
	c.rev = roll.base
	c.dismissSurge()
	for k := range c.members {
		m := &c.members[k]
		back := m.old
		c.unmark(m)
		if m.role != roleRegular || m.ready || m.rev != bad || bad == roll.base {
			continue
		}
		if back == nil || back == bad {
			back = roll.base
		}
		m.rev = back
		do := crewRestart
		if m.absent && !m.failed {
			do = crewSet
		}
		c.order(do, k, back, ReasonRollback)
	}
	c.end()
	c.pause = min(max(2*c.pause, recyclePauseMin), recyclePauseMax)
	c.quietUntil = now + c.pause
	c.out = append(c.out, crewOrder{do: crewReport, n: n, ev: Event{
		Kind: EventRolloutStopped, Reason: roll.why, Rollout: roll.id, Elapsed: now - roll.began, Err: err,
	}})
}
