package pressure

import "time"

// Rule says what counts as pressure. Shares are of time, 0 to 1.
type Rule struct {
	Above   float64       // from this share on it is pressure
	For     time.Duration // measured over so long
	Below   float64       // with less than this it is over
	CalmFor time.Duration // for so long, and over the last For as well
}

// Meter applies a [Rule] to samples of the kernel's total. Make it with [NewMeter].
type Meter struct {
	rule    Rule
	samples []sample // the oldest first
	on      bool
	since   time.Duration // when it began
	share   float64
}

// sample is what the kernel had counted at one time.
type sample struct{ at, total time.Duration }

// NewMeter returns a meter that has seen nothing.
func NewMeter(r Rule) *Meter { return &Meter{rule: r} }

// Restart forgets the samples: none was taken for some time. What it says stays.
func (m *Meter) Restart() { m.samples = m.samples[:0] }

// Add takes a sample and says whether pressure has begun, or is over, with it. Samples
// come in the order of time.
func (m *Meter) Add(at, total time.Duration) (changed bool) {
	m.samples = append(m.samples, sample{at, total})
	m.drop(at - max(m.rule.For, m.rule.CalmFor))
	now, ok := m.over(m.rule.For)
	if m.on {
		calm, long := m.over(m.rule.CalmFor)
		ok = ok && long && at-m.since >= m.rule.CalmFor // what was before it began is no calm after it
		now = max(now, calm)
	}
	if !ok {
		return false
	}
	m.share = now
	was := m.on
	if m.on {
		m.on = now >= m.rule.Below
	} else if m.on = now >= m.rule.Above; m.on {
		m.since = at
	}
	return m.on != was
}

// over is the share over the last d; false if no sample is that old.
func (m *Meter) over(d time.Duration) (float64, bool) {
	last := m.samples[len(m.samples)-1]
	for i := len(m.samples) - 2; i >= 0; i-- {
		if first := m.samples[i]; last.at-first.at >= d {
			return float64(last.total-first.total) / float64(last.at-first.at), true
		}
	}
	return 0, false
}

// drop drops what is older than a time, but for the newest of that.
func (m *Meter) drop(before time.Duration) {
	n := 0
	for n+1 < len(m.samples) && m.samples[n+1].at <= before {
		n++
	}
	m.samples = append(m.samples[:0], m.samples[n:]...)
}

// On says whether there is pressure.
func (m *Meter) On() bool { return m.on }

// Share is what was measured last: over For, and while there is pressure over CalmFor if
// that is more.
func (m *Meter) Share() float64 { return m.share }

// Quiet says that no more samples are needed until the trigger of the rule fires again.
func (m *Meter) Quiet() bool {
	if m.on || len(m.samples) == 0 {
		return !m.on
	}
	share, ok := m.over(m.rule.For)
	return ok && share < m.rule.triggerShare()
}

// triggerShare is from which share of its window on a trigger of the rule fires. A mean
// of Above over a longer time has a window with as much in it; the kernel's windows do
// not begin where ours do, so it is half.
func (r Rule) triggerShare() float64 { return r.Above / 2 }
