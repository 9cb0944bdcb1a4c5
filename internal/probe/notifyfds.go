package probe

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/supervise"
)

// fdStore keeps descriptors that workers have sent with FDSTORE=1 for the next start of
// the same worker.
type fdStore struct {
	mu    sync.Mutex // guards what follows
	slots map[supervise.WorkerID][]storedFD
}

// storedFD is one of them.
type storedFD struct {
	fd    int
	name  string
	keep  bool   // also when its other end is gone
	start uint64 // that has sent it
}

// defaultFDName is systemd's for a descriptor without a name.
const defaultFDName = "stored"

// keep takes over descriptors of a message while there is room for them, and puts -1 in
// their places. One that is stored already is not stored twice.
func (s *fdStore) keep(info supervise.StartInfo, most int, m *said, fds []int) (kept int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m.remove {
		s.drop(info.Worker, func(f *storedFD) bool { return f.name == m.name })
	}
	if !m.store {
		return 0
	}
	for i, fd := range fds {
		have := s.slots[info.Worker]
		if len(have) >= most || slices.ContainsFunc(have, func(f storedFD) bool { return sameFile(f.fd, fd) }) {
			continue
		}
		if s.slots == nil {
			s.slots = map[supervise.WorkerID][]storedFD{}
		}
		s.slots[info.Worker] = append(have, storedFD{fd: fd, name: cmp.Or(m.name, defaultFDName), keep: m.keep, start: info.Start})
		fds[i] = -1
		kept++
	}
	return kept
}

// sameFile says whether two descriptors are one open file. Where the kernel does not tell,
// they are not.
func sameFile(a, b int) bool {
	const kcmpFile = 0
	pid := uintptr(unix.Getpid())
	r, _, errno := unix.Syscall6(unix.SYS_KCMP, pid, pid, kcmpFile, uintptr(a), uintptr(b), 0)
	return errno == 0 && r == 0
}

// give returns copies of what a worker has stored, without what has lost its other end.
func (s *fdStore) give(id supervise.WorkerID, most int) (files []*os.File, names []string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(id, func(f *storedFD) bool { return !f.keep && hungUp(f.fd) })
	for i, f := range s.slots[id] {
		if i >= most {
			break // a reload has made the store smaller
		}
		fd, err := unix.FcntlInt(uintptr(f.fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			closeFiles(files)
			return nil, nil, fmt.Errorf("copy the stored descriptor %q: %w", f.name, err)
		}
		files, names = append(files, os.NewFile(uintptr(fd), f.name)), append(names, f.name)
	}
	return files, names, nil
}

// hungUp says whether the other end of a descriptor is gone.
func hungUp(fd int) bool {
	p := []unix.PollFd{{Fd: int32(fd)}} // what is asked for nothing is told of this
	n, err := unix.Poll(p, 0)
	return err == nil && n > 0 && p[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
}

// drop closes some of a worker's. The caller holds mu.
func (s *fdStore) drop(id supervise.WorkerID, which func(*storedFD) bool) {
	kept := s.slots[id][:0]
	for _, f := range s.slots[id] {
		if which(&f) {
			_ = unix.Close(f.fd) // the sender has its own
		} else {
			kept = append(kept, f)
		}
	}
	if len(kept) == 0 {
		delete(s.slots, id)
	} else {
		s.slots[id] = kept
	}
}

// clear closes everything.
func (s *fdStore) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id := range s.slots {
		s.drop(id, func(*storedFD) bool { return true })
	}
}

// DropStored closes what a worker has stored up to a start: when it is down, was given
// up or has completed.
func (s *NotifyServer) DropStored(id supervise.WorkerID, start uint64) {
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	s.store.drop(id, func(f *storedFD) bool { return f.start <= start })
}

// Stored returns the names of what a worker has stored, in the order of its descriptors.
func (s *NotifyServer) Stored(id supervise.WorkerID) []string {
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	var names []string
	for _, f := range s.store.slots[id] {
		names = append(names, f.name)
	}
	return names
}

func closeAll(fds []int) {
	for _, fd := range fds {
		if fd >= 0 {
			_ = unix.Close(fd) // not ours; nothing to lose
		}
	}
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		_ = f.Close() // a copy
	}
}
