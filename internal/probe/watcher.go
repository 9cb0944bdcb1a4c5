package probe

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// The events that may mean that a file got its content, or never will.
const watchMask = unix.IN_CREATE | unix.IN_MODIFY | unix.IN_MOVED_TO |
	unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR

// FileWatcher is one inotify instance for any number of ready files. A user may
// have few of them (fs.inotify.max_user_instances, by default 128), so pools
// should share one. It holds a descriptor and a goroutine only while a file is
// waited for. It does not see what other machines do to a network file system.
type FileWatcher struct {
	mu   sync.Mutex // guards what follows
	fd   int        // of inotify, valid while file is set
	file *os.File   // the same, in the runtime's poller; nil while nothing is watched
	done chan struct{}
	dirs map[int32][]*fileWatch // by watch descriptor
}

// NewFileWatcher returns a watcher that holds nothing until it is used.
func NewFileWatcher() *FileWatcher { return &FileWatcher{} }

// fileWatch is what happened to one name in one directory since it was added.
type fileWatch struct {
	wd   int32
	name string
	wake chan struct{} // holds one token when something happened

	mu       sync.Mutex // guards what follows
	happened fileEvent
}

// fileEvent sums up events in order of their arrival.
type fileEvent struct {
	any   bool // created, changed or moved into place
	moved bool // the last one moved it into place
	lost  bool // the kernel dropped events; the others may be wrong
	gone  bool // the directory was removed, moved or unmounted
}

// add watches for name in dir from now on.
func (w *FileWatcher) add(dir, name string) (*fileWatch, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.file == nil {
		if err := w.open(); err != nil {
			return nil, err
		}
	}
	wd, err := unix.InotifyAddWatch(w.fd, dir, watchMask)
	if err != nil {
		w.closeIfIdle()
		return nil, watchError(dir, err)
	}
	f := &fileWatch{wd: int32(wd), name: name, wake: make(chan struct{}, 1)}
	w.dirs[f.wd] = append(w.dirs[f.wd], f)
	return f, nil
}

// open makes the inotify instance and starts its reader.
func (w *FileWatcher) open() error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		if errors.Is(err, unix.EMFILE) {
			return fmt.Errorf("make an inotify instance: %w (raise fs.inotify.max_user_instances or the limit of open files)", err)
		}
		return fmt.Errorf("make an inotify instance: %w", err)
	}
	w.fd, w.file = fd, os.NewFile(uintptr(fd), "inotify")
	w.done = make(chan struct{})
	w.dirs = make(map[int32][]*fileWatch)
	go w.read(w.file, w.done)
	return nil
}

func watchError(dir string, err error) error {
	switch {
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("watch %s: %w: the directory of a ready file must exist before the worker starts", dir, err)
	case errors.Is(err, unix.ENOSPC):
		return fmt.Errorf("watch %s: %w (raise fs.inotify.max_user_watches)", dir, err)
	}
	return fmt.Errorf("watch %s: %w", dir, err)
}

// remove ends a watch. After the last one the instance and its goroutine are
// gone when it returns.
func (w *FileWatcher) remove(f *fileWatch) {
	w.mu.Lock()
	rest := slices.DeleteFunc(w.dirs[f.wd], func(o *fileWatch) bool { return o == f })
	if len(rest) > 0 {
		w.dirs[f.wd] = rest
	} else {
		delete(w.dirs, f.wd)
		// Fails only when the directory, and with it the watch, is gone already.
		_, _ = unix.InotifyRmWatch(w.fd, uint32(f.wd))
	}
	done := w.closeIfIdle()
	w.mu.Unlock()
	if done != nil {
		<-done // without the lock: the reader takes it
	}
}

// closeIfIdle closes an instance that watches nothing, and returns what tells
// the end of its reader. The caller holds mu.
func (w *FileWatcher) closeIfIdle() <-chan struct{} {
	if len(w.dirs) > 0 {
		return nil
	}
	_ = w.file.Close() // nothing is buffered
	w.file, w.dirs = nil, nil
	return w.done
}

// read hands out events until the instance is closed.
func (w *FileWatcher) read(file *os.File, done chan<- struct{}) {
	defer close(done)
	buf := make([]byte, 16<<10) // a single event needs up to 272 bytes
	for {
		n, err := file.Read(buf)
		if err != nil {
			return // closed
		}
		w.dispatch(file, buf[:n])
	}
}

// dispatch parses struct inotify_event: wd, mask, cookie, length, name.
func (w *FileWatcher) dispatch(file *os.File, buf []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.file != file {
		return // another instance has begun; these watch descriptors are not its
	}
	for len(buf) >= unix.SizeofInotifyEvent {
		wd := int32(binary.NativeEndian.Uint32(buf))
		mask := binary.NativeEndian.Uint32(buf[4:])
		end := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(buf[12:]))
		name := string(bytes.TrimRight(buf[unix.SizeofInotifyEvent:end], "\x00"))
		buf = buf[end:]
		if mask&unix.IN_Q_OVERFLOW != 0 {
			for _, dir := range w.dirs {
				notifyAll(dir, mask, "")
			}
			continue
		}
		notifyAll(w.dirs[wd], mask, name)
	}
}

func notifyAll(watches []*fileWatch, mask uint32, name string) {
	for _, f := range watches {
		if name == "" || name == f.name {
			f.note(mask)
		}
	}
}

// note adds one event to the sum.
func (f *fileWatch) note(mask uint32) {
	f.mu.Lock()
	e := &f.happened
	switch {
	case mask&unix.IN_Q_OVERFLOW != 0:
		e.lost = true
	case mask&(unix.IN_DELETE_SELF|unix.IN_MOVE_SELF|unix.IN_IGNORED|unix.IN_UNMOUNT) != 0:
		e.gone = true
	default:
		e.any = true
		e.moved = mask&unix.IN_MOVED_TO != 0
	}
	f.mu.Unlock()
	select {
	case f.wake <- struct{}{}:
	default: // a token is there already
	}
}

// sum returns what happened since the watch was added.
func (f *fileWatch) sum() fileEvent {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.happened
}
