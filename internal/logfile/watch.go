package logfile

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// watchPace is the least time between two looks at what has changed. It lets the
// kernel merge what a busy writer causes; nothing ticks while nothing is written.
const watchPace = time.Millisecond

// Watch tells of runs, pools and streams that change, with one inotify
// descriptor and one watch for each directory.
type Watch struct {
	file *os.File
	dirs map[int32]watched
	wds  map[string]bool
}

// watched is a directory that is watched.
type watched struct {
	path      string
	run, pool string // both empty: the directory of all runs; pool empty: that of a run
}

// Change is something that is new or has changed. Fields that are empty tell the
// level: a run, a pool or a stream. A zero Change says that anything may have changed.
type Change struct {
	Run, Pool string
	SlotStream
}

// NewWatch watches root for new runs. The caller owes a Close.
func NewWatch(root string) (*Watch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, watchError(root, "fs.inotify.max_user_instances", err)
	}
	w := &Watch{file: os.NewFile(uintptr(fd), "inotify"), dirs: map[int32]watched{}, wds: map[string]bool{}}
	if err := w.add(watched{path: root}, unix.IN_CREATE|unix.IN_MOVED_TO); err != nil {
		_ = w.file.Close() // the other error matters
		return nil, err
	}
	return w, nil
}

// AddRun watches a run for new pools.
func (w *Watch) AddRun(r Run) error {
	return w.add(watched{path: r.Dir, run: r.ID}, unix.IN_CREATE|unix.IN_MOVED_TO)
}

// AddPool watches the streams of a pool.
func (w *Watch) AddPool(r Run, pool string) error {
	return w.add(watched{path: r.PoolDir(pool), run: r.ID, pool: pool}, unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_MODIFY)
}

func (w *Watch) add(d watched, mask uint32) error {
	if w.wds[d.path] {
		return nil
	}
	conn, err := w.file.SyscallConn()
	if err != nil {
		return fmt.Errorf("watch %s: %w", d.path, err)
	}
	var wd int
	var addErr error
	err = conn.Control(func(fd uintptr) {
		wd, addErr = unix.InotifyAddWatch(int(fd), d.path, mask|unix.IN_ONLYDIR)
	})
	if err != nil {
		return fmt.Errorf("watch %s: %w", d.path, err)
	}
	if addErr != nil {
		return watchError(d.path, "fs.inotify.max_user_watches", addErr)
	}
	w.dirs[int32(wd)] = d
	w.wds[d.path] = true
	return nil
}

func watchError(path, sysctl string, err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EMFILE) {
		return fmt.Errorf("watch %s: the limit %s of this user is reached (%w): raise it with sysctl", path, sysctl, err)
	}
	return fmt.Errorf("watch %s: %w", path, err)
}

// Close ends a Run.
func (w *Watch) Close() error { return w.file.Close() }

// Run hands out changes in batches until ctx is done, and returns nil then, or
// until f returns an error, which it returns.
func (w *Watch) Run(ctx context.Context, f func([]Change) error) error {
	stop := context.AfterFunc(ctx, func() { _ = w.file.Close() }) // ends the read
	defer stop()
	buf := make([]byte, 64<<10)
	pace := time.NewTimer(0)
	defer pace.Stop()
	for {
		<-pace.C
		n, err := w.file.Read(buf)
		if ctx.Err() != nil || errors.Is(err, fs.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read changes of output files: %w", err)
		}
		if err := f(w.changes(buf[:n])); err != nil {
			return err
		}
		pace.Reset(watchPace)
	}
}

// changes takes a buffer of struct inotify_event apart, each followed by a name.
func (w *Watch) changes(buf []byte) []Change {
	var all []Change
	seen := map[Change]bool{}
	for len(buf) >= unix.SizeofInotifyEvent {
		wd := int32(binary.NativeEndian.Uint32(buf[0:4]))
		mask := binary.NativeEndian.Uint32(buf[4:8])
		size := int(binary.NativeEndian.Uint32(buf[12:16]))
		name, _, _ := bytes.Cut(buf[unix.SizeofInotifyEvent:unix.SizeofInotifyEvent+size], []byte{0})
		buf = buf[unix.SizeofInotifyEvent+size:]
		if mask&unix.IN_Q_OVERFLOW != 0 {
			return []Change{{}}
		}
		d := w.dirs[wd]
		if mask&unix.IN_IGNORED != 0 { // the directory is gone
			delete(w.dirs, wd)
			delete(w.wds, d.path)
			continue
		}
		if c, ok := d.change(string(name)); ok && !seen[c] {
			seen[c] = true
			all = append(all, c)
		}
	}
	return all
}

func (d watched) change(name string) (Change, bool) {
	switch {
	case d.path == "":
		return Change{}, false
	case d.run == "":
		return Change{Run: name}, IsRunID(name)
	case d.pool == "":
		return Change{Run: d.run, Pool: name}, name != aboutName && filepath.Base(name) == name
	}
	slot, stream, ok := ParseLive(name)
	return Change{d.run, d.pool, SlotStream{slot, stream}}, ok
}
