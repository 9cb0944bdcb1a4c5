package supervise

import (
	"context"
	"errors"
	"iter"
	"os"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/pidfd"
	"github.com/pitvisor/pitvisor/registry"
)

// ErrPortTaken is what an [Attempt] returns, wrapped, when the worker's port
// is owned by somebody outside the worker's leaf.
var ErrPortTaken = errors.New("port is taken by a process outside the worker")

// StartInfo says which start of which worker this is.
type StartInfo struct {
	Run      registry.RunID
	Worker   WorkerID
	Start    uint64 // counts the starts of this worker, from 1, or on from where it was when its pool was removed
	Leaf     string // path of the leaf cgroup
	LeafID   uint64
	UID, GID uint32 // what the worker will run as
}

// Readiness is a rule that decides when a worker may get work.
type Readiness interface {
	// Prepare is called before each start, from several goroutines at once.
	// What it makes is released by Attempt.Close.
	Prepare(StartInfo, Output) (Attempt, error)
}

// Attempt is a readiness rule applied to one start.
type Attempt interface {
	Env() []string     // added to the environment of the worker
	Files() []*os.File // file descriptors 3 and up of the worker

	// Wait returns when the rule held for this very process, or with an error
	// when it cannot hold any more. It must return soon after ctx is done,
	// which happens when the process ends, is stopped or has used up its start
	// timeout. Process and leaf are open during the call. A start that ends
	// before it is up never gets this call.
	Wait(ctx context.Context, p *pidfd.Process, leaf *cgroup.Dir) (ReadyInfo, error)

	// Close releases what Prepare made. It is called exactly once, after Wait.
	Close() error
}

// ReadyInfo is what a readiness rule learned.
type ReadyInfo struct {
	Port int // 0 means none
}

// Output is where one start writes to, and how to read it again.
type Output struct {
	Stdout, Stderr *os.File // nil means /dev/null; the supervisor closes both after the spawn

	Tail  func() []string                                           // the last lines of stderr of this start; may be nil
	Lines func(ctx context.Context, stream string) iter.Seq[string] // complete lines of "stdout" or "stderr" of this start, from its beginning on, until ctx is done; may be nil
	Done  func()                                                    // called once, from any goroutine, when the start is over and its leaf is gone; may be nil
}
