package registry

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

const (
	historyQueue  = 4096                   // records that wait for the writer
	historyGather = 500 * time.Millisecond // from the first record of a batch to its write
	historyRetry  = time.Second            // from a write that failed to the next try
	historyDetail = 1 << 10                // bytes of Record.Detail that are kept
)

// Record is one line of history, for people.
type Record struct {
	At      time.Time     `json:"at"`
	Run     RunID         `json:"run"`
	Pool    string        `json:"pool,omitempty"`
	Slot    int           `json:"slot"`
	Start   uint64        `json:"start,omitempty"`
	Kind    string        `json:"kind"` // as supervise names its events
	Cause   string        `json:"cause,omitempty"`
	Exit    string        `json:"exit,omitempty"`
	Detail  string        `json:"detail,omitempty"` // at most 1 KiB is kept
	Elapsed time.Duration `json:"elapsed_ns,omitempty"`
}

// History appends records to a bbolt file that keeps the newest 10,000. It promises little: nobody
// ever waits for it, a record may be lost, and the file may be deleted at any time. Several programs
// may use one file at once, because each holds it for the time of one write only.
//
// A file that is damaged, or not ours, is renamed to <path>.damaged-<time>, of which the newest three
// are kept, and a new one begun. If the file cannot be used at all (no permission, no space, something
// else than a file in its place), records are held back and tried again, and dropped when there are
// too many. All this is told through warn: once when it begins, and again only after it was well.
type History struct {
	path string
	warn func(error)
	file historyFile // the writer's own

	queue chan Record
	stop  chan struct{} // closed by Close: write what there is, then end
	done  chan struct{} // closed when the writer has ended

	mu      sync.Mutex // guards what follows; never held while anything waits
	closed  bool
	dropped uint64
	broken  bool // the last write failed, and warn was told
}

// OpenHistory begins to write to the file at path, which need not exist, and neither need its
// directory. It touches nothing before the first record, so it cannot fail. warn gets what goes wrong,
// from a goroutine of the History or from Add; nil means nobody wants to know. Call Close in the end.
func OpenHistory(path string, warn func(error)) *History {
	if warn == nil {
		warn = func(error) {}
	}
	h := &History{
		path:  path,
		warn:  warn,
		file:  historyFile{path: path},
		queue: make(chan Record, historyQueue),
		stop:  make(chan struct{}),
		done:  make(chan struct{}),
	}
	go h.write()
	return h
}

// Add hands over a record. It never blocks: when too many are waiting already, or after Close, the
// record is dropped and counted.
func (h *History) Add(rec Record) {
	rec.Detail = cut(rec.Detail, historyDetail)
	h.mu.Lock()
	if !h.closed {
		select {
		case h.queue <- rec:
			h.mu.Unlock()
			return
		default:
		}
	}
	h.dropped++
	first := h.dropped == 1
	h.mu.Unlock()
	if first {
		h.warn(fmt.Errorf("add to history %s: %d records are waiting already: this one is dropped, as are others from now on", h.path, historyQueue))
	}
}

// Dropped counts the records that were lost so far.
func (h *History) Dropped() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.dropped
}

// Close writes what is waiting and ends. When ctx ends first it returns at once and what is waiting
// may be lost. The error counts lost records; it is for people, not for deciding anything.
func (h *History) Close(ctx context.Context) error {
	h.mu.Lock()
	if !h.closed {
		h.closed = true
		close(h.stop)
	}
	h.mu.Unlock()
	select {
	case <-h.done:
	case <-ctx.Done():
		return fmt.Errorf("close history %s: %w", h.path, context.Cause(ctx))
	}
	if lost := h.Dropped(); lost > 0 {
		return fmt.Errorf("close history %s: %d records were lost", h.path, lost)
	}
	return nil
}

// write is the writer: it gathers a batch, writes it, and goes on until told to stop. A batch that
// could not be written is kept and grows, so at most twice historyQueue records are held in all.
func (h *History) write() {
	defer close(h.done)
	var batch []Record
	for {
		batch = h.gather(batch)
		var err error
		if len(batch) > 0 {
			err = h.append(batch)
			h.report(err)
		}
		if err == nil {
			batch = batch[:0]
		}
		if h.stopping() && (err != nil || len(h.queue) == 0) {
			h.drop(len(batch) + len(h.queue))
			return
		}
		if err != nil {
			h.wait(historyRetry)
		}
	}
}

// gather adds what is queued to the batch. For an empty one it waits for a first record, and then a
// moment for more.
func (h *History) gather(batch []Record) []Record {
	if len(batch) == 0 {
		select {
		case rec := <-h.queue:
			batch = append(batch, rec)
			h.wait(historyGather)
		case <-h.stop:
		}
	}
	for len(batch) < historyQueue {
		select {
		case rec := <-h.queue:
			batch = append(batch, rec)
		default:
			return batch
		}
	}
	return batch
}

// stopping says whether Close was called. From then on nothing is added to the queue.
func (h *History) stopping() bool {
	select {
	case <-h.stop:
		return true
	default:
		return false
	}
}

// wait lets time pass, but not when the History is to end.
func (h *History) wait(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-h.stop:
	}
}

// append writes a batch; a damaged file is set aside, and the batch goes into a new one.
func (h *History) append(batch []Record) error {
	err := h.file.append(batch)
	if !errors.Is(err, errDamaged) {
		return err
	}
	aside, moveErr := h.file.setAside(time.Now())
	if moveErr != nil {
		return fmt.Errorf("%w; %w", err, moveErr)
	}
	if aside != "" {
		h.warn(fmt.Errorf("%w: kept as %s, and a new one is begun", err, aside))
	}
	return h.file.append(batch)
}

// report tells about trouble when it begins.
func (h *History) report(err error) {
	h.mu.Lock()
	begins := err != nil && !h.broken
	h.broken = err != nil
	h.mu.Unlock()
	if begins {
		h.warn(fmt.Errorf("%w: records are held back until it works again", err))
	}
}

// drop counts records that will never be written.
func (h *History) drop(n int) {
	h.mu.Lock()
	h.dropped += uint64(n)
	h.mu.Unlock()
}
