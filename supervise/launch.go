package supervise

import (
	"runtime"
	"time"

	"github.com/pitvisor/pitvisor/internal/pressure"
)

// Workers that load for long share the processors while they do, and many of them at
// once only make each other late. So the starts of workers with a readiness rule take
// turns: only so many are on their way to ready at a time. How many is found out: it
// grows with every worker that is ready about as soon as the best one of its pool was,
// unless programs already wait for a processor most of the time, and shrinks when they
// take much longer or time out. Nobody sleeps, and a crash alone never waits.

const (
	// slowStart is how long a start keeps others waiting. What takes longer waits
	// for something else than a processor.
	slowStart = 5 * time.Second
	// most bounds the starts at a time.
	mostStarting = 1024
	// busyPressure is the share of time, in percent, some program waited for a
	// processor, above which nothing grows.
	busyPressure = 80
	// pressureEvery bounds how often the kernel is asked.
	pressureEvery = 500 * time.Millisecond
)

// launches is the starts that wait for their turn, and those that have it.
type launches struct {
	waiting []startOrder
	flights []flight // in the order of their turns; some are over
	flying  int
	fixed   bool
	least   float64
	window  float64 // how many may fly

	busy    bool // as the kernel said last
	askedAt time.Duration
}

// flight is a start that has had its turn.
type flight struct {
	i     int32
	start uint64
	at    time.Duration
}

func newLaunches(most int) launches {
	if most > 0 {
		return launches{fixed: true, window: float64(most)}
	}
	n := float64(max(8, 4*runtime.GOMAXPROCS(0)))
	return launches{least: n / 2, window: n}
}

// narrow lets no more fly than at the least: it is known that resources are short.
func (l *launches) narrow() {
	if !l.fixed {
		l.window = l.least
	}
}

// due says when the first flight has taken so long that another start may have its
// turn. It waits for nothing while nobody waits.
func (l *launches) due() (time.Duration, bool) {
	if len(l.waiting) == 0 || len(l.flights) == 0 {
		return 0, false
	}
	return l.flights[0].at + slowStart, true
}

// launch hands a start to the spawners when its turn has come.
func (s *Supervisor) launch(o startOrder) {
	if o.pool.press.holds() {
		s.hold(o)
		return
	}
	if !o.rev.policy.probed {
		s.order(o)
		return
	}
	s.slots[o.i].queued = true
	s.launches.waiting = append(s.launches.waiting, o)
	s.launchMore()
}

// order hands a start to the spawners.
func (s *Supervisor) order(o startOrder) {
	s.starts.push(o)
	s.ordered = true
}

// launchMore lets as many starts have their turn as may.
func (s *Supervisor) launchMore() {
	l := &s.launches
	if len(l.waiting) == 0 {
		return
	}
	s.forgetFlights()
	for len(l.waiting) > 0 && float64(l.flying) < l.window {
		o := l.waiting[0]
		if l.waiting = l.waiting[1:]; len(l.waiting) == 0 {
			l.waiting = nil
		}
		c := &s.slots[o.i]
		if !c.queued || c.start != o.start {
			continue // it was told that nothing comes of it
		}
		c.queued, c.flying = false, true
		l.flying++
		l.flights = append(l.flights, flight{i: o.i, start: o.start, at: s.now()})
		s.order(o)
	}
}

// forgetFlights drops those that are over, and does not count those that are slow.
func (s *Supervisor) forgetFlights() {
	l := &s.launches
	for len(l.flights) > 0 {
		f := l.flights[0]
		c := &s.slots[f.i]
		lasts := c.flying && c.start == f.start
		if lasts && s.now()-f.at < slowStart {
			return
		}
		if lasts {
			c.flying = false
			l.flying--
		}
		l.flights = l.flights[1:]
	}
	l.flights = nil
}

// land sees, after a step, whether a start has had what it wanted of its turn, or
// need not wait for it any more.
func (s *Supervisor) land(i int32) {
	c := &s.slots[i]
	switch {
	case c.queued && c.told:
		c.queued = false
		if c.pool.press.holds() {
			s.noteSize(c.pool)
		}
		s.inbox.post(message{i: i, in: input{
			kind: inSpawnFailed, start: c.start, failure: failed(PhasePrepare, CauseCanceled, errStopped),
		}})
	case c.flying && (c.told || c.state != StateStarting && c.state != StateUp):
		c.flying = false
		s.launches.flying--
		s.learn(c)
		s.launchMore()
	}
}

// learn draws conclusions from a flight that is over.
func (s *Supervisor) learn(c *slot) {
	l, p := &s.launches, c.pool
	if l.fixed {
		return
	}
	if !c.wasReady {
		if c.expired {
			l.window = max(l.least, l.window/2)
		}
		return
	}
	took := c.readyAt - c.began
	if p.best == 0 || took < p.best {
		p.best = took
	} else {
		p.best += p.best / 64 // it may have been luck
	}
	switch {
	case took > 4*p.best:
		l.window = max(l.least, l.window*0.95)
	case took <= 2*p.best && len(l.waiting) > 0 && !s.crowded():
		l.window = min(l.window+1, mostStarting)
	}
}

// crowded says whether programs of the run wait for a processor most of the time.
// A kernel without pressure information never says so.
func (s *Supervisor) crowded() bool {
	l := &s.launches
	if now := s.now(); l.askedAt == 0 || now-l.askedAt > pressureEvery {
		l.askedAt = now
		text, err := s.opts.Run.Dir().ReadFile("cpu.pressure")
		line, ok := pressure.Parse(string(text), false)
		l.busy = err == nil && ok && line.Average > busyPressure
	}
	return l.busy
}
