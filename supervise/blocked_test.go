package supervise

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/linuxtest"
)

// TestBlockedLeafBlocksOnlyItself: a process that cannot be killed keeps the
// leaf of a worker. That is told with its name; the slot waits, nobody else
// does; when the process is gone at last the worker is started again.
func TestBlockedLeafBlocksOnlyItself(t *testing.T) {
	r := begin(t, sleeper("web", 3))
	r.await("ready", 3, kind(EventReady))
	_, leaf := r.members("web/1")
	fuse := startFuse(t, leaf)
	r.kill(r.Status()[1].PID, unix.SIGKILL)
	exited := r.await("exited", 1, kind(EventExited, "web/1"))[0]
	if exited.Exit == nil || exited.Exit.Signal != unix.SIGKILL || exited.Leftover != 1 {
		t.Errorf("%s: want the kill, and one process left", eventText(exited))
	}
	r.kill(r.Status()[0].PID, unix.SIGKILL)
	r.await("others ready again", 2, kind(EventReady, "web/0"))
	blocked := r.await("blocked", 1, kind(EventBlocked))[0]
	var why *cgroup.BlockedError
	if !errors.As(blocked.Err, &why) || len(why.Blockers) != 1 || why.Blockers[0].State != "D" {
		t.Errorf("%s: want a BlockedError that names a process in state D", eventText(blocked))
	}
	if blocked.At.Sub(exited.At) < time.Second {
		t.Errorf("told as blocked after %v, which a fork bomb may take to die", blocked.At.Sub(exited.At))
	}
	if got := r.Status()[1]; got.State != StateKilling || got.Start != 1 {
		t.Errorf("status = %+v, want a slot that waits for its leaf", got)
	}
	fuse.release()
	again := r.await("ready again", 2, kind(EventReady, "web/1"))[1]
	if again.Start != 2 || len(r.all(kind(EventBlocked))) != 1 {
		t.Errorf("%s: want start 2, and one blocked event", eventText(again))
	}
	if got := r.Result().Blocked; got != 0 {
		t.Errorf("blocked = %d when the leaf is gone, want 0", got)
	}
	if err := r.halt(); err != nil {
		t.Errorf("Run() = %v, want nil", err)
	}
}

// TestStopSaysWhatItCannotRemove is H-45: it ends, and says what is left.
func TestStopSaysWhatItCannotRemove(t *testing.T) {
	r := begin(t, sleeper("web", 3))
	r.await("ready", 3, kind(EventReady))
	_, leaf := r.members("web/2")
	fuse := startFuse(t, leaf)
	r.stop()
	<-r.done
	var stop *StopError
	var why *cgroup.BlockedError
	if !errors.As(r.err, &stop) || len(stop.Workers) != 1 || stop.Workers[0].Worker.Slot != 2 || !errors.As(r.err, &why) {
		t.Errorf("Run() = %v, want a StopError about web/2 that says why", r.err)
	}
	if got := r.Result().Blocked; got != 1 {
		t.Errorf("blocked = %d, want 1", got)
	}
	if names, err := r.run.Dir().Children(); err != nil || len(names) != 1 {
		t.Errorf("pools = %v, %v; want the one that is blocked", names, err)
	}
	fuse.release()
}

// fuse is a file system that never answers: a process that waits for it, once
// its request has been read, is in state D, and no signal reaches it.
type fuse struct {
	*linuxtest.Process
	testing.TB
	stdin *os.File
}

// startFuse starts one, and a process in the leaf that waits for it.
func startFuse(tb testing.TB, leaf string) *fuse {
	tb.Helper()
	linuxtest.NeedAdmin(tb, "to mount a file system")
	if _, err := os.Stat("/dev/fuse"); err != nil {
		linuxtest.Skip(tb, "needs /dev/fuse to make a process that cannot be killed")
	}
	stdin, end, err := os.Pipe()
	if err != nil {
		tb.Fatal(err)
	}
	said, stdout, err := os.Pipe()
	if err != nil {
		tb.Fatal(err)
	}
	c := linuxtest.Command{Args: linuxtest.Helper(tb, "fuse", tb.TempDir(), leaf), Stdin: stdin, Stdout: stdout, Stderr: os.Stderr}
	f := &fuse{Process: c.Start(tb), TB: tb, stdin: end}
	for _, file := range []*os.File{stdin, stdout} {
		_ = file.Close()
	}
	defer said.Close()
	if line, err := bufio.NewReader(said).ReadString('\n'); err != nil {
		tb.Fatalf("fuse helper said %q: %v", line, err)
	}
	tb.Cleanup(f.release)
	return f
}

// release ends the file system, and with it the waiting.
func (f *fuse) release() {
	f.TB.Helper()
	if f.stdin == nil {
		return
	}
	_ = f.stdin.Close()
	f.stdin = nil
	f.Wait(f.TB, patience)
}

// modeFuse mounts the file system where nobody else sees it. Its arguments are an
// empty directory and the leaf.
func modeFuse(args []string) int {
	if err := runFuse(args[0], args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "fuse:", err)
		return 1
	}
	return 0
}

func runFuse(dir, leaf string) error {
	runtime.LockOSThread() // the namespace is this thread's; children inherit it
	device, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", device)
	if err := unix.Mount("test", dir, "fuse", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		return err
	}
	if err := answerInit(device); err != nil {
		return err
	}
	group, err := unix.Open(leaf, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	pid, err := linuxtest.StartProcess("/bin/cat", []string{"cat", dir + "/x"},
		&syscall.ProcAttr{Files: []uintptr{0, 2, 2}, Sys: &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: group}})
	if err != nil {
		return err
	}
	buf := make([]byte, 1<<16)
	if _, err := unix.Read(device, buf); err != nil {
		return err
	}
	fmt.Println("blocked")
	_, _ = os.Stdin.Read(buf) // until the test releases it
	if err := unix.Close(device); err != nil {
		return err
	}
	_, err = unix.Wait4(pid, nil, 0, nil)
	return err
}

// answerInit answers the one request that is answered.
func answerInit(device int) error {
	buf := make([]byte, 1<<16)
	if n, err := unix.Read(device, buf); err != nil || n < 48 {
		return fmt.Errorf("read the first request: %d bytes, %w", n, err)
	}
	ne := binary.NativeEndian
	reply := make([]byte, 16+64)
	ne.PutUint32(reply, uint32(len(reply)))
	copy(reply[8:16], buf[8:16])   // which request
	ne.PutUint32(reply[16:], 7)    // major
	ne.PutUint32(reply[20:], 31)   // minor
	ne.PutUint32(reply[36:], 4096) // max_write
	_, err := unix.Write(device, reply)
	return err
}
