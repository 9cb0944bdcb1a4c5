package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/api"
	"github.com/pitvisor/pitvisor/linuxtest"
)

// acting lets somebody ask the supervisor for something again and again, and returns what
// waits until it is dead.
func (w *world) acting(act func(ctx context.Context, c *api.Client)) (dead func()) {
	w.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	c := api.NewClient(w.socket())
	var group sync.WaitGroup
	group.Go(func() {
		defer c.Close()
		for {
			if _, err := c.Whoami(ctx); err != nil {
				return
			}
			act(ctx, c)
		}
	})
	return func() {
		group.Wait()
		cancel()
	}
}

// asked looks at what came of an action beside a crash: it was done, it was refused by
// a supervisor that lived, or there was none.
func asked[T any](_ T, _ error) {}

// TestCrashWithStoredDescriptors: what workers have stored ends with pitvisor. Nobody has
// it any more, and the next one's workers find nothing.
func TestCrashWithStoredDescriptors(t *testing.T) {
	w := newWorld(t)
	fifos := map[int]*os.File{}
	s := &underWay{ready: names("web", 2), life: 200 * time.Millisecond}
	s.config = func(cycle int) string {
		path := filepath.Join(w.dir, fmt.Sprint("fifo", cycle))
		fifos[cycle] = readEnd(t, path)
		return talker(t, "size = 2\nfd_store = 4\nrollout = { max_surge = 0, max_unavailable = 1 }\n", "keep", path)
	}
	s.begin = func(_ *upProc, cycle int) verdict {
		if hungUp(t, fifos[cycle]) {
			t.Error("nobody has the end of the FIFO that workers have stored")
		}
		dead := w.acting(func(ctx context.Context, c *api.Client) {
			asked(c.Restart(ctx, api.Selected{Select: []string{"web"}, Wait: true}))
		})
		return verdict{crashed: func(*wreck) { dead() }, gone: func(next *upProc) {
			if !hungUp(t, fifos[cycle]) {
				t.Error("somebody has the end of the FIFO that workers of the dead run have stored")
			}
			for _, name := range s.ready {
				next.prints(name + " | generation 1")
			}
		}}
	}
	s.crash(t, w, 5)
}

// readEnd makes a FIFO and opens its end for reading.
func readEnd(t *testing.T, path string) *os.File {
	t.Helper()
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// hungUp says whether all who had the other end of a FIFO have closed it.
func hungUp(t *testing.T, f *os.File) bool {
	t.Helper()
	fds := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLIN}}
	for {
		_, err := unix.Poll(fds, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		return fds[0].Revents&unix.POLLHUP != 0
	}
}

// prints waits for a line of the workers' output. Nothing of the kind may come before it.
func (u *upProc) prints(line string) {
	u.tb.Helper()
	linuxtest.Wait(u.tb, patience, func() (bool, string) {
		return slices.Contains(u.lines(), line), fmt.Sprintf("%q is not printed", line)
	})
}

// visit is a `pitvisor exec` beside a crash.
type visit struct {
	t         *testing.T
	cmd       *exec.Cmd
	out, errs *os.File // not pipes: what it runs lives longer, and has them
}

// visits starts a command with children in a worker.
func (w *world) visits(t *testing.T, worker string) *visit {
	t.Helper()
	v := &visit{t: t}
	for _, f := range []**os.File{&v.out, &v.errs} {
		var err error
		if *f, err = os.CreateTemp(w.dir, "visit"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = (*f).Close() })
	}
	argv := w.argv("exec", worker, "--", "/bin/sh", "-c", "setsid sleep 1000 & (sleep 1000 & sleep 1000) & echo here; wait")
	v.cmd = exec.Command(argv[0], argv[1:]...)
	v.cmd.Stdout, v.cmd.Stderr = v.out, v.errs
	if err := v.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return v
}

// here waits until the command says that it runs.
func (v *visit) here() {
	v.t.Helper()
	linuxtest.Wait(v.t, patience, func() (bool, string) {
		said, _ := os.ReadFile(v.out.Name())
		return string(said) == "here\n", "the command is not there"
	})
}

// lost waits until the caller has ended by itself, and requires that it says why.
func (v *visit) lost(begun bool) string {
	v.t.Helper()
	late := time.AfterFunc(patience, func() { _ = v.cmd.Process.Kill() })
	defer late.Stop()
	err := v.cmd.Wait()
	said, _ := os.ReadFile(v.errs.Name())
	text := strings.TrimSpace(string(said))
	words := []string{"the supervisor has ended", "no supervisor runs"}
	if begun {
		words = words[:1]
	}
	says := func(word string) bool { return strings.Contains(text, word) }
	if code := v.cmd.ProcessState.ExitCode(); code != exitSelf || !slices.ContainsFunc(words, says) {
		v.t.Errorf("exec beside a crash = %d, %v, says %q; want %d and %q", code, err, text, exitSelf, words)
	}
	return text
}

// TestCrashWithVisits: what `pitvisor exec` has started is gone with the worker, with all
// its children, and the caller says that pitvisor is to blame.
func TestCrashWithVisits(t *testing.T) {
	linuxtest.NeedClone3(t)
	w := newWorld(t)
	said := map[string]int{}
	s := &underWay{ready: names("web", 2), life: 60 * time.Millisecond}
	s.config = func(int) string { return sleepers("web", 2) }
	s.begin = func(_ *upProc, cycle int) verdict {
		all := []*visit{w.visits(t, "web/0"), w.visits(t, "web/1"), w.visits(t, "web/0"), w.visits(t, "web/1")}
		begun := cycle%2 == 0
		if begun {
			all[0].here()
		}
		return verdict{crashed: func(left *wreck) {
			for i, v := range all {
				said[v.lost(i == 0 && begun)]++
			}
			if begun && len(left.members) < 5 { // the last one may not be there yet
				t.Errorf("%d processes are left, want two workers and three of the command", len(left.members))
			}
		}}
	}
	s.crash(t, w, 8)
	for text, n := range said {
		t.Logf("%d times: %s", n, text)
	}
}

// TestCrashOfFrozen: what is frozen dies as everything else does.
func TestCrashOfFrozen(t *testing.T) {
	w := newWorld(t)
	s := &underWay{ready: append(names("web", 2), names("busy", 3)...), life: 150 * time.Millisecond}
	s.config = func(int) string {
		return sleepers("web", 2) + "[pool.busy]\ncommand = [\"/bin/sh\", \"-c\", \"echo here; while :; do sleep 0.001; done\"]\nsize = 3\nready.stdout = \"here\"\n"
	}
	s.begin = func(*upProc, int) verdict {
		c := w.client()
		if _, err := c.Freeze(bounded(t), api.Action{Select: []string{"web/0"}}); err != nil {
			t.Fatal(err)
		}
		dead := []func(){w.acting(mess(1)), w.acting(mess(2))}
		return verdict{crashed: func(left *wreck) {
			for _, f := range dead {
				f()
			}
			if left.frozen == 0 {
				t.Error("nothing was frozen at the crash, want web/0 at least")
			}
			t.Logf("%d of %d cgroups were frozen", left.frozen, len(left.groups))
		}}
	}
	s.crash(t, w, 8)
}

// mess does one thing after the other to pool busy.
func mess(seed uint64) func(context.Context, *api.Client) {
	rnd := rand.New(rand.NewPCG(seed, uint64(time.Now().UnixNano())))
	return func(ctx context.Context, c *api.Client) {
		a := api.Action{Select: []string{fmt.Sprint("busy/", rnd.IntN(3))}}
		switch rnd.IntN(8) {
		case 0, 1, 2:
			asked(c.Freeze(ctx, a))
		case 3, 4:
			asked(c.Thaw(ctx, a))
		case 5:
			asked(c.Kill(ctx, a))
		case 6:
			asked(c.Restart(ctx, api.Selected{Select: a.Select}))
		case 7:
			asked(c.Freeze(ctx, api.Action{Select: []string{"busy"}}))
		}
	}
}
