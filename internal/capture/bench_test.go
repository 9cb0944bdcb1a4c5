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

// benchWrite writes that many bytes to stdout: lines of 100 bytes, and so many of them a write.
func benchWrite(args []string) int {
	total, err := strconv.Atoi(args[0])
	if err != nil {
		return 1
	}
	lines, err := strconv.Atoi(args[1])
	if err != nil {
		return 1
	}
	block := bytes.Repeat(append(bytes.Repeat([]byte("b"), 99), '\n'), lines)
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
	for _, writers := range []int{1, 100} {
		for _, lines := range []int{40, 1} { // a write
			b.Run(fmt.Sprintf("writers=%d/lines=%d", writers, lines), func(b *testing.B) { benchFollow(b, writers, lines) })
		}
	}
}

func benchFollow(b *testing.B, writers, lines int) {
	total := 320 << 20 / 4000 / 100 * 100 * 4000
	if lines == 1 {
		total /= 10 // a write of a line costs nearly as much as one of 40
	}
	load := load{writers, total / writers, lines}
	var cat, direct, unread, followed, piped, kept cost
	rounds := []func(){
		func() { cat.add(func() { throughCat(b, load) }) },
		func() { direct.add(func() { throughFile(b, load) }) },
		func() { unread.add(func() { throughStore(b, load, way{}) }) },
		func() { followed.add(func() { throughStore(b, load, way{followed: true}) }) },
		func() { piped.add(func() { throughStore(b, load, way{piped: true}) }) },
		func() { kept.add(func() { throughStore(b, load, way{bounded: true}) }) },
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
}

// load is what each of the writers writes: how many bytes, and how many lines of 100
// bytes a write.
type load struct{ writers, each, lines int }

func (l load) args(b *testing.B) []string {
	b.Helper()
	return linuxtest.Helper(b, "bench-write", strconv.Itoa(l.each), strconv.Itoa(l.lines))
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

func throughCat(b *testing.B, l load) {
	dir := b.TempDir()
	argv := l.args(b)
	var cmds []*exec.Cmd
	for i := range l.writers {
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
func throughFile(b *testing.B, l load) {
	dir := b.TempDir()
	argv := l.args(b)
	var cmds []*exec.Cmd
	for i := range l.writers {
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

func throughStore(b *testing.B, l load, how way) {
	dir := b.TempDir()
	o := Options{Dir: filepath.Join(dir, "run"), MaxSize: 1 << 40}
	if how.bounded {
		o.MaxSize, o.Rotate = 0, Rotate{Keep: 2}
	}
	s := open(b, o)
	argv := l.args(b)
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
	for i := range l.writers {
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
	if how.followed && lines != l.writers*l.each/100 {
		b.Errorf("%d lines were handed out, want %d", lines, l.writers*l.each/100)
	}
	for i := range l.writers {
		end, err := logfile.OpenStream(filepath.Join(o.Dir, "web"), i, Stdout).End()
		if err != nil || end != int64(l.each) {
			b.Errorf("%d bytes of writer %d were kept, %v; want %d", end, i, err, l.each)
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
