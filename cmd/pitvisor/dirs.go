package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// stateRoot is where logs and history live.
func (a *app) stateRoot() (string, error) {
	switch {
	case a.stateDir != "":
		return filepath.Abs(a.stateDir)
	case os.Getenv("STATE_DIRECTORY") != "": // set by systemd
		return os.Getenv("STATE_DIRECTORY"), nil
	case os.Geteuid() == 0:
		return "/var/lib/pitvisor", nil
	case os.Getenv("XDG_STATE_HOME") != "":
		return filepath.Join(os.Getenv("XDG_STATE_HOME"), "pitvisor"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", failHint(exitSelf, fmt.Errorf("choose a state directory: %w", err), "name one with --state-dir")
	}
	return filepath.Join(home, ".local", "state", "pitvisor"), nil
}

// runtimeRoot is where sockets and ready files live; it may vanish at reboot.
func (a *app) runtimeRoot(state string) (string, error) {
	switch {
	case a.runtimeDir != "":
		return filepath.Abs(a.runtimeDir)
	case os.Getenv("RUNTIME_DIRECTORY") != "":
		return os.Getenv("RUNTIME_DIRECTORY"), nil
	case os.Geteuid() == 0:
		return "/run/pitvisor", nil
	case os.Getenv("XDG_RUNTIME_DIR") != "":
		return filepath.Join(os.Getenv("XDG_RUNTIME_DIR"), "pitvisor"), nil
	}
	return filepath.Join(state, "run"), nil
}

// noPlace adds the cure to an error about the state or the runtime directory that
// comes from where it is; other errors have their own.
func noPlace(which string, err error) error {
	if !errors.Is(err, fs.ErrPermission) && !errors.Is(err, unix.EROFS) {
		return err
	}
	setting := "StateDirectory"
	if which == "runtime" {
		setting = "RuntimeDirectory"
	}
	return failHint(exitSelf, err, fmt.Sprintf("name a directory that %s may write with --%s-dir; systemd makes one for a unit that has %s=pitvisor below [Service]",
		userWord(os.Geteuid()), which, setting))
}

// runDir is a directory that belongs to one run for as long as its owner
// lives: the lock on it is the proof, so that others may prune what is stale.
type runDir struct {
	path string
	lock *os.File
}

// makeRunDir makes and locks root/name. Others may pass through it (0711) but
// not list it: workers of other users reach their sockets and ready files.
func makeRunDir(root, name string) (*runDir, error) {
	path := filepath.Join(root, name)
	for range 10 {
		if err := os.MkdirAll(path, 0o711); err != nil {
			return nil, err
		}
		lock, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // pruned by another supervisor before we held the lock
		}
		if err != nil {
			return nil, err
		}
		if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == nil && sameDir(lock, path) {
			return &runDir{path: path, lock: lock}, nil
		}
		_ = lock.Close() // read-only; somebody is pruning it
	}
	return nil, fmt.Errorf("lock %s: another process keeps removing it", path)
}

func sameDir(f *os.File, path string) bool {
	held, err := f.Stat()
	if err != nil {
		return false
	}
	named, err := os.Stat(path)
	return err == nil && os.SameFile(held, named)
}

// remove deletes the directory and gives up the lock.
func (d *runDir) remove() error {
	err := os.RemoveAll(d.path)
	return errors.Join(err, d.lock.Close())
}
