package supervise

import (
	"time"

	"github.com/pitvisor/pitvisor/spawn"
)

// The life of a worker
//
// A worker is one slot of a pool. It lives through many starts, one after the
// other, never two at once: a start begins by making a fresh leaf and ends when
// that leaf is removed, and only then may the next one begin. Removal is the
// only fence the kernel offers against a late fork.
//
// Starting: a spawner makes the leaf and the process. A stop that comes
// meanwhile waits for the spawner's answer, since what has been started must
// be ended.
//
// Up: the exec succeeded. Without a readiness rule the worker is ready at once;
// with one, an attempt runs beside it and has until the start timeout. Each
// start is told exactly once, as ready or as failed, whatever comes in which
// order. An end before that is a failed start, with exit 0 too. When the
// timeout is over the attempt is told so first and may answer with its own
// words; if it stays silent for another second, the failure is told without.
// A failed start whose process still lives is stopped like any other.
//
// Stopping: the signal is sent and the grace runs. Then Killing. Where the pool has a
// drain time, a worker that was ready is left alone for so long first: it is not ready
// any more, and those who send it work have time to see that.
//
// Killing: first the leaf is killed (only if the process still lives), then,
// when the process has ended, the leaf is removed with whatever the process
// left in it. Both go on elsewhere. A process that has not ended some time after
// the kill, or a leaf that cannot be removed, is blocked: that is told once,
// and removal is tried again, ever less often, for as long as it takes.
//
// When the leaf is gone it is decided what follows: down for good if a stop was
// asked for, completed or failed if the policy says so, else the next start,
// after a backoff unless the end was one of the free ones. A stop is final:
// nothing but a command brings the worker back.
//
// A ready worker may have a liveness rule beside it. When that says that it is
// unwell it is stopped, which counts as a failure like an end by itself. One that
// has reached its age is not stopped: its pool is asked (doRecycle), again and
// again while nothing comes of it, because only a pool can put another in its
// place first.
//
// The commands are start, restart, stop and kill. What a command starts begins
// without a backoff and with no failures counted. A start brings back a worker
// that is down, failed or completed, ends a backoff, and takes a stop back that is
// under way: then the next start follows at once. A restart does the same, and
// stops a worker that is up; what it interrupts is told as canceled. A stop forgets
// an earlier restart.
//
// A ready worker may say that it is stopping. It is not ready any more then, and has
// the grace to end, without a signal; its exit with 0 is told as a stop, not as an exit.
// What follows is what follows an end by itself. A worker may also ask for more time
// while it starts or stops, which moves the timer, at most maxExtend further than it
// would be.
//
// The main process is the one that was started, or the one that the worker has named
// since; the machine does not see the difference.
//
// Somebody may strike the processes of a start: kill them or send them a signal by a
// command that is none of ours. That is only remembered, while they live, and told as
// the cause when they end by it.
//
// With TrackLeaf the end of the main process (exit 0, or any during a stop) is
// not the end while the leaf is still populated; the end of the leaf is.
//
//	           spawned    spawn   ready   not-    unwell  exited   removed   blocked   timer     stop     kill     start     restart   extend  stopping   struck
//	                      failed          ready           empty
//	down       -          -       -       -       -       -        -         -         -         down     down     starting  starting  -       -          -
//	starting   up         next¹   -       -       -       note     -         -         -         note     note     note      note      -       -          -
//	up         -          -       up      stop    stop³   remove²  -         -         stop⁴     stop     killing  -         stop      later⁵  stopping³  note
//	stopping   -          -       -       -       -       remove²  -         -         killing   note     killing  note      note      later   -          note
//	killing    -          -       -       -       -       remove   next      retry     remove    note     note     note      note      -       -          -
//	backoff    -          -       -       -       -       -        -         -         starting  down     down     starting  starting  -       -          -
//	failed     -          -       -       -       -       -        -         -         -         -        -        starting  starting  -       -          -
//	completed  -          -       -       -       -       -        -         -         -         -        -        starting  starting  -       -          -
//
//	note    remembered, and acted on when the state allows
//	stop    signal and stopping, or stopping and the signal at the next timer (drain);
//	        with no grace, killing
//	remove  killing, with the removal under way
//	retry   killing, with a timer for the next removal
//	later   the timer, if it is later so
//	next    down, completed, failed, backoff or starting
//	1       killing and remove if the spawner had to leave the leaf behind
//	2       with TrackLeaf only when the leaf is empty, or the main process failed while up
//	3       only while ready
//	4       while not ready the start timeout; while ready the age, which asks the pool
//	5       only until the start is told
//
// Everything that belongs to a start carries the start's number; what comes
// late from another start is ignored. A timer that comes early, late or twice
// is compared with what is due and ignored likewise.

const (
	// answerWait is how long an attempt may take to say why it timed out.
	answerWait = time.Second
	// killWait is how long after the kill of a leaf its process may take to
	// end before removal, which names what blocks it, is tried anyway. Killing
	// ten thousand at once takes the kernel some seconds.
	killWait = 3 * time.Second
	// blockedAfter is how long removal may take before it is told as blocked.
	blockedAfter = 2 * time.Second
	// retryMin and retryMax bound the wait between two tries to remove a leaf.
	retryMin = 20 * time.Millisecond
	retryMax = 5 * time.Second
	// recycleAgain is how long after its age a worker asks its pool again, if it
	// is still there.
	recycleAgain = time.Minute
)

// policy is what step must know of a pool.
type policy struct {
	restart RestartPolicy
	backoff Backoff
	limit   int           // consecutive failures; 0 is none
	grace   time.Duration // 0 is kill at once
	drain   time.Duration // from the end of being ready to the signal
	timeout time.Duration // from up to ready; 0 is none
	probed  bool          // has a readiness rule
	leaf    bool          // TrackLeaf
	age     time.Duration // from ready until it asks to be recycled; 0 is never
	jitter  float64       // the part of the age, 0 to 1, that chance may take off
}

// worker is the state of one slot. Times are counted from the start of the
// supervisor.
type worker struct {
	start    uint64        // number of the current or last start
	since    time.Duration // when it got into its state
	began    time.Duration // when the current start began: was decided, then taken up
	upAt     time.Duration
	readyAt  time.Duration
	stopAt   time.Duration // when the stop began
	askedAt  time.Duration // when the signal was sent, if that was later
	goneAt   time.Duration // when removal began; 0 is not yet
	due      time.Duration // when a timer input is wanted; 0 is never
	failures uint32        // consecutive
	tries    uint8         // to remove the leaf

	state   State
	shown   State  // state after the last report
	why     Reason // of the current or next start
	stopWhy Reason // of the stop of this start; 0 is none
	strike  *strike

	ready      bool // may get work
	wasReady   bool // this start became ready
	told       bool // this start has been reported, as ready or failed
	toldEnd    bool // the end of this start has been reported
	toldBlock  bool // this start has been reported as blocked
	expired    bool // the attempt has been told that its time is over
	ended      bool // the process ended before the spawner said that it was up
	byUs       bool // we ended this start
	killed     bool // by a kill of its leaf
	escalated  bool // and the grace did not suffice
	removing   bool // a removal is under way
	draining   bool // the signal comes when the timer is due
	wantStop   bool // for good, or until a command starts it
	wantNoWait bool // and without grace
	again      bool // the next start follows the end at once, and nothing counts
	unwell     bool // its liveness rule has said so
	leaving    bool // it has said that it is stopping, before anybody asked it to
}

// inputKind says what happened to a worker.
type inputKind uint8

const (
	inStart inputKind = iota + 1
	inSpawned
	inSpawnFailed
	inReady
	inNotReady
	inExited // the main process ended
	inEmpty  // the leaf is not populated any more (TrackLeaf)
	inRemoved
	inBlocked
	inUnwell
	inTimer
	inStop
	inKill
	inRestart
	inExtend   // the worker asks for more time
	inStopping // the worker says that it is stopping
	inStruck   // somebody kills or signals its processes
)

// input is something that happened to a worker. start must be set where the
// comment names the kind of input that belongs to a start: all but inStart,
// inRestart, inTimer, inStop and inKill.
type input struct {
	kind  inputKind
	start uint64
	at    time.Duration
	rnd   float64 // in [0,1), for the jitter
	asked Reason  // inStart, inRestart, inStop, inKill

	began    time.Duration // inSpawned, inSpawnFailed: when a spawner took the start up; 0 leaves it
	leaf     bool          // inSpawnFailed: the leaf is still there
	empty    bool          // inExited: and so has the leaf been left empty
	ok       bool          // inExited, inRemoved: exit 0
	port     int           // inReady
	extend   time.Duration // inExtend: from now
	strike   *strike       // inStruck
	leftover int           // inRemoved, inBlocked
	exit     *spawn.Exit   // inRemoved, inBlocked
	failure  *StartFailure // inSpawnFailed, inNotReady; inRemoved, inBlocked: in case the start was not ready
	why      error         // inRemoved, inBlocked: what else is known about the end; may be nil
	err      error         // inBlocked: what keeps the leaf; inUnwell: what is wrong
}

// actionKind says what is to be done.
type actionKind uint8

const (
	doSpawn   actionKind = iota + 1 // make leaf and process of start number worker.start
	doProbe                         // let the readiness attempt wait
	doExpire                        // tell the attempt that its time is over
	doSignal                        // the stop signal
	doKill                          // kill the leaf
	doRemove                        // remove the leaf with whatever is in it
	doWatch                         // let the liveness rule watch
	doRecycle                       // ask the pool for a replacement: the worker has reached its age
	doReport                        // tell the observer
)

// action is something that is to be done for a worker. All but the kind
// belongs to doReport.
type action struct {
	do        actionKind
	kind      EventKind
	why       Reason
	start     uint64
	from, to  State
	ready     bool
	escalated bool
	leftover  int
	port      int
	exit      *spawn.Exit
	failure   *StartFailure
	elapsed   time.Duration
	delay     time.Duration
	err       error
}

// over says that nothing but a command brings the worker to life.
func (w *worker) over() bool {
	return w.state == StateFailed || w.state == StateCompleted || w.state == StateDown && w.wantStop
}

// watched says that a liveness rule has reason to go on.
func (w *worker) watched() bool { return w.state == StateUp && w.ready }

// stuck says that all that is missing to the end is a leaf that cannot be removed.
func (w *worker) stuck() bool { return w.wantStop && w.state == StateKilling && w.toldBlock }

// lives says that there is a process which nobody has killed yet.
func (w *worker) lives() bool { return w.state == StateUp || w.state == StateStopping }

// probing says that a readiness attempt has reason to go on.
func (w *worker) probing() bool { return w.state == StateUp && !w.told && !w.expired }
