package capture

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"sync"
	"time"

	"github.com/pitvisor/pitvisor/internal/logfile"
	"golang.org/x/sys/unix"
)

// watchPace is the least time between two looks at the events. It lets the
// kernel merge what a busy writer causes. The first event after a quiet time is
// handled at once, and nothing ticks while nothing is written.
const watchPace = time.Millisecond

// watch is one inotify descriptor for all files: a watch for each pool's
// directory, not for each file, so the usual limit on watches is out of reach.
type watch struct {
	inotify *logfile.Inotify

	mu   sync.Mutex // guards dirs
	dirs map[int32]*poolDir
}

func newWatch() (*watch, error) {
	inotify, err := logfile.NewInotify()
	if err != nil {
		return nil, explainInotify("watch", "output files", err)
	}
	return &watch{inotify: inotify, dirs: make(map[int32]*poolDir)}, nil
}

// add watches the files in the directory of a pool.
func (w *watch) add(dir *poolDir) error {
	wd, err := w.inotify.Add(dir.path, unix.IN_MODIFY|unix.IN_DONT_FOLLOW)
	if err != nil {
		return explainInotify("watch", dir.path, err)
	}
	w.mu.Lock()
	w.dirs[wd] = dir
	w.mu.Unlock()
	return nil
}

func (w *watch) dir(wd int32) *poolDir {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.dirs[wd]
}

func (w *watch) close() error {
	if err := w.inotify.Close(); err != nil {
		return fmt.Errorf("close watch of output files: %w", err)
	}
	return nil
}

// runWatch turns events into changes of segments until the watch is closed.
func (s *Store) runWatch() {
	buf := make([]byte, 64<<10) // the pages that are used are those that events have filled
	pace := time.NewTimer(0)
	defer pace.Stop()
	fl := floods{store: s}
	for {
		<-pace.C
		fl.wake()
		var last *segment // most events of a buffer are for the same file
		began, first := time.Now(), true
		err := s.watch.inotify.Read(buf, func(e logfile.InotifyEvent) {
			if first {
				fl.begin(time.Since(began))
				first = false
			}
			fl.saw(s.watch.dir(e.Watch))
			last = s.dispatch(e, last)
		})
		if errors.Is(err, fs.ErrClosed) {
			return
		}
		if err != nil {
			s.warnOnce("watch", fmt.Errorf("read changes of output files: %w", err))
			return
		}
		pace.Reset(fl.pace())
	}
}

// dispatch handles one event and returns the segment that it was about. last is
// that of the event before, which need not be told again.
func (s *Store) dispatch(e logfile.InotifyEvent, last *segment) *segment {
	if e.Mask&unix.IN_Q_OVERFLOW != 0 {
		// The kernel dropped events, so every file may have changed.
		for _, seg := range s.current() {
			s.changed(seg)
		}
		return nil
	}
	seg := s.lookup(e.Watch, e.Name)
	if seg == nil {
		return last
	}
	if seg != last {
		s.changed(seg)
	}
	return seg
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
