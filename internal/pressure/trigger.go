package pressure

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/cgroup"
)

// Source is one of the lines that the kernel keeps: some, or all (full), programs that
// could run wait for the resource.
type Source struct {
	Resource string // "cpu", "memory" or "io"
	Full     bool
}

// String returns it as people write it: "memory full".
func (s Source) String() string { return s.Resource + " " + s.Kind() }

// Kind is the kernel's word, some or full.
func (s Source) Kind() string {
	if s.Full {
		return "full"
	}
	return "some"
}

// window is the time over which a trigger looks. Two seconds are what the kernel allows
// everybody (Linux 6.5); others need CAP_SYS_RESOURCE.
const window = 2 * time.Second

// Trigger is a threshold that the kernel watches. It is open for as long as it is meant.
type Trigger struct {
	Source
	file *os.File
	path string
}

// Open sets a trigger for a rule on the files of a cgroup; nil means the host. It fails
// where the kernel keeps no such numbers, or does not let us set one.
func Open(d *cgroup.Dir, s Source, r Rule) (*Trigger, error) {
	t := &Trigger{Source: s}
	at, name := unix.AT_FDCWD, "/proc/pressure/"+s.Resource
	t.path = name
	if d != nil {
		at, name = d.FD(), s.Resource+".pressure"
		t.path = d.Path() + "/" + name
	}
	fd, err := unix.Openat(at, name, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, t.fail("open", err)
	}
	t.file = os.NewFile(uintptr(fd), t.path)
	text := fmt.Sprintf("%s %d %d", s.Kind(), threshold(r).Microseconds(), window.Microseconds())
	// With its zero byte: before Linux 5.17 the kernel overwrites the last one.
	if _, err := unix.Write(fd, append([]byte(text), 0)); err != nil {
		_ = t.file.Close() // nothing was set
		return nil, t.fail("set "+strconv.Quote(text)+" in", err)
	}
	return t, nil
}

// threshold is how long there must be waiting in a window.
func threshold(r Rule) time.Duration {
	return max(time.Millisecond, time.Duration(r.triggerShare()*float64(window)))
}

// FD is to be polled for POLLPRI, which the kernel tells once only: in an epoll set that is
// itself watched, take each edge of EPOLLIN instead.
func (t *Trigger) FD() int { return int(t.file.Fd()) }

// Total is how long there was waiting since the beginning.
func (t *Trigger) Total() (time.Duration, error) {
	var buf [512]byte
	n, err := t.file.ReadAt(buf[:], 0)
	if n == 0 {
		return 0, t.fail("read", err)
	}
	line, ok := Parse(string(buf[:n]), t.Full)
	if !ok {
		return 0, t.fail("read", fmt.Errorf("no line %q", t.Kind()))
	}
	return line.Total, nil
}

// Close takes the trigger back. It may take the kernel some milliseconds.
func (t *Trigger) Close() error { return t.file.Close() }

// Line is one line of a pressure file.
type Line struct {
	Average float64       // percent of the last ten seconds
	Total   time.Duration // since the beginning
}

// Parse finds a line in the text of a pressure file.
func Parse(text string, full bool) (Line, bool) {
	for line := range strings.Lines(text) {
		kind, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		if kind != (Source{Full: full}).Kind() {
			continue
		}
		_, average, _ := strings.Cut(rest, "avg10=")
		average, _, _ = strings.Cut(average, " ")
		_, total, _ := strings.Cut(rest, "total=")
		percent, err := strconv.ParseFloat(average, 64)
		us, totalErr := strconv.ParseInt(total, 10, 64)
		return Line{Average: percent, Total: time.Duration(us) * time.Microsecond}, err == nil && totalErr == nil
	}
	return Line{}, false
}

// Error says why pressure cannot be watched.
type Error struct {
	Op, Path string
	Source   Source
	Err      error
}

// Error says what was tried, and why it failed.
func (e *Error) Error() string {
	return fmt.Sprintf("watch the %v pressure: %s %s: %v", e.Source, e.Op, e.Path, e.Err)
}

// Unwrap returns the kernel's error.
func (e *Error) Unwrap() error { return e.Err }

// Hint says what to do.
func (e *Error) Hint() string {
	switch {
	case errors.Is(e.Err, unix.EOPNOTSUPP), errors.Is(e.Err, unix.ENOENT):
		return "the kernel keeps no pressure: start it with psi=1, and write 1 to cgroup.pressure where that says 0"
	case errors.Is(e.Err, unix.EPERM), errors.Is(e.Err, unix.EACCES), errors.Is(e.Err, unix.EROFS):
		return "run as root with CAP_SYS_RESOURCE, or on Linux 6.5 or later; in a container let " + e.Path + " be written to"
	case errors.Is(e.Err, unix.EINVAL):
		return "this kernel has no trigger of that kind: CAP_SYS_RESOURCE or Linux 6.5 may help"
	}
	return ""
}

func (t *Trigger) fail(op string, err error) error {
	return &Error{Op: op, Path: t.path, Source: t.Source, Err: err}
}
