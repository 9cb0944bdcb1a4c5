package logfile

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
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
	inotify *Inotify
	dirs    map[int32]watched
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
	inotify, err := NewInotify()
	if err != nil {
		return nil, watchError(root, "fs.inotify.max_user_instances", err)
	}
	w := &Watch{inotify: inotify, dirs: map[int32]watched{}}
	if err := w.add(watched{path: root}, unix.IN_CREATE|unix.IN_MOVED_TO); err != nil {
		_ = inotify.Close() // the other error matters
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

// add may be called again: a directory that is watched stays so, and one that has come in
// the place of another is a new one, of whose end the kernel may tell late.
func (w *Watch) add(d watched, mask uint32) error {
	wd, err := w.inotify.Add(d.path, mask)
	if err != nil {
		return watchError(d.path, "fs.inotify.max_user_watches", err)
	}
	w.dirs[wd] = d
	return nil
}

func watchError(path, sysctl string, err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EMFILE) {
		return fmt.Errorf("watch %s: the limit %s of this user is reached (%w): raise it with sysctl", path, sysctl, err)
	}
	return fmt.Errorf("watch %s: %w", path, err)
}

// Close ends a Run.
func (w *Watch) Close() error { return w.inotify.Close() }

// Run hands out changes in batches until ctx is done, and returns nil then, or
// until f returns an error, which it returns.
func (w *Watch) Run(ctx context.Context, f func([]Change) error) error {
	stop := context.AfterFunc(ctx, func() { _ = w.inotify.Close() }) // ends the read
	defer stop()
	buf := make([]byte, 64<<10)
	pace := time.NewTimer(0)
	defer pace.Stop()
	for {
		<-pace.C
		var b batch
		err := w.inotify.Read(buf, func(e InotifyEvent) { w.event(e, &b) })
		if ctx.Err() != nil || errors.Is(err, fs.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read changes of output files: %w", err)
		}
		if err := f(b.changes()); err != nil {
			return err
		}
		pace.Reset(watchPace)
	}
}

// batch collects changes, each once.
type batch struct {
	all      []Change
	seen     map[Change]bool
	overflow bool
}

func (b *batch) changes() []Change {
	if b.overflow {
		return []Change{{}}
	}
	return b.all
}

// event adds what an event says to a batch.
func (w *Watch) event(e InotifyEvent, b *batch) {
	d := w.dirs[e.Watch]
	switch {
	case e.Mask&unix.IN_Q_OVERFLOW != 0:
		b.overflow = true
		return
	case e.Mask&unix.IN_IGNORED != 0: // the directory is gone
		delete(w.dirs, e.Watch)
		return
	}
	if c, ok := d.change(string(e.Name)); ok && !b.seen[c] {
		if b.seen == nil {
			b.seen = map[Change]bool{}
		}
		b.seen[c] = true
		b.all = append(b.all, c)
	}
}

func (d watched) change(name string) (Change, bool) {
	switch {
	case d.path == "":
		return Change{}, false
	case d.run == "":
		return Change{Run: name}, IsRunID(name)
	case d.pool == "":
		return Change{Run: d.run, Pool: name}, name != AboutName && filepath.Base(name) == name
	}
	slot, stream, ok := ParseLive(name)
	return Change{d.run, d.pool, SlotStream{slot, stream}}, ok
}
