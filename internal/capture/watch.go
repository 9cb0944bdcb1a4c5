package capture

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// watchPace is the least time between two looks at the events. It lets the
// kernel merge what a busy writer causes. The first event after a quiet time is
// handled at once, and nothing ticks while nothing is written.
const watchPace = time.Millisecond

// watch is one inotify descriptor for all files: a watch for each pool's
// directory, not for each file, so the usual limit on watches is out of reach.
type watch struct {
	file *os.File // waits in Go's poller, so no thread is blocked

	mu   sync.Mutex // guards dirs
	dirs map[int32]*poolDir
}

func newWatch() (*watch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, explainInotify("watch", "output files", err)
	}
	return &watch{file: os.NewFile(uintptr(fd), "inotify"), dirs: make(map[int32]*poolDir)}, nil
}

// add watches the files in the directory of a pool.
func (w *watch) add(dir *poolDir) error {
	conn, err := w.file.SyscallConn()
	if err != nil {
		return fmt.Errorf("watch %s: %w", dir.path, err)
	}
	var wd int
	var addErr error
	err = conn.Control(func(fd uintptr) {
		wd, addErr = unix.InotifyAddWatch(int(fd), dir.path, unix.IN_MODIFY|unix.IN_ONLYDIR|unix.IN_DONT_FOLLOW)
	})
	if err != nil {
		return fmt.Errorf("watch %s: %w", dir.path, err)
	}
	if addErr != nil {
		return explainInotify("watch", dir.path, addErr)
	}
	w.mu.Lock()
	w.dirs[int32(wd)] = dir
	w.mu.Unlock()
	return nil
}

func (w *watch) dir(wd int32) *poolDir {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.dirs[wd]
}

func (w *watch) close() error {
	if err := w.file.Close(); err != nil {
		return fmt.Errorf("close watch of output files: %w", err)
	}
	return nil
}

// runWatch turns events into changes of segments until the watch is closed.
func (s *Store) runWatch() {
	buf := make([]byte, 16<<10)
	pace := time.NewTimer(0)
	defer pace.Stop()
	for {
		<-pace.C
		n, err := s.watch.file.Read(buf)
		if errors.Is(err, fs.ErrClosed) {
			return
		}
		if err != nil {
			s.warnOnce("watch", fmt.Errorf("read changes of output files: %w", err))
			return
		}
		s.dispatch(buf[:n])
		pace.Reset(watchPace)
	}
}

// dispatch handles a buffer of struct inotify_event, each followed by a name.
func (s *Store) dispatch(buf []byte) {
	var last *segment // most events of a buffer are for the same file
	for len(buf) >= unix.SizeofInotifyEvent {
		wd := int32(binary.NativeEndian.Uint32(buf[0:4]))
		mask := binary.NativeEndian.Uint32(buf[4:8])
		size := int(binary.NativeEndian.Uint32(buf[12:16]))
		name, _, _ := bytes.Cut(buf[unix.SizeofInotifyEvent:unix.SizeofInotifyEvent+size], []byte{0})
		buf = buf[unix.SizeofInotifyEvent+size:]
		if mask&unix.IN_Q_OVERFLOW != 0 {
			// The kernel dropped events, so every file may have changed.
			for _, seg := range s.current() {
				s.changed(seg)
			}
			continue
		}
		if seg := s.lookup(wd, name); seg != nil && seg != last {
			s.changed(seg)
			last = seg
		}
	}
}

// lookup finds the segment that is being written to the file with this name.
func (s *Store) lookup(wd int32, name []byte) *segment {
	number, rest, _ := bytes.Cut(name, []byte{'.'})
	slot, err := strconv.Atoi(string(number))
	if err != nil {
		return nil
	}
	i := 0
	switch string(rest) {
	case Stdout + ".log":
	case Stderr + ".log":
		i = 1
	default:
		return nil // the file of an earlier start, or not ours
	}
	dir := s.watch.dir(wd)
	s.mu.RLock()
	defer s.mu.RUnlock()
	if dir == nil || dir.slots[slot] == nil {
		return nil
	}
	return dir.slots[slot].streams[i].now.Load()
}
