package registry

import (
	"context"
	"time"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/pidfd"
)

// RunID names one run.
type RunID [16]byte

func NewRunID() RunID                             { panic("unbuilt") }
func ParseRunID(s string) (RunID, error)          { panic("unbuilt") }
func (id RunID) String() string                   { panic("unbuilt") }
func (id RunID) IsZero() bool                     { panic("unbuilt") }
func (id RunID) MarshalText() ([]byte, error)     { panic("unbuilt") }
func (id *RunID) UnmarshalText(text []byte) error { panic("unbuilt") }
func (id RunID) Time() time.Time                  { panic("unbuilt") }

// Registry is the runs below one root cgroup.
type Registry struct{ root *cgroup.Dir }

func New(root *cgroup.Dir) *Registry                                { return &Registry{root: root} }
func (r *Registry) Root() *cgroup.Dir                               { return r.root }
func (r *Registry) Create(kind, name, version string) (*Run, error) { panic("unbuilt") }

// CreateSupervisorLeaf makes a locked leaf supervisor-<id> below the root for the calling process to
// move itself into; no sweep removes it while the returned Dir is open.
func (r *Registry) CreateSupervisorLeaf() (*cgroup.Dir, error) { panic("unbuilt") }

// Info is what a run's directory says about the run.
type Info struct {
	ID      RunID          `json:"id"`
	Boot    string         `json:"boot"`
	Owner   pidfd.Identity `json:"owner"`
	PIDNS   uint64         `json:"pidns"` // inode of the owner's pid namespace
	Kind    string         `json:"kind"`
	Name    string         `json:"name"`
	Version string         `json:"version"`
	Started time.Time      `json:"started"`
}

// Run is a run that the calling process owns.
type Run struct {
	info Info
	dir  *cgroup.Dir
}

func (run *Run) ID() RunID                       { return run.info.ID }
func (run *Run) Info() Info                      { return run.info }
func (run *Run) Dir() *cgroup.Dir                { return run.dir }
func (run *Run) Close(ctx context.Context) error { panic("unbuilt") }
func (run *Run) Release() error                  { panic("unbuilt") }

// Worker is the record on a leaf.
type Worker struct {
	Pool    string         `json:"pool"`
	Slot    int            `json:"slot"`
	Start   uint64         `json:"start"`
	State   string         `json:"state"`
	Ready   bool           `json:"ready"`
	Port    int            `json:"port,omitempty"`
	Process pidfd.Identity `json:"process"`
	Started time.Time      `json:"started"`
}

// Pool is the record on a pool's directory.
type Pool struct {
	Name    string `json:"name"`
	Size    int    `json:"size"`
	Waiting []Slot `json:"waiting,omitempty"`
	Omitted int    `json:"omitted,omitempty"` // waiting slots that did not fit
}

// Slot is one slot without a leaf.
type Slot struct {
	Slot  int    `json:"slot"`
	State string `json:"state"`
	Cause string `json:"cause,omitempty"`
}

func SetWorker(leaf *cgroup.Dir, w Worker) error { panic("unbuilt") }
func SetPool(dir *cgroup.Dir, p Pool) error      { panic("unbuilt") }

// RunState says what a directory below the root is.
type RunState string

const (
	RunRunning  RunState = "running"
	RunStale    RunState = "stale"
	RunStarting RunState = "starting"
	RunForeign  RunState = "foreign"
	RunHalfMade RunState = "half-made"
)

// RunView is one directory as List saw it.
type RunView struct {
	Info
	State     RunState   `json:"state"`
	Dir       string     `json:"dir"`
	CgroupID  uint64     `json:"cgroup_id"`
	Processes int        `json:"processes"`
	Memory    *uint64    `json:"memory,omitempty"`
	Pools     []PoolView `json:"pools,omitempty"`
}

// PoolView is one pool of a run.
type PoolView struct {
	Pool
	Workers []WorkerView `json:"workers,omitempty"`
}

// WorkerView is one leaf of a pool.
type WorkerView struct {
	Worker
	Leaf      string        `json:"leaf"`
	Processes []ProcessView `json:"processes,omitempty"`
	Memory    *uint64       `json:"memory,omitempty"`
	Age       time.Duration `json:"age"`
}

// ProcessView is one process; for printing only.
type ProcessView struct {
	PID   int    `json:"pid"`
	Inode uint64 `json:"inode"`
	Comm  string `json:"comm"`
}

func (r *Registry) List(ctx context.Context) ([]RunView, error) { panic("unbuilt") }

// SweepOptions says how to sweep; the zero value sweeps for real.
type SweepOptions struct {
	DryRun   bool
	Parallel int
	Observe  func(SweepEvent)
	PerRun   time.Duration
}

// SweepEvent is one directory's result.
type SweepEvent struct {
	Run       RunID         `json:"run"`
	Dir       string        `json:"dir"`
	Result    string        `json:"result"`
	Processes int           `json:"processes"`
	Elapsed   time.Duration `json:"elapsed"`
	Err       error         `json:"-"`
}

// SweepResult sums a sweep up.
type SweepResult struct {
	Swept     int           `json:"swept"`
	Blocked   int           `json:"blocked"`
	Foreign   int           `json:"foreign"`
	Alive     int           `json:"alive"`
	Skipped   int           `json:"skipped"`
	Processes int           `json:"processes"`
	Elapsed   time.Duration `json:"elapsed"`
	Runs      []SweepEvent  `json:"runs"`
}

func (r *Registry) Sweep(ctx context.Context, o SweepOptions) (SweepResult, error) { panic("unbuilt") }

// Record is one line of history.
type Record struct {
	At      time.Time     `json:"at"`
	Run     RunID         `json:"run"`
	Pool    string        `json:"pool,omitempty"`
	Slot    int           `json:"slot"`
	Start   uint64        `json:"start,omitempty"`
	Kind    string        `json:"kind"`
	Cause   string        `json:"cause,omitempty"`
	Exit    string        `json:"exit,omitempty"`
	Detail  string        `json:"detail,omitempty"`
	Elapsed time.Duration `json:"elapsed,omitempty"`
}

// History writes records to a file without ever making the caller wait.
type History struct{}

func OpenHistory(path string, warn func(error)) *History { panic("unbuilt") }
func (h *History) Add(rec Record)                        { panic("unbuilt") }
func (h *History) Dropped() uint64                       { panic("unbuilt") }
func (h *History) Close(ctx context.Context) error       { panic("unbuilt") }
func ReadHistory(path string, n int) ([]Record, error)   { panic("unbuilt") }
