// Package capture keeps what workers print. A worker writes by itself, straight
// into a file that outlives the supervisor; capture follows the files and hands
// out complete lines. It is not a log shipper: it adds no time stamps to the
// files, compresses nothing and sends nothing over a network.
package capture

import (
	"context"
	"iter"
	"os"
	"time"
)

// Options says where a Store keeps its files and how large they may grow.
type Options struct {
	// Dir holds the files of one run; it is made if it is missing. It must be on a local file system.
	Dir string
	// MaxSize is how many of the newest bytes of each stream are always kept; 0 means 16 MiB.
	MaxSize int64
	// Warn is told, once for each kind, of something that weakens a promise but stops nothing; nil means nobody is told.
	Warn func(error)
}

// Store is the output directory of one run. It holds a lock on the directory until Close.
type Store struct{}

// Line is one complete line of one stream.
type Line struct {
	Worker string    // as given to Start, e.g. "web/3"
	Stream string    // Stdout or Stderr
	At     time.Time // when it was read
	Text   []byte    // without the newline; any bytes; valid only during the call
	Split  bool      // longer than the bound on a line: the rest follows in the next Line
	Lost   int64     // bytes of this stream before this line that were cut away before they could be read
}

// Stdout and Stderr name the two streams of a worker.
const (
	Stdout = "stdout"
	Stderr = "stderr"
)

// Streams are the two files of one start of a worker.
type Streams struct {
	// Stdout and Stderr are for the worker; the caller closes them once it has been started.
	Stdout, Stderr *os.File
}

// Open makes and locks the directory and starts to watch it. Close must be called.
func Open(o Options) (*Store, error) { panic("unbuilt") }

// Start opens the files of one start of a worker.
func (s *Store) Start(worker, pool string, slot int, start uint64) (*Streams, error) {
	panic("unbuilt")
}

// Follow hands every new complete line of every worker to f until ctx ends or the store is closed.
func (s *Store) Follow(ctx context.Context, f func(Line)) error { panic("unbuilt") }

// Close ends the watch and frees the lock.
func (s *Store) Close() error { panic("unbuilt") }

// Lines yields the complete lines of one stream from the beginning of this start on, until ctx ends or the start is over.
func (st *Streams) Lines(ctx context.Context, stream string) iter.Seq[string] { panic("unbuilt") }

// Tail returns at most n of the last lines of stderr of this start.
func (st *Streams) Tail(n int) []string { panic("unbuilt") }

// Done says that the start is over: nothing writes to the files any more.
func (st *Streams) Done() { panic("unbuilt") }

// Prune removes the run directories below logsRoot that nobody holds, but for the newest keep.
func Prune(logsRoot string, keep int) (removed int, err error) { panic("unbuilt") }
