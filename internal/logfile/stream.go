package logfile

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Stream reads what one stream of one slot has on disk, while others write,
// rotate and remove it. It takes no lock and needs none: what it has read counts
// only if the files say the same before and after.
//
// A Stream belongs to one goroutine.
type Stream struct {
	dir      string // of the pool
	slot     int
	name     string
	times    Times
	timesOff int64 // how much of the .times file has been read
	timesIno uint64
	off      int64 // of the next byte to read
	changed  time.Time
	piece    *pieceReader // the rotated file that is being read, or nil
}

// DamagedError is a rotated file whose bytes from Off on are missing, or may be
// wrong. Everything else is read.
type DamagedError struct {
	Path string
	Off  int64 // of the stream
	Err  error
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("read rotated output %s: damaged behind byte %d of the stream: %v", e.Path, e.Off, e.Err)
}

// Unwrap returns the cause.
func (e *DamagedError) Unwrap() error { return e.Err }

// OpenStream returns a reader of a stream in the directory of a pool, from its
// oldest byte on. It keeps nothing open, and there need not be a file yet.
func OpenStream(dir string, slot int, name string) *Stream {
	return &Stream{dir: dir, slot: slot, name: name}
}

// MoveTo continues at another offset.
func (s *Stream) MoveTo(off int64) {
	s.closePiece()
	s.off = off
}

// Close lets go of what a Read left open. Another Read is possible.
func (s *Stream) Close() { s.closePiece() }

// Times is what is known about when bytes were written, as of the last Read.
func (s *Stream) Times() *Times { return &s.times }

// Time returns when the byte before off was written. It is the time of the live
// file's last change for what nobody has marked.
func (s *Stream) Time(off int64) time.Time {
	if at, ok := s.times.At(off); ok {
		return at
	}
	return s.changed
}

// errAgain says that the files changed while they were read.
var errAgain = errors.New("the files keep changing")

// Read reads on. at is the offset of what was read: a later one than that of the
// byte after the last Read if bytes are no longer there. Nothing and no error
// means that there is no more now. After a *DamagedError reading goes on behind
// what is damaged.
func (s *Stream) Read(buf []byte) (n int, at int64, err error) {
	for range 1000 {
		if s.piece != nil {
			if n, err := s.readPiece(buf); n > 0 || err != nil {
				return n, s.off - int64(n), err
			}
			continue
		}
		n, head, err := s.readLive(buf)
		switch {
		case errors.Is(err, errAgain):
			continue
		case err != nil:
			return 0, s.off, err
		case n >= 0:
			s.off += int64(n)
			return n, s.off - int64(n), nil
		}
		if err := s.older(head); err != nil {
			return 0, s.off, err
		}
	}
	return 0, s.off, fmt.Errorf("read %s: %w", s.livePath(), errAgain)
}

func (s *Stream) livePath() string { return filepath.Join(s.dir, LiveName(s.slot, s.name)) }

// live is the live file at one moment.
type live struct {
	f    *os.File // nil if there is none
	base int64    // offset of its first byte
	head int64    // offset of the first byte that is not cut away
	end  int64
}

// openLive opens the live file. The caller owes a close.
func (s *Stream) openLive() (live, error) {
	f, err := os.OpenFile(s.livePath(), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		err := s.refresh()
		return live{base: s.times.Base, head: s.times.Base, end: s.times.Base}, err
	}
	if err != nil {
		return live{}, fmt.Errorf("read output: %w", err)
	}
	l, err := s.measure(f)
	if err != nil {
		_ = f.Close() // read-only; the other error matters
		return live{}, err
	}
	return l, nil
}

func (l live) close() {
	if l.f != nil {
		_ = l.f.Close() // read-only; nothing to lose
	}
}

// measure finds out where the live file begins and ends. What the .times file says of
// that, and the hole at the front, are of one moment only if the .times file says the same
// before and after.
func (s *Stream) measure(f *os.File) (live, error) {
	if err := s.refresh(); err != nil {
		return live{}, err
	}
	for range 1000 {
		base, intent := s.times.Base, s.times.Intent
		l, err := s.extent(f)
		if err != nil {
			return live{}, fmt.Errorf("read output %s: %w", s.livePath(), err)
		}
		if err := s.refresh(); err != nil {
			return live{}, err
		}
		if s.times.Base == base && s.times.Intent == intent {
			return l, nil
		}
	}
	return live{}, fmt.Errorf("read output %s: %w", s.livePath(), errAgain)
}

// extent is where the live file begins and ends by what is known of the .times file.
func (s *Stream) extent(f *os.File) (live, error) {
	info, err := f.Stat()
	if err != nil {
		return live{}, err
	}
	if !info.Mode().IsRegular() {
		return live{}, errors.New("not a regular file")
	}
	s.changed = info.ModTime()
	hole, err := unix.Seek(int(f.Fd()), 0, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) { // nothing but a hole
		hole, err = info.Size(), nil
	}
	if err != nil {
		hole = 0 // the file system does not know holes, so it has cut nothing
	}
	base := s.times.Base
	if s.times.Intent > 0 && hole == 0 {
		base = s.times.Intent
	}
	return live{f: f, base: base, head: base + hole, end: base + info.Size()}, nil
}

// readLive reads from the live file. n is -1 if the next byte is not in it any more; head is
// where it begins then.
func (s *Stream) readLive(buf []byte) (n int, head int64, err error) {
	l, err := s.openLive()
	if err != nil {
		return 0, 0, err
	}
	defer l.close()
	if s.off < l.head {
		return -1, l.head, nil
	}
	if l.f == nil || s.off >= l.end {
		return 0, l.head, nil
	}
	n, err = unix.Pread(int(l.f.Fd()), buf, s.off-l.base)
	if errors.Is(err, unix.EINTR) {
		return 0, 0, errAgain
	}
	if err != nil {
		return 0, 0, fmt.Errorf("read output %s: %w", s.livePath(), err)
	}
	after, err := s.measure(l.f)
	if err != nil {
		return 0, 0, err
	}
	if after.base != l.base || after.head > s.off {
		return 0, 0, errAgain // it was cut while we read
	}
	return n, l.head, nil
}

// older goes on in the rotated file that has the next byte, or where the next
// byte is that is still there.
func (s *Stream) older(head int64) error {
	pieces, err := s.pieces()
	if err != nil {
		return err
	}
	next := head
	for _, p := range pieces {
		if p.From <= s.off && s.off < p.To {
			return s.openPiece(p)
		}
		if p.From > s.off {
			next = min(next, p.From)
		}
	}
	s.off = next
	return nil
}

// pieces lists the rotated files of the stream, oldest first.
func (s *Stream) pieces() ([]Piece, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, RotatedDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list rotated output: %w", err)
	}
	var all []Piece
	for _, e := range entries {
		slot, name, p, ok := ParsePiece(e.Name())
		if ok && slot == s.slot && name == s.name {
			all = append(all, p)
		}
	}
	slices.SortFunc(all, func(a, b Piece) int { return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(b.To, a.To)) })
	return all, nil
}

// maxTimesRead bounds what is read of a .times file; its writer keeps it below a few percent of that.
const maxTimesRead = 64 << 20

// refresh reads what has come to the .times file.
func (s *Stream) refresh() error {
	path := filepath.Join(s.dir, TimesName(s.slot, s.name))
	var st unix.Stat_t
	err := unix.Lstat(path, &st)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err == nil && st.Ino == s.timesIno && st.Size == s.timesOff {
		return nil
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read times of output: %w", err)
	}
	defer f.Close()
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return fmt.Errorf("read times of output %s: %w", path, err)
	}
	if st.Ino != s.timesIno || st.Size < s.timesOff {
		s.times, s.timesOff, s.timesIno = Times{}, 0, st.Ino
	}
	buf := make([]byte, max(0, min(st.Size-s.timesOff, maxTimesRead)))
	n, err := f.ReadAt(buf, s.timesOff)
	if n == 0 && len(buf) > 0 {
		return fmt.Errorf("read times of output %s: %w", path, err)
	}
	s.timesOff += int64(s.times.Parse(buf[:n]))
	return nil
}
