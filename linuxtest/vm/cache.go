package vm

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Cache holds what was downloaded and made from it. The zero value works.
type Cache struct {
	Dir    string        // "" is pitvisor-linuxtest in the user's cache directory
	Update bool          // ask the mirror again, however young the answer
	MaxAge time.Duration // how old an answer of the mirror may be; 0 is a week
	Log    func(string)  // what takes time; nil is silence
}

func (c Cache) log(format string, args ...any) {
	if c.Log != nil {
		c.Log(fmt.Sprintf(format, args...))
	}
}

// open makes the cache's directory, waits until nobody else fills it, and
// removes what a killed process left half done. The caller calls the function
// that it returns.
func (c Cache) open() (dir string, done func(), err error) {
	dir = c.Dir
	if dir == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			return "", nil, fmt.Errorf("find the cache directory: %w", err)
		}
		dir = filepath.Join(base, "pitvisor-linuxtest")
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return "", nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", nil, err
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", nil, err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		_ = lock.Close() // the other error tells more
		return "", nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	// The holder of the lock is the only one who has a directory in there.
	if err := os.RemoveAll(filepath.Join(dir, "tmp")); err != nil {
		_ = lock.Close() // the other error tells more
		return "", nil, err
	}
	return dir, func() { _ = lock.Close() }, os.MkdirAll(filepath.Join(dir, "tmp"), 0o755)
}

// load reads what save wrote, if it is young enough.
func (c Cache) load(name string, into any) bool {
	st, err := os.Stat(name)
	if err != nil || c.Update {
		return false
	}
	age := c.MaxAge
	if age == 0 {
		age = 7 * 24 * time.Hour
	}
	if time.Since(st.ModTime()) > age {
		return false
	}
	text, err := os.ReadFile(name)
	return err == nil && json.Unmarshal(text, into) == nil
}

func save(name string, what any) error {
	text, err := json.MarshalIndent(what, "", "\t")
	if err != nil {
		return err
	}
	if err := os.WriteFile(name+".new", text, 0o644); err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}

// publish gives a finished file or directory its place, where it may be already.
func publish(from, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	err := os.Rename(from, to)
	if errors.Is(err, fs.ErrExist) || errors.Is(err, unix.ENOTEMPTY) {
		return nil
	}
	return err
}

// exists says whether there is such a file.
func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}
