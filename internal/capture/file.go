package capture

import (
	"errors"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// file is one output stream of one slot on disk, over all starts of the run.
// All offsets outside of this type count every byte that was ever written to it;
// what was cut away or moved out at the front keeps its numbers, so a reader's
// place stays right.
type file struct {
	mu    sync.Mutex // guards the fields below, and keeps cutting and reading apart
	path  string     // of the live file
	shift int64      // offset minus shift is the place in the live file
	head  int64      // bytes before this offset are not in the live file any more
	end   int64      // the highest offset that is known to have been written
	times recorder
	rotation
}

// openForWorker opens the file for appending. It never blocks, even if somebody put a FIFO there.
func openForWorker(path string) (*os.File, error) {
	flags := unix.O_WRONLY | unix.O_APPEND | unix.O_CREAT | unix.O_CLOEXEC | unix.O_NOFOLLOW | unix.O_NONBLOCK
	fd, err := unix.Open(path, flags, 0o640)
	if err != nil {
		return nil, explain("open", path, err)
	}
	if err := settle(fd); err != nil {
		_ = unix.Close(fd) // the other error matters
		return nil, explain("open", path, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// settle refuses what is no regular file and makes the descriptor blocking, as a worker expects.
func settle(fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return errors.New("not a regular file")
	}
	return unix.SetNonblock(fd, false)
}

// loadFile returns the stream whose live file is at path, as it was left.
func loadFile(path, timesPath string) (*file, error) {
	f := &file{path: path, times: recorder{path: timesPath}}
	var st unix.Stat_t
	err := unix.Lstat(path, &st)
	if errors.Is(err, unix.ENOENT) {
		return f, nil
	}
	if err != nil {
		return nil, explain("stat", path, err)
	}
	if f.times.load(); f.times.base > 0 {
		f.shift, f.head = f.times.base, f.times.base
	}
	f.look(st.Size)
	return f, nil
}

// look takes note of the live file's size. A smaller one than before means that
// a worker of our own user truncated it, as `echo > /dev/stderr` in a shell
// does: what is in it now is new, and what was in it is gone.
func (f *file) look(size int64) {
	if size+f.shift < f.end {
		f.shift, f.head = f.end, f.end
		f.times.rebase(f.end)
	}
	f.end = size + f.shift
}

// read fills buf from offset off, or up to end if that is not negative. It
// returns the offset it really read at: a later one when the front was cut away.
func (f *file) read(buf []byte, off, end int64) (n int, at int64, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fd, err := unix.Open(f.path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return 0, max(off, f.head), err
	}
	defer func() { _ = unix.Close(fd) }() // read-only; nothing to lose
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, max(off, f.head), err
	}
	f.look(st.Size)
	at = max(off, f.head)
	if end >= 0 {
		at = min(at, max(off, end)) // nothing of this start is left
		buf = buf[:max(0, min(int64(len(buf)), end-at))]
	}
	if len(buf) == 0 {
		return 0, at, nil
	}
	n, err = preadFull(fd, buf, at-f.shift)
	return n, at, err
}

func preadFull(fd int, buf []byte, off int64) (n int, err error) {
	for n < len(buf) {
		m, err := unix.Pread(fd, buf[n:], off+int64(n))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || m <= 0 {
			return n, err
		}
		n += m
	}
	return n, nil
}

// size returns the offset behind the last byte.
func (f *file) size() (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var st unix.Stat_t
	if err := unix.Lstat(f.path, &st); err != nil {
		return f.end, explain("stat", f.path, err)
	}
	f.look(st.Size)
	return f.end, nil
}

// began takes note of a start that writes to this file from now on.
func (f *file) began(off int64, start uint64) {
	f.mu.Lock()
	f.times.start(off, start)
	f.mu.Unlock()
}
