package capture

import (
	"errors"
	"io/fs"
	"time"

	"golang.org/x/sys/unix"
)

// An event of a file costs its writer about a quarter of what the write costs. So a
// directory with a flood is not watched all the time: after some looks in a row it
// rests for a moment, and then everything in it counts as changed.
const (
	floodAfter   = 16 // looks in a row
	floodPace    = 5 * time.Millisecond
	floodGap     = 4 * floodPace // a longer time without an event ends a row
	floodStreams = 64            // with more in a directory, to look at all of them costs more than the events
)

// floods are the directories that rest, and the time of the look that is under way.
// Only the goroutine of the watch has it.
type floods struct {
	store   *Store
	now     time.Time
	resting []*poolDir
}

// row is how long a directory had events in each look. Only the goroutine of the watch touches it.
type row struct {
	looks int
	last  time.Time
}

// saw takes note of an event in a directory.
func (fl *floods) saw(dir *poolDir) {
	if dir == nil || dir.row.last.Equal(fl.now) {
		return // nobody's, or seen in this look
	}
	if fl.now.Sub(dir.row.last) > floodGap {
		dir.row.looks = 0
	}
	dir.row.last = fl.now
	if dir.row.looks++; dir.row.looks < floodAfter || fl.store.streams(dir) > floodStreams {
		return
	}
	if fl.store.watch.rest(dir) == nil { // else it goes on as before
		fl.resting = append(fl.resting, dir)
	}
}

// pace returns how long to wait until the next look.
func (fl *floods) pace() time.Duration {
	if len(fl.resting) > 0 {
		return floodPace
	}
	return watchPace
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
	fl.resting = fl.resting[:0]
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
