package capture

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pitvisor/pitvisor/pidfd"
	"golang.org/x/sys/unix"
)

// pipe is the way of one start's stream through us: the worker writes to a pipe,
// and a mover brings what is in it to the live file, in blocks.
//
// The worker's end is open for reading too. So the worker never gets SIGPIPE: if
// the supervisor is gone its writes go on until the pipe is full, and block then
// until the next supervisor sweeps it.
type pipe struct {
	seg   *segment
	mover *mover
	token uint64

	mu    sync.Mutex // guards the fields below; taken before the file's lock
	fd    int        // our end; -1 when it is closed
	size  int        // of the pipe
	relay *relay     // holds bytes that have left the pipe and are not in the file; nil if there are none
	copy  bool       // the file system can not splice
}

const (
	pipeBlock  = 1 << 20  // what is moved at once of one stream, at most
	pipeLarge  = 1 << 20  // the size of a busy stream's pipe
	pipeBudget = 32 << 20 // what large pipes may take together
	smallMove  = 16 << 10 // after less than this more is waited for
	drainMost  = 4 << 20  // what is moved of a pipe that others still write to when its start is over
	movePace   = time.Millisecond
	pipePublic = 0o622 // only those who may look into the worker's descriptors can open it at all
)

// mover moves the bytes of many pipes. There are as many as processors.
type mover struct {
	store  *Store
	poller *pidfd.Poller
	paused time.Time
	pipes  sync.Map // token → *pipe
}

// movers are those of a store. The store's lock guards the list.
type movers struct {
	all   []*mover
	next  atomic.Uint64 // token of the next pipe
	large atomic.Int64  // bytes of large pipes
	relays
	stop context.CancelFunc
	ctx  context.Context
}

// newPipe gives a stream its pipe and returns the end for the worker.
func (s *Store) newPipe(seg *segment) (*os.File, error) {
	m, err := s.mover()
	if err != nil {
		return nil, err
	}
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, explain("make a pipe for", seg.file.path, err)
	}
	defer func() { _ = unix.Close(fds[1]) }() // the worker gets one that is open for both
	worker, err := openBoth(fds[1])
	if err == nil {
		err = unix.SetNonblock(fds[0], true)
	}
	if err != nil {
		_ = unix.Close(fds[0]) // the other error matters
		return nil, explain("make a pipe for", seg.file.path, err)
	}
	p := &pipe{seg: seg, mover: m, fd: fds[0], token: s.movers.next.Add(1)}
	p.size, _ = unix.FcntlInt(uintptr(p.fd), unix.F_GETPIPE_SZ, 0) // only to know when it is full
	seg.pipe = p                                                   // before the mover can come upon it
	m.pipes.Store(p.token, p)
	if err := m.poller.Add(p.fd, unix.EPOLLIN, p.token); err != nil {
		m.pipes.Delete(p.token)
		_, _ = unix.Close(p.fd), worker.Close() // nothing was written
		return nil, err
	}
	return worker, nil
}

// openBoth opens a pipe for reading and writing. Its mode is that of a terminal,
// so that a worker of another user can open /dev/stdout.
func openBoth(fd int) (*os.File, error) {
	if err := unix.Fchmod(fd, pipePublic); err != nil {
		return nil, err
	}
	both, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open both ends (is /proc mounted?): %w", err)
	}
	return os.NewFile(uintptr(both), "pipe"), nil
}

// mover returns the mover for the next pipe.
func (s *Store) mover() (*mover, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, os.ErrClosed
	}
	ms := &s.movers
	if ms.ctx == nil {
		ms.ctx, ms.stop = context.WithCancel(context.Background())
	}
	n := runtime.GOMAXPROCS(0)
	if len(ms.all) == n {
		return ms.all[ms.next.Load()/2%uint64(n)], nil // both streams of a worker have the same one
	}
	poller, err := pidfd.NewPoller()
	if err != nil {
		return nil, explain("watch", "pipes of workers", err)
	}
	m := &mover{store: s, poller: poller}
	ms.all = append(ms.all, m)
	s.running.Go(func() {
		if err := poller.Run(ms.ctx, m.ready); err != nil && ms.ctx.Err() == nil {
			s.warnOnce("pipes", fmt.Errorf("wait for output of workers: %w", err))
		}
		_ = poller.Close() // nothing waits in it
	})
	return m, nil
}

// ready is called when there is something in a pipe, or nobody can write to it any more.
func (m *mover) ready(token uint64, _ uint32) {
	v, ok := m.pipes.Load(token)
	if !ok {
		return
	}
	p := v.(*pipe)
	p.mu.Lock()
	busy := p.size >= pipeLarge
	if busy { // while we are at it each of the worker's writes would wake us
		m.watchFor(p, 0)
	}
	n, over := m.move(p, pipeBlock)
	if over {
		m.drop(p)
	}
	p.mu.Unlock()
	if over {
		m.store.end(p.seg)
		return
	}
	if n < smallMove && time.Since(m.paused) > movePace {
		wait := time.NewTimer(movePace) // a busy writer is worth fewer and larger moves
		<-wait.C
		m.paused = time.Now()
	}
	if busy {
		p.mu.Lock()
		m.watchFor(p, unix.EPOLLIN)
		p.mu.Unlock()
	}
}

// watchFor says what of a pipe is to be reported. The caller holds the lock.
func (m *mover) watchFor(p *pipe, events uint32) {
	if p.fd < 0 {
		return
	}
	if err := m.poller.Change(p.fd, events, p.token); err != nil && !errors.Is(err, os.ErrClosed) {
		m.store.warnOnce("pipes", err)
	}
}

// drop closes our end. The caller holds the lock.
func (m *mover) drop(p *pipe) {
	if p.fd < 0 {
		return
	}
	if p.relay != nil { // there was no way to move it on
		p.seg.file.lost(p.relay.held)
		p.relay.close()
		p.relay = nil
	}
	_ = m.poller.Remove(p.fd) // it was added
	m.pipes.Delete(p.token)
	_ = unix.Close(p.fd) // nothing to lose: it was read to its end
	p.fd = -1
	if p.size >= pipeLarge {
		m.store.movers.large.Add(-pipeLarge)
	}
}

// drain moves what is in the pipe now, and with last closes it.
func (m *mover) drain(p *pipe, last bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for total := int64(0); p.fd >= 0 && total < drainMost; {
		n, over := m.move(p, pipeBlock)
		if over || n == 0 {
			break
		}
		total += n
	}
	if last {
		m.drop(p)
	}
}

// move moves one block. over says that nobody can write to the pipe any more and
// nothing is in it. The caller holds the pipe's lock.
func (m *mover) move(p *pipe, most int) (n int64, over bool) {
	if p.fd < 0 {
		return 0, true
	}
	n, err := p.seg.file.take(p, most)
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		return 0, false
	case isShortage(err): // it stays in the pipe, and the worker waits
		m.store.warnOnce("shortage", explain("move output to", p.seg.file.path, err))
		return 0, false
	case err != nil:
		n = m.discard(p, err)
		return n, n == 0
	}
	// A full pipe is rarely full of bytes: what does not fit behind the write before
	// begins a page of its own.
	if n >= int64(p.size)/2 && p.size > 0 && p.size < pipeLarge {
		m.enlarge(p)
	}
	return n, n == 0
}

// enlarge gives a busy stream a larger pipe, if it may.
func (m *mover) enlarge(p *pipe) {
	if m.store.movers.large.Add(pipeLarge) <= pipeBudget {
		if size, err := unix.FcntlInt(uintptr(p.fd), unix.F_SETPIPE_SZ, pipeLarge); err == nil {
			p.size = size
			return
		}
	}
	m.store.movers.large.Add(-pipeLarge)
}

// discard empties a pipe whose file can not be written to, so that the worker
// goes on, and counts what is lost.
func (m *mover) discard(p *pipe, cause error) (n int64) {
	m.store.warnOnce("lost", &Error{
		Op: "write what workers print to", Path: p.seg.file.path, Err: cause,
		hint: cure(cause), // the workers go on, what they print is counted
	})
	buf := m.store.buffers.Get().(*[]byte)
	defer m.store.buffers.Put(buf)
	got, err := unix.Read(p.source(), *buf)
	if err != nil || got <= 0 {
		return 0
	}
	p.took(int64(got))
	p.seg.file.lost(int64(got))
	m.store.trimmer.push(&cursor{seg: p.seg, queue: m.store.trimmer}) // writes it down as soon as there is room
	return int64(got)
}

// take moves a block from a pipe to the end of the live file. Nobody else
// writes to it.
func (f *file) take(p *pipe, most int) (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	// Not kept open: a worker costs a descriptor less, and a block is large. It is
	// not open for appending either, which can not be spliced to.
	fd, err := unix.Open(f.path, unix.O_WRONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return 0, err
	}
	defer func() { _ = unix.Close(fd) }() // each write has told how it went
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, err
	}
	f.look(st.Size)
	off := st.Size
	if !p.copy {
		n, err := p.spliceTo(fd, off, most)
		if !errors.Is(err, unix.EINVAL) {
			f.end += max(n, 0)
			return n, err
		}
		p.copy = true
	}
	read, n, err := copyPipe(p.source(), fd, off)
	p.took(read)
	f.end += n
	if read > n {
		f.times.drop(f.end, read-n)
	}
	return n, err
}

// copyPipe is for file systems that can not splice. What was read and has no
// room in the file is put back by no one, so room for all of it is made first.
func copyPipe(from, to int, off int64) (read, written int64, err error) {
	buf := make([]byte, 64<<10)
	if err := unix.Fallocate(to, unix.FALLOC_FL_KEEP_SIZE, off, int64(len(buf))); err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		return 0, 0, err
	}
	n, err := unix.Read(from, buf)
	if err != nil || n <= 0 {
		return 0, 0, err
	}
	for done := 0; done < n; {
		m, err := unix.Pwrite(to, buf[done:n], off+int64(done))
		if err != nil {
			return int64(n), int64(done), err
		}
		done += m
	}
	return int64(n), int64(n), nil
}

// lost counts bytes that could not be written.
func (f *file) lost(n int64) {
	f.mu.Lock()
	f.times.drop(f.end, n)
	f.mu.Unlock()
}
