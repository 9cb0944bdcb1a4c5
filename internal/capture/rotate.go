package capture

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/pitvisor/pitvisor/internal/logfile"
	"golang.org/x/sys/unix"
)

// Rotate says what becomes of bytes that are no longer among the newest. Files
// are looked at when something is written to them, so a stream that is quiet is
// not rotated by age until it goes on.
type Rotate struct {
	Keep     int           // how many rotated files of each stream stay; 0 means that old bytes are cut away
	Age      time.Duration // a file that was begun this long ago is rotated, whatever its size; 0 means never
	MaxAge   time.Duration // a file that was rotated this long ago is removed; 0 means never
	MaxTotal int64         // bytes that the rotated files of one stream may take on disk; 0 means no bound
	Plain    bool          // do not compress
}

const (
	// settleTime is how old bytes are at least that are rotated for their age,
	// so that those who follow have seen them.
	settleTime  = time.Minute
	rotateRetry = 10 * time.Second // after a rotation that failed
	lineSearch  = 64 << 10         // how far back a line's end is looked for: rotated files end with one
)

// rotation is what a file knows of its rotated part. The file's lock guards it.
type rotation struct {
	pieces  []kept    // rotated files, oldest first
	begun   time.Time // when the first byte after head was seen, or the last rotation
	aged    int64     // offset up to which everything is due for its age; 0 means nothing is
	agedAt  time.Time
	busy    bool // the rotator has it
	retryAt time.Time
	solid   bool // the file system can not punch holes
	whole   bool // the file system can not collapse a range
}

// kept is a rotated file.
type kept struct {
	logfile.Piece
	path string
	size int64 // on disk
	at   time.Time
}

// oldest returns the lowest offset that can still be read.
func (f *file) oldest() int64 {
	if len(f.pieces) > 0 {
		return min(f.pieces[0].From, f.head)
	}
	return f.head
}

// due says whether it is time to rotate the file, and that it is being done.
func (f *file) due(keep int64, r *Rotate, now time.Time) bool {
	if r.Keep == 0 || f.solid || f.end == f.head {
		return false
	}
	if f.begun.IsZero() {
		f.begun = now
	}
	if r.Age > 0 && f.aged == 0 && now.Sub(f.begun) >= r.Age {
		f.aged, f.agedAt = f.end, now
	}
	old := f.aged > f.head && now.Sub(f.agedAt) >= min(settleTime, r.Age)
	if f.busy || now.Before(f.retryAt) || !old && f.end-f.head < 2*keep {
		return false
	}
	f.busy = true
	return true
}

// rotateSoon hands a stream to the rotator, which begins to run with the first one.
func (s *Store) rotateSoon(seg *segment) {
	s.mu.Lock()
	if !s.closed && !s.rotating {
		s.rotating = true
		s.running.Go(s.runRotator)
	}
	s.mu.Unlock()
	s.rotator.push(&cursor{seg: seg, queue: s.rotator})
}

// runRotator moves old bytes out of the live files and compresses them, on a
// thread that gets processor and disk only when nobody else wants them.
func (s *Store) runRotator() {
	runtime.LockOSThread() // the thread ends with this goroutine
	lowerPriority()
	p := newPacker(s.rotate.Plain)
	expiry := time.NewTicker(s.expiryPace())
	defer expiry.Stop()
	for {
		select {
		case <-s.rotator.wake:
		case <-expiry.C:
			s.expire()
		}
		for {
			c, open := s.rotator.pop()
			if c == nil && !open || s.isClosed() {
				return
			}
			if c == nil {
				break
			}
			if err := s.rotateFile(c.seg.file, p); err != nil && !errors.Is(err, fs.ErrClosed) {
				s.warnOnce("rotate", fmt.Errorf("rotate an output file: %w", err))
			}
		}
	}
}

// lowerPriority is for this thread only. It is no loss if it does not work.
func lowerPriority() {
	const idle, ofThread = 3 << 13, 1 // IOPRIO_CLASS_IDLE, IOPRIO_WHO_PROCESS
	_ = unix.Setpriority(unix.PRIO_PROCESS, 0, 19)
	_, _, _ = unix.Syscall(unix.SYS_IOPRIO_SET, ofThread, 0, idle)
}

func (s *Store) isClosed() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.closed
}

// rotateFile moves out what is due, a piece at a time, and lets go of the file.
func (s *Store) rotateFile(f *file, p *packer) error {
	for {
		piece, ok, err := f.nextPiece(s.maxSize)
		if ok && err == nil {
			err = s.moveOut(f, piece, p)
		}
		if err != nil || !ok {
			f.mu.Lock()
			f.busy = false
			if err != nil {
				f.retryAt = time.Now().Add(rotateRetry)
			}
			f.mu.Unlock()
			return err
		}
	}
}

// nextPiece chooses what to move out: it ends with a line if one ends near by.
func (f *file) nextPiece(keep int64) (p logfile.Piece, ok bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	to := f.aged
	if f.end-f.head >= 2*keep {
		to = f.head + keep
	}
	if to <= f.head {
		return p, false, nil
	}
	to = min(to, f.head+keep)
	buf := make([]byte, min(lineSearch, to-f.head))
	fd, err := unix.Open(f.path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return p, false, explain("open", f.path, err)
	}
	defer func() { _ = unix.Close(fd) }() // read-only; nothing to lose
	n, err := preadFull(fd, buf, to-int64(len(buf))-f.shift)
	if err != nil {
		return p, false, explain("read", f.path, err)
	}
	if i := bytes.LastIndexByte(buf[:n], '\n'); i >= 0 {
		to -= int64(len(buf) - i - 1)
	}
	return logfile.Piece{From: f.head, To: to}, true, nil
}

// moveOut copies a piece to a file of its own and cuts it away. The order makes
// it safe: whenever we die, each byte is in one of the files or in both.
func (s *Store) moveOut(f *file, p logfile.Piece, pack *packer) error {
	slot, stream, _ := logfile.ParseLive(filepath.Base(f.path))
	dir := filepath.Join(filepath.Dir(f.path), logfile.RotatedDir)
	if err := os.Mkdir(dir, 0o750); err != nil && !errors.Is(err, fs.ErrExist) {
		return explain("make", dir, err)
	}
	p.Gzip = !pack.plain
	path := filepath.Join(dir, p.Name(slot, stream))
	size, err := pack.pack(path, func(buf []byte, off int64) (int, error) {
		if s.isClosed() {
			return 0, fs.ErrClosed
		}
		n, at, err := f.read(buf, p.From+off, p.To)
		if err == nil && (n == 0 || at != p.From+off) {
			err = errOvertaken
		}
		return n, err
	}, p.To-p.From)
	if errors.Is(err, errOvertaken) {
		return nil // the flood is faster than we are, and its oldest bytes had to go
	}
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pieces = append(f.pieces, kept{Piece: p, path: path, size: size, at: time.Now()})
	f.begun = time.Now()
	if p.To >= f.aged {
		f.aged = 0
	}
	return errors.Join(f.drop(p.To), f.retain(&s.rotate))
}

// errOvertaken says that what was to be moved out has been cut away meanwhile.
var errOvertaken = errors.New("the file was cut meanwhile")

// replace gives the stream a new live file where the old one is too large and the
// file system can not free a part of it. Nothing writes to it at this moment.
func (f *file) replace(keep int64, r *Rotate) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.solid || f.end-f.shift <= keep {
		return nil
	}
	slot, stream, _ := logfile.ParseLive(filepath.Base(f.path))
	p := logfile.Piece{From: f.shift, To: f.end}
	dir := filepath.Join(filepath.Dir(f.path), logfile.RotatedDir)
	if err := os.Mkdir(dir, 0o750); err != nil && !errors.Is(err, fs.ErrExist) {
		return explain("make", dir, err)
	}
	path := filepath.Join(dir, p.Name(slot, stream))
	if err := os.Rename(f.path, path); err != nil {
		return explain("rename", f.path, err)
	}
	f.pieces = append(f.pieces, kept{Piece: p, path: path, size: f.end - f.shift, at: time.Now()})
	f.shift, f.head = f.end, f.end
	f.times.rebase(f.end)
	atLeastOne := *r
	atLeastOne.Keep = max(1, r.Keep)
	return f.retain(&atLeastOne)
}

// drop cuts away what is before to. The caller holds the lock.
func (f *file) drop(to int64) error {
	if to <= f.head {
		return nil
	}
	var st unix.Stat_t
	fd, err := unix.Open(f.path, unix.O_WRONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return explain("open", f.path, err)
	}
	defer func() { _ = unix.Close(fd) }() // nothing is written through it
	if err := unix.Fstat(fd, &st); err != nil {
		return explain("stat", f.path, err)
	}
	f.look(st.Size)
	err = f.times.note(f.end, -1, time.Now(), true)
	if perr := f.punch(fd, to, int64(st.Blksize)); perr != nil {
		return perr
	}
	f.head = max(f.head, to)
	return err
}

// retain removes rotated files that are too many, too old or too large. The
// caller holds the lock.
func (f *file) retain(r *Rotate) error {
	var total int64
	stay := len(f.pieces)
	for ; stay > 0; stay-- {
		k := f.pieces[stay-1]
		total += k.size
		if len(f.pieces)-stay >= r.Keep || r.MaxTotal > 0 && total > r.MaxTotal || r.MaxAge > 0 && time.Since(k.at) >= r.MaxAge {
			break
		}
	}
	var errs []error
	for _, k := range f.pieces[:stay] {
		if err := os.Remove(k.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, explain("remove", k.path, err))
		}
	}
	f.pieces = append([]kept(nil), f.pieces[stay:]...)
	return errors.Join(errs...)
}

// expiryPace is how often ages are looked at while there are rotated files.
func (s *Store) expiryPace() time.Duration {
	if s.rotate.MaxAge == 0 {
		return 1 << 62 // never
	}
	return max(s.rotate.MaxAge/20, time.Second)
}

// expire removes rotated files that are too old.
func (s *Store) expire() {
	for _, seg := range s.current() {
		f := seg.file
		f.mu.Lock()
		err := f.retain(&s.rotate)
		f.mu.Unlock()
		if err != nil {
			s.warnOnce("rotate", err)
		}
	}
}
