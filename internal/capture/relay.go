package capture

import (
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// relay is a pipe of our own between a busy worker's pipe and the file. What is in
// the worker's pipe changes hands without being copied, and the worker writes on
// while it goes to the file: splicing keeps a pipe locked for as long as it takes.
type relay struct {
	out, in int   // descriptors: to read from, to write to
	held    int64 // bytes in it
}

func newRelay() (*relay, error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil, err
	}
	_, _ = unix.FcntlInt(uintptr(fds[0]), unix.F_SETPIPE_SZ, pipeLarge) // a smaller one takes more turns
	return &relay{out: fds[0], in: fds[1]}, nil
}

// fill takes what is in a pipe. Nothing is in the relay.
func (r *relay) fill(from, most int) (n int64, err error) {
	n, err = unix.Splice(from, nil, r.in, nil, most, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
	r.held = max(n, 0)
	return r.held, err
}

// empty moves all that is held to a place in a file. After an error the rest stays.
func (r *relay) empty(fd int, off int64) (moved int64, err error) {
	for r.held > 0 {
		n, err := unix.Splice(r.out, nil, fd, &off, int(r.held), unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
		if err != nil {
			return moved, err
		}
		r.held -= n
		moved += n
	}
	return moved, nil
}

func (r *relay) close() { _, _ = unix.Close(r.out), unix.Close(r.in) } // it is empty, or its bytes were counted

// relays are those that nobody uses, as many as are likely to be used at once.
type relays struct {
	mu     sync.Mutex // guards the fields below
	spare  []*relay
	closed bool
}

func (rs *relays) get() (*relay, error) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	last := len(rs.spare) - 1
	if last < 0 {
		return newRelay()
	}
	r := rs.spare[last]
	rs.spare = rs.spare[:last]
	return r, nil
}

// put takes an empty one back.
func (rs *relays) put(r *relay) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if rs.closed || len(rs.spare) >= runtime.GOMAXPROCS(0) {
		r.close()
		return
	}
	rs.spare = append(rs.spare, r)
}

func (rs *relays) close() {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rs.closed = true
	for _, r := range rs.spare {
		r.close()
	}
	rs.spare = nil
}

// source is where the next byte of the stream is. The caller holds the pipe's lock.
func (p *pipe) source() int {
	if p.relay != nil {
		return p.relay.out
	}
	return p.fd
}

// took takes note of n bytes read from the source.
func (p *pipe) took(n int64) {
	if p.relay == nil {
		return
	}
	if p.relay.held -= n; p.relay.held <= 0 {
		p.release()
	}
}

func (p *pipe) release() {
	p.mover.store.movers.relays.put(p.relay)
	p.relay = nil
}

// spliceTo moves a block to a place in a file, through a relay if the stream is
// busy. What a relay holds after an error is this stream's, and goes first.
func (p *pipe) spliceTo(fd int, off int64, most int) (n int64, err error) {
	if p.relay == nil && p.size >= pipeLarge {
		p.relay, _ = p.mover.store.movers.relays.get() // without one it is slower
		if p.relay != nil {
			if n, err = p.relay.fill(p.fd, most); n == 0 {
				p.release()
				return 0, err
			}
		}
	}
	if p.relay == nil {
		return unix.Splice(p.fd, nil, fd, &off, most, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
	}
	n, err = p.relay.empty(fd, off)
	if p.relay.held == 0 {
		p.release()
	}
	if n > 0 {
		return n, nil // an error comes again with the next block
	}
	return n, err
}
