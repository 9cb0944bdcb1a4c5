package registry

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/linuxtest"
	"golang.org/x/sys/unix"
)

// TestBlockedRunsDelayNobody: eight runs cannot die, since a process of each waits for a file system
// that does not answer; twelve others, made later, can. Two are swept at a time.
func TestBlockedRunsDelayNobody(t *testing.T) {
	linuxtest.NeedAdmin(t, "to mount a file system")
	r := newRoot(t)
	blocked := startOwner(t, r, 8, 1)
	fuse := blockIn(t, blocked, r)
	defer fuse.release(t)
	good := startOwner(t, r, 12, 2, sleeper...)
	blocked.crash(t)
	good.crash(t)
	perRun := 3 * time.Second
	if linuxtest.Emulated() {
		perRun *= 3
	}
	begin := time.Now()
	var lastSwept time.Duration
	got := mustSweep(t, r, SweepOptions{Parallel: 2, PerRun: perRun, Observe: func(e SweepEvent) {
		if e.Result == ResultSwept {
			lastSwept = time.Since(begin)
		}
	}})
	if got.Swept != 12 || got.Processes != 24 || got.Blocked != 8 {
		t.Errorf("Sweep() = %+v, want 12 swept with 24 processes, 8 blocked", got)
	}
	if lastSwept > perRun-500*time.Millisecond {
		t.Errorf("the last run that could die was swept after %v: it waited for the blocked ones", lastSwept)
	}
	for _, e := range got.Runs {
		var why *cgroup.BlockedError
		if e.Result != ResultBlocked {
			continue
		}
		// Where they are killed one by one, again and again, it wakes for moments.
		if !errors.As(e.Err, &why) || len(why.Blockers) != 1 || !strings.Contains("DR", why.Blockers[0].State) || why.Blockers[0].Comm != "cat" {
			t.Errorf("event %+v (%v), want a BlockedError that names cat in state D", e, e.Err)
		}
	}
	fuse.release(t)
	linuxtest.Wait(t, 10*time.Second, func() (bool, string) {
		for _, v := range mustList(t, r) {
			if v.Processes > 0 {
				return false, fmt.Sprintf("%d processes in %s", v.Processes, v.ID)
			}
		}
		return true, ""
	})
	if got := mustSweep(t, r, SweepOptions{}); got.Swept != 8 || got.Blocked != 0 {
		t.Errorf("Sweep() after the file system ended = %+v, want 8 swept", got)
	}
}

// blockIn puts an unkillable process into each run of an owner.
func blockIn(tb testing.TB, o *owner, r *Registry) *fuse {
	tb.Helper()
	var leaves []string
	for _, id := range o.runs {
		leaves = append(leaves, r.Root().Path()+"/run-"+id.String()+"/web/0.1")
	}
	return startFuse(tb, leaves...)
}

// fuse is a file system that does not answer.
type fuse struct {
	*linuxtest.Process
	dir  string   // its path, for everybody
	said *os.File // a line for each request
}

// startFuse starts one, and a process that looks into it in each of the leaves.
func startFuse(tb testing.TB, leaves ...string) *fuse {
	tb.Helper()
	if _, err := os.Stat("/dev/fuse"); err != nil {
		linuxtest.Skip(tb, "needs /dev/fuse to make a process that cannot be killed")
	}
	mount := tb.TempDir()
	said, out := pipe(tb)
	args := linuxtest.Helper(tb, "fuse", append([]string{mount}, leaves...)...)
	p := linuxtest.Command{Args: args, Stdout: out, Stderr: os.Stderr}.Start(tb)
	_ = out.Close()
	thread := readLines(tb, said, 1+len(leaves))[0]
	return &fuse{Process: p, dir: fmt.Sprintf("/proc/%d/task/%s/root%s", p.PID(), thread, mount), said: said}
}

// release ends it, and with the last descriptor of /dev/fuse all waiting.
func (f *fuse) release(tb testing.TB) { f.Kill(tb) }

// TestWaitsForAnOwnerThatIsEnding: an owner that was killed can hold its lock for a while, here because
// one of its threads cannot die yet. It is not dead, so nothing is broken, but not passed over either.
func TestWaitsForAnOwnerThatIsEnding(t *testing.T) {
	linuxtest.NeedAdmin(t, "to mount a file system")
	r := newRoot(t)
	fuse := startFuse(t)
	defer fuse.release(t)
	c := linuxtest.Command{Args: linuxtest.Helper(t, "slow-owner", r.Root().Path(), fuse.dir+"/x"), Stderr: os.Stderr}
	o := startOwnerAs(t, c, 1)
	readLines(t, fuse.said, 1) // the thread's request has arrived
	if err := o.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	done := make(chan SweepResult, 1)
	go func() { done <- mustSweep(t, r, SweepOptions{}) }()
	timer := time.NewTimer(500 * time.Millisecond)
	defer timer.Stop()
	select {
	case got := <-done:
		t.Errorf("Sweep() = %+v while the owner was ending, want it to wait", got)
		return
	case <-timer.C:
	}
	if views := mustList(t, r); len(views) != 1 || views[0].Processes != 1 || views[0].State != RunRunning {
		t.Errorf("List() = %+v, want the run untouched", views)
	}
	fuse.release(t)
	if got := <-done; got.Swept != 1 || got.Processes != 1 || got.Alive != 0 {
		t.Errorf("Sweep() = %+v, want 1 swept with 1 process", got)
	}
	o.Wait(t, 10*time.Second)
}

// TestCloseOfABlockedRunKeepsIt: what cannot be ended is reported and stays locked; Close can go on later.
func TestCloseOfABlockedRunKeepsIt(t *testing.T) {
	linuxtest.NeedAdmin(t, "to mount a file system")
	r := newRoot(t)
	run, err := ownRun(r, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	fuse := startFuse(t, run.Dir().Path()+"/web/0.1")
	defer fuse.release(t)
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	var why *cgroup.BlockedError
	if err := run.Close(ctx); !errors.As(err, &why) || len(why.Blockers) != 1 || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Close() = %v, want a BlockedError with one process", err)
	}
	if got := mustSweep(t, r, SweepOptions{}); got.Alive != 1 || len(got.Runs) != 0 {
		t.Errorf("Sweep() = %+v, want the run still owned", got)
	}
	fuse.release(t)
	if err := run.Close(context.Background()); err != nil {
		t.Errorf("Close() afterwards = %v", err)
	}
	if left := runDirs(t, r); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// modeSlowOwner owns a run, and has a thread that opens a file which does not answer.
func modeSlowOwner(args []string) int {
	go func() {
		_, err := os.Open(args[1])
		fail(fmt.Errorf("open a file that never answers: %w", err))
	}()
	return modeOwner(append([]string{args[0], "1", "1"}, sleeper...))
}

// modeFuse mounts a file system in a mount namespace of its own, starts a process in each of the given
// cgroups that looks into it, reads their requests, and never answers: a process that waits for an
// answer to a request that was read is in state D, and no signal reaches it.
func modeFuse(args []string) int {
	runtime.LockOSThread() // the namespace is this thread's; children inherit it
	dir := args[0]
	device, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fail(err)
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fail(err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fail(err)
	}
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", device)
	if err := unix.Mount("test", dir, "fuse", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		return fail(err)
	}
	if err := answerInit(device); err != nil {
		return fail(err)
	}
	for i, path := range args[1:] {
		leaf, err := cgroup.Open(path)
		if err != nil {
			return fail(err)
		}
		if _, err := startIn(leaf, []string{"/bin/cat", fmt.Sprintf("%s/%d", dir, i)}); err != nil {
			return fail(err)
		}
	}
	fmt.Println(unix.Gettid()) // this thread sees the mount, whichever it is
	buf := make([]byte, 1<<16)
	for { // until the test ends it
		_, err := unix.Read(device, buf)
		if err != nil && err != unix.EINTR {
			return fail(err)
		}
		fmt.Println("asked")
	}
}

// answerInit is the one request that gets an answer.
func answerInit(device int) error {
	buf := make([]byte, 1<<16)
	n, err := unix.Read(device, buf)
	if err != nil || n < 48 {
		return fmt.Errorf("read the first request: %d bytes, %w", n, err)
	}
	ne := binary.NativeEndian
	reply := make([]byte, 16+64)
	ne.PutUint32(reply, uint32(len(reply)))
	copy(reply[8:16], buf[8:16])    // unique
	ne.PutUint32(reply[16:], 7)     // major
	ne.PutUint32(reply[20:], 31)    // minor
	ne.PutUint32(reply[28:], 1<<18) // flags: look-ups in parallel
	ne.PutUint32(reply[36:], 4096)  // max_write; a request must fit into our buffer
	if _, err := unix.Write(device, reply); err != nil {
		return fmt.Errorf("answer the first request: %w", err)
	}
	return nil
}
