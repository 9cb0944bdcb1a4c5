package linuxtest

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// PIDNamespace starts a program in a PID namespace of its own, with a /proc of
// its own and an init that reaps what is orphaned there. There [NextPID] chooses
// the next PID without a chance of hitting a process of the host. The returned
// process is that init; it ends with the program's exit code (128 and the signal
// when a signal ended it), and everything in the namespace ends with it.
// Skips without CAP_SYS_ADMIN.
func PIDNamespace(tb testing.TB, c Command) *Process {
	tb.Helper()
	c.Args = append(Helper(tb, "pidns-init"), c.Args...)
	c.cloneflags = unix.CLONE_NEWPID | unix.CLONE_NEWNS
	p, err := c.start()
	if errors.Is(err, unix.EPERM) {
		Skip(tb, "needs CAP_SYS_ADMIN to make a PID namespace")
	}
	if err != nil {
		tb.Fatalf("start %q in a PID namespace: %v", c.Args, err)
	}
	tb.Cleanup(func() { p.end(tb) })
	return p
}

// initialPIDNS is the inode of the first PID namespace, PROC_PID_INIT_INO.
const initialPIDNS = 0xEFFFFFFC

// NextPID makes the next process of this PID namespace get the given number, or
// the next free one above. It is for a program that runs in a [PIDNamespace]: in
// the host's it returns an error, because that would disturb other programs.
func NextPID(pid int) error {
	if inFirstPIDNamespace() {
		return errors.New("choose the next PID: this is the host's PID namespace")
	}
	if err := os.WriteFile(lastPID, []byte(strconv.Itoa(pid-1)), 0); err != nil {
		return fmt.Errorf("choose the next PID %d: %w", pid, err)
	}
	return nil
}

// lastPID says which number the kernel gave last.
const lastPID = "/proc/sys/kernel/ns_last_pid"

// inFirstPIDNamespace says whether this may be the host's PID namespace.
func inFirstPIDNamespace() bool {
	var st unix.Stat_t
	return unix.Stat("/proc/self/ns/pid", &st) != nil || st.Ino == initialPIDNS
}

// modePIDNSInit is PID 1 of the namespace.
func modePIDNSInit(args []string) int {
	if os.Getpid() != 1 || len(args) == 0 {
		return complain(errors.New("pidns-init is for linuxtest itself"))
	}
	// Mounts must not travel back to the host.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return complain(fmt.Errorf("make the mounts private: %w", err))
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return complain(fmt.Errorf("mount /proc: %w", err))
	}
	pid, _, err := syscall.StartProcess(args[0], args, &syscall.ProcAttr{Env: os.Environ(), Files: []uintptr{0, 1, 2}})
	if err != nil {
		return complain(fmt.Errorf("start %s: %w", args[0], err))
	}
	timer := time.AfterFunc(HelperLife, func() { os.Exit(124) })
	defer timer.Stop()
	for {
		var status unix.WaitStatus
		got, err := unix.Wait4(-1, &status, 0, nil) // PID 1 here: every orphan is ours
		if err != nil && !errors.Is(err, unix.EINTR) {
			return complain(fmt.Errorf("reap: %w", err))
		}
		if got == pid && status.Signaled() {
			return 128 + int(status.Signal())
		}
		if got == pid {
			return status.ExitStatus()
		}
	}
}
