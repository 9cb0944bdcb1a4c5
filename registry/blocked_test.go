package registry

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/linuxtest"
	"golang.org/x/sys/unix"
)

// TestBlockedRunsDelayNobody: eight runs cannot die, since a process of each waits for a file system
// that does not answer; twelve others, made later, can. Two are swept at a time.
func TestBlockedRunsDelayNobody(t *testing.T) {
	linuxtest.NeedRoot(t)
	r := newRoot(t)
	blocked := startOwner(t, r, 8, 1)
	release := blockIn(t, blocked, r)
	good := startOwner(t, r, 12, 2, sleeper...)
	blocked.crash(t)
	good.crash(t)
	begin := time.Now()
	var lastSwept time.Duration
	got := mustSweep(t, r, SweepOptions{Parallel: 2, PerRun: 3 * time.Second, Observe: func(e SweepEvent) {
		if e.Result == ResultSwept {
			lastSwept = time.Since(begin)
		}
	}})
	if got.Swept != 12 || got.Processes != 24 || got.Blocked != 8 {
		t.Errorf("Sweep() = %+v, want 12 swept with 24 processes, 8 blocked", got)
	}
	if lastSwept > 2500*time.Millisecond {
		t.Errorf("the last run that could die was swept after %v: it waited for the blocked ones", lastSwept)
	}
	for _, e := range got.Runs {
		var why *cgroup.BlockedError
		if e.Result != ResultBlocked {
			continue
		}
		if !errors.As(e.Err, &why) || len(why.Blockers) != 1 || why.Blockers[0].State != "D" || why.Blockers[0].Comm != "cat" {
			t.Errorf("event %+v (%v), want a BlockedError that names cat in state D", e, e.Err)
		}
	}
	release()
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

// blockIn puts an unkillable process into each run of an owner, and returns what ends them.
func blockIn(tb testing.TB, o *owner, r *Registry) (release func()) {
	tb.Helper()
	if _, err := os.Stat("/dev/fuse"); err != nil {
		linuxtest.Skip(tb, "needs /dev/fuse to make a process that cannot be killed")
	}
	args := []string{tb.TempDir()}
	for _, id := range o.runs {
		args = append(args, r.Root().Path()+"/run-"+id.String()+"/web/0.1")
	}
	said, out := pipe(tb)
	in, hold := pipe(tb)
	p := linuxtest.Command{Args: linuxtest.Helper(tb, "fuse", args...), Stdin: in, Stdout: out, Stderr: os.Stderr}.Start(tb)
	_ = out.Close()
	if got := readLines(tb, said, 1)[0]; got != "blocked" {
		tb.Fatalf("fuse helper said %q", got)
	}
	return func() {
		_ = hold.Close()
		_ = in.Close()
		p.Kill(tb) // the last descriptor of /dev/fuse goes with it, and the waiting ends
	}
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
	buf := make([]byte, 1<<16)
	for range args[1:] {
		if _, err := unix.Read(device, buf); err != nil {
			return fail(err)
		}
	}
	fmt.Println("blocked")
	_, _ = os.Stdin.Read(buf) // until the test ends it
	return 0
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
