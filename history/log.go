package history

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/pitvisor/pitvisor/registry"
)

const (
	queueSize  = 4096                   // records that wait for the writer
	gatherTime = 500 * time.Millisecond // from the first record of a batch to its write
	gatherSize = 512                    // records that are worth a write before that
	retryTime  = time.Second            // from a write that failed to the next try
	maxDetail  = 1 << 10                // bytes of Record.Detail that are kept
)

// Record is one line of history, for people.
type Record struct {
	At      time.Time      `json:"at"`
	Run     registry.RunID `json:"run"`
	Pool    string         `json:"pool,omitempty"`
	Slot    int            `json:"slot"`
	Start   uint64         `json:"start,omitempty"`
	Kind    string         `json:"kind"` // as supervise names its events
	Cause   string         `json:"cause,omitempty"`
	Exit    string         `json:"exit,omitempty"`
	Detail  string         `json:"detail,omitempty"` // at most 1 KiB is kept
	Elapsed time.Duration  `json:"elapsed_ns,omitempty"`
}

// Log appends records to a bbolt file that keeps the newest 10,000. It promises little: nobody
// ever waits for it, a record may be lost, and the file may be deleted at any time. Several programs
// may use one file at once, because each holds it for the time of one write only.
//
// A file that is damaged, or not ours, is renamed to <path>.damaged-<time>, of which the newest three
// are kept, and a new one begun. If the file cannot be used at all (no permission, no space, something
// else than a file in its place), records are held back and tried again, and dropped when there are
// too many. All this is told through warn: once when it begins, and again only after it was well.
type Log struct {
	path string
	warn func(error)
	file boltFile // the writer's own

	queue chan Record
	full  chan struct{} // has an element when the writer is not to wait for more
	stop  chan struct{} // closed by Close: write what there is, then end
	done  chan struct{} // closed when the writer has ended

	mu      sync.Mutex // guards what follows; never held while anything waits
	closed  bool
	dropped uint64
	broken  bool // the last write failed, and warn was told
}

// Open begins to write to the file at path, which need not exist, and neither need its directory.
// It touches nothing before the first record, so it cannot fail. warn gets what goes wrong, from a
// goroutine of the Log or from Add; nil means nobody wants to know. Call Close in the end.
func Open(path string, warn func(error)) *Log {
	if warn == nil {
		warn = func(error) {}
	}
	l := &Log{
		path:  path,
		warn:  warn,
		file:  boltFile{path: path},
		queue: make(chan Record, queueSize),
		full:  make(chan struct{}, 1),
		stop:  make(chan struct{}),
		done:  make(chan struct{}),
	}
	go l.write()
	return l
}

// Add hands over a record. It never blocks: when too many are waiting already, or after Close, the
// record is dropped and counted.
func (l *Log) Add(rec Record) {
	rec.Detail = rec.Detail[:min(len(rec.Detail), maxDetail)]
	l.mu.Lock()
	if !l.closed {
		select {
		case l.queue <- rec:
			l.mu.Unlock()
			if len(l.queue) >= gatherSize {
				// So that what a thousand workers did is not all written at the end.
				l.Hurry()
			}
			return
		default:
		}
	}
	l.dropped++
	first := l.dropped == 1
	l.mu.Unlock()
	if first {
		l.warn(fmt.Errorf("add to history %s: %d records are waiting already: this one is dropped, as are others from now on", l.path, queueSize))
	}
}

// Hurry lets what was added be written now: no more is to be expected soon. It does not wait.
func (l *Log) Hurry() {
	select {
	case l.full <- struct{}{}:
	default:
	}
}

// Dropped counts the records that were lost so far.
func (l *Log) Dropped() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dropped
}

// Close writes what is waiting and ends. When ctx ends first it returns at once and what is waiting
// may be lost. The error counts lost records; it is for people, not for deciding anything.
func (l *Log) Close(ctx context.Context) error {
	l.mu.Lock()
	if !l.closed {
		l.closed = true
		close(l.stop)
	}
	l.mu.Unlock()
	select {
	case <-l.done:
	case <-ctx.Done():
		return fmt.Errorf("close history %s: %w", l.path, context.Cause(ctx))
	}
	if lost := l.Dropped(); lost > 0 {
		return fmt.Errorf("close history %s: %d records were lost", l.path, lost)
	}
	return nil
}

// write is the writer: it gathers a batch, writes it, and goes on until told to stop. A batch that
// could not be written is kept and grows, so at most twice queueSize records are held in all.
func (l *Log) write() {
	defer close(l.done)
	var batch []Record
	for {
		batch = l.gather(batch)
		var err error
		if len(batch) > 0 {
			err = l.append(batch)
			l.report(err)
		}
		if err == nil {
			batch = nil // a burst must not stay in memory
		}
		if l.stopping() && (err != nil || len(l.queue) == 0) {
			l.drop(len(batch) + len(l.queue))
			return
		}
		if err != nil {
			l.wait(retryTime, nil)
		}
	}
}

// gather adds what is queued to the batch. For an empty one it waits for a first record, and then a
// moment for more.
func (l *Log) gather(batch []Record) []Record {
	if len(batch) == 0 {
		select {
		case rec := <-l.queue:
			batch = append(batch, rec)
			l.wait(gatherTime, l.full)
		case <-l.stop:
		}
	}
	for len(batch) < queueSize {
		select {
		case rec := <-l.queue:
			batch = append(batch, rec)
		default:
			return batch
		}
	}
	return batch
}

// stopping says whether Close was called. From then on nothing is added to the queue.
func (l *Log) stopping() bool {
	select {
	case <-l.stop:
		return true
	default:
		return false
	}
}

// wait lets time pass, but not when the Log is to end, or when there is enough.
func (l *Log) wait(d time.Duration, enough <-chan struct{}) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-enough:
	case <-l.stop:
	}
}

// append writes a batch; a damaged file is set aside, and the batch goes into a new one.
func (l *Log) append(batch []Record) error {
	err := l.file.append(batch)
	if !errors.Is(err, errDamaged) {
		return err
	}
	aside, moveErr := l.file.setAside(time.Now())
	if moveErr != nil {
		return fmt.Errorf("%w; %w", err, moveErr)
	}
	if aside != "" {
		l.warn(fmt.Errorf("%w: kept as %s, and a new one is begun", err, aside))
	}
	return l.file.append(batch)
}

// report tells about trouble when it begins.
func (l *Log) report(err error) {
	l.mu.Lock()
	begins := err != nil && !l.broken
	l.broken = err != nil
	l.mu.Unlock()
	if begins {
		l.warn(fmt.Errorf("%w: records are held back until it works again", err))
	}
}

// drop counts records that will never be written.
func (l *Log) drop(n int) {
	l.mu.Lock()
	l.dropped += uint64(n)
	l.mu.Unlock()
}
