package spawn

import (
	"fmt"
	"runtime"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// needsThread says whether c has settings that belong to a thread and are
// inherited by what it starts. They are given to a thread that is thrown away.
func (c *Cmd) needsThread() bool {
	return c.Umask != nil || c.Nice != nil || c.NoNewPrivs || c.NetNS
}

// onThread runs f on a thread of its own that ends afterwards, whatever f has
// done to it.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		// Never unlocked: Go ends the thread with its goroutine.
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			done <- f()
			return
		}
		// Not the main thread: Go cannot end it, and would keep it as it is for
		// ever. While it is held here the next goroutine gets another one.
		err := onThread(f)
		runtime.UnlockOSThread()
		done <- err
	}()
	return <-done
}

// prepareThread changes the calling thread, for good.
func (c *Cmd) prepareThread() error {
	if c.Umask != nil {
		// Threads share the umask until one of them leaves.
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return c.fail(CauseSetting, fmt.Sprintf("set umask %#o", *c.Umask), err)
		}
		unix.Umask(*c.Umask)
	}
	if c.Nice != nil {
		// On Linux, 0 is the calling thread and not the process.
		if err := unix.Setpriority(unix.PRIO_PROCESS, 0, *c.Nice); err != nil {
			return c.fail(CauseSetting, fmt.Sprintf("set nice %d", *c.Nice), err)
		}
	}
	if c.NetNS {
		if err := newNetNS(); err != nil {
			return c.fail(CauseNetwork, "make a network namespace", err)
		}
	}
	if c.NoNewPrivs {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return c.fail(CauseSetting, "set no_new_privs", err)
		}
	}
	return nil
}

// newNetNS puts the calling thread into a new network namespace whose loopback
// device is up, so that the process finds 127.0.0.1 and ::1 from the beginning.
func newNetNS() error {
	ns, err := netns.New()
	if err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	defer func() { _ = ns.Close() }() // the thread itself holds the namespace
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open a socket: %w", err)
	}
	defer func() { _ = unix.Close(fd) }() // nothing was sent
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return fmt.Errorf("name lo: %w", err)
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, lo); err != nil {
		return fmt.Errorf("read the flags of lo: %w", err)
	}
	lo.SetUint16(lo.Uint16() | unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		return fmt.Errorf("bring lo up: %w", err)
	}
	return nil
}
