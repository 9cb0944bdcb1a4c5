package server

import (
	"sync"
	"time"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/supervise"
)

const (
	// frostTime is how long one status may look at leaves: what it has not come to has the
	// state that it had when it was looked at last.
	frostTime = 8 * time.Millisecond
	// frostLeast is how many leaves are looked at in any case.
	frostLeast = 256
)

// frost is what is known of frozen workers. The kernel knows it, whoever has frozen
// them, and has to be asked leaf by leaf: it tells of a change only who holds each open.
type frost struct {
	mu   sync.Mutex // guards what follows
	of   map[supervise.WorkerID]uint64
	turn int // who is looked at first the next time
}

// frozen says which starts are frozen.
type frozen map[supervise.WorkerID]uint64

func (f frozen) holds(w *supervise.WorkerStatus) bool {
	return len(f) > 0 && w.Start != 0 && f[w.Worker] == w.Start
}

// note remembers what was frozen or thawed by a call, or seen.
func (f *frost) note(w *supervise.WorkerStatus, is bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.set(w, is)
}

func (f *frost) set(w *supervise.WorkerStatus, is bool) {
	switch {
	case is && f.of == nil:
		f.of = map[supervise.WorkerID]uint64{w.Worker: w.Start}
	case is:
		f.of[w.Worker] = w.Start
	default:
		delete(f.of, w.Worker)
	}
}

// begin returns where to begin among n workers, and copies what is known.
func (f *frost) begin(n int) (first int, known frozen) {
	f.mu.Lock()
	defer f.mu.Unlock()
	known = frozen{}
	for id, start := range f.of {
		known[id] = start
	}
	if n > 0 {
		first = f.turn % n
	}
	return first, known
}

// look asks the kernel which of the workers are frozen: of all of them if there is time,
// else of those whose turn it is. A pool that is frozen as a whole is always seen.
func (s *Server) look(workers []supervise.WorkerStatus) frozen {
	if s.o.Run == nil {
		return nil // a test of something else
	}
	first, known := s.frost.begin(len(workers))
	pools := frostPools{run: s.o.Run.Dir(), open: map[string]*poolFrost{}}
	defer pools.close()
	until, looked := time.Now().Add(frostTime), 0
	n := 0
	for ; n < len(workers); n++ {
		if looked >= frostLeast && looked%64 == 0 && time.Now().After(until) {
			break
		}
		w := &workers[(first+n)%len(workers)]
		is := false
		if w.State == supervise.StateUp || w.State == supervise.StateStopping {
			is = pools.frozen(w)
			looked++
		}
		if is != known.holds(w) || !is && known[w.Worker] != 0 {
			s.frost.note(w, is)
			if known[w.Worker] = w.Start; !is {
				delete(known, w.Worker)
			}
		}
	}
	for i := n; i < len(workers); i++ { // those that are not looked at
		w := &workers[(first+i)%len(workers)]
		if p := pools.of(w.Worker.Pool); p.all {
			known[w.Worker] = w.Start
		}
	}
	s.frost.mu.Lock()
	s.frost.turn = first + n
	s.frost.mu.Unlock()
	return known
}

// frostPools are the cgroups of pools that are open for a look.
type frostPools struct {
	run  *cgroup.Dir
	open map[string]*poolFrost
}

type poolFrost struct {
	dir *cgroup.Dir // nil when it is gone
	all bool        // it is frozen as a whole
}

func (p *frostPools) of(name string) *poolFrost {
	if found := p.open[name]; found != nil {
		return found
	}
	f := &poolFrost{}
	p.open[name] = f
	dir, err := p.run.OpenChild(name)
	if err != nil {
		return f
	}
	f.dir = dir
	if events, err := dir.Events(); err == nil && events.Populated {
		f.all = events.Frozen
	}
	return f
}

func (p *frostPools) frozen(w *supervise.WorkerStatus) bool {
	f := p.of(w.Worker.Pool)
	if f.all || f.dir == nil {
		return f.all
	}
	events, err := f.dir.ChildEvents(leafOf(w))
	return err == nil && events.Populated && events.Frozen
}

func (p *frostPools) close() {
	for _, f := range p.open {
		if f.dir != nil {
			_ = f.dir.Close() // was only looked at
		}
	}
}
