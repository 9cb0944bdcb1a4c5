package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// socketMode lets everybody connect: who may do what is decided by who calls, and
// who may do nothing is to learn why.
const socketMode = 0o666

// maxSunPath is how long the path of a unix socket may be for the kernel. A longer
// one is reached by way of its directory.
const maxSunPath = 107

// takenTime is how long a socket may seem taken: a process that was just killed can
// leave a child between clone and exec, which holds what it held for a moment.
const takenTime = time.Second / 2

// Socket is a unix socket with a name. The lock beside it says that its owner lives.
type Socket struct {
	*net.UnixListener
	path string
	lock *os.File
	id   fs.FileInfo
	once sync.Once // for Close: the server closes its listener as well
	err  error     // of Close
}

// TakenError says that another supervisor listens at a path.
type TakenError struct {
	Path string
	PID  int // of the other, for printing; 0 when it is not known
}

// Error names the socket and who has it.
func (e *TakenError) Error() string {
	if e.PID == 0 {
		return fmt.Sprintf("listen on %s: another supervisor does", e.Path)
	}
	return fmt.Sprintf("listen on %s: another supervisor does, process %d", e.Path, e.PID)
}

// Hint says what can be done.
func (e *TakenError) Hint() string {
	return `it keeps the same configuration in the same place: stop it first, or give this one another socket = "..." in [api], or another --runtime-dir`
}

// Listen makes a unix socket at path, where everybody may connect. What a dead
// supervisor left there is replaced; one that lives gives a *[TakenError]. The
// directory must be there.
func Listen(ctx context.Context, path string) (*Socket, error) {
	lock, err := lockSocket(ctx, path)
	if err != nil {
		return nil, err
	}
	s, err := bind(path)
	if err != nil {
		_ = lock.Close() // nothing was listened on
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	s.lock = lock
	return s, nil
}

// Path returns where the socket is.
func (s *Socket) Path() string { return s.path }

// Close stops listening and removes the socket and its lock, if they are still the
// ones that were made. Once is enough.
func (s *Socket) Close() error {
	s.once.Do(func() { s.err = s.close() })
	return s.err
}

func (s *Socket) close() error {
	err := s.UnixListener.Close()
	if there, statErr := os.Lstat(s.path); statErr == nil && os.SameFile(there, s.id) {
		err = errors.Join(err, os.Remove(s.path))
	}
	if removeErr := os.Remove(s.path + lockSuffix); !errors.Is(removeErr, fs.ErrNotExist) {
		err = errors.Join(err, removeErr) // else it was cleaned away
	}
	return errors.Join(err, s.lock.Close())
}

const lockSuffix = ".lock"

// lockSocket proves that no other supervisor has the socket.
func lockSocket(ctx context.Context, path string) (*os.File, error) {
	ctx, cancel := context.WithTimeout(ctx, takenTime)
	defer cancel()
	again := time.NewTimer(0)
	defer again.Stop()
	for {
		select {
		case <-again.C:
		case <-ctx.Done():
			pid, _ := holder(path)
			return nil, &TakenError{Path: path, PID: pid}
		}
		lock, err := tryLock(path + lockSuffix)
		if err != nil {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		// The lock may have been cleaned away under a supervisor that lives.
		if lock != nil {
			if _, lives := holder(path); !lives {
				return lock, nil
			}
			_ = lock.Close() // nothing was written
		}
		again.Reset(20 * time.Millisecond)
	}
}

// tryLock takes the lock, or returns nil when another has it.
func tryLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		held, statErr := f.Stat()
		named, nameErr := os.Lstat(path)
		if statErr == nil && nameErr == nil && os.SameFile(held, named) {
			return f, nil
		}
	}
	_ = f.Close() // nothing was written
	if err == nil || errors.Is(err, unix.EWOULDBLOCK) {
		return nil, nil
	}
	return nil, err
}

// holder says whether a process listens at a path, and its number, 0 when it is not
// to be seen from here.
func holder(path string) (pid int, lives bool) {
	_ = shortened(path, func(short string) error { // an error is: nobody
		c, err := net.DialTimeout("unix", short, time.Second)
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }() // was only to see whether it answers
		lives = true
		if p, err := newPeer(c); err == nil {
			pid = int(p.cred.Pid)
		}
		return nil
	})
	return pid, lives
}

// bind makes the socket; the lock is held.
func bind(path string) (*Socket, error) {
	if there, err := os.Lstat(path); err == nil {
		if there.Mode().Type() != fs.ModeSocket {
			return nil, fmt.Errorf("there is a file that is no socket: %w", fs.ErrExist)
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	s := &Socket{path: path}
	err := shortened(path, func(short string) error {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: short, Net: "unix"})
		if err != nil {
			return err
		}
		l.SetUnlinkOnClose(false) // by its own name, and only if it is still ours
		s.UnixListener = l
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err = os.Chmod(path, socketMode); err == nil {
		s.id, err = os.Lstat(path)
	}
	if err != nil {
		_ = s.UnixListener.Close() // nobody was let in
		_ = os.Remove(path)        // made by us a moment ago
		return nil, err
	}
	return s, nil
}

// shortened calls f with a path that a socket address can hold.
func shortened(path string, f func(short string) error) error {
	if len(path) <= maxSunPath {
		return f(path)
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }() // was only a way to the socket
	short := fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path))
	if len(short) > maxSunPath {
		return fmt.Errorf("the name of the socket is longer than %d bytes: %w", maxSunPath-len("/proc/self/fd/9/"), unix.ENAMETOOLONG)
	}
	return f(short)
}
