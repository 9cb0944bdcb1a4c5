package history

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"
)

const (
	keepRecords = 10_000      // records in a file
	keepAsides  = 3           // damaged files that are kept
	lockTimeout = time.Second // for the lock on the file
	bucketName  = "records"   // its keys are numbers in the order of writing, its values JSON
)

var (
	// errDamaged says that a file is not what bbolt writes, whether torn, overwritten or another's.
	errDamaged = errors.New("not a history file, or a damaged one")
	// errUnbegun says that whoever made the file was killed in the write that begins it: the kernel
	// ends that after any page. Nothing was in it yet.
	errUnbegun = fmt.Errorf("not begun: %w", fs.ErrNotExist)
	// errNotFile says that something else than a file is there. It is never renamed: it may be
	// anything, /dev/null included.
	errNotFile = errors.New("not a regular file")
)

// boltFile is one program's view of a history file.
type boltFile struct {
	path string
	good stamp // of the file as this program left it last
	bad  stamp // of a file that the check found good and that bbolt panicked over
}

// stamp tells whether a file was changed.
type stamp struct {
	dev, inode   uint64
	size         int64
	mtime, ctime unix.Timespec
}

// sameFile says whether both are of one file, however changed.
func (s stamp) sameFile(other stamp) bool {
	return s.dev == other.dev && s.inode == other.inode
}

// Read reads the newest n records of the file, the oldest of them first; n <= 0 reads all. It
// changes nothing and works while others write. No file, or an empty one, gives fs.ErrNotExist; a damaged
// one gives an error.
func Read(path string, n int) ([]Record, error) {
	var records []Record
	f := boltFile{path: path}
	err := f.use(true, func(db *bolt.DB) error {
		return db.View(func(tx *bolt.Tx) error {
			records = newest(tx.Bucket([]byte(bucketName)), n)
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("read history %s: %w", path, err)
	}
	return records, nil
}

// newest reads backwards; what is not a record of ours is passed over.
func newest(bucket *bolt.Bucket, n int) []Record {
	if bucket == nil {
		return nil
	}
	if n <= 0 {
		n = math.MaxInt
	}
	var records []Record
	cursor := bucket.Cursor()
	for key, value := cursor.Last(); key != nil && len(records) < n; key, value = cursor.Prev() {
		var rec Record
		if json.Unmarshal(value, &rec) == nil {
			records = append(records, rec)
		}
	}
	slices.Reverse(records)
	return records
}

// append writes a batch in one transaction and removes what is too old by then.
func (f *boltFile) append(batch []Record) error {
	if err := os.MkdirAll(filepath.Dir(f.path), 0o700); err != nil {
		return fmt.Errorf("write history: %w", err)
	}
	err := f.use(false, func(db *bolt.DB) error {
		return db.Update(func(tx *bolt.Tx) error { return put(tx, batch) })
	})
	if err != nil {
		return fmt.Errorf("write history %s: %w", f.path, err)
	}
	return nil
}

func put(tx *bolt.Tx, batch []Record) error {
	bucket, err := tx.CreateBucketIfNotExists([]byte(bucketName))
	if err != nil {
		return err
	}
	bucket.FillPercent = 1 // the keys only grow, so a page that is full stays as it is
	var last uint64
	for _, rec := range batch {
		value, err := json.Marshal(rec)
		if err != nil {
			return err
		}
		if last, err = bucket.NextSequence(); err != nil {
			return err
		}
		if err := bucket.Put(binary.BigEndian.AppendUint64(nil, last), value); err != nil {
			return err
		}
	}
	return forget(bucket, last)
}

// forget deletes all records but the newest.
func forget(bucket *bolt.Bucket, last uint64) error {
	if last <= keepRecords {
		return nil
	}
	end := binary.BigEndian.AppendUint64(nil, last-keepRecords)
	var old [][]byte // gathered first: bbolt's cursor may skip a key after a deletion
	cursor := bucket.Cursor()
	for key, _ := cursor.First(); key != nil && slices.Compare(key, end) <= 0; key, _ = cursor.Next() {
		old = append(old, key)
	}
	for _, key := range old {
		if err := bucket.Delete(key); err != nil {
			return err
		}
	}
	return nil
}

// use opens the file, which also locks it, and closes it again. A file that others may have changed
// since is checked page by page before: bbolt trusts what it reads, and a damaged page can make it
// panic, fault, or go round for ever. What the check does not see is caught here.
func (f *boltFile) use(readOnly bool, use func(*bolt.DB) error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	var file *os.File
	defer func() {
		if trouble := recover(); trouble != nil {
			// bolt's own Close could wait for locks that the panic left held. The file stays mapped,
			// and with it open for the kernel, so its lock must be given up by name.
			f.good, f.bad = stamp{}, stamp{}
			if file != nil {
				f.bad, _ = stampOf(file)
				_ = unix.Flock(int(file.Fd()), unix.LOCK_UN)
				_ = file.Close()
			}
			err = fmt.Errorf("%w: bbolt: %v", errDamaged, trouble)
		}
	}()
	err = f.check()
	if errors.Is(err, errUnbegun) && !readOnly {
		err = f.clear()
	}
	if err != nil && (!errors.Is(err, fs.ErrNotExist) || readOnly) {
		return err
	}
	db, err := bolt.Open(f.path, 0o600, &bolt.Options{
		Timeout:  lockTimeout,
		ReadOnly: readOnly,
		OpenFile: func(name string, flag int, mode os.FileMode) (*os.File, error) {
			var err error
			file, err = os.OpenFile(name, flag|unix.O_NONBLOCK, mode)
			return file, err
		},
	})
	if err != nil {
		return explain(err)
	}
	err = use(db)
	if err == nil {
		f.good, err = stampOf(file)
	}
	return errors.Join(err, db.Close())
}

// explain gives bbolt's answers their meaning here.
func explain(err error) error {
	switch {
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrVersionMismatch),
		errors.Is(err, bolterrors.ErrChecksum):
		return fmt.Errorf("%w: %w", errDamaged, err)
	case errors.Is(err, bolterrors.ErrTimeout):
		return fmt.Errorf("locked by another program for more than %v", lockTimeout)
	}
	return err
}

// check says whether the file is fit for bbolt: one that is unchanged is, and one that is empty or not
// there, fs.ErrNotExist, is to be begun.
func (f *boltFile) check() error {
	file, err := os.OpenFile(f.path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	return f.checkOpen(file, unix.LOCK_SH)
}

func (f *boltFile) checkOpen(file *os.File, how int) error {
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		return errors.Join(errNotFile, err)
	}
	if err := lockFile(file, how); err != nil {
		return err
	}
	now, err := stampOf(file)
	if err != nil || now == f.good {
		return err
	}
	if now.size == 0 {
		return fmt.Errorf("nothing is in it yet: %w", fs.ErrNotExist)
	}
	if err := checkPages(file, now.size); errors.Is(err, errUnbegun) {
		return err
	} else if err != nil {
		return fmt.Errorf("%w: %w", errDamaged, err)
	}
	return nil
}

// clear empties a file that was not begun, unless another program has done so.
func (f *boltFile) clear() error {
	file, err := os.OpenFile(f.path, os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := f.checkOpen(file, unix.LOCK_EX); !errors.Is(err, errUnbegun) {
		return err
	}
	return file.Truncate(0)
}

// setAside renames the file if it is damaged still, and says to what. Another program may have done so
// first and begun a new one; the lock on the damaged file lets only one of them do it.
func (f *boltFile) setAside(now time.Time) (string, error) {
	file, err := os.OpenFile(f.path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("set it aside: %w", err)
	}
	defer file.Close()
	f.good = stamp{}
	err = f.checkOpen(file, unix.LOCK_EX)
	held, statErr := stampOf(file)
	switch {
	case statErr != nil:
		return "", fmt.Errorf("set it aside: %w", statErr)
	case err == nil && !held.sameFile(f.bad), errors.Is(err, fs.ErrNotExist):
		return "", nil
	case err != nil && !errors.Is(err, errDamaged):
		return "", fmt.Errorf("set it aside: %w", err)
	}
	// The name may belong to a new file by now. A symbolic link is left alone, as what it leads to is.
	var there unix.Stat_t
	err = unix.Lstat(f.path, &there)
	if err == unix.ENOENT || err == nil && !held.sameFile(stamp{dev: there.Dev, inode: there.Ino}) {
		return "", nil
	}
	aside := f.path + ".damaged-" + now.UTC().Format("20060102T150405.000000")
	if err := os.Rename(f.path, aside); err != nil {
		return "", fmt.Errorf("set it aside: %w", err)
	}
	f.removeOldAsides()
	return aside, nil
}

// removeOldAsides keeps the newest damaged files, so that a disk that rots does not also fill.
func (f *boltFile) removeOldAsides() {
	dir, base := filepath.Split(f.path)
	entries, err := os.ReadDir(filepath.Clean(dir + "."))
	if err != nil {
		return // the rename has just worked there; what stays is a few files too many
	}
	var asides []string // sorted, and so from old to new
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), base+".damaged-") {
			asides = append(asides, e.Name())
		}
	}
	for _, name := range asides[:max(0, len(asides)-keepAsides)] {
		_ = os.Remove(filepath.Join(dir, name)) // the next time will try again
	}
}

// lockFile waits for a lock no longer than bbolt would.
func lockFile(file *os.File, how int) error {
	ctx, cancel := context.WithTimeout(context.Background(), lockTimeout)
	defer cancel()
	for {
		err := unix.Flock(int(file.Fd()), how|unix.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case err != unix.EWOULDBLOCK && err != unix.EINTR:
			return fmt.Errorf("lock: %w", err)
		case ctx.Err() != nil:
			return explain(bolterrors.ErrTimeout)
		}
		pause(ctx, 5*time.Millisecond)
	}
}

func stampOf(file *os.File) (stamp, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err != nil {
		return stamp{}, fmt.Errorf("stat: %w", err)
	}
	return stamp{dev: st.Dev, inode: st.Ino, size: st.Size, mtime: st.Mtim, ctime: st.Ctim}, nil
}

// pause waits for d or the end of ctx.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
