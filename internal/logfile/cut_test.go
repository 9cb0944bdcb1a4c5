package logfile

import (
	"bytes"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/linuxtest"
)

// byteOf is what a stream has at an offset: no zero, and another byte a few blocks on.
func byteOf(off int64) byte { return 'a' + byte(off%23) }

// cutter does to a live file what its supervisor does in a flood: bytes come at its end, and
// whole blocks at its front become a hole, which is taken out.
type cutter struct {
	*testing.T
	live, times *os.File
	base, end   int64 // offsets of the stream
}

const cutBlock = 4096

// round lets a few blocks come and as many go.
func (c *cutter) round(blocks int64) {
	text := make([]byte, blocks*cutBlock)
	for i := range text {
		text[i] = byteOf(c.end + int64(i))
	}
	if _, err := c.live.WriteAt(text, c.end-c.base); err != nil {
		c.Fatal(err)
	}
	c.end += int64(len(text))
	hole := c.end - c.base - 2*cutBlock
	if hole <= 0 {
		return
	}
	fd := int(c.live.Fd())
	if err := unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, hole); err != nil {
		c.Fatal(err)
	}
	c.say(AppendBase(nil, c.base+hole, true))
	if unix.Fallocate(fd, unix.FALLOC_FL_COLLAPSE_RANGE, 0, hole) == nil { // else it stays a hole, as on tmpfs
		c.base += hole
	}
	c.say(AppendBase(nil, c.base, false))
}

func (c *cutter) say(line []byte) {
	if _, err := c.times.Write(line); err != nil {
		c.Fatal(err)
	}
}

// TestReadBesideCutting: whenever a reader looks, what it reads is what was written at that
// offset, and never the zero bytes of a hole. A reader that takes what the .times file says and
// where the hole ends from two moments returns some in about one of 300 rounds.
func TestReadBesideCutting(t *testing.T) {
	dir := t.TempDir()
	c := &cutter{T: t}
	for name, f := range map[string]**os.File{LiveName(0, Stdout): &c.live, TimesName(0, Stdout): &c.times} {
		var err error
		if *f, err = os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_RDWR, 0o600); err != nil {
			t.Fatal(err)
		}
		defer (*f).Close()
	}
	var over atomic.Bool
	var reader sync.WaitGroup
	defer reader.Wait()
	defer over.Store(true)
	reader.Go(func() { // one, since more of them hold up the cutter, and meet less
		reads := readFront(t, dir, &over)
		t.Logf("%d reads beside %d bytes", reads, c.end)
	})
	for i := range linuxtest.Times(3000, 300) {
		c.round(int64(1 + i%4))
	}
}

// readFront reads what is cut next, again and again.
func readFront(t *testing.T, dir string, over *atomic.Bool) (reads int) {
	s := OpenStream(dir, 0, Stdout)
	buf := make([]byte, 16*cutBlock)
	for ; !over.Load(); reads++ {
		s.MoveTo(0)
		n, at, err := s.Read(buf)
		if err != nil {
			t.Error(err)
			return reads
		}
		if n == 0 {
			continue
		}
		if zeros := bytes.Count(buf[:n], []byte{0}); zeros > 0 || buf[0] != byteOf(at) || buf[n-1] != byteOf(at+int64(n)-1) {
			t.Errorf("bytes %d to %d of the stream: %d are zero, the first is %q, the last is %q", at, at+int64(n), zeros, buf[0], buf[n-1])
		}
	}
	return reads
}
