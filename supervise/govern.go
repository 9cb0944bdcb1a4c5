package supervise

import (
	"errors"
	"fmt"
	"time"

	"github.com/pitvisor/pitvisor/cgroup"
)

// What the engine does with what the governor has decided.

// govern lets the governor look at that time, and carries out what it says. The caller holds mu.
func (s *Supervisor) govern(now time.Duration) {
	if s.halting.Load() {
		return
	}
	var pools []*governed
	before := make([]governed, len(s.pools))
	for i, p := range s.pools {
		before[i] = p.press
		p.press.pressed, p.press.size = false, p.wanted
		pools = append(pools, &p.press)
	}
	for _, w := range s.pressing.lookouts {
		if m := w.on(); m != nil && w.pool != nil {
			w.pool.press.pressed = true
			w.pool.pressedBy = m.told.String()
		}
	}
	s.pressing.governor.step(pools, now)
	for i, p := range s.pools {
		s.obey(p, &before[i])
	}
}

// obey brings a pool to what was decided about it.
func (s *Supervisor) obey(p *pool, before *governed) {
	now := &p.press
	if now.resting && !before.resting {
		s.tellTimeout(p)
	}
	if now.frozen != before.frozen {
		s.tellPool(p, EventFrozen, EventThawed, now.frozen)
		s.members(p, func(i int32, _ *member) {
			s.slots[i].spared = false
			s.chill(i)
		})
	}
	if now.held != before.held {
		s.tellPool(p, EventHeld, EventReleased, now.held)
	}
	if now.holds() != before.holds() {
		s.letGo(p)
	}
	if now.withheld != before.withheld && !p.going {
		s.resize(p, ReasonPressure)
	}
	if now.idle() {
		p.pressedBy = ""
	}
	if now.resting != before.resting || now.holds() != before.holds() || now.frozen != before.frozen || now.withheld != before.withheld {
		s.noteSize(p)
	}
}

// tellTimeout tells that a pool has done something for as long as it may. What it starts
// then is started while resources are short.
func (s *Supervisor) tellTimeout(p *pool) {
	s.launches.narrow()
	s.emit(Event{Worker: WorkerID{Pool: p.name, Slot: -1}, Kind: EventPressureTimeout, Reason: ReasonPressure, Err: fmt.Errorf(
		"what was done for %v, the most that is allowed, is undone, and nothing is done for as long again: %s", p.press.policy.MaxFor, p.pressedBy,
	)})
}

// tellPool tells that something has begun, or has ended, because of pressure.
func (s *Supervisor) tellPool(p *pool, begin, end EventKind, on bool) {
	e := Event{Worker: WorkerID{Pool: p.name, Slot: -1}, Kind: end, Reason: ReasonPressure}
	if on {
		e.Kind, e.Err = begin, errors.New(p.pressedBy)
	}
	s.emit(e)
}

// resize gives the crew the size that it is to have now.
func (s *Supervisor) resize(p *pool, why Reason) {
	p.press.ask(p.wanted)
	p.crew.scale(p.press.effective(), why, s.now())
	s.enrol(p)
	s.collect(p)
}

// hold keeps a start until the pressure is over.
func (s *Supervisor) hold(o startOrder) {
	p := o.pool
	s.slots[o.i].queued = true
	if len(p.heldStarts) > 2*len(p.slots) {
		kept := p.heldStarts[:0]
		for _, h := range p.heldStarts {
			if s.isHeld(h) {
				kept = append(kept, h)
			}
		}
		p.heldStarts = kept
	}
	p.heldStarts = append(p.heldStarts, o)
	s.noteSize(p)
}

// isHeld says that the start of a worker waits for the pressure to be over.
func (c *slot) isHeld() bool { return c.queued && c.pool.press.holds() }

// isHeld says whether a start is still wanted.
func (s *Supervisor) isHeld(o startOrder) bool {
	c := &s.slots[o.i]
	return c.queued && c.start == o.start && c.pool == o.pool
}

// letGo lets the starts of a pool go that were held, if they may.
func (s *Supervisor) letGo(p *pool) {
	if p.press.holds() {
		return
	}
	held := p.heldStarts
	p.heldStarts = nil
	for _, o := range held {
		if s.isHeld(o) {
			s.slots[o.i].queued = false
			s.launch(o)
		}
	}
}

// heldNow is how many starts of a pool are held.
func (s *Supervisor) heldNow(p *pool) int {
	n := 0
	for _, o := range p.heldStarts {
		n += toInt(s.isHeld(o))
	}
	return n
}

// chill freezes a worker whose pool is frozen, and thaws it when it is not any more or
// the worker is to stop: a frozen process takes no signal. Who is killed need not be
// thawed.
func (s *Supervisor) chill(i int32) {
	c := &s.slots[i]
	want := c.pool.press.frozen && c.state == StateUp && c.ready && !c.spared && !s.halting.Load()
	if want == c.frozen {
		return
	}
	c.frozen = want
	if want || c.lives() {
		s.chores.push(order{kind: ordFreeze, i: i, n: c.n, start: c.start, pool: c.pool})
	}
}

// freezeLeaf writes whether a leaf is frozen as it is to be now. One goroutine at a time
// does so in a pool, or an older wish could come after a newer one.
func (s *Supervisor) freezeLeaf(o order) {
	o.pool.freezing.Lock()
	defer o.pool.freezing.Unlock()
	s.mu.Lock()
	c := &s.slots[o.i]
	current, frozen := c.start == o.start && c.lives(), c.frozen
	s.mu.Unlock()
	if !current {
		return
	}
	text := "0"
	if frozen && !lockSoon(&o.pool.visiting) { // a spawn into a leaf that is being frozen may hang, and the runtime with it
		s.inbox.post(message{do: func() { s.chores.push(o) }})
		return
	} else if frozen {
		defer o.pool.visiting.Unlock()
		text = "1"
	}
	s.withLeaf(o, func(leaf *cgroup.Dir) error {
		err := leaf.WriteFile("cgroup.freeze", text)
		if err != nil && !errors.Is(err, cgroup.ErrGone) {
			s.inbox.post(message{do: func() {
				s.emit(Event{Worker: WorkerID{Pool: o.pool.name, Slot: int(o.n)}, Start: o.start, Kind: EventDegraded, Err: err})
			}})
		}
		return err
	})
}

// Spare takes note that somebody has thawed a worker that was frozen for pressure: it
// stays so until its pool is frozen anew.
func (s *Supervisor) Spare(id WorkerID, start uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.poolNamed(id.Pool)
	if p == nil || id.Slot < 0 || id.Slot >= len(p.slots) {
		return
	}
	if c := &s.slots[p.slots[id.Slot]]; c.frozen && c.start == start {
		c.spared, c.frozen = true, false
	}
}

// thawAll ends all that was done for pressure, because everything ends.
func (s *Supervisor) thawAll() {
	for _, p := range s.pools {
		p.press.frozen, p.press.held = false, false
		s.members(p, func(i int32, _ *member) { s.chill(i) })
	}
	s.closeGauges(s.pressing.gauges)
	s.pressing.gauges, s.pressing.lookouts = nil, nil
}

// frozenNow is how many workers of a pool are frozen.
func (s *Supervisor) frozenNow(p *pool) int {
	n := 0
	if p.press.frozen {
		s.members(p, func(i int32, _ *member) { n += toInt(s.slots[i].frozen) })
	}
	return n
}

// pressureWords says what is done for pressure in a pool; "" is nothing.
func (p *pool) pressureWords() string {
	text := ""
	switch x := &p.press; {
	case x.frozen:
		text = "frozen"
	case x.held:
		text = "starts are held"
	case x.withheld > 0:
		text = "shrunk"
	case x.resting:
		text = "nothing is done for now"
	default:
		return ""
	}
	return text + ": " + p.pressedBy
}
