package supervise

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/internal/pressure"
)

// How the engine watches pressure. The kernel's triggers are in the poller, so while
// nothing is short nothing is done. When one fires, and once when it is set, a goroutine
// begins to take samples, once a second, and ends when no lookout needs more.

// sampleEvery is how often samples are taken.
const sampleEvery = time.Second

// pressureToken marks the token of a trigger. The others have no such bit.
const pressureToken = 1 << 63

// pressing is what is watched, and what came of it.
type pressing struct {
	lookouts []*lookout
	gauges   []*gauge
	governor governor

	sampling bool // there is the goroutine
	quiet    bool // it may end
}

// lookout holds one set of thresholds against what is measured: that of a pool, or one
// of the run, about which only events tell.
type lookout struct {
	pool   *pool // nil for the run
	rule   Pressure
	meters []*watched
}

// watched is one threshold of a lookout.
type watched struct {
	threshold
	*pressure.Meter
	told PressureInfo
}

// gauge is one number of the kernel's that some lookout needs.
type gauge struct {
	where PressurePlace
	rule  pressure.Rule // the lowest that is asked for
	*pressure.Trigger
	failed bool // it cannot be read any more
}

// on returns the first threshold that is passed, nil if none is.
func (w *lookout) on() *watched {
	for _, m := range w.meters {
		if m.On() {
			return m
		}
	}
	return nil
}

// place is the cgroup that is looked at; nil is the host.
func (s *Supervisor) place(p PressurePlace) *cgroup.Dir {
	if p == PressureOfRun {
		return s.opts.Run.Dir()
	}
	return nil
}

// tryPressure finds out whether the thresholds can be watched here.
func tryPressure(where *cgroup.Dir, p *Pressure) error {
	for _, t := range p.thresholds() {
		trigger, err := pressure.Open(where, t.Source, p.rule(t))
		if err != nil {
			return err
		}
		_ = trigger.Close() // it was only tried
	}
	return nil
}

// watchPressure brings the lookouts up to date with what the pools want now. The caller
// holds mu.
func (s *Supervisor) watchPressure() {
	if s.halting.Load() || !s.lookoutsChanged() {
		return
	}
	s.openGauges()
	s.forgetUnmeasured()
	s.govern(s.now())
}

// lookoutsChanged makes new lookouts where others are wanted, and says whether it has.
func (s *Supervisor) lookoutsChanged() bool {
	x := &s.pressing
	kept, changed := make([]*lookout, 0, len(x.lookouts)), false
	keep := func(p *pool, rule Pressure) {
		if len(rule.thresholds()) == 0 {
			return
		}
		for _, w := range x.lookouts {
			if w.pool == p && w.rule == rule && !slices.Contains(kept, w) {
				kept = append(kept, w)
				return
			}
		}
		kept, changed = append(kept, newLookout(p, rule)), true
	}
	for _, rule := range s.runs.Watch {
		keep(nil, rule)
	}
	for _, p := range s.pools {
		if !p.going {
			keep(p, p.crew.rev.pressure.Pressure)
		}
		if p.press.policy != p.crew.rev.pressure {
			changed = true
			p.press.follow(p.crew.rev.pressure, s.now())
		}
	}
	changed = changed || len(kept) != len(x.lookouts)
	for _, w := range x.lookouts {
		if !slices.Contains(kept, w) {
			for _, m := range w.meters {
				s.tellOver(w, m, "watched")
			}
		}
	}
	x.lookouts = kept
	return changed
}

func newLookout(p *pool, rule Pressure) *lookout {
	w := &lookout{pool: p, rule: rule}
	for _, t := range rule.thresholds() {
		w.meters = append(w.meters, &watched{threshold: t, Meter: pressure.NewMeter(rule.rule(t))})
	}
	return w
}

// openGauges opens the triggers that the lookouts need, and closes the others.
func (s *Supervisor) openGauges() {
	x := &s.pressing
	var need []*gauge
	for _, w := range x.lookouts {
		for _, m := range w.meters {
			rule := w.rule.rule(m.threshold)
			if g := gaugeOf(need, w.rule.Where, m.Source); g == nil {
				need = append(need, &gauge{where: w.rule.Where, rule: rule, Trigger: &pressure.Trigger{Source: m.Source}})
			} else if rule.Above < g.rule.Above {
				g.rule = rule
			}
		}
	}
	before := x.gauges
	x.gauges = nil
	for _, g := range need {
		old := gaugeOf(before, g.where, g.Source)
		if old != nil && old.rule.Above == g.rule.Above && !old.failed {
			x.gauges = append(x.gauges, old)
			continue
		}
		if err := s.openGauge(g); err != nil {
			s.emit(Event{Worker: WorkerID{Slot: -1}, Kind: EventDegraded, Err: err})
			continue
		}
		x.gauges = append(x.gauges, g)
	}
	s.closeGauges(slices.DeleteFunc(before, func(g *gauge) bool { return slices.Contains(x.gauges, g) }))
}

func (s *Supervisor) openGauge(g *gauge) (err error) {
	if g.Trigger, err = pressure.Open(s.place(g.where), g.Source, g.rule); err != nil {
		return err
	}
	// Not EPOLLPRI: the kernel takes that back at the first look, and the first to look is
	// the set that ours is in. A trigger is readable at all times, so each edge is its own.
	if err = s.poller.Add(g.FD(), unix.EPOLLIN|unix.EPOLLET, pressureToken); err != nil {
		_ = g.Close() // nobody waits for it
	}
	return err
}

// closeGauges closes triggers, which takes the kernel some time.
func (s *Supervisor) closeGauges(gone []*gauge) {
	if len(gone) == 0 {
		return
	}
	s.helpers.Go(func() {
		for _, g := range gone {
			_ = g.Close() // nothing depends on it
		}
	})
}

func gaugeOf(all []*gauge, where PressurePlace, source pressure.Source) *gauge {
	for _, g := range all {
		if g.where == where && g.Source == source {
			return g
		}
	}
	return nil
}

// pressureFired begins to take samples. The engine calls it when a trigger has fired.
func (s *Supervisor) pressureFired() {
	x := &s.pressing
	x.quiet = false
	if x.sampling || s.halting.Load() {
		return
	}
	x.sampling = true
	for _, w := range x.lookouts {
		for _, m := range w.meters {
			m.Restart()
		}
	}
	s.helpers.Go(s.keepSampling)
}

// sampled is one look at a gauge.
type sampled struct {
	*gauge
	at, total time.Duration
	err       error
}

// keepSampling takes samples until nobody needs any.
func (s *Supervisor) keepSampling() {
	ticker := time.NewTicker(sampleEvery)
	defer ticker.Stop()
	for {
		s.mu.Lock()
		if s.pressing.quiet || s.halting.Load() {
			s.pressing.sampling = false
			s.mu.Unlock()
			return
		}
		gauges := slices.Clone(s.pressing.gauges)
		s.mu.Unlock()
		samples := make([]sampled, len(gauges))
		for i, g := range gauges {
			total, err := g.Total()
			samples[i] = sampled{gauge: g, at: s.now(), total: total, err: err}
		}
		s.inbox.post(message{do: func() { s.takeSamples(samples) }})
		select {
		case <-ticker.C:
		case <-s.ended:
			return
		}
	}
}

// takeSamples hands samples to the meters. The engine calls it.
func (s *Supervisor) takeSamples(samples []sampled) {
	if s.halting.Load() {
		return
	}
	for _, w := range s.pressing.lookouts {
		for _, m := range w.meters {
			i := slices.IndexFunc(samples, func(x sampled) bool { return x.where == w.rule.Where && x.Source == m.Source })
			if i >= 0 && samples[i].err == nil && m.Add(samples[i].at, samples[i].total) {
				s.tellPressure(w, m)
			}
		}
	}
	for i := range samples {
		s.noteFailure(&samples[i])
	}
	s.forgetUnmeasured()
	at := s.now() // what cannot be measured any more is not done for ever
	if len(samples) > 0 {
		at = samples[0].at
	}
	s.govern(at)
	s.pressing.quiet = s.calm()
}

// noteFailure tells once that something cannot be measured any more.
func (s *Supervisor) noteFailure(x *sampled) {
	if x.err != nil && !x.failed && slices.Contains(s.pressing.gauges, x.gauge) {
		x.failed = true
		s.emit(Event{Worker: WorkerID{Slot: -1}, Kind: EventDegraded, Err: x.err})
	}
}

// forgetUnmeasured begins anew with what nobody can measure: it would be short for ever.
func (s *Supervisor) forgetUnmeasured() {
	for _, w := range s.pressing.lookouts {
		for _, m := range w.meters {
			if g := gaugeOf(s.pressing.gauges, w.rule.Where, m.Source); (g == nil || g.failed) && !m.Quiet() {
				s.tellOver(w, m, "measured")
				m.Meter = pressure.NewMeter(w.rule.rule(m.threshold))
			}
		}
	}
}

// calm says that no more samples are needed.
func (s *Supervisor) calm() bool {
	for _, w := range s.pressing.lookouts {
		for _, m := range w.meters {
			if !m.Quiet() {
				return false
			}
		}
	}
	for _, p := range s.pools {
		if !p.press.idle() {
			return false
		}
	}
	return true
}

// tellPressure tells that there is pressure, or no more.
func (s *Supervisor) tellPressure(w *lookout, m *watched) {
	kind, over := EventPressure, w.rule.For
	if !m.On() {
		kind, over = EventPressureOver, w.rule.CalmFor
	}
	m.told = PressureInfo{Where: w.rule.Where, Resource: m.Resource, Kind: m.Kind(), Share: m.Share(), Over: over}
	info := m.told
	s.emit(Event{Worker: w.id(), Kind: kind, Pressure: &info, Err: errors.New(info.String())})
}

// tellOver tells of what was short that it is not watched, or measured, any more.
func (s *Supervisor) tellOver(w *lookout, m *watched, what string) {
	if m.On() {
		info := m.told
		s.emit(Event{Worker: w.id(), Kind: EventPressureOver, Pressure: &info, Err: fmt.Errorf("it is not %s any more; at last %v", what, info)})
	}
}

// id is what the events of a lookout are about.
func (w *lookout) id() WorkerID {
	if w.pool == nil {
		return WorkerID{Slot: -1}
	}
	return WorkerID{Pool: w.pool.name, Slot: -1}
}
