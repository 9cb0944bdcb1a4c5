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

// dir is the cache's directory, which it makes.
func (c Cache) dir() (string, error) {
	dir := c.Dir
	if dir == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("find the cache directory: %w", err)
		}
		dir = filepath.Join(base, "pitvisor-linuxtest")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	return dir, os.MkdirAll(dir, 0o755)
}

// once has something made unless it is there, which nobody has to wait for: installing a
// system takes minutes. It waits until nobody else fills the cache.
func (c Cache) once(dir string, there func() bool, made func() error) error {
	if there() {
		return nil
	}
	_, done, err := lockTemp(dir, "")
	if err != nil {
		return err
	}
	defer done()
	if there() {
		return nil
	}
	return made()
}

// payload waits until nobody else makes what is called so, and returns an empty directory
// for it. The caller calls the function that it returns.
func (c Cache) payload(name string) (tmp string, done func(), err error) {
	dir, err := c.dir()
	if err != nil {
		return "", nil, err
	}
	tmp, done, err = lockTemp(dir, "-"+name)
	return filepath.Join(tmp, "payload"), done, err
}

// lockTemp makes the directory for what is not finished, without what a killed process
// has left there. The holder of its lock is the only one who has anything in it.
func lockTemp(dir, suffix string) (tmp string, done func(), err error) {
	lock, err := os.OpenFile(filepath.Join(dir, "lock"+suffix), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", nil, err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		_ = lock.Close() // the other error tells more
		return "", nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	tmp = filepath.Join(dir, "tmp"+suffix)
	if err := os.RemoveAll(tmp); err != nil {
		_ = lock.Close() // the other error tells more
		return "", nil, err
	}
	return tmp, func() { _ = lock.Close() }, os.MkdirAll(tmp, 0o755)
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
