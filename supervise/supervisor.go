package supervise

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pitvisor/pitvisor/pidfd"
	"github.com/pitvisor/pitvisor/registry"
)

// Options says what a supervisor is to keep.
type Options struct {
	Run   *registry.Run // everything happens inside its cgroup; the caller closes it after Run
	Pools []PoolSpec
	RunSpec

	Output      func(StartInfo) (Output, error) // where each start writes to, called from several goroutines at once; nil means /dev/null
	Observe     func(Event)                     // gets every event, in order, one call at a time; must not block. nil means nobody
	MaxStarting int                             // how many workers with a readiness rule may be on their way to ready at a time; 0 finds out what the machine can do
	Spawners    int                             // how many starts at the same time; 0 means GOMAXPROCS-1, at least 1
	EventRing   int                             // how many of the newest events are kept for Events; 0 means 1024
	Keep        bool                            // Run goes on when no worker is left that is to be restarted
}

// removers is how many goroutines remove leaves. Removing is bound by locks of
// the kernel: more would only wait for each other.
const removers = 2

// Supervisor keeps the pools of one run. Its methods are safe for concurrent
// use; Status, Result and KillNow may be called from Observe.
type Supervisor struct {
	opts  Options
	epoch time.Time
	rnd   func() float64
	null  *os.File // /dev/null of all workers

	poller  *pidfd.Poller
	inbox   *inbox
	starts  *queue[startOrder]
	chores  *queue[order]
	records *queue[order]
	helpers sync.WaitGroup // goroutines that Run has started
	gate    sync.RWMutex   // held by who spawns, and exclusively by who kills the run
	ran     atomic.Bool
	halting atomic.Bool // a stop of everything was asked for
	killing chan struct{}
	kill    sync.Once     // closes killing
	ended   chan struct{} // closed when the engine has ended
	reload  sync.Mutex    // held by Reload
	guests  guests

	turning sync.Mutex  // held for a turn of the engine; guards what follows, and comes before mu
	alarm   *time.Timer // for what is due next
	taken   []message   // to collect the next messages in
	closed  bool        // the last turn is done

	mu     sync.Mutex // guards what follows
	pools  []*pool
	slots  []slot
	free   []int32           // slots of pools that were removed
	gone   map[string]uint64 // the highest number of a start of pools that were removed
	busy   []*pool           // with orders
	lost   error             // pools that were removed, but for their cgroup
	timers timers
	result Result
	open   int // workers that are not over
	stuck  int // of these, the ones that only a blocked leaf keeps
	live   int // workers in StateUp or StateStopping
	seq    uint64
	// unsettled says that settle may have something to do.
	unsettled bool
	reloading bool // Reload holds pools
	ring      *ring
	launches  launches
	measuring bool // a goroutine looks at the memory of workers
	pressing  pressing
	runs      runSpec // in force
	events    []Event // to be observed as soon as mu is free
	spare     []Event // the engine's own, to collect the next events in
	kills     []int32 // slots whose leaf is to be killed
	fault     error   // why the supervisor cannot go on
	acts      []action
	ordered   bool // spawners have been given something since observe
	// blocked holds why the leaf of a slot could not be removed at the last try.
	blocked map[int32]error
	// early holds what workers have said before the spawner's answer about them.
	early map[int32]func()
}

// New checks the options and makes the cgroups of the pools, with their
// limits; a limit whose controller is missing is a *[cgroup.ControllerError],
// unless the pool wants best effort. Run removes the cgroups again.
func New(o Options) (*Supervisor, error) {
	if err := o.validate(); err != nil {
		return nil, fmt.Errorf("check pools: %w", err)
	}
	if o.Spawners == 0 {
		o.Spawners = max(1, runtime.GOMAXPROCS(0)-1)
	}
	s := &Supervisor{
		opts: o, epoch: time.Now(), rnd: rand.Float64,
		inbox: newInbox(), starts: newQueue[startOrder](), chores: newQueue[order](), records: newQueue[order](),
		killing: make(chan struct{}), ended: make(chan struct{}), blocked: map[int32]error{}, early: map[int32]func(){}, gone: map[string]uint64{},
		ring: newRing(o.EventRing), launches: newLaunches(o.MaxStarting), alarm: time.NewTimer(time.Hour),
	}
	s.alarm.Stop()
	if err := s.acquire(); err != nil {
		s.release()
		return nil, err
	}
	return s, nil
}

// acquire takes what must be had before the first start.
func (s *Supervisor) acquire() (err error) {
	if s.null, err = os.OpenFile(os.DevNull, os.O_RDWR, 0); err != nil {
		return err
	}
	if s.poller, err = pidfd.NewPoller(); err != nil {
		return err
	}
	if s.runs, err = s.setRun(runSpec{}, s.opts.RunSpec); err != nil {
		return err
	}
	for _, spec := range s.opts.Pools {
		p, err := makePool(s.opts.Run, spec)
		if err != nil {
			return err
		}
		s.pools = append(s.pools, p)
	}
	for _, p := range s.pools {
		s.enrol(p)
	}
	return nil
}

// release gives back what acquire took, when no worker was ever started.
func (s *Supervisor) release() {
	for _, p := range s.pools {
		_ = p.remove(s.opts.Run.Dir()) // empty; what stays goes with the run
	}
	if s.poller != nil {
		_ = s.poller.Close() // nothing is watched
	}
	if s.null != nil {
		_ = s.null.Close() // nothing was written
	}
}

// Run starts every worker and keeps it as its pool says. It returns when every
// worker has ended for good and its leaf is gone: after ctx is done, which
// stops all of them with their grace; after KillNow; or when none is left that
// is to be restarted.
//
// The error is a *[PoolError] if workers never became ready or were given up,
// and a *[StopError], perhaps beside it, if leaves cannot be removed. A start
// that the stop cancelled is no error.
//
// Run may be called once. With a ctx that is done it starts nothing and only
// gives back what New has taken.
func (s *Supervisor) Run(ctx context.Context) error {
	if s.ran.Swap(true) {
		return errors.New("run supervisor: it has run already")
	}
	inner, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.startHelpers(inner)
	s.engine(ctx)
	close(s.ended)
	s.starts.close()
	s.chores.close()
	s.records.close()
	cancel()
	s.helpers.Wait()
	return s.finish()
}

func (s *Supervisor) startHelpers(ctx context.Context) {
	for range s.opts.Spawners {
		s.helpers.Go(func() { serve(s.starts, s.spawn) })
	}
	for range removers {
		s.helpers.Go(func() { serve(s.chores, s.chore) })
	}
	s.helpers.Go(func() { serve(s.records, s.record) })
	s.helpers.Go(func() {
		err := s.poller.Run(ctx, s.onPoll)
		if ctx.Err() == nil {
			s.inbox.post(message{fault: fmt.Errorf("watch workers: %w", err)})
		}
	})
}

// serve carries orders out until the queue is closed.
func serve[T any](q *queue[T], do func(T)) {
	for {
		o, ok := q.pop()
		if !ok {
			return
		}
		do(o)
	}
}

// finish removes the pools and sums up.
func (s *Supervisor) finish() error {
	errs := []error{s.fault, s.lost}
	stopErr := s.stopError()
	wait := blockedAfter
	if stopErr != nil {
		wait = removeTime // the engine has waited already
	}
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	for _, p := range s.pools {
		// Not only rmdir: a readiness rule may have left something beside the leaves.
		err := p.withoutVisits(!p.dir.KillsAtOnce(), func() error {
			return s.opts.Run.Dir().Destroy(ctx, p.dir.Name(), p.dir.ID())
		})
		if err != nil && stopErr == nil {
			errs = append(errs, fmt.Errorf("remove pool %s: %w", p.name, err))
		}
		errs = append(errs, p.close())
	}
	for i := range s.slots {
		s.slots[i].drop()
	}
	s.inbox.close()
	for _, g := range s.pressing.gauges {
		errs = append(errs, g.Close())
	}
	s.abandonRollouts()
	s.ring.close()
	errs = append(errs, s.poller.Close(), s.null.Close())
	return errors.Join(append(errs, stopErr, s.poolError())...)
}

// KillNow kills everything at once, without grace, and so ends Run soon. It
// does not wait.
func (s *Supervisor) KillNow() {
	s.kill.Do(func() { close(s.killing) })
}

// now is the time since the supervisor was made. It is never 0.
func (s *Supervisor) now() time.Duration { return time.Since(s.epoch) + 1 }

// at turns a time of the machine into one for people.
func (s *Supervisor) at(d time.Duration) time.Time { return s.epoch.Add(d) }
