package supervise

import (
	"context"

	"github.com/pitvisor/pitvisor/registry"
)

// Options says what a supervisor is to keep.
type Options struct {
	Run   *registry.Run // everything happens inside its cgroup; the caller closes it after Run
	Pools []PoolSpec

	Output   func(StartInfo) (Output, error) // where each start writes to; nil means /dev/null
	Observe  func(Event)                     // gets every event, in order, from one goroutine; must not block. nil means nobody
	Spawners int                             // how many starts at the same time; 0 means GOMAXPROCS-1, at least 1
}

// Supervisor keeps the pools of one run.
type Supervisor struct{}

// New checks the options and makes the cgroups of the pools, with their
// limits. Run removes them.
func New(o Options) (*Supervisor, error) { panic("unbuilt") }

// Run starts every worker and keeps it as its pool says.
func (s *Supervisor) Run(ctx context.Context) error { panic("unbuilt") }

// KillNow kills everything at once and ends Run.
func (s *Supervisor) KillNow() { panic("unbuilt") }

// Status returns a snapshot of every worker.
func (s *Supervisor) Status() []WorkerStatus { panic("unbuilt") }

// Result returns the counts so far.
func (s *Supervisor) Result() Result { panic("unbuilt") }
