package supervise

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/linuxtest"
)

// crewSim is a pool in the simulator: its members are the sim's slots.
type crewSim struct {
	*sim
	crew    crew
	good    *revision // the last that everybody may have
	begun   map[uint64]int
	ended   map[uint64]int
	failed  int             // rollouts that stopped because somebody did not become ready
	stuck   int             // rollouts that stopped because they did not get on
	steady  int             // fewest that were ready since it was set; -1 is not watched
	wakes   time.Duration   // for what time a tick is on its way
	since   []time.Duration // since when each slot is ready; 0 is not
	began   time.Duration   // of the rollout that is watched
	least   int             // members that must count while it goes on
	proof   time.Duration   // how long a new one must stay ready
	limit   time.Duration   // how long a rollout may not get on
	spoil   func(*Rollout)  // a planted bug: what the pool takes from a spec
	surge   int             // the most surge members since no rollout was under way
	pumping bool
	break_  func(o *crewOrder) bool // a planted bug: drop or change an order
}

func newCrewSim(p policy, size int, bounds Rollout, seed uint64) *crewSim {
	s := &crewSim{sim: newSim(p, 0, seed, (*policy).step), begun: map[uint64]int{}, ended: map[uint64]int{}, steady: -1}
	s.good = s.revision("first", bounds)
	s.crew = crew{size: size, rev: s.good}
	s.crew.enrol()
	s.heard = s.hear
	s.aged = func(c *simSlot) {
		if !s.calm { // in calm weather each rollout is looked at by itself
			s.crew.recycle(c.n, ReasonAge, s.now)
		}
	}
	s.crew.boot(ReasonBoot)
	s.pump()
	return s
}

func (s *crewSim) revision(name string, bounds Rollout) *revision {
	bounds.MinReady, bounds.Progress = s.proof, s.limit
	if s.spoil != nil {
		s.spoil(&bounds)
	}
	r := &revision{spec: PoolSpec{Name: name, Rollout: bounds}}
	r.surge, r.unavailable = bounds.bounds(RestartAlways)
	return r
}

func (s *crewSim) slot(n int) *simSlot {
	for len(s.slots) <= n {
		s.slots = append(s.slots, &simSlot{n: len(s.slots), told: map[uint64]int{}})
	}
	return s.slots[n]
}

// hear is the pool's side of a step.
func (s *crewSim) hear(c *simSlot, before worker, acts []action) {
	for len(s.since) <= c.n {
		s.since = append(s.since, 0)
	}
	switch {
	case !c.w.ready:
		s.since[c.n] = 0
	case s.since[c.n] == 0:
		s.since[c.n] = s.now
	}
	if ch, changed := changeOf(&before, &c.w, acts); changed {
		s.crew.changed(c.n, ch, s.now)
	}
	s.pump()
}

// pump carries out what the pool has decided, as the engine does.
func (s *crewSim) pump() {
	if s.pumping {
		return
	}
	s.pumping = true
	for len(s.crew.out) > 0 && len(s.faults) == 0 {
		o := s.crew.out[0]
		s.crew.out = s.crew.out[1:]
		if s.break_ != nil && s.break_(&o) {
			continue
		}
		s.carryOut(o)
	}
	s.pumping = false
	s.check()
	if wake := s.crew.wake; wake != 0 && (s.wakes == 0 || wake < s.wakes) {
		s.wakes = wake
		s.after(max(0, wake-s.now), func() {
			s.wakes = 0
			s.crew.tick(s.now)
			s.pump()
		})
	}
}

// counting is how many members others can rely on: those that are ready, and if they are
// of the rollout that is watched have been so for long enough. It leaves out n.
func (s *crewSim) counting(n int) int {
	count := 0
	for k, since := range s.since {
		if k != n && since != 0 && (since <= s.began || s.now-since >= s.proof) {
			count++
		}
	}
	return count
}

func (s *crewSim) carryOut(o crewOrder) {
	switch o.do {
	case crewReport:
		s.reported(o)
		return
	case crewSet:
		s.slot(o.n).next = o.rev
		return
	case crewStart, crewRestart, crewStop:
	}
	c := s.slot(o.n)
	if s.steady >= 0 && o.do == crewRestart && c.w.ready && o.why != ReasonRollback && s.counting(o.n) < s.least {
		s.fault("slot %d is replaced while only %d others count, want %d", o.n, s.counting(o.n), s.least)
	}
	if o.do == crewRestart && o.why != ReasonRestart && s.crew.members[o.n].parked {
		s.fault("slot %d was stopped by a command and is started again (%v)", o.n, o.why)
	}
	kind := map[crewDo]inputKind{crewStart: inStart, crewRestart: inRestart, crewStop: inStop}[o.do]
	if o.rev != nil {
		c.next = o.rev
	}
	s.command(c, kind)
	s.crew.changed(o.n, changeTo(&c.w), s.now)
}

func (s *crewSim) reported(o crewOrder) {
	switch id := o.ev.Rollout; o.ev.Kind {
	case EventRollout:
		s.begun[id]++
	case EventRolledOut:
		s.ended[id]++
	case EventRolloutStopped:
		s.ended[id]++
		var stuck *stuckError
		s.failed += toInt(o.n >= 0)
		s.stuck += toInt(errors.As(o.ev.Err, &stuck))
	default:
	}
}

// check looks at the whole pool after each step.
func (s *crewSim) check() {
	ready, members := 0, 0
	for n := range s.crew.members {
		m := &s.crew.members[n]
		ready += toInt(s.slot(n).w.ready)
		if m.role == roleRegular || m.role == roleSurge {
			members++
		}
		if m.role == roleNone && (s.slot(n).alive || s.slot(n).answering) {
			s.fault("slot %d is no member and has a process", n)
		}
	}
	s.surge = max(s.surge, s.crew.rev.surge)
	if members > s.crew.size+s.surge {
		s.fault("%d members for a size of %d and a surge of %d", members, s.crew.size, s.surge)
	}
	if s.crew.roll.id == 0 {
		s.surge = 0 // what one rollout has started the next one takes over
	}
	if s.steady >= 0 {
		s.steady = min(s.steady, ready)
	}
}

// random does something to the pool that people, or workers, may do.
func (s *crewSim) random() {
	switch n := s.rnd.IntN(max(1, s.crew.size)); s.rnd.IntN(8) {
	case 0:
		s.crew.scale(s.rnd.IntN(10), ReasonCommand, s.now)
	case 1:
		s.crew.restart(func(k int) bool { return k >= n }, s.now)
	case 2:
		s.good = s.revision("good", Rollout{MaxSurge: s.rnd.IntN(3), MaxUnavailable: 1})
		s.crew.reload(s.good, false, s.now)
	case 3:
		s.crew.reload(s.revision("bad", Rollout{MaxSurge: 1, MaxUnavailable: s.rnd.IntN(2)}), false, s.now)
	case 4:
		s.crew.recycle(n, ReasonMemory, s.now)
	case 5, 6:
		if n < s.crew.size {
			s.command(s.slot(n), inStop)
		}
	default:
		if n < s.crew.size {
			s.command(s.slot(n), inStart)
		}
	}
	s.pump()
}

// weather is a storm with everything, and calm after it.
func (s *crewSim) weather() {
	for range 5 + s.rnd.IntN(20) {
		s.after(time.Duration(s.rnd.Int64N(int64(2*time.Minute))), s.random)
	}
	s.run(2 * time.Minute)
	s.calm = true
	for n := range s.crew.size {
		if s.crew.members[n].parked {
			s.command(s.slot(n), inStart)
		}
	}
	// A bad spec is in force where nobody was there to try it.
	s.good = s.revision("good", Rollout{})
	s.crew.reload(s.good, false, s.now)
	s.pump()
	s.run(time.Hour)
	s.checkCalm()
}

// checkCalm requires that everybody is there, and nobody else.
func (s *crewSim) checkCalm() {
	if len(s.faults) > 0 {
		return
	}
	c := &s.crew
	if c.roll.id != 0 || c.surge != 0 || c.leaving != 0 || c.absent != 0 || c.ready != c.size {
		s.fault("long after the storm: size %d, ready %d, surge %d, leaving %d, absent %d, rollout %+v", c.size, c.ready, c.surge, c.leaving, c.absent, c.roll)
	}
	for n := range c.members {
		m, w := &c.members[n], &s.slot(n).w
		if (n < c.size) != (m.role == roleRegular) || n < c.size && !w.ready || n >= c.size && !w.over() && w.start > 0 {
			s.fault("slot %d of %d: %+v is %v, ready %v", n, c.size, *m, w.state, w.ready)
		}
		if n < c.size && s.slot(n).bad() {
			s.fault("slot %d has a spec with which nobody becomes ready", n)
		}
	}
	s.checkRollouts()
}

// checkRollouts requires that each began once and ended once.
func (s *crewSim) checkRollouts() {
	for id := uint64(1); id <= s.crew.rolls; id++ {
		if s.begun[id] != 1 || s.ended[id] != 1 {
			s.fault("rollout %d was told %d times as begun and %d times as ended", id, s.begun[id], s.ended[id])
		}
	}
}

// roll lets a rollout happen in calm weather: enough must be ready all the time.
func (s *crewSim) roll(what string, least int, begin func() uint64) {
	if len(s.faults) > 0 {
		return
	}
	s.steady, s.began, s.least = s.crew.ready, s.now, least
	begin()
	s.pump()
	s.run(time.Hour)
	if s.steady < least {
		s.fault("%s: only %d of %d were ready at one time, want at least %d", what, s.steady, s.crew.size, least)
	}
	s.steady = -1
	s.checkCalm()
}

// rollouts are those that must not cost a worker more than they may.
func (s *crewSim) rollouts() {
	bounds := []Rollout{{}, {MaxSurge: 3}, {MaxUnavailable: 1}, {MaxSurge: 2, MaxUnavailable: 2}}[s.rnd.IntN(4)]
	next := s.revision("next", bounds)
	least := max(0, s.crew.size-next.unavailable)
	s.roll("reload", least, func() uint64 { return s.crew.reload(next, false, s.now) })
	for n := range s.crew.size {
		if s.slot(n).rev != next {
			s.fault("slot %d was not replaced by the reload", n)
		}
	}
	starts := s.starts()
	s.roll("restart", least, func() uint64 { return s.crew.restart(func(n int) bool { return true }, s.now) })
	for n := range s.crew.size {
		if s.slot(n).w.start == starts[n] {
			s.fault("slot %d was not replaced by the restart", n)
		}
	}
	if s.crew.size == 0 {
		return // then nobody is there to try it
	}
	failed := s.failed
	s.roll("bad reload", least, func() uint64 { return s.crew.reload(s.revision("bad", bounds), false, s.now) })
	if s.failed != failed+1 || s.crew.rev != next {
		s.fault("a bad reload of %d was told %d times as stopped", s.crew.size, s.failed-failed)
	}
	if s.limit == 0 || len(s.faults) > 0 {
		return
	}
	stuck, began := s.stuck, s.now
	s.roll("hung reload", least, func() uint64 { return s.crew.reload(s.revision("hung", bounds), false, s.now) })
	if s.stuck != stuck+1 || s.crew.rev != next {
		s.fault("a reload that does not get on was told %d times as stopped since %v", s.stuck-stuck, began)
	}
}

func (s *crewSim) starts() []uint64 {
	var all []uint64
	for _, c := range s.slots {
		all = append(all, c.w.start)
	}
	return all
}

// stop ends everything.
func (s *crewSim) stop() {
	s.crew.halted, s.ending = true, true
	for _, c := range s.slots {
		c.stopped = true
		s.send(c, input{kind: inStop})
	}
	s.run(time.Hour)
	s.checkEnd()
}

func crewPolicies() []policy {
	return slices.DeleteFunc(simPolicies(), func(p policy) bool { return p.restart != RestartAlways || p.limit > 0 })
}

// simulateCrew is one random life of a pool.
func simulateCrew(p policy, seed uint64, bug func(*crewOrder) bool, spoil ...func(*crewSim)) (steps int, err error) {
	s := newCrewSim(p, 1+int(seed%6), Rollout{MaxSurge: int(seed % 3), MaxUnavailable: int(seed % 2)}, seed)
	s.break_ = bug
	if seed%2 == 0 {
		s.proof, s.limit = time.Duration(seed%5)*10*time.Second, 5*time.Minute
	}
	for _, f := range spoil {
		f(s)
	}
	s.weather()
	s.rollouts()
	s.stop()
	return s.steps, s.err()
}

// TestSimulatedPools: scaling, rollouts and recycling in a storm, and rollouts in calm.
func TestSimulatedPools(t *testing.T) {
	want := linuxtest.Times(300_000, 30_000)
	seed := simSeed(t)
	steps := 0
	for round := uint64(0); steps < want; round++ {
		for i, p := range crewPolicies() {
			n, err := simulateCrew(p, seed+round, nil)
			steps += n
			if err != nil {
				t.Fatalf("policy %d, seed %d: %v", i, seed+round, err)
			}
		}
	}
	t.Logf("%d steps", steps)
}

// TestSimulatorFindsPlantedPoolBugs proves that the invariants of pools can fail.
func TestSimulatorFindsPlantedPoolBugs(t *testing.T) {
	seed := simSeed(t)
	for name, bug := range map[string]func(*crewOrder) bool{
		"a surge member is never started":      func(o *crewOrder) bool { return o.do == crewStart && o.why == ReasonSurge },
		"a leaving member is not stopped":      func(o *crewOrder) bool { return o.do == crewStop && o.why == ReasonScale },
		"a surge member is not stopped":        func(o *crewOrder) bool { return o.do == crewStop && o.why == ReasonSurge },
		"nobody goes back to the old spec":     func(o *crewOrder) bool { return o.why == ReasonRollback },
		"a replacement gets the old spec":      func(o *crewOrder) bool { o.rev = nil; return false },
		"the end of a rollout is not told":     func(o *crewOrder) bool { return o.ev.Kind == EventRolledOut && o.ev.Rollout%4 == 0 },
		"the failure of a rollout is not told": func(o *crewOrder) bool { return o.ev.Kind == EventRolloutStopped && o.n >= 0 },
	} {
		t.Run(name, func(t *testing.T) {
			for round := range uint64(300) {
				for _, p := range crewPolicies() {
					if _, err := simulateCrew(p, seed+round, bug); err != nil {
						t.Logf("round %d: %v", round, err)
						return
					}
				}
			}
			t.Errorf("seed %d: the simulator did not notice", seed)
		})
	}
}

// TestSimulatorFindsPlantedRolloutBugs proves it of what rollouts wait for.
func TestSimulatorFindsPlantedRolloutBugs(t *testing.T) {
	seed := simSeed(t)
	for name, bug := range map[string]func(*Rollout){
		"a new one counts at once":         func(r *Rollout) { r.MinReady = 0 },
		"a new one counts too early":       func(r *Rollout) { r.MinReady /= 2 },
		"a rollout may take for ever":      func(r *Rollout) { r.Progress = 0 },
		"a rollout has next to no time":    func(r *Rollout) { r.Progress = min(r.Progress, 5*time.Second) },
		"a new one must be ready for long": func(r *Rollout) { r.MinReady *= 40 },
	} {
		t.Run(name, func(t *testing.T) {
			for round := range uint64(300) {
				for _, p := range crewPolicies() {
					_, err := simulateCrew(p, seed+round, nil, func(s *crewSim) { s.spoil = bug })
					if err != nil {
						t.Logf("round %d: %v", round, err)
						return
					}
				}
			}
			t.Errorf("seed %d: the simulator did not notice", seed)
		})
	}
}
