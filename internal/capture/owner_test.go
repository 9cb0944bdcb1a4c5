package capture

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/linuxtest"
	"golang.org/x/sys/unix"
)

// ctxFor returns a context that ends by itself.
func ctxFor(d time.Duration) context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(d, cancel)
	return ctx
}

// ownFlood is a supervisor: it holds a store, follows it, and starts a worker
// that floods. It prints the worker's PID and lives until it is killed.
func ownFlood(dir string) error {
	s, err := Open(Options{Dir: dir, MaxSize: 1 << 20})
	if err != nil {
		return err
	}
	st, err := s.Start("web/0", "web", 0, 1)
	if err != nil {
		return err
	}
	flood := exec.Command("/bin/sh", "-c", `while :; do echo "$0"; done`, strings.Repeat("f", 500))
	flood.Stdout, flood.Stderr = st.Stdout, st.Stderr
	if err := flood.Start(); err != nil {
		return err
	}
	fmt.Println(flood.Process.Pid)
	return s.Follow(context.Background(), func(Line) {})
}

// MuonTrap 1.3.3: the owner died while a child flooded stdout. Here the child
// goes on writing, gets no SIGPIPE, and the next supervisor may lock the directory.
func TestOwnerDiesWhileAWorkerFloods(t *testing.T) {
	for range 10 {
		dir := filepath.Join(t.TempDir(), "run")
		group := linuxtest.Cgroup(t) // ends the flood
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		owner := linuxtest.Command{Args: linuxtest.Helper(t, "own-flood", dir), Stdout: w, Cgroup: group}.Start(t)
		_ = w.Close()
		line, err := bufio.NewReader(r).ReadString('\n')
		if err != nil {
			t.Fatalf("owner said nothing: %v", err)
		}
		_ = r.Close()
		path := filepath.Join(dir, "web", "0.stdout.log")
		grows(t, path)
		owner.Kill(t)
		grows(t, path)
		if _, err := os.Stat("/proc/" + strings.TrimSpace(line)); err != nil {
			t.Errorf("the worker died with its supervisor: %v", err)
		}
		next := open(t, Options{Dir: dir})
		if err := next.Close(); err != nil {
			t.Error(err)
		}
		linuxtest.KillCgroup(t, group)
	}
}

// grows waits until the file has changed size.
func grows(t *testing.T, path string) {
	t.Helper()
	var first int64 = -1
	linuxtest.Wait(t, soon, func() (bool, string) {
		info, err := os.Stat(path)
		if err != nil {
			return false, err.Error()
		}
		if first < 0 {
			first = info.Size()
		}
		return info.Size() != first, fmt.Sprintf("%s does not grow", path)
	})
}

// openFiles counts the descriptors of this process that name a file below dir.
func openFiles(t *testing.T, dir string) (n int) {
	t.Helper()
	fds, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if name, err := os.Readlink(fd); err == nil && strings.HasPrefix(name, dir) {
			n++
		}
	}
	return n
}

// 1,000 workers with two files each: no descriptor, no goroutine and little memory for each.
func TestIdleWorkersCostLittle(t *testing.T) {
	const workers = 1000
	s := open(t, Options{})
	got := follow(t, s)
	before := heap()
	routines := runtime.NumGoroutine()
	streams := make([]*Streams, workers)
	for slot := range workers {
		st, err := s.Start(fmt.Sprintf("web/%d", slot), "web", slot, 1)
		if err != nil {
			t.Fatal(err)
		}
		write(t, st.Stdout, "hello\n")
		_, _ = st.Stdout.Close(), st.Stderr.Close()
		streams[slot] = st
	}
	linuxtest.Wait(t, soon, func() (bool, string) {
		return len(got.all()) == workers, fmt.Sprintf("%d of %d lines", len(got.all()), workers)
	})
	got.mu.Lock()
	got.lines = nil
	got.mu.Unlock()
	each := (int64(heap()) - int64(before)) / workers
	t.Logf("%d bytes for each idle worker", each)
	if each > 2048 {
		t.Errorf("%d bytes for each idle worker, want at most 2048", each)
	}
	if n := runtime.NumGoroutine(); n > routines {
		t.Errorf("%d goroutines, want %d as without workers", n, routines)
	}
	linuxtest.Wait(t, soon, func() (bool, string) { // what is read or marked just now is closed soon
		n := openFiles(t, s.dir)
		return n == 1, fmt.Sprintf("%d files below %s are open, want only the directory", n, s.dir)
	})
	runtime.KeepAlive(streams)
}

// Nothing ticks while nobody writes.
func TestIdleStoreDoesNothing(t *testing.T) {
	s := open(t, Options{})
	got := follow(t, s)
	st := start(t, s, 0, 1)
	write(t, st.Stdout, "one\n")
	got.waitFor(t, "web/0", Stdout, "one")
	switches := func() int64 {
		var u unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
			t.Fatal(err)
		}
		return u.Nvcsw
	}
	least := int64(1 << 62) // of three, because the runtime has things to do as well
	for range 3 {
		before := switches()
		<-time.NewTimer(300 * time.Millisecond).C
		least = min(least, switches()-before)
	}
	if t.Logf("%d context switches in 300 ms", least); least > 30 {
		t.Errorf("%d context switches in 300 ms of idling", least)
	}
}

func heap() uint64 {
	runtime.GC()
	runtime.GC() // empties the pools of buffers
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
