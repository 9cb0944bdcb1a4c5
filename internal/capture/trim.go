package capture

import (
	"errors"
	"fmt"
	"time"

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

// runTrimmer bounds the files, independently of how fast anybody reads them.
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
	over := c.seg.ended() >= 0
	if err := c.seg.file.trim(s.maxSize, over); err != nil {
		s.warnOnce("bound", fmt.Errorf("bound the size of an output file: %w", err))
	}
	if over {
		s.detach(c)
	}
}

// trim cuts the oldest bytes away so that at least the newest keep bytes stay.
// It punches a hole where they were; tidy, or a large hole, makes it collapse
// the hole as well where the file system can (ext4, xfs).
func (f *file) trim(keep int64, tidy bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.path == "" {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Lstat(f.path, &st); err != nil {
		return explain("stat", f.path, err)
	}
	hole := f.cut - f.shift
	if hole > st.Size { // somebody truncated it
		f.cut, hole = f.shift, 0
	}
	grown := st.Size-hole > keep+keep/4
	large := hole > 0 && (tidy || hole >= collapseAt*keep)
	if !grown && !large {
		return nil
	}
	fd, err := unix.Open(f.path, unix.O_WRONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return explain("open", f.path, err)
	}
	defer func() { _ = unix.Close(fd) }() // nothing is written through it
	if grown {
		if err := f.punch(fd, hole, st.Size-keep, int64(st.Blksize)); err != nil {
			return err
		}
	}
	if hole = f.cut - f.shift; hole > 0 && (tidy || hole >= collapseAt*keep) {
		return f.collapse(fd, hole)
	}
	return nil
}

// punch frees the whole blocks between the offsets in the file from and to.
func (f *file) punch(fd int, from, to, block int64) error {
	block = max(block, 4096)
	to -= to % block
	if to <= from {
		return nil
	}
	err := unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, from, to-from)
	if err != nil {
		e := explain("punch a hole into", f.path, err)
		if errors.Is(err, unix.EOPNOTSUPP) {
			return &Error{
				Op: "punch a hole into", Path: f.path, Err: err,
				hint: "this file system can not free a part of a file, so output grows until the next start; put state_dir on ext4, xfs, btrfs or tmpfs",
			}
		}
		return e
	}
	f.cut = f.shift + to
	return nil
}

// collapse takes the hole at the front out of the file, so that the file is as long as what is in it.
func (f *file) collapse(fd int, hole int64) error {
	err := unix.Fallocate(fd, unix.FALLOC_FL_COLLAPSE_RANGE, 0, hole)
	switch {
	case err == nil:
		f.shift += hole
		return nil
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EINVAL):
		return nil // tmpfs, btrfs, or larger blocks than stat says: the hole stays and costs nothing
	}
	return explain("collapse", f.path, err)
}
