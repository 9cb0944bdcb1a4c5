package capture

import (
	"fmt"
	"os"
	"time"

	"github.com/pitvisor/pitvisor/internal/logfile"
	"golang.org/x/sys/unix"
)

const (
	// timesPace is the least time between two marks of a stream. A line's time
	// is wrong by at most this; a line after a quiet time has the right one.
	timesPace = 20 * time.Millisecond
	maxUnsaid = 16 << 10
	maxGaps   = 100       // that are not in the file
	timesFull = 512 << 10 // a .times file is made smaller when it is larger
)

// recorder writes the .times file of one stream; see logfile.Times. The file is
// made when there is something to say of it, and not kept open. The lock of the
// stream's file guards it. What could not be written is written later or, if it
// is a mark, replaced by the next one.
type recorder struct {
	path    string
	last    logfile.Mark // the last one in the file
	pending logfile.Mark // not yet in the file; Off 0 means none
	base    int64        // of the live file
	size    int64
	begun   []logfile.StartMark // not yet in the file
	unsaid  []byte              // lines that must come to the file but could not
	gaps    []logfile.Gap       // not yet in the file
}

// load reads what an earlier store left.
func (r *recorder) load() {
	t, size, err := readTimes(r.path)
	if err != nil {
		return // there is none, or it says nothing: times begin now
	}
	if n := len(t.Marks); n > 0 {
		r.last = t.Marks[n-1]
	}
	r.base, r.size = t.Base, size
}

func readTimes(path string) (*logfile.Times, int64, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, 0, err
	}
	t := &logfile.Times{}
	return t, int64(t.Parse(data)), nil
}

// start takes note of a start that begins at off.
func (r *recorder) start(off int64, start uint64) {
	s := logfile.StartMark{Mark: logfile.Mark{Off: off, At: time.Now().UnixMicro()}, Start: start}
	if n := len(r.begun); n > 0 && r.begun[n-1].Off == off {
		r.begun = r.begun[:n-1] // that one wrote nothing
	}
	r.begun = append(r.begun, s)
}

// rebase says that the live file begins with this offset now.
func (r *recorder) rebase(off int64) {
	r.base = off
	r.unsaid = logfile.AppendBase(r.unsaid, off, false)
}

// drop counts bytes that could not be written at off.
func (r *recorder) drop(off, n int64) {
	last := len(r.gaps) - 1
	if last >= 0 && (r.gaps[last].Off == off || last >= maxGaps) {
		r.gaps[last].Bytes += n
		return
	}
	r.gaps = append(r.gaps, logfile.Gap{Off: off, Bytes: n})
}

// note says that the stream ends at end now. ended is where the newest start
// ended, or -1. flush leaves no mark pending.
func (r *recorder) note(end, ended int64, now time.Time, flush bool) error {
	at := now.UnixMicro()
	out, last := r.unsaid, r.last
	put := func(m logfile.Mark) {
		out = logfile.AppendMark(out, last, m)
		last, r.pending = m, logfile.Mark{}
	}
	grown := end > max(last.Off, r.pending.Off)
	for len(r.begun) > 0 && end > r.begun[0].Off {
		out = logfile.AppendStart(out, r.begun[0])
		r.begun = r.begun[1:]
	}
	if grown && r.pending.Off > 0 && at-r.pending.At >= timesPace.Microseconds() {
		put(r.pending) // the right time for a line before a pause
	}
	if grown {
		r.pending = logfile.Mark{Off: end, At: at}
	}
	if r.pending.Off > 0 && (flush || at-last.At >= timesPace.Microseconds() || r.pending.At < last.At) {
		put(r.pending)
	}
	if ended > 0 && len(r.begun) == 0 {
		out = logfile.AppendEnd(out, logfile.Mark{Off: ended, At: at})
	}
	for _, g := range r.gaps {
		out = logfile.AppendGap(out, g)
	}
	if len(out) == 0 {
		return nil
	}
	r.last, r.gaps = last, nil
	return r.write(out)
}

// say appends one line at once, after those that are waiting.
func (r *recorder) say(line []byte) error {
	return r.write(append(r.unsaid, line...))
}

// write appends lines, or keeps them for the next time. On a disk that stays
// full only what is needed to read the live file is kept.
func (r *recorder) write(lines []byte) error {
	if len(lines) == 0 {
		return nil
	}
	err := appendTo(r.path, lines)
	if err == nil {
		r.unsaid = nil
		r.size += int64(len(lines))
		return nil
	}
	r.unsaid = lines
	if len(lines) > maxUnsaid {
		r.unsaid, r.last = logfile.AppendBase(nil, r.base, false), logfile.Mark{}
	}
	return err
}

// compact makes the file smaller if it is large: nothing before oldest is asked for any more.
func (r *recorder) compact(oldest int64) error {
	if r.size < timesFull {
		return nil
	}
	t, _, err := readTimes(r.path)
	if err != nil {
		return explain("read", r.path, err)
	}
	data := t.Compact(oldest)
	tmp := r.path + ".tmp"
	if err := os.WriteFile(tmp, data, 0o640); err != nil {
		_ = os.Remove(tmp) // the other error matters
		return explain("write", tmp, err)
	}
	if err := os.Rename(tmp, r.path); err != nil {
		return explain("rename", tmp, err)
	}
	r.size = int64(len(data))
	return nil
}

// appendTo appends data to a file in one write; part of it is taken back if not all of it had room.
func appendTo(path string, data []byte) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_APPEND|unix.O_CREAT|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o640)
	if err != nil {
		return explain("open", path, err)
	}
	defer func() { _ = unix.Close(fd) }() // written already
	n, err := unix.Write(fd, data)
	if n == len(data) {
		return nil
	}
	if err == nil {
		err = fmt.Errorf("%w: %d of %d bytes", unix.ENOSPC, n, len(data))
	}
	var st unix.Stat_t
	if n > 0 && unix.Fstat(fd, &st) == nil {
		_ = unix.Ftruncate(fd, st.Size-int64(n)) // else a line is torn, which readers pass over
	}
	return explain("write", path, err)
}
