package capture

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/internal/logfile"
	"github.com/pitvisor/pitvisor/linuxtest"
	"golang.org/x/sys/unix"
)

// benchWrite writes that many bytes to stdout: 100-byte lines, 4,000 bytes a write.
func benchWrite(args []string) int {
	total, err := strconv.Atoi(args[0])
	if err != nil {
		return 1
	}
	block := bytes.Repeat(append(bytes.Repeat([]byte("b"), 99), '\n'), 40)
	for ; total > 0; total -= len(block) {
		if _, err := os.Stdout.Write(block); err != nil {
			return 1
		}
	}
	return 0
}

// BenchmarkFollow compares the ways of output from n writers with the simplest
// thing there is: the same writers each into a pipe to `cat >file`. direct is
// files that nobody watches, unread those of a store, followed those with a
// follower that counts lines, piped those that the store writes from pipes, kept
// those with the bounds that a configuration has by default. The rounds take
// turns. Every way but kept is checked to lose nothing.
func BenchmarkFollow(b *testing.B) {
	linuxtest.NeedCommand(b, "cat")
	const total = 320 << 20 / 4000 / 100 * 100 * 4000
	for _, writers := range []int{1, 100} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			var cat, direct, unread, followed, piped, kept cost
			each := total / writers
			rounds := []func(){
				func() { cat.add(func() { throughCat(b, writers, each) }) },
				func() { direct.add(func() { throughFile(b, writers, each) }) },
				func() { unread.add(func() { throughStore(b, writers, each, way{}) }) },
				func() { followed.add(func() { throughStore(b, writers, each, way{followed: true}) }) },
				func() { piped.add(func() { throughStore(b, writers, each, way{piped: true}) }) },
				func() { kept.add(func() { throughStore(b, writers, each, way{bounded: true}) }) },
			}
			for b.Loop() {
				for _, round := range rounds {
					round()
				}
				rounds = append(rounds[1:], rounds[0]) // the disk is busier for the later ones
			}
			b.ReportMetric(float64(total)*float64(b.N)/1e6/cat.wall.Seconds(), "cat-MB/s")
			for name, c := range map[string]*cost{"direct": &direct, "unread": &unread, "followed": &followed, "piped": &piped, "kept": &kept} {
				b.ReportMetric(cat.wall.Seconds()/c.wall.Seconds(), name+"/cat")
				// On a busy machine CPU time says more than the clock.
				b.ReportMetric(c.cpu.Seconds()/cat.cpu.Seconds(), name+"-CPU/cat-CPU")
			}
		})
	}
}

// way is how output goes through a store.
type way struct{ followed, piped, bounded bool }

// cost adds up the time and the CPU time, of this process and its children, of rounds.
type cost struct{ wall, cpu time.Duration }

func (c *cost) add(round func()) {
	begin, used := time.Now(), cpuTime()
	round()
	c.wall += time.Since(begin)
	c.cpu += cpuTime() - used
}

func cpuTime() (sum time.Duration) {
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var u unix.Rusage
		if unix.Getrusage(who, &u) == nil {
			sum += time.Duration(u.Utime.Nano() + u.Stime.Nano())
		}
	}
	return sum
}

func throughCat(b *testing.B, writers, each int) {
	dir := b.TempDir()
	argv := linuxtest.Helper(b, "bench-write", strconv.Itoa(each))
	var cmds []*exec.Cmd
	for i := range writers {
		cmd := exec.Command("/bin/sh", "-c", `"$0" "$@" | cat >"$OUT"`)
		cmd.Args = append(cmd.Args, argv...)
		cmd.Env = append(os.Environ(), "OUT="+filepath.Join(dir, strconv.Itoa(i)))
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		cmds = append(cmds, cmd)
	}
	waitAll(b, cmds)
	_ = os.RemoveAll(dir) // the testing package says so if it did not work
}

// throughFile is the limit: the writers write to files that nobody watches.
func throughFile(b *testing.B, writers, each int) {
	dir := b.TempDir()
	argv := linuxtest.Helper(b, "bench-write", strconv.Itoa(each))
	var cmds []*exec.Cmd
	for i := range writers {
		f, err := os.OpenFile(filepath.Join(dir, strconv.Itoa(i)), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			b.Fatal(err)
		}
		cmd := exec.Command("/bin/sh", "-c", `"$0" "$@"; exit`)
		cmd.Args = append(cmd.Args, argv...)
		cmd.Stdout = f
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		_ = f.Close() // the writer has its own
		cmds = append(cmds, cmd)
	}
	waitAll(b, cmds)
	_ = os.RemoveAll(dir) // the testing package says so if it did not work
}

func throughStore(b *testing.B, writers, each int, how way) {
	dir := b.TempDir()
	o := Options{Dir: filepath.Join(dir, "run"), MaxSize: 1 << 40}
	if how.bounded {
		o.MaxSize, o.Rotate = 0, Rotate{Keep: 2}
	}
	s := open(b, o)
	argv := linuxtest.Helper(b, "bench-write", strconv.Itoa(each))
	fl, ended, lines := s.NewFollower(), make(chan error, 1), 0
	if !how.followed {
		fl.leave()
		ended <- nil
	} else {
		go func() { ended <- fl.Run(context.Background(), func(Line) { lines++ }) }()
	}
	begin := s.Start
	if how.piped {
		begin = s.StartPiped
	}
	var cmds []*exec.Cmd
	for i := range writers {
		st, err := begin(fmt.Sprintf("web/%d", i), "web", i, 1)
		if err != nil {
			b.Fatal(err)
		}
		cmd := exec.Command("/bin/sh", "-c", `"$0" "$@"; exit`)
		cmd.Args = append(cmd.Args, argv...)
		cmd.Stdout = st.Stdout
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		_, _ = st.Stdout.Close(), st.Stderr.Close() // the writer has its own
		cmds = append(cmds, cmd)
	}
	waitAll(b, cmds)
	if err := s.Close(); err != nil { // hands out the rest
		b.Fatal(err)
	}
	if err := <-ended; err != nil {
		b.Fatal(err)
	}
	if how.followed && lines != writers*each/100 {
		b.Errorf("%d lines were handed out, want %d", lines, writers*each/100)
	}
	for i := range writers {
		end, err := logfile.OpenStream(filepath.Join(o.Dir, "web"), i, Stdout).End()
		if err != nil || end != int64(each) {
			b.Errorf("%d bytes of writer %d were kept, %v; want %d", end, i, err, each)
		}
	}
	_ = os.RemoveAll(dir) // the testing package says so if it did not work
}

func waitAll(b *testing.B, cmds []*exec.Cmd) {
	b.Helper()
	for _, cmd := range cmds {
		if err := cmd.Wait(); err != nil {
			b.Error(err)
		}
	}
}

// BenchmarkStart is what capture adds to the start of a worker.
func BenchmarkStart(b *testing.B) {
	s := open(b, Options{})
	n := uint64(0)
	for b.Loop() {
		n++
		st, err := s.Start("web/0", "web", int(n%1000), n)
		if err != nil {
			b.Fatal(err)
		}
		_, _ = st.Stdout.Close(), st.Stderr.Close()
		st.Done()
	}
}
