package supervise

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/spawn"
)

// order is work that the engine hands to a helper goroutine.
type order struct {
	kind  orderKind
	i     int32
	n     int32 // number within the pool
	start uint64
	pool  *pool
	rev   *revision

	before *revision // ordLimit

	// The rest is for ordRemove.
	proc   *spawn.Process
	extra  *extra
	leafID uint64
	hits   uint32
	byUs   bool // we ended the start
	killed bool // and killed the leaf, so what is in it was not left behind
	told   bool // nobody wants the tail of stderr
	again  bool // not the first try

	settle func() // ordSettle
	then   message
}

// startOrder tells a spawner to begin the start of that number of slot i.
type startOrder struct {
	i     int32
	n     int32 // number within the pool
	start uint64
	pool  *pool
	rev   *revision
}

type orderKind uint8

const (
	ordRemove    orderKind = iota + 1
	ordKill                // one leaf
	ordKillRun             // everything
	ordSignalAll           // every member of a leaf
	ordLimit               // one leaf, anew
	ordSettle              // what a worker said before its end
	ordFreeze              // one leaf, or its thaw
	ordWorkerRecord
	ordPoolRecord
)

// act carries out, or orders, one action. Only what the kernel does at once is
// done here.
func (s *Supervisor) act(i int32, a *action) {
	c := &s.slots[i]
	switch a.do {
	case doSpawn:
		c.port, c.pid, c.rev = 0, 0, c.next
		c.asked = false
		s.launch(startOrder{i: i, n: c.n, start: c.start, pool: c.pool, rev: c.rev})
	case doProbe:
		s.startAttempt(i)
	case doExpire:
		if c.extra != nil && c.extra.cancel != nil {
			c.extra.cancel(errStartTimeout)
		}
	case doSignal:
		s.signal(i)
	case doKill:
		s.kills = append(s.kills, i)
	case doWatch:
		s.startWatch(i)
	case doRecycle:
		s.recycle(i, ReasonAge, fmt.Errorf("ready for %v", (s.now()-c.readyAt).Round(time.Millisecond)))
	case doRemove:
		// The remover owns them from now on.
		c.extra.stopAttempt()
		c.extra.stopWatch()
		s.chores.push(order{
			kind: ordRemove, i: i, n: c.n, start: c.start, pool: c.pool, rev: c.rev,
			proc: c.proc, extra: c.extra, leafID: c.leafID, hits: c.hits, byUs: c.byUs, killed: c.killed, told: c.told, again: c.tries > 0,
		})
		c.proc, c.extra = nil, nil
	case doReport:
		s.report(i, a)
	}
}

// signal asks a worker to stop. A stopped process could not: so it is continued.
func (s *Supervisor) signal(i int32) {
	c := &s.slots[i]
	if c.rev.spec.Stop.All || c.rev.policy.leaf {
		s.chores.push(order{kind: ordSignalAll, i: i, n: c.n, start: c.start, pool: c.pool, rev: c.rev})
		return
	}
	// What cannot be signalled (it has ended, or changed its user) is killed
	// with its leaf when the grace is over.
	p := c.mainHandle()
	_ = p.Signal(c.rev.spec.Stop.Signal)
	_ = p.Signal(unix.SIGCONT)
}

// flushKills orders the kills that a batch has brought: one for the whole run
// when nothing is to survive, else one per leaf.
func (s *Supervisor) flushKills() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.kills) > 1 && s.live == 0 && s.halting.Load() {
		s.chores.push(order{kind: ordKillRun})
	} else {
		for _, i := range s.kills {
			s.killLeaf(i)
		}
	}
	s.kills = s.kills[:0]
	if cap(s.kills) > spareItems {
		s.kills = nil
	}
}

// killLeaf orders the kill of one leaf. The caller holds mu.
func (s *Supervisor) killLeaf(i int32) {
	c := &s.slots[i]
	c.killProcess()
	s.chores.push(order{kind: ordKill, i: i, n: c.n, start: c.start, pool: c.pool})
}

// report makes an event of a report, and counts it.
func (s *Supervisor) report(i int32, a *action) {
	c := &s.slots[i]
	e := Event{
		Worker: c.id(), Start: a.start, Kind: a.kind, Reason: a.why, From: a.from, To: a.to, Ready: a.ready,
		PID: int(c.pid), Port: int(c.port), Exit: a.exit, Failure: a.failure, Escalated: a.escalated,
		Leftover: a.leftover, Elapsed: a.elapsed, Delay: a.delay, Err: a.err,
	}
	s.tally(c, &e)
	s.emit(e)
}

// tally keeps the result, and the cause in words.
func (s *Supervisor) tally(c *slot, e *Event) {
	r := &s.result
	r.Leftover += e.Leftover
	switch e.Kind {
	case EventStarting:
		r.Started++
		if e.Reason == ReasonScale || e.Reason == ReasonSurge {
			c.cause = "" // that was when the number was another worker's
		}
	case EventReady:
		r.Ready++
		if !c.everReady && c.everFailed {
			r.NeverReady--
		}
		c.everReady = true
	case EventStartFailed:
		if e.Failure.Cause == CauseCanceled {
			return
		}
		r.FailedStarts++
		if !c.everReady && !c.everFailed {
			r.NeverReady++
		}
		c.everFailed = true
		c.cause = e.Failure.Error()
	case EventExited:
		r.Exited++
		c.cause = describeEnd(e)
	case EventEscalated:
		r.Escalated++
	case EventGaveUp:
		r.GaveUp++
		e.Err = errors.New(c.cause)
	case EventCompleted:
		r.Completed++
		c.cause = ""
	case EventBlocked:
		r.Blocked++
	case EventUp, EventBackoff, EventStopping, EventStopped, EventDegraded, EventMain, EventReloading, EventReloaded:
	case EventPressure, EventPressureOver, EventHeld, EventReleased, EventFrozen, EventThawed, EventPressureTimeout:
	case EventScaled, EventRollout, EventRolledOut, EventRolloutStopped, EventAdded, EventRemoved, EventWaiting, EventRecycling:
		// Nothing to count.
	case EventUnhealthy:
		r.Unhealthy++
		c.cause = "unhealthy: " + e.Err.Error()
	}
}

func describeEnd(e *Event) string {
	switch {
	case e.Exit != nil && e.Err != nil:
		return fmt.Sprintf("%v: %v", *e.Exit, e.Err)
	case e.Exit != nil:
		return e.Exit.String()
	case e.Err != nil:
		return e.Err.Error()
	}
	return "gone"
}

// watch puts a new process, and with TrackLeaf its leaf, under the poller.
// Oneshot, since a dead process stays readable until the remover has reaped it.
func (s *Supervisor) watch(i int32) error {
	c := &s.slots[i]
	token := pollToken(i, c.start)
	if err := s.poller.Add(c.proc.Handle().FD(), unix.EPOLLIN|unix.EPOLLONESHOT, token); err != nil {
		return fmt.Errorf("watch process of %v: %w", c.id(), err)
	}
	if c.extra == nil || c.extra.events == nil {
		return nil
	}
	// Edge-triggered: the engine reads the file again after each event.
	err := s.poller.Add(int(c.extra.events.Fd()), unix.EPOLLPRI|unix.EPOLLET, token|leafToken)
	if err != nil {
		return fmt.Errorf("watch leaf of %v: %w", c.id(), err)
	}
	return nil
}

// The bits that mark the token of a leaf's cgroup.events, and of a process that the
// worker has named.
const (
	leafToken = 1 << 32
	mainToken = 1 << 33
)

func pollToken(i int32, start uint64) uint64 { return uint64(i)<<34 | uint64(uint32(start)) }

// onPoll takes the poller's events. Closing a descriptor takes it out of the
// poller's set; what was fetched before is told by the start's number.
func (s *Supervisor) onPoll(token uint64, _ uint32) {
	if token == pressureToken {
		s.inbox.post(message{do: s.pressureFired})
		return
	}
	m := message{i: int32(token >> 34), in: input{kind: inExited}, polled: uint32(token), named: token&mainToken != 0}
	if token&leafToken != 0 {
		m.in.kind = inEmpty
	}
	s.tell(m)
}

// lookAtLeaf finds out, with TrackLeaf, what an event of the poller means. It
// returns false when it means nothing.
func (s *Supervisor) lookAtLeaf(c *slot, in *input) bool {
	if c.extra == nil || c.extra.events == nil || c.proc == nil {
		return false
	}
	var buf [64]byte
	n, err := unix.Pread(int(c.extra.events.Fd()), buf[:], 0)
	in.empty = err != nil || !populated(buf[:n]) || s.guests.only(c) // a removed leaf cannot be read
	if in.kind == inEmpty {
		return in.empty
	}
	exit, err := c.proc.Reap()
	if err != nil {
		in.empty = true // nothing is known any more: let the remover see to it
		return true
	}
	in.ok = exit.Success()
	c.extra.exit, c.extra.early = &exit, in.ok && !in.empty
	return true
}

// startAttempt lets the readiness rule wait beside the worker.
func (s *Supervisor) startAttempt(i int32) {
	c := &s.slots[i]
	if c.extra == nil || c.extra.attempt == nil {
		// A reload has brought the rule while this start was under way without one.
		s.inbox.post(message{i: i, in: input{kind: inReady, start: c.start}})
		return
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	c.extra.cancel = cancel
	a := attempt{i: i, start: c.start, rev: c.rev, proc: c.proc, extra: c.extra}
	s.helpers.Go(func() {
		if m := a.run(ctx); m.in.kind != 0 {
			s.tell(m)
		}
	})
}

// populated reads the text of cgroup.events.
func populated(text []byte) bool { return bytes.Contains(text, []byte("populated 1")) }
