package capture

import (
	"errors"
	"fmt"
	"time"

	"github.com/pitvisor/pitvisor/internal/logfile"
	"golang.org/x/sys/unix"
)

const (
	// trimPace is the least time between two looks at the sizes, and so bounds
	// by how much a flood can overshoot. Nothing ticks while nothing is written.
	trimPace = 10 * time.Millisecond
	// collapseAt is how many times the bound a hole may measure before it is
	// collapsed. Punching is cheap; collapsing makes the kernel flush the file.
	collapseAt = 4
)

// runTrimmer bounds the files and writes down when they grew, independently of
// how fast anybody reads them.
func (s *Store) runTrimmer() {
	pace := time.NewTimer(0)
	defer pace.Stop()
	for {
		<-s.trimmer.wake
		for {
			c, open := s.trimmer.pop()
			if c == nil && !open {
				return
			}
			if c == nil {
				break
			}
			s.trim(c)
		}
		pace.Reset(trimPace)
		<-pace.C
	}
}

func (s *Store) trim(c *cursor) {
	ended := c.seg.ended()
	f := c.seg.file
	due, err := f.tend(s.maxSize, &s.rotate, ended)
	if err != nil {
		s.warnOnce("bound", fmt.Errorf("bound the size of an output file: %w", err))
	}
	if due {
		s.rotateSoon(c.seg)
	}
	if ended >= 0 {
		s.detach(c)
	}
}

// tend writes down how far the file has grown, and cuts the oldest bytes away so
// that at least the newest keep bytes stay, or those of all files that would
// be rotated. The end of a start makes it tidy. due says that it is time to rotate.
func (f *file) tend(keep int64, r *Rotate, ended int64) (due bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var st unix.Stat_t
	if err := unix.Lstat(f.path, &st); err != nil {
		return false, explain("stat", f.path, err)
	}
	f.look(st.Size)
	now := time.Now()
	due = f.due(keep, r, now)
	bound := keep * int64(1+r.Keep)
	grown := f.end-f.head > bound+keep/4
	tidy := ended >= 0
	hole := f.head - f.shift
	large := hole >= int64(st.Blksize) && (tidy || hole >= collapseAt*keep)
	// Cutting changes the time of the file, which is that of the last mark.
	noteErr := f.times.note(f.end, ended, now, tidy || grown || large)
	if err := f.times.compact(f.oldest()); noteErr == nil {
		noteErr = err
	}
	if !grown && !large {
		return due, noteErr
	}
	fd, err := unix.Open(f.path, unix.O_WRONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return due, explain("open", f.path, err)
	}
	defer func() { _ = unix.Close(fd) }() // nothing is written through it
	if grown {
		if err := f.punch(fd, f.end-bound, int64(st.Blksize)); err != nil {
			return due, err
		}
	}
	if hole = f.head - f.shift; tidy || hole >= collapseAt*keep {
		return due, errors.Join(noteErr, f.collapse(fd, hole, int64(st.Blksize)))
	}
	return due, noteErr
}

// punch frees the whole blocks before the offset to.
func (f *file) punch(fd int, to, block int64) error {
	block = max(block, 4096)
	from, upTo := f.head-f.shift, to-f.shift
	from, upTo = from-from%block, upTo-upTo%block
	if upTo > from {
		err := unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, from, upTo-from)
		if errors.Is(err, unix.EOPNOTSUPP) {
			f.solid = true
			return &Error{
				Op: "punch a hole into", Path: f.path, Err: err,
				hint: "this file system can not free a part of a file, so output grows until the next start; put state_dir on ext4, xfs, btrfs or tmpfs",
			}
		}
		if err != nil {
			return explain("punch a hole into", f.path, err)
		}
		f.head = max(f.head, f.shift+upTo)
	}
	return nil
}

// collapse takes the hole at the front out of the file, so that the file is as
// long as what is in it. Readers without us learn of it from the .times file: if
// we die in between the front of the file tells them whether it was done.
func (f *file) collapse(fd int, hole, block int64) error {
	hole -= hole % max(block, 4096)
	if hole <= 0 || f.whole {
		return nil
	}
	if err := f.times.say(logfile.AppendBase(nil, f.shift+hole, true)); err != nil {
		return err // the hole costs nothing
	}
	err := unix.Fallocate(fd, unix.FALLOC_FL_COLLAPSE_RANGE, 0, hole)
	switch {
	case err == nil:
		f.shift += hole
	case errors.Is(err, unix.EOPNOTSUPP):
		f.whole = true // tmpfs, btrfs: the hole stays and costs nothing
	case errors.Is(err, unix.EINVAL): // larger blocks than stat says
	default:
		return explain("collapse", f.path, err)
	}
	f.times.rebase(f.shift)
	return f.times.say(nil)
}
