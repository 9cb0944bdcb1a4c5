package capture

import (
	"context"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/pitvisor/pitvisor/internal/logfile"
	"golang.org/x/sys/unix"
)

// Stdout and Stderr name the two streams of a worker.
const (
	Stdout = logfile.Stdout
	Stderr = logfile.Stderr
)

// streamNames is indexed like every array of two streams.
func streamNames() [2]string { return [2]string{Stdout, Stderr} }

// slotFiles are the files of one slot of a pool, over all its starts.
type slotFiles struct {
	io      sync.Mutex // one Start of this slot at a time; taken before Store.mu, and held over file operations
	streams [2]stream
}

// stream is one output of one slot. The slot's io lock guards file.
type stream struct {
	now  atomic.Pointer[segment] // of the newest start, or nil
	file *file
}

// segment is what one start wrote to one stream.
type segment struct {
	worker string
	name   string // Stdout or Stderr
	start  uint64
	file   *file
	from   int64        // where this start begins
	end    atomic.Int64 // where it ended; -1 while it is not over
	pipe   *pipe        // nil: the worker writes to the file by itself

	cursors []*cursor // guarded by Store.mu
}

// ended returns where the start ended, or -1 while it is not over.
func (g *segment) ended() int64 { return g.end.Load() }

// read reads what this start has written from off on, and returns where that is, and where
// the start had ended before the look: what was read is then all there is. At -1 there may
// be more, and every reader will be told.
func (g *segment) read(buf []byte, off int64) (n int, at, end int64, err error) {
	end = g.ended()
	n, at, err = g.file.read(buf, off, end)
	if now := g.ended(); now != end { // what is behind that may be a later start's
		at = min(at, max(off, now))
		n = int(min(int64(n), max(0, now-at)))
	}
	return n, at, end, err
}

// Streams are the two files of one start of a worker.
type Streams struct {
	// Stdout and Stderr are for the worker. The caller closes both once the
	// worker has been started, and also if it could not be.
	Stdout, Stderr *os.File

	store    *Store
	segments [2]*segment
}

// Start opens the two files of one start of a worker, which are appended to.
// worker is the name that lines carry. A start of the same slot that is not over
// ends here.
func (s *Store) Start(worker, pool string, slot int, start uint64) (*Streams, error) {
	return s.start(worker, pool, slot, start, false)
}

// StartPiped is Start for a worker that writes to pipes, whose content the store
// moves to the files. While the disk is full what it writes is dropped and
// counted, and it never sees an error; if the store is slower than the worker,
// the worker waits.
func (s *Store) StartPiped(worker, pool string, slot int, start uint64) (*Streams, error) {
	return s.start(worker, pool, slot, start, true)
}

func (s *Store) start(worker, pool string, slot int, start uint64, piped bool) (*Streams, error) {
	if err := checkPool(pool); err != nil {
		return nil, fmt.Errorf("open output of %s: %w", worker, err)
	}
	if slot < 0 {
		return nil, fmt.Errorf("open output of %s: negative slot %d", worker, slot)
	}
	s.warnIfFull()
	files, path, err := s.slot(pool, slot)
	if err != nil {
		return nil, fmt.Errorf("open output of %s: %w", worker, err)
	}
	files.io.Lock()
	defer files.io.Unlock()
	opened, err := s.openAll(files, pool, path, slot)
	st := &Streams{store: s, Stdout: opened[0], Stderr: opened[1]}
	if err == nil {
		err = s.begin(files, st, worker, start, piped)
	}
	if err != nil {
		_, _ = st.Stdout.Close(), st.Stderr.Close() // nothing was written; closing nil is harmless
		return nil, fmt.Errorf("open output of start %d of %s: %w", start, worker, err)
	}
	return st, nil
}

// slot returns the files of a slot and the directory they are in. The directory of its pool is made and watched if it is not yet.
func (s *Store) slot(pool string, slot int) (*slotFiles, string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, "", fs.ErrClosed
	}
	dir := s.pools[pool]
	if dir == nil {
		dir = &poolDir{path: filepath.Join(s.dir, pool), slots: make(map[int]*slotFiles)}
		if err := s.makePool(dir); err != nil {
			return nil, "", err
		}
		s.pools[pool] = dir
	}
	files := dir.slots[slot]
	if files == nil {
		files = &slotFiles{}
		dir.slots[slot] = files
	}
	return files, dir.path, nil
}

// open opens the live file of a stream for a worker.
func (st *stream) open(dir string, slot int, name string, keep int64, r *Rotate) (*os.File, error) {
	path := filepath.Join(dir, logfile.LiveName(slot, name))
	if st.file == nil {
		f, err := loadFile(path, filepath.Join(dir, logfile.TimesName(slot, name)))
		if err != nil {
			return nil, err
		}
		st.file = f
	}
	if err := st.file.replace(keep, r); err != nil {
		return nil, err
	}
	return openForWorker(path)
}

// begin makes the segments of a new start and shows them to every follower.
func (s *Store) begin(files *slotFiles, st *Streams, worker string, start uint64, piped bool) error {
	for i, name := range streamNames() {
		from, err := files.streams[i].file.size()
		if err != nil {
			return err
		}
		st.segments[i] = &segment{worker: worker, name: name, start: start, file: files.streams[i].file, from: from}
		st.segments[i].end.Store(-1)
		files.streams[i].file.began(from, start)
	}
	if piped {
		if err := s.addPipes(st); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return fs.ErrClosed
	}
	for i, seg := range st.segments {
		seg.cursors = append(seg.cursors, &cursor{seg: seg, queue: s.trimmer})
		for fl := range s.followers {
			seg.cursors = append(seg.cursors, &cursor{seg: seg, queue: fl.queue, off: seg.from})
		}
		files.streams[i].now.Store(seg)
	}
	return nil
}

// addPipes puts pipes between the worker and its files.
func (s *Store) addPipes(st *Streams) error {
	for i, f := range []**os.File{&st.Stdout, &st.Stderr} {
		end, err := s.newPipe(st.segments[i])
		if err != nil {
			if i > 0 {
				st.segments[0].pipe.mover.drain(st.segments[0].pipe, true)
			}
			return err
		}
		_ = (*f).Close() // it was opened to be sure that there is a file
		*f = end
	}
	return nil
}

// checkPool refuses names that are not one plain path element.
func checkPool(pool string) error {
	control := func(r rune) bool { return r < ' ' || r == 0x7f }
	if pool == "" || pool == "." || pool == ".." || len(pool) > 200 ||
		strings.ContainsRune(pool, '/') || strings.ContainsFunc(pool, control) {
		return fmt.Errorf("pool name %q is not usable as a directory name", pool)
	}
	return nil
}

// warnIfFull tells of a full disk: workers still start, but what they print is lost.
func (s *Store) warnIfFull() {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(s.lock.Fd()), &st); err != nil || st.Blocks == 0 || st.Bavail > 0 {
		return
	}
	s.warnOnce("full", &Error{Op: "keep output in", Path: s.dir, Err: unix.ENOSPC, hint: cure(unix.ENOSPC)})
}

// Lines yields the complete lines of one stream from the beginning of this start
// on, and the unfinished last one when the start is over. It ends then, or when
// ctx ends. A line of more than 64 KiB comes in pieces.
func (st *Streams) Lines(ctx context.Context, stream string) iter.Seq[string] {
	return func(yield func(string) bool) {
		i := slices.Index([]string{Stdout, Stderr}, stream)
		if i < 0 {
			return
		}
		st.store.lines(ctx, st.segments[i], yield)
	}
}

// Done says that the start is over: nothing writes to its files any more. What
// was written stays readable. A second call does nothing.
func (st *Streams) Done() {
	for _, seg := range st.segments {
		st.store.end(seg)
	}
}

// end fixes the end of a segment, unless it has one, and lets every reader come to it.
func (s *Store) end(seg *segment) {
	if seg == nil || seg.ended() >= 0 {
		return
	}
	if seg.pipe != nil {
		seg.pipe.mover.drain(seg.pipe, true)
	}
	size, err := seg.file.size()
	if err != nil {
		s.warnOnce("gone", fmt.Errorf("find the end of an output file: %w", err))
	}
	if seg.end.CompareAndSwap(-1, size) {
		s.changed(seg)
	}
}

// endAll ends every start that is not over.
func (s *Store) endAll() {
	for _, seg := range s.current() {
		s.end(seg)
	}
}

// current returns the segment of the newest start of every stream.
func (s *Store) current() []*segment {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var all []*segment
	for _, dir := range s.pools {
		all = dir.current(all)
	}
	return all
}

// current adds those of one directory. The caller holds the store's lock.
func (d *poolDir) current(all []*segment) []*segment {
	for _, files := range d.slots {
		for i := range files.streams {
			if seg := files.streams[i].now.Load(); seg != nil {
				all = append(all, seg)
			}
		}
	}
	return all
}

// changed lets every reader of a segment look at it.
func (s *Store) changed(seg *segment) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, c := range seg.cursors {
		c.queue.push(c)
	}
}

// attach gives a segment one more reader, which will look at it at least once.
func (s *Store) attach(seg *segment, q *queue) *cursor {
	c := &cursor{seg: seg, queue: q, off: seg.from}
	s.mu.Lock()
	seg.cursors = append(seg.cursors, c)
	s.mu.Unlock()
	q.push(c)
	return c
}

func (s *Store) detach(c *cursor) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.seg.cursors = slices.DeleteFunc(c.seg.cursors, func(o *cursor) bool { return o == c })
}
