package supervise

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// sim drives the machine through a random schedule with a clock of its own.
// Beside each worker it keeps what the kernel would know, and checks every
// action against that.
type sim struct {
	policy policy
	step   stepFunc
	rnd    *rand.Rand
	now    time.Duration
	queue  simQueue
	seq    uint64
	slots  []*simSlot
	steps  int
	calm   bool                                           // nothing fails any more
	heard  func(c *simSlot, before worker, acts []action) // what a pool hears of; nil for workers without one
	ending bool                                           // the last stop is on its way: nobody asks for anything any more
	aged   func(c *simSlot)                               // a worker has reached its age
	faults []string
	acts   []action
}

// stepFunc is step, or step with a bug planted in or around it.
type stepFunc func(p *policy, w worker, in input, out []action) (worker, []action)

// simSlot is the kernel's side of one worker.
type simSlot struct {
	n         int
	w         worker
	rev, next *revision
	leaf      uint64 // number of the start whose leaf exists; 0 is none
	alive     bool   // the main process
	others    int    // processes beside it in the leaf
	deep      bool   // in uninterruptible sleep: no kill gets through
	code      int
	hit       uint64 // the start that was killed last
	unwell    uint64 // the start that was unwell last
	struck    uint64 // the start that somebody has killed last
	answering bool   // a spawner or a remover is at work and will answer
	stopped   bool
	pardon    bool // a command has asked for the next start: it need not wait
	shown     State
	told      map[uint64]int // how often each start was told, as ready or failed
	began     int            // starts
	dueAt     time.Duration  // what a timer is set for
	drainedAt time.Duration  // when a stop of a ready worker began; 0 is none

	// What the model, not the machine, thinks about the backoff.
	failures  int
	readyAt   time.Duration // of the current start; 0 is not ready
	goneAt    time.Duration // when the process of the current start ended
	notBefore time.Duration // the earliest allowed next start
}

type simItem struct {
	at  time.Duration
	seq uint64
	do  func()
}

type simQueue []simItem

func (q simQueue) Len() int { return len(q) }
func (q simQueue) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].seq < q[j].seq
}
func (q simQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *simQueue) Push(x any)   { *q = append(*q, x.(simItem)) }
func (q *simQueue) Pop() any {
	old := *q
	last := old[len(old)-1]
	*q = old[:len(old)-1]
	return last
}

func newSim(p policy, size int, seed uint64, step stepFunc) *sim {
	s := &sim{policy: p, step: step, rnd: rand.New(rand.NewPCG(seed, 1)), now: 1}
	s.aged = func(c *simSlot) { // a pool that replaces in place, or has no time
		if s.chance(60) {
			s.after(s.within(time.Second), func() { s.command(c, inRestart) })
		}
	}
	for i := range size {
		s.slots = append(s.slots, &simSlot{n: i, told: map[uint64]int{}})
	}
	return s
}

func (s *sim) fault(format string, args ...any) {
	if len(s.faults) < 10 {
		s.faults = append(s.faults, fmt.Sprintf("at %v: ", s.now)+fmt.Sprintf(format, args...))
	}
}

func (s *sim) err() error {
	if len(s.faults) == 0 {
		return nil
	}
	return fmt.Errorf("%s", strings.Join(s.faults, "\n"))
}

// bad says that nothing started with the slot's revision becomes ready.
func (c *simSlot) bad() bool { return c.rev != nil && c.rev.spec.Name == "bad" }

// hung says that no start with the slot's revision gets its turn, as when starts are held.
func (c *simSlot) hung() bool { return c.rev != nil && c.rev.spec.Name == "hung" }

// chance is true p times out of 100, and never when all is calm.
func (s *sim) chance(p int) bool { return !s.calm && s.rnd.IntN(100) < p }

// within returns a random time up to d, mostly short.
func (s *sim) within(d time.Duration) time.Duration {
	if s.rnd.IntN(4) > 0 {
		d /= 50
	}
	return time.Duration(s.rnd.Int64N(int64(d) + 1))
}

func (s *sim) after(d time.Duration, do func()) {
	s.seq++
	heap.Push(&s.queue, simItem{at: s.now + d, seq: s.seq, do: do})
}

// run lets things happen until the time is over, nothing is left to happen, or
// a fault was found.
func (s *sim) run(d time.Duration) {
	end := s.now + d
	for len(s.queue) > 0 && s.queue[0].at <= end && len(s.faults) == 0 {
		item := heap.Pop(&s.queue).(simItem)
		s.now = max(s.now, item.at)
		item.do()
	}
	if len(s.queue) == 0 || s.queue[0].at > end {
		s.now = max(s.now, end)
	}
}

// send gives the machine an input and does what it says.
func (s *sim) send(c *simSlot, in input) {
	s.steps++
	in.at, in.rnd = s.now, s.rnd.Float64()
	before := c.w
	c.w, s.acts = s.step(&s.policy, c.w, in, s.acts[:0])
	acts := append([]action(nil), s.acts...)
	waits := in.kind == inStopping // for an end that the worker has announced
	if c.w.state != before.state && !waits && (c.w.state == StateStopping || c.w.state == StateKilling) && !ends(acts) && !c.w.draining {
		s.fault("slot %d: %v became %v and nothing is done about it", c.n, before.state, c.w.state)
	}
	if before.ready && before.state == StateUp && c.w.state == StateStopping && !waits && in.kind != inUnwell {
		c.drainedAt = s.now
	}
	for _, a := range acts {
		s.act(c, a)
	}
	if s.heard != nil {
		s.heard(c, before, acts)
	}
	if c.w.due != 0 && c.w.due != c.dueAt {
		c.dueAt = c.w.due
		s.after(max(c.w.due-s.now, 0)+s.within(5*time.Millisecond), func() { s.timer(c) })
	}
	if c.w.due == 0 {
		c.dueAt = 0
	}
}

// ends says whether something is done to end a process or to remove its leaf.
func ends(acts []action) bool {
	return slices.ContainsFunc(acts, func(a action) bool {
		return a.do == doSignal || a.do == doKill || a.do == doRemove
	})
}

// timer delivers a timer, sometimes one that nobody is waiting for any more.
func (s *sim) timer(c *simSlot) {
	s.send(c, input{kind: inTimer})
	if c.w.due != 0 && c.w.due <= s.now {
		s.fault("slot %d: due %v was not taken in state %v", c.n, c.w.due, c.w.state)
	}
}

// tell delivers an input of a start, often late, sometimes twice, and where
// the machine has another way to find out, sometimes not at all.
func (s *sim) tell(c *simSlot, in input) {
	start := in.start
	s.after(s.within(20*time.Millisecond), func() {
		if s.chance(3) {
			s.after(s.within(time.Minute), func() { s.send(c, in) })
		}
		lost := in.kind != inExited && in.kind != inEmpty && in.kind != inUnwell ||
			c.w.start == start && (c.w.state == StateStopping || c.w.state == StateKilling)
		if lost && s.chance(3) {
			return
		}
		s.send(c, in)
	})
}

func (s *sim) act(c *simSlot, a action) {
	switch a.do {
	case doSpawn:
		c.rev = c.next
		s.spawn(c)
	case doProbe:
		s.probe(c)
	case doExpire:
		if !s.chance(30) {
			s.tell(c, input{kind: inNotReady, start: c.w.start, failure: &StartFailure{Cause: CauseTimeout}})
		}
	case doSignal:
		s.signal(c)
	case doKill:
		s.kill(c)
	case doRemove:
		s.remove(c)
	case doWatch:
		s.watch(c)
	case doRecycle:
		s.recycle(c)
	case doReport:
		s.report(c, a)
	}
}
