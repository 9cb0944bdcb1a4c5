package capture

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/pitvisor/pitvisor/internal/logfile"
)

// openAll opens the live files of both streams for a worker. If somebody has removed the
// directories, as people do to get room, they are made again: a worker starts all the same.
func (s *Store) openAll(files *slotFiles, pool, path string, slot int) (opened [2]*os.File, err error) {
	for i, name := range streamNames() {
		s.end(files.streams[i].now.Load())
		opened[i], err = files.streams[i].open(path, slot, name, s.maxSize, &s.rotate)
		if errors.Is(err, fs.ErrNotExist) {
			if err = s.remake(pool); err == nil {
				opened[i], err = files.streams[i].open(path, slot, name, s.maxSize, &s.rotate)
			}
		}
		if err != nil {
			break
		}
	}
	return opened, err
}

// remake makes the directory of a pool again, and that of the run. What workers that run
// write goes to the files that were removed, until they are started again.
func (s *Store) remake(pool string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	dir := s.pools[pool]
	if s.closed || dir == nil {
		return fs.ErrClosed
	}
	s.warnOnce("removed", fmt.Errorf("%s was removed: it is made again, but what workers that run print is lost until they are started again", dir.path))
	if err := s.relock(); err != nil {
		return err
	}
	for _, files := range dir.slots {
		for i := range files.streams {
			if f := files.streams[i].file; f != nil {
				f.anew()
			}
		}
	}
	return s.makePool(dir)
}

// makePool makes and watches the directory of a pool. The caller holds the lock.
func (s *Store) makePool(dir *poolDir) error {
	err := os.Mkdir(dir.path, 0o750)
	if errors.Is(err, fs.ErrNotExist) {
		if err := s.relock(); err != nil {
			return err
		}
		err = os.Mkdir(dir.path, 0o750)
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return explain("make", dir.path, err)
	}
	return s.watch.add(dir)
}

// anew says that nothing is left of the stream on disk: times are not told as later than others.
func (f *file) anew() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.times.last, f.times.size, f.pieces = logfile.Mark{}, 0, nil
}

// relock makes the directory of the run and locks it, unless it is the one that was locked.
// The caller holds the lock.
func (s *Store) relock() error {
	named, err := os.Lstat(s.dir)
	for _, lock := range append([]*os.File{s.lock}, s.remade...) {
		held, statErr := lock.Stat()
		if err == nil && statErr == nil && os.SameFile(held, named) {
			return s.writeAbout()
		}
	}
	lock, err := lockDir(s.dir)
	if err != nil {
		return err
	}
	s.remade = append(s.remade, lock)
	return s.writeAbout()
}

// writeAbout writes down whose output it is, unless that is there.
func (s *Store) writeAbout() error {
	if _, err := os.Lstat(filepath.Join(s.dir, logfile.AboutName)); err == nil {
		return nil
	}
	return explain("write", s.dir, logfile.WriteAbout(s.dir, s.about))
}
