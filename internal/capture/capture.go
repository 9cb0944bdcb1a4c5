// Package capture keeps what workers print. A worker writes by itself, straight
// into a file that outlives the supervisor: no pipe can fill up or break, and a
// supervisor that dies takes no output with it. Capture only follows the files:
// it hands out complete lines, keeps the last ones at hand and bounds the space.
// Or, where a worker must not notice a full disk, it writes to a pipe from which
// capture moves blocks to the same files.
//
// The files belong to the supervisor's user with mode 0640. A worker of another
// user writes through the descriptor that it inherited and can not open them
// again, so a program that opens /dev/stdout or /dev/stderr by name is refused.
//
// Beside each file a second one says when which byte was written, so that lines
// have times though workers print none. Old bytes are moved out and compressed
// beside the writing, see [Rotate]. Package logfile reads it all again.
//
// Package capture is not a log shipper: it sends nothing over a network, and it
// puts nothing of its own between a worker's bytes.
package capture

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/pitvisor/pitvisor/internal/logfile"
	"golang.org/x/sys/unix"
)

const (
	defaultMaxSize = 16 << 20
	lockPatience   = time.Second // how long Open waits for a Prune that is looking at the same directory
)

// Options says where a Store keeps its files and how large they may grow.
type Options struct {
	// Dir holds the files of one run and is made if it is missing. Its name is
	// the run's ID if Prune is to remove it one day. It must be on a local file
	// system: locks and change events do not cross a network.
	Dir string
	// Name is that of the run's configuration, for those who read the files.
	Name string
	// MaxSize is how many of the newest bytes of each stream are in its live file
	// for sure; 0 means 16 MiB. Without rotation the file takes at most a quarter
	// more on disk, and what was written between two looks at it.
	MaxSize int64
	// Rotate says what becomes of older bytes. With it a live file may grow to
	// MaxSize times (1 + Rotate.Keep) while it is written to faster than the
	// rotation, which has the lowest priority, can follow.
	Rotate Rotate
	// Warn is told of what weakens a promise but stops nothing, such as a full
	// disk; each kind once. It must not block. Nil means that nobody is told.
	Warn func(error)
}

// Store is the output of one run. All methods may be called at the same time.
type Store struct {
	dir     string
	maxSize int64
	rotate  Rotate
	warn    func(error)
	about   logfile.About
	lock    *os.File // its lock says that the run's supervisor lives
	watch   *watch
	trimmer *queue
	rotator *queue
	movers  movers
	buffers sync.Pool
	running sync.WaitGroup
	warned  sync.Map // kind of warning -> told

	mu        sync.RWMutex // guards the fields below, each pool's slots and each segment's cursors
	pools     map[string]*poolDir
	followers map[*Follower]bool
	closed    bool
	rotating  bool       // the rotator runs
	remade    []*os.File // locks of directories in the place of the first one, which was removed
}

// poolDir is the directory of one pool; it has one watch for all its files.
type poolDir struct {
	path  string
	slots map[int]*slotFiles
	row   row
}

// Open makes and locks the directory and begins to watch it. The caller owes a
// Close. The error is an *Error if there is a cure to name; fs.ErrExist stands
// for a directory that another live process holds.
func Open(o Options) (*Store, error) {
	if !filepath.IsAbs(o.Dir) {
		return nil, fmt.Errorf("open output directory %q: not an absolute path", o.Dir)
	}
	if o.MaxSize < 0 {
		return nil, fmt.Errorf("open output directory %q: negative size %d", o.Dir, o.MaxSize)
	}
	if r := o.Rotate; r.Keep < 0 || r.Age < 0 || r.MaxAge < 0 || r.MaxTotal < 0 {
		return nil, fmt.Errorf("open output directory %q: negative bound in %+v", o.Dir, r)
	}
	s := &Store{
		dir: filepath.Clean(o.Dir), maxSize: o.MaxSize, rotate: o.Rotate, warn: o.Warn,
		about:     logfile.About{Name: o.Name, Started: time.Now()},
		trimmer:   newQueue(),
		rotator:   newQueue(),
		pools:     make(map[string]*poolDir),
		followers: make(map[*Follower]bool),
	}
	if s.maxSize == 0 {
		s.maxSize = defaultMaxSize
	}
	s.buffers.New = func() any { b := make([]byte, bufferSize); return &b }
	var err error
	if s.lock, err = lockDir(s.dir); err != nil {
		return nil, err
	}
	if s.watch, err = newWatch(); err != nil {
		_ = s.lock.Close() // the other error matters
		return nil, err
	}
	if err := logfile.WriteAbout(s.dir, s.about); err != nil {
		s.warnOnce("full", explain("write", s.dir, err))
	}
	s.running.Go(s.runWatch)
	s.running.Go(s.runTrimmer)
	return s, nil
}

// Close ends every start that is not over, the watch and the lock. Followers
// return once they have handed out what was written until now; Close does not
// wait for them, because the function they call may be blocked.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return fmt.Errorf("close output directory %s: %w", s.dir, fs.ErrClosed)
	}
	s.closed = true
	s.mu.Unlock()
	s.endAll()
	s.mu.RLock()
	if s.movers.stop != nil {
		s.movers.stop()
	}
	s.mu.RUnlock()
	err := s.watch.close()
	s.trimmer.close()
	s.rotator.close()
	s.mu.RLock()
	for fl := range s.followers {
		fl.queue.close()
	}
	s.mu.RUnlock()
	s.running.Wait()
	s.movers.relays.close()
	for _, lock := range s.remade {
		err = errors.Join(err, lock.Close())
	}
	return errors.Join(err, s.lock.Close())
}

// warnOnce tells of err unless one of this kind was told before.
func (s *Store) warnOnce(kind string, err error) {
	if s.warn == nil {
		return
	}
	if _, told := s.warned.LoadOrStore(kind, true); !told {
		s.warn(err)
	}
}

// lockDir makes dir and locks it.
func lockDir(dir string) (*os.File, error) {
	deadline := time.NewTimer(lockPatience)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		f, err := tryLockDir(dir)
		if !errors.Is(err, errDirBusy) {
			return f, err
		}
		// Either a live supervisor or a Prune that will be gone in a moment.
		select {
		case <-tick.C:
		case <-deadline.C:
			return nil, &Error{
				Op: "lock", Path: dir, Err: fs.ErrExist,
				hint: "another pitvisor uses this directory; give this one its own state directory",
			}
		}
	}
}

var errDirBusy = errors.New("directory is locked or was just removed")

func tryLockDir(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, explain("make", dir, err)
	}
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errDirBusy
	}
	if err != nil {
		return nil, explain("open", dir, err)
	}
	if err := claim(f, dir); err != nil {
		_ = f.Close() // the other error matters
		return nil, err
	}
	return f, nil
}

// claim locks the open directory f and proves that it still has the name dir.
func claim(f *os.File, dir string) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return errDirBusy
	}
	if err != nil {
		return explain("lock", dir, err)
	}
	held, err := f.Stat()
	if err != nil {
		return explain("stat", dir, err)
	}
	named, err := os.Lstat(dir)
	if err != nil || !os.SameFile(held, named) {
		return errDirBusy
	}
	return nil
}
