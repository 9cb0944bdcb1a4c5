package capture

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Prune removes the run directories below logsRoot that no live process holds,
// but for the newest keep of them. That nobody holds one is proven by taking its
// lock. A directory that Open did not make is never removed, unless it is empty,
// as an Open that was killed half-way leaves it. Prune goes on after an error,
// and returns how many run directories it removed and all errors.
func Prune(logsRoot string, keep int) (removed int, err error) {
	dirs, err := runDirs(logsRoot)
	if err != nil {
		return 0, err
	}
	var errs []error
	for _, dir := range dirs[min(max(keep, 0), len(dirs)):] {
		done, err := removeIfFree(dir.path)
		if done {
			removed++
		}
		errs = append(errs, err)
	}
	return removed, errors.Join(errs...)
}

type runDir struct {
	path string
	made time.Time
}

// runDirs lists the directories that Open made, newest first.
func runDirs(root string) ([]runDir, error) {
	entries, err := os.ReadDir(root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, explain("list", root, err)
	}
	var dirs []runDir
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		path := filepath.Join(root, e.Name())
		marker, err := os.Lstat(filepath.Join(path, markerName))
		if errors.Is(err, fs.ErrNotExist) {
			_ = os.Remove(path) // only works if it is empty; an Open that just made it makes it again
			continue
		}
		if err != nil || !marker.Mode().IsRegular() {
			continue
		}
		dirs = append(dirs, runDir{path: path, made: marker.ModTime()})
	}
	slices.SortFunc(dirs, func(a, b runDir) int {
		return cmp.Or(b.made.Compare(a.made), cmp.Compare(b.path, a.path))
	})
	return dirs, nil
}

// removeIfFree removes the directory unless somebody holds its lock.
func removeIfFree(path string) (removed bool, err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, explain("open", path, err)
	}
	defer func() { _ = f.Close() }() // frees the lock; nothing was written
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false, nil
	}
	if err != nil {
		return false, explain("lock", path, err)
	}
	held, err := f.Stat()
	if err != nil {
		return false, explain("stat", path, err)
	}
	if named, err := os.Lstat(path); err != nil || !os.SameFile(held, named) {
		return false, nil // somebody else was faster
	}
	if err := removeContents(f, path); err != nil {
		return false, explain("remove", path, err)
	}
	return true, nil
}

// removeContents removes the directory f at path and all that is in it, the
// marker last, so that what is left of an interrupted removal is found again.
func removeContents(f *os.File, path string) error {
	entries, err := f.ReadDir(-1)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == markerName {
			continue
		}
		if err := os.RemoveAll(filepath.Join(path, e.Name())); err != nil {
			return err
		}
	}
	return os.RemoveAll(path)
}
