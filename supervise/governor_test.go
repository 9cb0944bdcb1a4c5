package supervise

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/linuxtest"
)

// govStep is step of a governor, or one with a bug planted around it.
type govStep func(g *governor, pools []*governed, now time.Duration)

// govSim gives a governor random pressure, second by second.
type govSim struct {
	rnd   *rand.Rand
	g     governor
	pools []*governed
	step  govStep
	now   time.Duration
	err   error

	frozeAt, thawedAt time.Duration // 0 is never
	shrunkAt, grownAt map[*governed]time.Duration
	bounds            map[*governed]*govBound
}

// govBound is what the simulator knows of a pool that must not do something for ever.
type govBound struct {
	doing, resting bool
	since          time.Duration // doing, or not
	acted          int           // how many times it has begun to do something
}

func newGovSim(seed uint64, step govStep) *govSim {
	s := &govSim{rnd: rand.New(rand.NewPCG(seed, 1)), step: step, now: time.Second, shrunkAt: map[*governed]time.Duration{}, grownAt: map[*governed]time.Duration{}, bounds: map[*governed]*govBound{}}
	for range 1 + s.rnd.IntN(6) {
		p := &governed{size: s.rnd.IntN(12), policy: PressurePolicy{
			Action: PressureAction(1 + s.rnd.IntN(3)), MinSize: s.rnd.IntN(5), Priority: s.rnd.IntN(3),
			Pressure: Pressure{For: time.Duration(2+s.rnd.IntN(20)) * time.Second, CalmFor: time.Duration(2+s.rnd.IntN(40)) * time.Second},
		}}
		if s.rnd.IntN(3) > 0 {
			p.policy.MaxFor = time.Duration(2+s.rnd.IntN(150)) * time.Second
		}
		s.pools = append(s.pools, p)
		s.bounds[p] = &govBound{}
	}
	return s
}

func (s *govSim) fault(format string, args ...any) {
	if s.err == nil {
		s.err = fmt.Errorf("at %v: %s", s.now, fmt.Sprintf(format, args...))
	}
}

// tick lets a second go by.
func (s *govSim) tick() {
	s.now += time.Second
	before := make([]governed, len(s.pools))
	for i, p := range s.pools {
		before[i] = *p
		s.expect(p)
	}
	s.step(&s.g, s.pools, s.now)
	for i, p := range s.pools {
		s.checkPool(&before[i], p)
	}
	s.checkFreezes(before)
}

// expect finds out, before a step, whether a pool is to rest with it.
func (s *govSim) expect(p *governed) {
	b := s.bounds[p]
	lasted := s.now - b.since
	if b.resting {
		b.resting = b.doing || p.pressed && lasted < p.policy.MaxFor
	} else {
		b.resting = p.policy.MaxFor > 0 && b.doing && lasted >= p.policy.MaxFor
	}
}

// checkBound holds the time in which something is done against the most that may be.
func (s *govSim) checkBound(was, p *governed) {
	b := s.bounds[p]
	doing := p.held || p.frozen || p.withheld > 0
	if b.resting && (p.held || p.frozen || p.withheld > was.withheld) {
		s.fault("something is done in the rest: %+v", *p)
	}
	steps := 12 * (p.policy.CalmFor + time.Second) // on the way back, one worker at a time
	if b.doing && doing && p.policy.MaxFor > 0 && s.now-b.since > p.policy.MaxFor+steps {
		s.fault("not undone after %v: %+v", s.now-b.since, *p)
	}
	if doing != b.doing {
		b.doing, b.since = doing, s.now
		b.acted += toInt(doing)
	}
}

func (s *govSim) checkPool(was, p *governed) {
	s.checkBound(was, p)
	acts := p.pressed && !s.bounds[p].resting
	if p.held != (acts && p.policy.Action == PressureHold) {
		s.fault("held %v, pressed %v, resting %v", p.held, p.pressed, s.bounds[p].resting)
	}
	if e, least := p.effective(), min(p.size, max(1, p.policy.MinSize)); e < least || e > p.size || p.policy.Action != PressureShrink && e != p.size {
		s.fault("size %d of %d, least %d", e, p.size, least)
	}
	switch at := s.shrunkAt[p]; {
	case p.withheld > was.withheld && (!p.pressed || was.withheld > 0 && s.now-at < p.policy.For):
		s.fault("shrunk after %v, pressed %v", s.now-at, p.pressed)
	case p.withheld > was.withheld:
		s.shrunkAt[p] = s.now
	}
	if p.withheld < min(was.withheld, p.room()) { // not for a smaller size
		if acts || s.now-s.grownAt[p] < p.policy.CalmFor && s.grownAt[p] > 0 {
			s.fault("grown after %v, pressed %v", s.now-s.grownAt[p], p.pressed)
		}
		s.grownAt[p] = s.now
	}
}

// checkFreezes holds the order of priorities and the pauses against what was done.
func (s *govSim) checkFreezes(before []governed) {
	froze, thawed := false, false
	for i, p := range s.pools {
		switch was := &before[i]; {
		case p.frozen && !was.frozen:
			froze = true
			if !p.pressed || s.frozeAt > 0 && s.now-s.frozeAt < p.policy.For && !s.sameStep(before, p) {
				s.fault("frozen after %v, pressed %v", s.now-s.frozeAt, p.pressed)
			}
			for k, o := range s.pools {
				if o.pressed && !s.bounds[o].resting && o.policy.Action == PressureFreeze && !before[k].frozen && o.policy.Priority < p.policy.Priority {
					s.fault("frozen before one of less priority")
				}
			}
		case was.frozen && !p.frozen && s.bounds[p].resting: // who rests waits for nobody
			thawed = true
		case was.frozen && !p.frozen:
			thawed = true
			if p.pressed || s.thawedAt > 0 && s.now-s.thawedAt < p.policy.CalmFor {
				s.fault("thawed after %v, pressed %v", s.now-s.thawedAt, p.pressed)
			}
			for _, o := range s.pools {
				if o.frozen && o.policy.Priority > p.policy.Priority {
					s.fault("thawed before one of greater priority")
				}
			}
		}
	}
	if froze {
		s.frozeAt = s.now
	}
	if thawed {
		s.thawedAt = s.now
	}
}

// sameStep says whether another pool of that priority, which may be quicker, was frozen
// in this step as well.
func (s *govSim) sameStep(before []governed, p *governed) bool {
	for k, o := range s.pools {
		if o != p && o.frozen && !before[k].frozen && o.policy.Priority == p.policy.Priority && s.now-s.frozeAt >= o.policy.For {
			return true
		}
	}
	return false
}

// mustAct says whether a pool does something under pressure that lasts: others that are to
// be frozen before it, and rest soon, may do so again and again instead.
func (s *govSim) mustAct(p *governed) bool {
	switch p.policy.Action {
	case PressureShrink:
		return p.room() > 0
	case PressureFreeze:
		return !slices.ContainsFunc(s.pools, func(o *governed) bool {
			return o.policy.Action == PressureFreeze && o.policy.Priority < p.policy.Priority
		})
	}
	return true
}

// run is a storm, then pressure on everybody for long, then none.
func (s *govSim) run() error {
	for range 300 {
		p := s.pools[s.rnd.IntN(len(s.pools))]
		switch s.rnd.IntN(20) {
		case 0, 1, 2:
			p.pressed = !p.pressed
		case 3:
			p.size = s.rnd.IntN(12)
		}
		s.tick()
	}
	for _, pressed := range []bool{true, false} {
		acted := map[*governed]int{}
		for _, p := range s.pools {
			p.pressed = pressed
			acted[p] = s.bounds[p].acted
		}
		for range 1600 {
			s.tick()
		}
		for _, p := range s.pools {
			bound := p.policy.MaxFor > 0
			switch {
			case pressed && bound && s.bounds[p].acted < acted[p]+2 && s.mustAct(p):
				s.fault("it has rested for ever: %+v", *p)
			case pressed && bound:
			case pressed && p.policy.Action == PressureFreeze && !p.frozen && s.mustAct(p),
				pressed && p.policy.Action == PressureShrink && p.effective() > min(p.size, max(1, p.policy.MinSize)),
				!pressed && (!p.idle() || p.effective() != p.size):
				s.fault("after long with pressed %v: %+v", pressed, *p)
			}
		}
	}
	return s.err
}

func TestGovernorSimulated(t *testing.T) {
	seed := simSeed(t)
	for round := range uint64(linuxtest.Times(2000, 200)) {
		if err := newGovSim(seed+round, (*governor).step).run(); err != nil {
			t.Fatalf("seed %d: %v", seed+round, err)
		}
	}
}

func FuzzGovernor(f *testing.F) {
	f.Add(uint64(1))
	f.Fuzz(func(t *testing.T, seed uint64) {
		if err := newGovSim(seed, (*governor).step).run(); err != nil {
			t.Error(err)
		}
	})
}

// TestSimulatorFindsPlantedGovernorBugs proves that the invariants can fail.
func TestSimulatorFindsPlantedGovernorBugs(t *testing.T) {
	after := func(spoil func(p *governed, was governed)) govStep {
		return func(g *governor, pools []*governed, now time.Duration) {
			var before []governed
			for _, p := range pools {
				before = append(before, *p)
			}
			g.step(pools, now)
			for i, p := range pools {
				spoil(p, before[i])
			}
		}
	}
	seed := simSeed(t)
	for name, bug := range map[string]govStep{
		"all are frozen at once":                       after(func(p *governed, _ governed) { p.frozen = p.frozen || p.pressed && p.policy.Action == PressureFreeze }),
		"all are thawed at once":                       after(func(p *governed, _ governed) { p.frozen = p.frozen && p.pressed }),
		"nobody is thawed":                             after(func(p *governed, was governed) { p.frozen = p.frozen || was.frozen }),
		"nobody comes back":                            after(func(p *governed, was governed) { p.withheld = max(p.withheld, was.withheld) }),
		"starts are held for ever":                     after(func(p *governed, was governed) { p.held = p.held || was.held }),
		"starts are held as long as there is pressure": after(func(p *governed, _ governed) { p.held = p.pressed && p.policy.Action == PressureHold }),
		"no end of anything":                           after(func(p *governed, _ governed) { p.resting = false }),
		"no end of a freeze":                           after(func(p *governed, was governed) { p.frozen = p.frozen || was.frozen && p.pressed }),
		"who rests is not grown back": after(func(p *governed, was governed) {
			if p.pressed {
				p.withheld = max(p.withheld, was.withheld)
			}
		}),
		"no rest":         after(func(p *governed, _ governed) { p.resting = p.resting && p.busy }),
		"a rest for ever": after(func(p *governed, was governed) { p.resting = p.resting || was.resting && p.pressed }),
		"a lull begins a new time": after(func(p *governed, _ governed) {
			if !p.pressed {
				p.resting = false
			}
		}),
		"starts are never held": after(func(p *governed, _ governed) { p.held = false }),
		"the last first":        reversed,
		"no time to see what it did": func(g *governor, pools []*governed, now time.Duration) {
			g.froze, g.thawed = false, false
			g.step(pools, now)
		},
		"shrinks without a pause": func(g *governor, pools []*governed, now time.Duration) {
			for _, p := range pools {
				p.stepAt = -time.Hour
			}
			g.step(pools, now)
		},
	} {
		found := false
		for round := range uint64(500) {
			if err := newGovSim(seed+round, bug).run(); err != nil {
				found = true
				break
			}
		}
		if !found {
			t.Errorf("%s: the simulator did not notice", name)
		}
	}
}

// reversed takes the priorities the wrong way round.
func reversed(g *governor, pools []*governed, now time.Duration) {
	for _, p := range pools {
		p.policy.Priority = -p.policy.Priority
	}
	g.step(pools, now)
	for _, p := range pools {
		p.policy.Priority = -p.policy.Priority
	}
}
