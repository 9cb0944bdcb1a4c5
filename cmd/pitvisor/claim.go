package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/cgroup"
)

// takenError says that another supervisor keeps the pools of a configuration.
type takenError struct {
	config string
	holder string // "pid 17 in shop.service"
}

func (e *takenError) Error() string {
	return fmt.Sprintf("the pools of %s are kept already, by %s", e.config, e.holder)
}

// Hint names the unit to stop, if it is one.
func (e *takenError) Hint() string {
	stop := "stop that one first"
	if _, unit, ok := strings.Cut(e.holder, " in "); ok {
		stop += " (systemctl stop " + unit + ")"
	}
	return stop + ", or give this one a configuration of its own; with another --state-dir both run, and every worker is there twice"
}

// claimConfig takes the lock that says: the pools of this configuration are kept. It
// is a file in the state directory, where only those can make one who could be
// supervisors. The error is a *takenError if another one has it. A configuration that
// is no file cannot be claimed, and nil is returned.
func claimConfig(state, config string) (*os.File, error) {
	config, err := filepath.EvalSymlinks(config)
	if err != nil {
		return nil, nil // a pipe, as in -f <(generate)
	}
	dir := filepath.Join(state, "claims")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	name := filepath.Join(dir, fmt.Sprintf("%x", sha256.Sum256([]byte(config)))[:16])
	for range 10 {
		f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
		if err != nil {
			return nil, err
		}
		err = lockForProcess(f)
		if err == nil && sameDir(f, name) {
			_, err = f.WriteAt([]byte(holder()+"\n"), 0)
			return f, err
		}
		said, _ := io.ReadAll(f) // without it the message says less
		_ = f.Close()            // nothing was written
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
			who, _, _ := strings.Cut(string(said), "\n")
			return nil, &takenError{config: config, holder: who}
		}
		if err != nil {
			return nil, fmt.Errorf("lock %s: %w", name, err)
		}
		// The one who had it has just removed it.
	}
	return nil, fmt.Errorf("lock %s: others keep removing it", name)
}

// lockForProcess takes a lock that belongs to the process and not to the open file: a
// worker that is about to be executed has a copy of that, and would hold it longer than
// a supervisor that is killed just then.
func lockForProcess(f *os.File) error {
	return unix.FcntlFlock(f.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart})
}

// releaseClaim removes the file before the lock is free.
func releaseClaim(f *os.File) error { return errors.Join(os.Remove(f.Name()), f.Close()) }

// holder says who we are, to those who find the lock taken.
func holder() string {
	text := fmt.Sprintf("pid %d", os.Getpid())
	self, err := cgroup.SelfPath()
	if err != nil {
		return text
	}
	for ; self != "/" && self != "."; self = path.Dir(self) {
		if name := path.Base(self); strings.HasSuffix(name, ".service") {
			return text + " in " + name
		}
	}
	return text
}

// claim takes the lock for the session's configuration.
func (s *session) claim() error {
	state, err := s.app.stateRoot()
	if err != nil {
		return err
	}
	f, err := claimConfig(state, s.cfg.Path)
	var taken *takenError
	switch {
	case errors.As(err, &taken):
		return fail(exitUsage, err)
	case err != nil:
		// Pools without files and without a history do not need the directory.
		s.log.Debug("it cannot be told whether another pitvisor keeps these pools: " + err.Error())
	case f != nil:
		s.onClose(func() error { return releaseClaim(f) })
	}
	return nil
}
