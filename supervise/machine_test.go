package supervise

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"
	"unsafe"

	"github.com/pitvisor/pitvisor/linuxtest"
)

// simPolicies are the policies that the simulator goes through.
func simPolicies() []policy {
	b := Backoff{Min: 50 * time.Millisecond, Max: 5 * time.Second, Jitter: 0.5, Reset: 10 * time.Second, Free: 2}.filled()
	quick := Backoff{Min: time.Millisecond}.filled()
	return []policy{
		{backoff: b, grace: 2 * time.Second, timeout: 2 * time.Second, probed: true},
		{backoff: quick, grace: time.Second},
		{backoff: b, probed: true, timeout: time.Second},
		{backoff: b, grace: time.Second, leaf: true},
		{backoff: b, grace: time.Second, leaf: true, probed: true, timeout: time.Second},
		{backoff: b, grace: time.Second, restart: RestartOnFailure, probed: true, timeout: time.Second},
		{backoff: b, grace: time.Second, restart: RestartNever},
		{backoff: b, grace: time.Second, limit: 4, probed: true, timeout: time.Second},
		{backoff: b, grace: time.Second, probed: true, timeout: time.Second, age: 20 * time.Second, jitter: 0.5},
		{backoff: b, grace: time.Second, drain: 3 * time.Second, probed: true, timeout: time.Second},
		{backoff: b, drain: time.Second, leaf: true},
	}
}

// simulate is one random life of a pool: a storm, then often calm weather in
// which it must come back to full size, and a stop at any moment.
func simulate(p policy, seed uint64, step stepFunc) (steps int, err error) {
	const size = 8
	s := newSim(p, size, seed, step)
	for _, c := range s.slots {
		s.send(c, input{kind: inStart})
	}
	storm := 2 * time.Minute
	if s.chance(30) {
		storm = 20 * time.Millisecond // the stop comes during the first start
	}
	for _, c := range s.slots {
		s.commands(c, storm)
	}
	s.run(time.Duration(s.rnd.Int64N(int64(storm))))
	if s.chance(50) {
		s.calm = true
		s.run(10 * time.Minute)
		s.checkCapacity()
	}
	hard := s.chance(30)
	s.ending = true
	for _, c := range s.slots {
		s.after(s.within(storm/100), func() {
			c.stopped = true
			s.send(c, input{kind: inStop})
			if hard {
				s.after(s.within(time.Second), func() { s.send(c, input{kind: inKill}) })
			}
		})
	}
	s.run(time.Hour)
	s.checkEnd()
	return s.steps, s.err()
}

// checkCapacity requires that everybody is back.
func (s *sim) checkCapacity() {
	if len(s.faults) > 0 {
		return
	}
	for _, c := range s.slots {
		given := c.w.state == StateFailed && (s.policy.limit > 0 || s.policy.restart == RestartNever) ||
			c.w.state == StateCompleted && s.policy.restart != RestartAlways
		if !given && (c.w.state != StateUp || !c.w.ready) {
			s.fault("slot %d: %v, ready %v, long after the storm", c.n, c.w.state, c.w.ready)
		}
		if c.w.state == StateUp && c.w.due != 0 && s.policy.age == 0 {
			s.fault("slot %d: idle with a timer", c.n)
		}
	}
}

// checkEnd requires that nothing is left and everything was told.
func (s *sim) checkEnd() {
	if len(s.faults) > 0 {
		return
	}
	for _, c := range s.slots {
		if c.leaf != 0 || c.alive || c.others != 0 || c.answering {
			s.fault("slot %d: leaf %d, alive %v, others %d are left", c.n, c.leaf, c.alive, c.others)
		}
		if !c.w.over() {
			s.fault("slot %d: ends as %v", c.n, c.w.state)
		}
		if c.shown != c.w.state {
			s.fault("slot %d: is %v but the last event said %v", c.n, c.w.state, c.shown)
		}
		for start := uint64(1); start <= c.w.start; start++ {
			if c.told[start] != 1 {
				s.fault("slot %d: start %d was told %d times", c.n, start, c.told[start])
			}
		}
	}
}

// simSeed is PITVISOR_SIM_SEED, or chosen anew for every run.
func simSeed(tb testing.TB) uint64 {
	seed := rand.Uint64()
	if s := os.Getenv("PITVISOR_SIM_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			tb.Fatalf("PITVISOR_SIM_SEED: %v", err)
		}
		seed = n
	}
	tb.Logf("PITVISOR_SIM_SEED=%d", seed)
	return seed
}

// TestSimulatedLives is H-16, H-20, H-23, H-25, H-27, H-31 and H-37 on random schedules.
func TestSimulatedLives(t *testing.T) {
	want := linuxtest.Times(1_000_000, 100_000)
	seed := simSeed(t)
	steps := 0
	for round := uint64(0); steps < want; round++ {
		for i, p := range simPolicies() {
			n, err := simulate(p, seed+round, (*policy).step)
			steps += n
			if err != nil {
				t.Fatalf("policy %d, seed %d: %v", i, seed+round, err)
			}
		}
	}
	t.Logf("%d steps", steps)
}

// TestSimulatorFindsPlantedBugs proves that the simulator can fail: each bug
// must be found within a bounded number of lives.
func TestSimulatorFindsPlantedBugs(t *testing.T) {
	seed := simSeed(t)
	for name, bug := range plantedBugs() {
		t.Run(name, func(t *testing.T) {
			for round := range uint64(1000) {
				for _, p := range simPolicies() {
					if _, err := simulate(p, seed+round, bug); err != nil {
						t.Logf("round %d: %v", round, err)
						return
					}
				}
			}
			t.Errorf("seed %d: the simulator did not notice", seed)
		})
	}
}

// drop is step without the actions for which bad is true.
func drop(bad func(before, after worker, a action) bool) stepFunc {
	return func(p *policy, w worker, in input, out []action) (worker, []action) {
		after, acts := p.step(w, in, out)
		kept := acts[:0]
		for _, a := range acts {
			if !bad(w, after, a) {
				kept = append(kept, a)
			}
		}
		return after, kept
	}
}

// spoil is step after something was changed behind its back.
func spoil(f func(p *policy, w *worker, in *input)) stepFunc {
	return func(p *policy, w worker, in input, out []action) (worker, []action) {
		own := *p // the simulator judges by the true one
		f(&own, &w, &in)
		return own.step(w, in, out)
	}
}

// plantedBugs are the step function with a bug each.
func plantedBugs() map[string]stepFunc {
	return map[string]stepFunc{
		"late results of an old start are taken": spoil(func(_ *policy, w *worker, in *input) { in.start = w.start }),
		"a stop is forgotten":                    spoil(func(_ *policy, w *worker, _ *input) { w.wantStop = false }),
		"a stop during start-up is forgotten": spoil(func(_ *policy, w *worker, _ *input) {
			w.wantStop = w.wantStop && w.state != StateStarting
		}),
		"a failed start is told twice":  spoil(func(_ *policy, w *worker, _ *input) { w.told = w.told && w.wasReady }),
		"a restart does not back off":   spoil(func(p *policy, _ *worker, _ *input) { p.backoff = Backoff{Free: 1 << 30} }),
		"a failed start does not count": spoil(func(_ *policy, w *worker, in *input) { w.failures = 0 }),
		"a stop does not drain":         spoil(func(p *policy, _ *worker, _ *input) { p.drain = 0 }),
		"drains without end":            spoil(func(_ *policy, w *worker, in *input) { w.due *= time.Duration(toInt(!w.draining)) }),
		"a timer is lost":               spoil(func(_ *policy, w *worker, in *input) { w.due = w.due * time.Duration(w.start%2) }),
		"a blocked leaf is forgotten": spoil(func(_ *policy, w *worker, in *input) {
			if in.kind == inBlocked {
				in.kind = inRemoved
			}
		}),
		"restarted before the leaf is gone": spoil(func(_ *policy, w *worker, in *input) {
			if in.kind == inExited && w.state == StateUp {
				in.kind, w.state = inRemoved, StateKilling
			}
		}),
		"an end after the kill is missed": spoil(func(_ *policy, w *worker, in *input) {
			if w.state == StateKilling && !w.removing && in.kind != inTimer {
				in.kind, w.due = 0, 0
			}
		}),
		"an announced end is waited for without end": spoil(func(_ *policy, w *worker, _ *input) {
			if w.leaving && w.state == StateStopping {
				w.due = 0
			}
		}),
		"an announced end is final":  spoil(func(_ *policy, w *worker, in *input) { w.wantStop = w.wantStop || in.kind == inStopping }),
		"a kill is not done":         drop(func(_, _ worker, a action) bool { return a.do == doKill }),
		"a signal is not sent":       drop(func(_, _ worker, a action) bool { return a.do == doSignal }),
		"a leaf is not removed":      drop(func(_, w worker, a action) bool { return a.do == doRemove && w.start%5 == 0 }),
		"a failed start is not told": drop(func(_, _ worker, a action) bool { return a.kind == EventStartFailed && a.from == StateUp }),
		"ready is not told":          drop(func(_, w worker, a action) bool { return a.kind == EventReady && w.start%7 == 0 }),
		"an attempt is never begun":  drop(func(_, w worker, a action) bool { return a.do == doSpawn && w.start == 3 }),
		"a restart waits for the backoff": spoil(func(_ *policy, w *worker, in *input) {
			if in.kind == inRemoved {
				w.again = false
			}
		}),
		"a start that follows a stop too soon is forgotten": spoil(func(_ *policy, w *worker, in *input) {
			if in.kind == inStart && w.state != StateDown {
				in.kind = 0
			}
		}),
		"what is unwell completes":       spoil(func(_ *policy, w *worker, in *input) { w.unwell = false }),
		"the age of an old start counts": spoil(func(p *policy, w *worker, in *input) { p.age /= 4 }),
		"who has killed is forgotten": spoil(func(_ *policy, w *worker, in *input) {
			if in.kind == inRemoved {
				w.strike = nil
			}
		}),
		"an exit is taken for our stop": drop(func(w, _ worker, a action) bool { return a.kind == EventExited }),
	}
}

var (
	errFuzz = errors.New("fuzz")
	errSim  = errors.New("simulated")
)

// FuzzStep feeds the machine any inputs in any order: whatever comes, it must
// not start twice, come back after a stop, tell a start twice or lose its chain
// of events.
func FuzzStep(f *testing.F) {
	f.Add([]byte{1, 2, 4, 6, 8, 10}, uint8(0))
	f.Add([]byte{1, 2, 11, 6, 8, 1, 2}, uint8(1))
	f.Add([]byte{1, 3, 10, 2, 6, 9, 10, 8}, uint8(3))
	f.Add([]byte{1, 12, 2, 6, 8}, uint8(6))
	f.Fuzz(func(t *testing.T, data []byte, which uint8) {
		policies := simPolicies()
		p := policies[int(which)%len(policies)]
		if err := fuzzLife(&p, data); err != nil {
			t.Fatal(err)
		}
	})
}

func fuzzLife(p *policy, data []byte) error {
	var w worker
	var acts []action
	told := map[uint64]int{}
	shown, stopped := StateDown, false
	now := time.Duration(1)
	for _, b := range data {
		in := input{
			kind: inputKind(b&15 + 1), start: w.start - uint64(b>>7), at: now,
			extend: time.Duration(b) * time.Second, leaf: b&16 != 0, empty: b&32 != 0, ok: b&64 != 0, err: errFuzz, failure: &StartFailure{},
		}
		now += time.Duration(b) * 20 * time.Millisecond
		before := w
		w, acts = p.step(w, in, acts[:0])
		spawns := 0
		for _, a := range acts {
			switch {
			case a.do == doSpawn:
				spawns++
			case a.do == doReport && a.from != shown:
				return fmt.Errorf("%v from %v after %v", a.kind, a.from, shown)
			case a.do == doReport && a.kind == EventStartFailed, a.do == doReport && a.kind == EventReady:
				told[a.start]++
			}
			if a.do == doReport {
				shown = a.to
			}
		}
		if in.kind == inStart || in.kind == inRestart {
			stopped = false
		}
		if spawns > 1 || spawns == 1 && (stopped || w.start != before.start+1) {
			return fmt.Errorf("%d starts from %+v by %+v, stopped %v", spawns, before, in, stopped)
		}
		if told[before.start] > 1 || w.start > before.start && told[before.start] == 0 && before.start > 0 {
			return fmt.Errorf("start %d was told %d times", before.start, told[before.start])
		}
		if w.ready && w.state != StateUp {
			return fmt.Errorf("ready while %v", w.state)
		}
		if stopped && before.over() && w.state != before.state {
			return fmt.Errorf("%v after it was over as %v", w.state, before.state)
		}
		stopped = stopped || in.kind == inStop || in.kind == inKill
	}
	return nil
}

func TestWorkerIsSmall(t *testing.T) {
	if got := unsafe.Sizeof(worker{}); got > 120 {
		t.Errorf("size of worker = %d bytes, want at most 120", got)
	}
}

func BenchmarkStep(b *testing.B) {
	p := simPolicies()[0]
	var acts []action
	var w worker
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		at := time.Duration(i+1) * time.Minute
		w, acts = p.step(w, input{kind: inStart, at: at}, acts[:0])
		w, acts = p.step(w, input{kind: inSpawned, start: w.start, at: at}, acts[:0])
		w, acts = p.step(w, input{kind: inReady, start: w.start, at: at}, acts[:0])
		w, acts = p.step(w, input{kind: inExited, start: w.start, at: at}, acts[:0])
		w, acts = p.step(w, input{kind: inRemoved, start: w.start, at: at}, acts[:0])
	}
}
