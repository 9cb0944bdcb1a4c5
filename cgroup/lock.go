package cgroup

import (
	"time"

	"golang.org/x/sys/unix"
)

// probeTime bounds how long Lock waits for others that are merely looking. Each of
// them looks for microseconds, unless it loses the processor just then.
const probeTime = 2 * time.Second

// Lock takes the lock on the cgroup. It is held until Close or until the process
// ends in whatever way; processes that it starts do not inherit it past their exec.
// [ErrLocked] says that somebody else holds it. The lock says nothing about other
// file descriptors of the caller: opening the cgroup again and locking that gives
// ErrLocked too.
func (d *Dir) Lock() error {
	deadline := time.Now().Add(probeTime)
	for {
		err := flock(d.fd, unix.LOCK_EX|unix.LOCK_NB)
		if err == unix.EWOULDBLOCK {
			// Locked holds a shared lock for a moment. A shared lock beside ours
			// tells such a visitor from an owner.
			if flock(d.fd, unix.LOCK_SH|unix.LOCK_NB) == nil {
				err = flock(d.fd, unix.LOCK_UN)
				if err == nil && time.Now().Before(deadline) {
					pause(time.Millisecond)
					continue
				}
			}
			err = join(ErrLocked, unix.EWOULDBLOCK)
		}
		if err != nil {
			return d.wrap("take the lock", err)
		}
		return nil
	}
}

// Locked says whether anybody holds the lock, this process included. By the time
// it returns that may have changed.
func (d *Dir) Locked() (bool, error) {
	fd, err := openAt(d.fd, ".", dirFlags)
	if err != nil {
		return false, d.wrap("open the directory", err)
	}
	defer closeFD(fd) // gives the probe's own lock back
	switch err := flock(fd, unix.LOCK_SH|unix.LOCK_NB); err {
	case nil:
		return false, nil
	case unix.EWOULDBLOCK:
		return true, nil
	default:
		return false, d.wrap("look at the lock", err)
	}
}

func flock(fd, how int) error {
	for {
		err := unix.Flock(fd, how)
		if err != unix.EINTR {
			return err
		}
	}
}

func pause(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	<-t.C
}
