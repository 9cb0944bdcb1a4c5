package logfile

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Inotify is an inotify descriptor that waits in Go's poller, so that no thread is
// blocked.
type Inotify struct{ file *os.File }

// InotifyEvent is one event of a watch.
type InotifyEvent struct {
	Watch int32
	Mask  uint32
	Name  []byte // of the file in the directory that is watched; valid until the next Read
}

// NewInotify returns one that watches nothing. The caller owes a Close. The error is an errno.
func NewInotify() (*Inotify, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, err
	}
	return &Inotify{os.NewFile(uintptr(fd), "inotify")}, nil
}

// Add watches a directory.
func (i *Inotify) Add(dir string, mask uint32) (watch int32, err error) {
	conn, err := i.file.SyscallConn()
	if err != nil {
		return 0, err
	}
	var wd int
	var addErr error
	// Control holds the descriptor open, also against a Close at this moment.
	err = conn.Control(func(fd uintptr) { wd, addErr = unix.InotifyAddWatch(int(fd), dir, mask|unix.IN_ONLYDIR) })
	if err != nil {
		return 0, fmt.Errorf("%w: %w", os.ErrClosed, err)
	}
	return int32(wd), addErr
}

// Read waits for events and hands them to f. After a Close the error is an os.ErrClosed.
func (i *Inotify) Read(buf []byte, f func(InotifyEvent)) error {
	n, err := i.file.Read(buf)
	if err != nil {
		return err
	}
	// Each is a struct inotify_event with a name behind it.
	for buf = buf[:n]; len(buf) >= unix.SizeofInotifyEvent; {
		size := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(buf[12:16]))
		name, _, _ := bytes.Cut(buf[unix.SizeofInotifyEvent:size], []byte{0})
		f(InotifyEvent{
			Watch: int32(binary.NativeEndian.Uint32(buf[0:4])),
			Mask:  binary.NativeEndian.Uint32(buf[4:8]),
			Name:  name,
		})
		buf = buf[size:]
	}
	return nil
}

// Close ends a Read.
func (i *Inotify) Close() error { return i.file.Close() }
