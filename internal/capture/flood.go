package capture

import (
	"errors"
	"io/fs"
	"slices"
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
	floodGap    = 4 * floodPace // a longer wait for an event ends a row, as do
	floodApart  = 4             // so many looks at the events of others
	fewStreams  = 64            // with more in a directory, to look at all of them costs more than some events
	mostStreams = 400           // and with more than that it costs too much in any case
	perStream   = 50 * time.Microsecond
)

// floods are the directories that rest, and the number of the look that is under way.
// Only the goroutine of the watch has it.
type floods struct {
	store   *Store
	look    int64
	resting []*poolDir
	longest time.Duration // that one of them rests
}

// row is the looks in a row in which a directory had many events. Only the goroutine of the watch touches it.
type row struct {
	looks  int
	last   int64 // look with an event
	events int   // in that look
}

// begin is called at the first event of a look, for which it has waited so long. How late
// the look itself was says nothing: writers on all processors keep us from them.
func (fl *floods) begin(waited time.Duration) {
	fl.look++
	if waited > floodGap {
		fl.look += floodApart
	}
}

// saw takes note of an event in a directory.
func (fl *floods) saw(dir *poolDir) {
	if dir == nil {
		return // nobody's
	}
	r, streams := &dir.row, fl.store.streams(dir)
	if r.last != fl.look {
		if fl.look-r.last > floodApart {
			r.looks = 0
		}
		r.last, r.events = fl.look, 0
	}
	r.events++
	if streams <= fewStreams && r.events > 1 || streams > fewStreams && r.events%streams != 0 {
		return // a look counts once, or as often as there were as many events as streams
	}
	if r.looks++; r.looks < floodAfter || streams > mostStreams || slices.Contains(fl.resting, dir) {
		return
	}
	if fl.store.watch.rest(dir) == nil { // else it goes on as before
		fl.resting = append(fl.resting, dir)
		fl.longest = max(fl.longest, floodPace, time.Duration(streams)*perStream)
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
