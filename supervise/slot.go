package supervise

import (
	"context"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/pidfd"
	"github.com/pitvisor/pitvisor/spawn"
)

// slot is one worker and what the engine holds for it. There may be ten
// thousand, so it is kept small: TestSlotIsSmall.
type slot struct {
	worker
	pool   *pool
	rev    *revision      // of the current start
	next   *revision      // of the next one
	proc   *spawn.Process // nil when there is none to watch
	extra  *extra         // nil for most workers that idle
	leafID uint64
	cause  string // of the last failure, in words
	n      int32  // number within the pool
	timer  int32  // place among the timers
	pid    int32  // of the current or last process, for printing
	hits   uint32 // what pool.hits said at the start
	port   uint16

	queued bool // its start waits for its turn
	flying bool // its start has had its turn, and is not over
	asked  bool // to be recycled, for what was measured or counted

	frozen bool // or is about to be, because its pool is
	spared bool // not, because somebody has thawed it

	everReady  bool
	everFailed bool
	recording  bool // an order to write its record is queued
}

// extra is what only some starts need: those with a readiness attempt under
// way, with output, with TrackLeaf, or with a leaf that cannot be removed.
type extra struct {
	attempt Attempt
	leaf    *cgroup.Dir // open for the attempt
	cancel  context.CancelCauseFunc
	tail    func() []string
	done    func()

	words func() // waits for the last ones; see Inherited.Settle
	said  Said
	main  atomic.Pointer[pidfd.Process] // that the worker has named; nil is the one that was started

	reloadAt   time.Duration // when the last reload that was told began
	reloadTold bool          // and its end was not told yet

	vigil   Vigil
	unwatch context.CancelCauseFunc // the goroutine behind it closes the vigil

	events *os.File    // cgroup.events of the leaf, with TrackLeaf
	exit   *spawn.Exit // of the main process, when it has been reaped already
	early  bool        // and it ended before the worker did
}

// close gives back what the extra holds, except what a running attempt owns.
func (x *extra) close() {
	if x == nil {
		return
	}
	if x.attempt != nil && x.cancel == nil {
		_ = x.attempt.Close() // the start is over; nobody could act on it
		x.closeLeaf()
	}
	if x.vigil != nil && x.unwatch == nil {
		_ = x.vigil.Close() // it never watched
		x.vigil = nil
	}
	if x.events != nil {
		_ = x.events.Close() // read-only; nothing to lose
		x.events = nil
	}
	x.closeMain()
	if x.done != nil {
		x.done()
		x.done = nil
	}
}

// stopAttempt ends the waiting of an attempt that is under way.
func (x *extra) stopAttempt() {
	if x != nil && x.cancel != nil {
		x.cancel(errStopped)
	}
}

// settle lets go of an attempt that has given its answer. It returns nil when
// nothing else is held.
func (x *extra) settle() *extra {
	x.stopAttempt() // it has ended; this frees the context
	x.attempt, x.cancel, x.tail = nil, nil, nil
	if x.done == nil && x.events == nil && x.vigil == nil && x.words == nil {
		return nil
	}
	return x
}

func (x *extra) closeLeaf() {
	if x.leaf != nil {
		_ = x.leaf.Close() // a directory descriptor; nothing to lose
		x.leaf = nil
	}
}

// lastLines returns the tail of stderr.
func (x *extra) lastLines() []string {
	if x == nil || x.tail == nil {
		return nil
	}
	return x.tail()
}

// killProcess kills the main process by its pidfd: once it has left its leaf it is
// beyond the reach of any cgroup's kill.
func (s *slot) killProcess() {
	if s.proc != nil {
		_ = s.proc.Signal(unix.SIGKILL) // it may have ended
	}
	if named := s.extra.mainProcess(); named != nil {
		_ = named.Signal(unix.SIGKILL) // likewise
	}
}

// drop gives back what is still held for a leaf that cannot be removed.
func (s *slot) drop() {
	if s.proc != nil {
		_ = s.proc.Close() // a pidfd; nothing to lose
	}
	s.extra.close()
	s.proc, s.extra = nil, nil
}

func (s *slot) id() WorkerID { return WorkerID{Pool: s.pool.name, Slot: int(s.n)} }

// leafName names the leaf of one start. It is never used twice in a run.
func leafName(slot int32, start uint64) string {
	var b [32]byte
	name := strconv.AppendInt(b[:0], int64(slot), 10)
	name = append(name, '.')
	return string(strconv.AppendUint(name, start, 10))
}
