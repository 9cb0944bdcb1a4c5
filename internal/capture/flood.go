package capture

import (
	"errors"
	"io/fs"
	"time"

	"golang.org/x/sys/unix"
)

// An event of a file costs its writer a quarter of what the write costs, and as much as
// the write when writers on all processors cause them. So a directory with a flood is not
// watched all the time: after some looks in a row it rests for a moment, and then
// everything in it counts as changed.
const (
	floodAfter  = 16 // looks in a row
	floodPace   = 5 * time.Millisecond
	floodGap    = 4   // times as long without an event as it would rest ends a row
	fewStreams  = 64  // with more in a directory, to look at all of them costs more than some events
	mostStreams = 400 // and with more than that it costs too much in any case
	perStream   = 50 * time.Microsecond
)

// floods are the directories that rest, and the time of the look that is under way.
// Only the goroutine of the watch has it.
type floods struct {
	store   *Store
	now     time.Time
	resting []*poolDir
	longest time.Duration // that one of them rests
}

// row is how long a directory had many events in each look. Only the goroutine of the watch touches it.
type row struct {
	looks  int
	last   time.Time // of a look with an event
	events int       // in that look, until there were enough
}

// saw takes note of an event in a directory.
func (fl *floods) saw(dir *poolDir) {
	if dir == nil {
		return // nobody's
	}
	r, streams := &dir.row, fl.store.streams(dir)
	rest := max(floodPace, time.Duration(streams)*perStream)
	if !r.last.Equal(fl.now) {
		if fl.now.Sub(r.last) > floodGap*rest {
			r.looks = 0
		}
		r.last, r.events = fl.now, 0
	}
	enough := 1
	if streams > fewStreams {
		enough = streams
	}
	if r.events++; r.events != enough {
		return
	}
	if r.looks++; r.looks < floodAfter || streams > mostStreams {
		return
	}
	if fl.store.watch.rest(dir) == nil { // else it goes on as before
		fl.resting = append(fl.resting, dir)
		fl.longest = max(fl.longest, rest)
	}
}

// pace returns how long to wait until the next look.
func (fl *floods) pace() time.Duration {
	return max(fl.longest, watchPace)
}

// wake watches again what rested. The order matters: what is written from here on
// causes an event, and what was written before is looked at.
func (fl *floods) wake() {
	for _, dir := range fl.resting {
		if err := fl.store.watch.add(dir); err != nil && !errors.Is(err, fs.ErrClosed) {
			fl.store.warnOnce("watch", err)
		}
		for _, seg := range fl.store.currentOf(dir) {
			fl.store.changed(seg)
		}
	}
	fl.resting, fl.longest = fl.resting[:0], 0
}

// rest makes the kernel tell nothing of the files in a directory until it is added again.
func (w *watch) rest(dir *poolDir) error {
	_, err := w.inotify.Add(dir.path, unix.IN_DELETE_SELF|unix.IN_DONT_FOLLOW)
	return err
}

// streams returns how many there are in a directory.
func (s *Store) streams(dir *poolDir) int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return 2 * len(dir.slots)
}

// currentOf returns the segment of the newest start of every stream in a directory.
func (s *Store) currentOf(dir *poolDir) []*segment {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return dir.current(nil)
}
