package supervise

import "time"

// governed is one pool as the governor sees it. The first half is told to it, and the
// second half is what it has decided.
type governed struct {
	policy  PressurePolicy // filled
	size    int            // that was asked for
	pressed bool           // there is pressure, as the policy has it

	held     bool          // nobody is to be started
	frozen   bool          // the ready workers are to be frozen, and nobody started
	withheld int           // of size
	stepAt   time.Duration // when withheld changed last

	resting   bool          // it did so for MaxFor: all is undone, and stays so for as long while there is pressure
	busy      bool          // something is done, or not undone yet
	busySince time.Duration // when busy changed last
}

// governor decides what pools do under pressure; pressure.go tells what. It has no clock
// and touches nothing.
type governor struct {
	froze, thawed     bool // ever
	frozeAt, thawedAt time.Duration
}

// step looks at all pools once more.
func (g *governor) step(pools []*governed, now time.Duration) {
	for _, p := range pools {
		p.bound(now)
		p.held = p.policy.Action == PressureHold && p.acts()
		p.frozen = p.frozen && p.policy.Action == PressureFreeze // nobody else knows how to thaw it
		p.shrink(now)
	}
	g.freeze(pools, now)
	g.thaw(pools, now)
	for _, p := range pools {
		if busy := p.holds() || p.withheld > 0; busy != p.busy {
			p.busy, p.busySince = busy, now
		}
	}
}

// bound lets a pool rest that has done something for as long as it may, and act again
// when all was undone for as long, or the pressure is over.
func (p *governed) bound(now time.Duration) {
	late := now-p.busySince >= p.policy.MaxFor
	switch {
	case p.policy.MaxFor == 0, p.resting && !p.busy && (late || !p.pressed):
		p.resting = false
	case p.busy && late:
		p.resting = true
	}
}

// follow takes another policy, which does not answer for what was done by the one before.
func (p *governed) follow(policy PressurePolicy, now time.Duration) {
	p.policy, p.resting, p.busySince = policy, false, now
}

// acts says whether something is to be done about the pressure.
func (p *governed) acts() bool { return p.pressed && !p.resting }

// holds says whether nobody is to be started.
func (p *governed) holds() bool { return p.held || p.frozen }

// idle says that nothing is to be undone, or done.
func (p *governed) idle() bool { return !p.pressed && !p.resting && !p.holds() && p.withheld == 0 }

// effective is the size that the pool is to have now.
func (p *governed) effective() int { return p.size - min(p.withheld, p.room()) }

// room is how many may be withheld.
func (p *governed) room() int { return max(0, p.size-max(1, p.policy.MinSize)) }

// ask takes another size that is asked for. While the pool is shrunk that is the one of
// afterwards: as many workers stay as there are.
func (p *governed) ask(size int) {
	stay := p.effective()
	p.size = size
	if p.policy.Action == PressureShrink && (p.acts() || p.withheld > 0) {
		p.withheld = min(max(0, size-stay), p.room())
	}
}

func (p *governed) shrink(now time.Duration) {
	if p.policy.Action != PressureShrink {
		p.withheld = 0
		return
	}
	before, quarter := p.withheld, max(1, p.size/4)
	since := now - p.stepAt
	switch {
	case p.acts() && (p.withheld == 0 || since >= p.policy.For):
		p.withheld += quarter
	case !p.acts() && since >= p.policy.CalmFor:
		p.withheld = max(0, p.withheld-quarter)
	}
	if p.withheld = min(p.withheld, p.room()); p.withheld != before {
		p.stepAt = now
	}
}

// freeze freezes those of the least priority that are under pressure and are not frozen
// yet, if there was time to see what the last freeze has brought.
func (g *governor) freeze(pools []*governed, now time.Duration) {
	var first *governed
	for _, p := range pools {
		if p.policy.Action == PressureFreeze && p.acts() && !p.frozen && (first == nil || p.policy.Priority < first.policy.Priority) {
			first = p
		}
	}
	if first == nil || g.froze && now-g.frozeAt < first.policy.For {
		return
	}
	g.froze, g.frozeAt = true, now
	for _, p := range pools {
		if p.policy.Action == PressureFreeze && p.acts() && p.policy.Priority == first.policy.Priority {
			p.frozen = true
		}
	}
}

// thaw thaws those of the greatest priority, if their pressure is over and there was time
// to see what the last thaw has brought. Who rests waits for nobody.
func (g *governor) thaw(pools []*governed, now time.Duration) {
	var last *governed
	for _, p := range pools {
		if p.frozen && (last == nil || p.policy.Priority > last.policy.Priority) {
			last = p
		}
	}
	if last == nil {
		return
	}
	before, first := g.thawedAt, !g.thawed
	for _, p := range pools { // those of one priority come back together
		next := !p.pressed && p.policy.Priority == last.policy.Priority && (first || now-before >= p.policy.CalmFor)
		if p.frozen && (next || p.resting) {
			p.frozen, g.thawed, g.thawedAt = false, true, now
		}
	}
}
