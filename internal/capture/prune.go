package capture

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/pitvisor/pitvisor/internal/logfile"
	"golang.org/x/sys/unix"
)

// Prune removes the run directories below root that no live process holds, but
// for the newest keep of them. That nobody holds one is proven by taking its
// lock, as Open does. What does not have a run's ID for a name is not touched.
// Prune goes on after an error, and returns how many it removed and all errors.
func Prune(root string, keep int) (removed int, err error) {
	entries, err := os.ReadDir(root)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, explain("list", root, err)
	}
	// IDs begin with the time, so the order of names is the order of runs.
	var names []string
	for _, e := range entries {
		if e.IsDir() && logfile.IsRunID(e.Name()) {
			names = append(names, e.Name())
		}
	}
	slices.Reverse(names)
	var errs []error
	for _, name := range names {
		path := filepath.Join(root, name)
		if keep > 0 {
			over, err := isFree(path)
			if over {
				keep--
			}
			errs = append(errs, err)
			continue
		}
		done, err := removeIfFree(path)
		if done {
			removed++
		}
		errs = append(errs, err)
	}
	return removed, errors.Join(errs...)
}

// tryLock opens a directory and locks it; nil if it is gone, or somebody holds its lock.
func tryLock(path string, how int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, explain("open", path, err)
	}
	if err = unix.Flock(int(f.Fd()), how|unix.LOCK_NB); err == nil {
		return f, nil
	}
	_ = f.Close() // nothing was written
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, nil
	}
	return nil, explain("lock", path, err)
}

// isFree says whether nobody holds the directory's lock. It does not keep another Prune or
// a reader from the same.
func isFree(path string) (bool, error) {
	f, err := tryLock(path, unix.LOCK_SH)
	if f == nil {
		return false, err
	}
	_ = f.Close() // frees the lock; nothing was written
	return true, nil
}

// removeIfFree removes the directory unless somebody holds its lock.
func removeIfFree(path string) (removed bool, err error) {
	f, err := tryLock(path, unix.LOCK_EX)
	if f == nil {
		return false, err
	}
	defer func() { _ = f.Close() }() // frees the lock; nothing was written
	held, err := f.Stat()
	if err != nil {
		return false, explain("stat", path, err)
	}
	if named, err := os.Lstat(path); err != nil || !os.SameFile(held, named) {
		return false, nil // somebody else was faster
	}
	if err := os.RemoveAll(path); err != nil {
		return false, explain("remove", path, err)
	}
	return true, nil
}
