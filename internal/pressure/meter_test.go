package pressure

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

func rule() Rule {
	return Rule{Above: 0.4, For: 10 * time.Second, Below: 0.2, CalmFor: 20 * time.Second}
}

// play gives a meter one sample a second, of that share each, and returns when it
// changed.
func play(m *Meter, shares ...float64) (changes []string) {
	total := time.Duration(0)
	m.Add(0, 0)
	for i, share := range shares {
		total += time.Duration(share * float64(time.Second))
		if m.Add(time.Duration(i+1)*time.Second, total) {
			changes = append(changes, fmt.Sprintf("%d:%v", i+1, m.On()))
		}
	}
	return changes
}

// times repeats a share.
func times(n int, share float64) []float64 {
	all := make([]float64, n)
	for i := range all {
		all[i] = share
	}
	return all
}

func join(parts ...[]float64) (all []float64) {
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

func TestMeter(t *testing.T) {
	for _, test := range []struct {
		name   string
		shares []float64
		want   string
	}{
		{"calm", times(60, 0.1), "[]"},
		{"just below", times(60, 0.39), "[]"},
		{"at the threshold", times(15, 0.4), "[10:true]"},
		{"a short peak", join(times(3, 1), times(30, 0)), "[]"},
		{"a peak that makes the mean", join(times(5, 1), times(10, 0)), "[10:true]"},
		{"comes later", join(times(30, 0), times(10, 1)), "[34:true]"},
		{"goes on between the thresholds", join(times(10, 0.5), times(100, 0.3)), "[10:true]"},
		{"is over", join(times(10, 0.5), times(40, 0)), "[10:true 30:false]"},
		{"a lull is not the end", join(times(20, 0.5), times(8, 0), times(20, 0.5)), "[10:true]"},
		{"comes again", join(times(10, 0.5), times(40, 0), times(10, 1)), "[10:true 30:false 54:true]"},
	} {
		if got := fmt.Sprint(play(NewMeter(rule()), test.shares...)); got != test.want {
			t.Errorf("%s: changes %v, want %v", test.name, got, test.want)
		}
	}
}

// A meter that was left alone does not take what it has not seen for pressure, nor for calm.
func TestMeterAfterAPause(t *testing.T) {
	m := NewMeter(rule())
	play(m, times(12, 0.1)...)
	if !m.Quiet() {
		t.Error("a tenth is not quiet enough to stop looking")
	}
	m.Restart()
	if m.Add(time.Hour, 50*time.Minute) || m.On() || !NewMeter(rule()).Quiet() {
		t.Error("the time in which nobody looked counts")
	}
	m.Add(time.Hour+5*time.Second, 50*time.Minute+5*time.Second)
	if m.Quiet() {
		t.Error("it is quiet before it has looked long enough")
	}
	if !m.Add(time.Hour+10*time.Second, 50*time.Minute+10*time.Second) || m.Share() != 1 {
		t.Errorf("share %v, want pressure", m.Share())
	}
}

// mean is the share over the last d; false if nobody has looked for so long.
func mean(all []sample, d time.Duration) (float64, bool) {
	last := all[len(all)-1]
	for i := len(all) - 1; i >= 0; i-- {
		if past := last.at - all[i].at; past >= d {
			return float64(last.total-all[i].total) / float64(past), true
		}
	}
	return 0, false
}

// model is the rule once more, from all samples.
func model(r Rule, on bool, since time.Duration, all []sample) bool {
	now, ok := mean(all, r.For)
	calm, long := mean(all, r.CalmFor)
	switch {
	case !on:
		return ok && now >= r.Above
	case !ok, !long, all[len(all)-1].at < since+r.CalmFor:
		return true
	}
	return now >= r.Below || calm >= r.Below
}

// simulate holds a meter against the model for a random weather, and returns what
// differs. add is Add, or one with a bug.
func simulate(seed uint64, add func(m *Meter, at, total time.Duration) bool) error {
	rnd := rand.New(rand.NewPCG(seed, 1))
	r := Rule{
		Above: 0.05 + 0.9*rnd.Float64(), For: time.Duration(1+rnd.IntN(20)) * time.Second,
		CalmFor: time.Duration(1+rnd.IntN(40)) * time.Second,
	}
	r.Below = r.Above * rnd.Float64()
	m := NewMeter(r)
	var all []sample
	at, total, share, on, since := time.Duration(0), time.Duration(0), 0.0, false, time.Duration(0)
	for range 500 {
		if rnd.IntN(10) == 0 {
			share = rnd.Float64()
		}
		step := time.Duration(200+rnd.IntN(2000)) * time.Millisecond
		at, total = at+step, total+time.Duration(share*float64(step))
		all = append(all, sample{at, total})
		want := model(r, on, since, all)
		changed := add(m, at, total)
		if m.On() != want || changed != (want != on) {
			return fmt.Errorf("seed %d, at %v: on %v, changed %v; was %v and should be %v", seed, at, m.On(), changed, on, want)
		}
		if want && !on {
			since = at
		}
		if m.Quiet() && m.On() {
			return fmt.Errorf("seed %d, at %v: quiet under pressure", seed, at)
		}
		if len(m.samples) > 60*5+2 {
			return fmt.Errorf("seed %d: %d samples are kept", seed, len(m.samples))
		}
		on = want
	}
	return nil
}

func TestMeterSimulated(t *testing.T) {
	for seed := range uint64(2000) {
		if err := simulate(seed, (*Meter).Add); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSimulationFindsPlantedBugs proves that the simulation can fail.
func TestSimulationFindsPlantedBugs(t *testing.T) {
	for name, add := range map[string]func(m *Meter, at, total time.Duration) bool{
		"no hysteresis": func(m *Meter, at, total time.Duration) bool {
			changed := m.Add(at, total)
			m.on = m.on && m.share >= m.rule.Above
			return changed
		},
		"calm is measured over too short a time": func(m *Meter, at, total time.Duration) bool {
			m.rule.CalmFor -= time.Second
			return m.Add(at, total)
		},
		"old samples are dropped too early": func(m *Meter, at, total time.Duration) bool {
			changed := m.Add(at, total)
			m.drop(at - m.rule.For/2)
			return changed
		},
		"begins one sample early": func(m *Meter, at, total time.Duration) bool {
			m.rule.For -= 300 * time.Millisecond
			return m.Add(at, total)
		},
	} {
		found := false
		for seed := range uint64(2000) {
			if simulate(seed, add) != nil {
				found = true
				break
			}
		}
		if !found {
			t.Errorf("%s: the simulation did not notice", name)
		}
	}
}

func FuzzMeter(f *testing.F) {
	f.Add(uint64(1), []byte{1, 2, 255, 255, 255, 0, 0, 0})
	f.Fuzz(func(t *testing.T, seed uint64, weather []byte) {
		if err := simulate(seed, (*Meter).Add); err != nil {
			t.Error(err)
		}
		m := NewMeter(rule())
		at, total, changes := time.Duration(0), time.Duration(0), 0
		for _, b := range weather {
			at += time.Second
			total += time.Duration(b) * time.Second / 255
			if m.Add(at, total) {
				changes++
			}
		}
		// Between two changes lies a time that was measured.
		if most := int(at/(10*time.Second)) + 1; changes > most {
			t.Errorf("%d changes in %v", changes, at)
		}
	})
}
