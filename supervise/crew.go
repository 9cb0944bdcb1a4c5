package supervise

import "time"

// The life of a pool
//
// A pool wants size members, with the numbers from 0. Members beyond that are
// there for a time only: surge members, which stand in while others are replaced,
// and leaving ones, which are being stopped for good. Each is a slot of its own, so
// there are never two processes in one slot, and each keeps its number, and what
// follows from it, such as its port, for as long as it is a member.
//
// A rollout replaces members: by a restart, by another spec, or because some are to
// be recycled. What is not ready is replaced at once, as nothing is lost. For the
// others up to maxSurge further members are started first, with the new spec. A
// ready member is stopped only while enough are ready: at least as many as there
// should be, less maxUnavailable. Its slot starts again at once, and counts as ready
// when it is. After the last one the surge members are stopped. So the first who
// must become ready with the new spec is one that nobody needs yet.
//
// Where the spec says for how long a new one must stay ready, it counts only after that
// (pending until then), and one that does not has failed like one that never was.
//
// When a new one fails to become ready rolloutTries times, or is given up, or none
// has come to count for as long as the spec allows, the rollout stops: the surge members are stopped, what has become ready stays, the
// rest goes back to the spec it had, and the pool keeps that spec. The old ones
// serve all the while.
//
// Members that a command has stopped, that have completed or were given up, are
// absent: nobody waits for them. A new spec is theirs at their next start; of these
// only what was given up is started by it. A restart starts all of them. The same holds
// for one that is stopped by a command, or completes, before its turn has come; but what
// a restart is for is started again when it completes. A surge member that completes is
// absent, too: as many may be missing as have done all that the new spec asks for.
//
// A rollout that begins while another goes on takes its place, and what that one has
// still to do: who was to be replaced still is.

// rolloutTries is how many starts of one member may fail before a rollout stops.
const rolloutTries = 3

// recyclePause bounds how soon after a rollout that failed members are recycled again.
const (
	recyclePauseMin = time.Minute
	recyclePauseMax = time.Hour
)

// role says what a member is for.
type role uint8

const (
	roleNone    role = iota // no member: its slot is kept for the next who gets the number
	roleRegular             // one of size
	roleSurge               // stands in during a rollout
	roleLeaving             // is being stopped for good
)

// mark says how far a rollout is with a member.
type mark uint8

const (
	markNone   mark = iota
	markQueued      // is to be replaced
	markMoving      // is being replaced
)

// member is what a crew knows of one slot.
type member struct {
	rev  *revision // of its current start, or of its next if it has none
	old  *revision // while moving: what it goes back to
	role role
	mark mark

	fails  uint8 // failed starts since the rollout took it up
	ready  bool
	proved bool          // has stayed ready for long enough
	hasty  bool          // ended before it counted, and was not ready since
	due    time.Duration // when it counts, if it stays ready; 0 means that it does, or is not ready
	ending bool          // has ended by itself, or is about to; what follows is not decided yet
	absent bool          // stopped by a command, completed or given up
	failed bool          // given up
	parked bool          // stopped by a command

	begun  bool // was up once
	proven bool // was ready once
	done   bool // has completed
}

// crew is the members of one pool, and decides about them. It does nothing itself:
// what is to be done is in out.
type crew struct {
	size    int
	rev     *revision // for whoever is started next
	members []member  // by number
	held    bool      // waits for other pools: nobody is started
	halted  bool      // everything is to stop

	ready   int // members that are ready, but for leaving ones
	pending int // of these, the ones that do not count yet
	absent  int // members that are absent, but for leaving ones
	surge   int // surge members
	leaving int

	begun, proven, done int // regular members; see member

	roll  rollout
	rolls uint64 // counts the rollouts

	pause      time.Duration // after the last rollout that failed
	quietUntil time.Duration // no recycling before
	wake       time.Duration // when tick is wanted; 0 is never

	out []crewOrder
}

// rollout is a replacement of members that is under way.
type rollout struct {
	id     uint64 // 0 is none
	why    Reason
	base   *revision // what the pool goes back to
	began  time.Duration
	queue  []int // numbers to be replaced; those without markQueued are not meant any more
	queued int
	moving int

	movedAt time.Duration // when it got on last
}

// crewOrder is something that is to be done.
type crewOrder struct {
	do   crewDo
	n    int       // crewReport: the member that failed, or -1
	rev  *revision // crewStart, crewRestart, crewSet
	soft bool      // crewSet: for the current start, too
	why  Reason
	ev   Event // crewReport
}

type crewDo uint8

const (
	crewStart crewDo = iota + 1
	crewRestart
	crewStop
	crewSet // the spec of the next start
	crewReport
)

// change is what happened to a member in one step.
type change struct {
	ready  bool // it is ready now
	failed bool // a start failed, and nobody wanted that
	up     bool // its process runs, or has run
	gaveUp bool // it is in StateFailed
	done   bool // it is in StateCompleted
	down   bool // it is in StateDown
	parked bool // a stop was asked for, and is under way or done
	ending bool // it ends by itself, and whether that completes it is not known yet
}

// changeTo says how a worker is.
func changeTo(w *worker) change {
	return change{
		ready: w.ready, up: w.upAt != 0, gaveUp: w.state == StateFailed, done: w.state == StateCompleted,
		down: w.state == StateDown, parked: w.wantStop, ending: w.ending(),
	}
}

// ending says whether a start ends that nobody has ended.
func (w *worker) ending() bool {
	return (w.state == StateKilling || w.state == StateStopping) && !w.byUs && !w.wantStop
}

// changeOf says what a step has changed that its pool must know.
func changeOf(before, after *worker, acts []action) (ch change, changed bool) {
	ch = changeTo(after)
	for k := range acts {
		a := &acts[k]
		ch.failed = ch.failed || a.kind == EventStartFailed && a.failure.Cause != CauseCanceled
	}
	lives := after.state == StateUp && before.state != StateUp
	changed = ch.failed || lives || after.ready != before.ready || after.over() != before.over() || after.wantStop != before.wantStop || after.ending() != before.ending()
	return ch, changed
}

// boot starts every regular member but those that a command has stopped already.
func (c *crew) boot(why Reason) {
	c.held = false
	for n := range c.size {
		if !c.members[n].parked {
			c.order(crewStart, n, c.rev, why)
		}
	}
}

// enrol makes the members up to size, without starting them.
func (c *crew) enrol() {
	for len(c.members) < c.size {
		c.members = append(c.members, member{role: roleRegular, rev: c.rev})
	}
}

// scale changes the size.
func (c *crew) scale(size int, why Reason, now time.Duration) {
	workers := why
	if why == ReasonCommand {
		workers = ReasonScale
	}
	old := c.size
	if old == size {
		return
	}
	c.size = size
	for n := old; n < size; n++ {
		c.hire(n, roleRegular, workers)
	}
	for n := size; n < len(c.members); n++ {
		if c.members[n].role == roleRegular {
			c.dismiss(n, workers)
		}
	}
	c.report(Event{Kind: EventScaled, Reason: why, Size: size, WasSize: old})
	c.advance(now)
}

// hire makes number n a member of that role, and starts it.
func (c *crew) hire(n int, as role, why Reason) {
	for len(c.members) <= n {
		c.members = append(c.members, member{})
	}
	m := &c.members[n]
	switch m.role {
	case roleSurge: // it becomes a regular one
		c.surge--
		m.role = as
		c.achieve(m, change{up: m.ready, ready: m.ready})
		return
	case roleLeaving:
		c.leaving--
	case roleNone, roleRegular:
	}
	*m = member{role: as, rev: c.rev}
	if !c.held {
		c.order(crewStart, n, c.rev, why)
	}
}

// dismiss lets member n go.
func (c *crew) dismiss(n int, why Reason) {
	m := &c.members[n]
	c.unmark(m)
	c.forget(m)
	c.setReady(m, false)
	c.setAbsent(m, false)
	if m.role == roleSurge {
		c.surge--
	}
	m.role = roleLeaving
	c.leaving++
	c.order(crewStop, n, nil, why)
}

// changed takes note of what happened to member n.
func (c *crew) changed(n int, ch change, now time.Duration) {
	m := &c.members[n]
	if m.role == roleLeaving && (ch.down && ch.parked || ch.gaveUp || ch.done) {
		c.leaving--
		*m = member{}
		return
	}
	if m.role == roleNone || m.role == roleLeaving {
		return
	}
	early := m.due != 0 && !ch.ready && !ch.parked
	m.hasty = early || m.hasty && !ch.ready
	c.setReady(m, ch.ready)
	c.prove(m, now)
	c.achieve(m, ch)
	m.failed, m.ending = ch.gaveUp, ch.ending
	c.setAbsent(m, ch.gaveUp || ch.done || ch.parked)
	m.parked = ch.parked
	if c.roll.id == 0 || c.halted {
		return
	}
	ch.failed = ch.failed || early
	if ch.failed && m.fails < rolloutTries {
		m.fails++
	}
	mine := m.mark == markMoving || m.role == roleSurge
	if mine && (ch.gaveUp || ch.failed && m.fails >= rolloutTries || ch.done && m.hasty && m.role == roleSurge) {
		c.fail(n, nil, now)
		return
	}
	if m.mark == markQueued && m.role == roleRegular && (ch.parked || ch.done && c.roll.why != ReasonRestart) {
		c.spare(n)
	}
	if m.mark == markMoving && ch.up && !ch.ready {
		c.roll.movedAt = now // its program runs, or the old one is about to end
	}
	if m.mark == markMoving && (ch.ready && m.due == 0 || ch.done || ch.parked) {
		c.unmark(m)
		c.roll.movedAt = now
	}
	c.advance(now)
}

func (c *crew) setReady(m *member, ready bool) {
	c.ready += toInt(ready) - toInt(m.ready)
	if m.ready != ready {
		c.count(m)
	}
	m.ready = ready
}

func (c *crew) setAbsent(m *member, absent bool) {
	c.absent += toInt(absent) - toInt(m.absent)
	m.absent = absent
}

// achieve counts what other pools may wait for.
func (c *crew) achieve(m *member, ch change) {
	if m.role != roleRegular {
		return
	}
	if ch.up && !m.begun {
		m.begun = true
		c.begun++
	}
	if ch.ready && !m.proven {
		m.proven = true
		c.proven++
	}
	c.done += toInt(ch.done) - toInt(m.done)
	m.done = ch.done
}

// forget takes back what achieve has counted.
func (c *crew) forget(m *member) {
	if m.role == roleRegular {
		c.begun -= toInt(m.begun)
		c.proven -= toInt(m.proven)
		c.done -= toInt(m.done)
	}
	m.begun, m.proven, m.done = false, false, false
}

func (c *crew) unmark(m *member) {
	switch m.mark {
	case markQueued:
		c.roll.queued--
	case markMoving:
		c.roll.moving--
	case markNone:
	}
	m.mark, m.old = markNone, nil
}

func (c *crew) order(do crewDo, n int, rev *revision, why Reason) {
	c.out = append(c.out, crewOrder{do: do, n: n, rev: rev, why: why})
}

func (c *crew) report(e Event) {
	c.out = append(c.out, crewOrder{do: crewReport, n: -1, ev: e})
}
