package capture

import (
	"errors"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// file is one output file on disk. All offsets outside of this type count every
// byte that was ever written to it; what was cut away at the front keeps its
// numbers, so a reader's place stays right while the file is being cut.
type file struct {
	mu    sync.Mutex // guards the fields below, and keeps cutting and reading apart
	path  string     // "" when the file is gone for good
	cut   int64      // bytes before this offset are no longer there
	shift int64      // bytes that were collapsed: offset minus shift is the place in the file
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

// read fills buf from offset off, or up to end if that is not negative. It returns the
// offset it really read at: a later one when the front was cut away, the file's
// beginning when somebody truncated it.
func (f *file) read(buf []byte, off, end int64) (n int, at int64, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	at = max(off, f.cut)
	if f.path == "" {
		return 0, max(at, end), nil
	}
	fd, err := unix.Open(f.path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return 0, at, err
	}
	defer func() { _ = unix.Close(fd) }() // read-only; nothing to lose
	if end >= 0 {
		buf = buf[:max(0, min(int64(len(buf)), end-at))]
	}
	if len(buf) == 0 {
		return 0, at, nil
	}
	n, err = preadFull(fd, buf, at-f.shift)
	if n > 0 || err != nil {
		return n, at, err
	}
	// Nothing there: either nothing was written, or a worker of our own user
	// truncated the file, as `echo > /dev/stderr` in a shell does.
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Size >= at-f.shift {
		return 0, at, err
	}
	f.cut = f.shift
	n, err = preadFull(fd, buf, 0)
	return n, f.shift, err
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
	if f.path == "" {
		return f.cut, nil
	}
	var st unix.Stat_t
	if err := unix.Lstat(f.path, &st); err != nil {
		return f.cut, explain("stat", f.path, err)
	}
	return st.Size + f.shift, nil
}

// rename gives the file another name, which its readers follow.
func (f *file) rename(path string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := os.Rename(f.path, path); err != nil {
		return err
	}
	f.path = path
	return nil
}

// gone tells the readers that there is nothing to read any more.
func (f *file) gone() {
	f.mu.Lock()
	f.path = ""
	f.mu.Unlock()
}
