package history

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// TestCheckPagesSeesEachKindOfDamage changes one thing at a time in a good file.
func TestCheckPagesSeesEachKindOfDamage(t *testing.T) {
	good := goodFile(t)
	c := &pageChecker{file: bytes.NewReader(good)}
	if err := c.readMeta(uint64(len(good))); err != nil {
		t.Fatal(err)
	}
	ne := binary.NativeEndian
	page := c.slice
	// The root holds one bucket; its value begins with the page of the records' tree.
	root := page(good, c.root)
	bucket := boltHeader + int(ne.Uint32(root[boltHeader+4:])+ne.Uint32(root[boltHeader+8:]))
	branch := ne.Uint64(root[bucket:])
	if kind := ne.Uint16(page(good, branch)[8:]); kind != boltBranch {
		t.Fatalf("page %d is of kind %d, want a branch: the test needs a deeper tree", branch, kind)
	}
	leaf := ne.Uint64(page(good, branch)[boltHeader+8:])
	second := ne.Uint64(page(good, branch)[boltHeader+boltElement+8:])
	tests := damages(c, bucket, branch, leaf, second)
	for name, damage := range tests {
		content := damage(bytes.Clone(good))
		if bytes.Equal(content, good) {
			t.Errorf("%s: nothing was damaged", name)
		}
		if err := checkPages(bytes.NewReader(content), int64(len(content))); err == nil {
			t.Errorf("%s: checkPages() = nil", name)
		}
	}
	if err := checkPages(bytes.NewReader(good), int64(len(good))); err != nil {
		t.Errorf("checkPages() of a good file = %v", err)
	}
}

// damages is one change each to a file whose records are in a tree of a branch and leaves.
func damages(c *pageChecker, bucket int, branch, leaf, second uint64) map[string]func([]byte) []byte {
	ne, page := binary.NativeEndian, c.slice
	return map[string]func(content []byte) []byte{
		"last page cut off":     func(b []byte) []byte { return b[:(c.pages-1)*c.pageSize] },
		"half a page cut off":   func(b []byte) []byte { return b[:c.pages*c.pageSize-1] },
		"page with a wrong id":  func(b []byte) []byte { ne.PutUint64(page(b, leaf), 3); return b },
		"page of no kind":       func(b []byte) []byte { ne.PutUint16(page(b, leaf)[8:], 3); return b },
		"leaf is a list":        func(b []byte) []byte { ne.PutUint16(page(b, leaf)[8:], boltFreelist); return b },
		"endless page":          func(b []byte) []byte { ne.PutUint32(page(b, leaf)[12:], 1<<30); return b },
		"page reaches the next": func(b []byte) []byte { ne.PutUint32(page(b, leaf)[12:], 1); return b },
		"too many elements":     func(b []byte) []byte { ne.PutUint16(page(b, leaf)[10:], 1<<15); return b },
		"no elements":           func(b []byte) []byte { ne.PutUint16(page(b, branch)[10:], 0); return b },
		"element outside":       func(b []byte) []byte { ne.PutUint32(page(b, leaf)[boltHeader+4:], 1<<20); return b },
		"element in the table":  func(b []byte) []byte { ne.PutUint32(page(b, leaf)[boltHeader+4:], 0); return b },
		"endless value":         func(b []byte) []byte { ne.PutUint32(page(b, leaf)[boltHeader+12:], 1<<31); return b },
		"empty key":             func(b []byte) []byte { ne.PutUint32(page(b, leaf)[boltHeader+8:], 0); return b },
		"element of no kind":    func(b []byte) []byte { ne.PutUint32(page(b, leaf)[boltHeader:], 9); return b },
		"value taken as bucket": func(b []byte) []byte { ne.PutUint32(page(b, leaf)[boltHeader:], 1); return b },
		"branch to itself":      func(b []byte) []byte { ne.PutUint64(page(b, branch)[boltHeader+8:], branch); return b },
		"branch to nowhere":     func(b []byte) []byte { ne.PutUint64(page(b, branch)[boltHeader+8:], 1<<40); return b },
		"branch to a meta page": func(b []byte) []byte { ne.PutUint64(page(b, branch)[boltHeader+8:], 1); return b },
		"branch twice to one": func(b []byte) []byte {
			ne.PutUint64(page(b, branch)[boltHeader+boltElement+8:], leaf)
			return b
		},
		"bucket cut off":         func(b []byte) []byte { ne.PutUint32(page(b, c.root)[boltHeader+12:], 8); return b },
		"bucket to nowhere":      func(b []byte) []byte { ne.PutUint64(page(b, c.root)[bucket:], c.pages); return b },
		"bucket without a page":  func(b []byte) []byte { ne.PutUint64(page(b, c.root)[bucket:], 0); return b },
		"key out of order":       func(b []byte) []byte { clearKey(page(b, leaf), 1); return b },
		"key before its branch":  func(b []byte) []byte { clearKey(page(b, second), 0); return b },
		"list of another kind":   func(b []byte) []byte { ne.PutUint16(page(b, c.freelist)[8:], boltLeaf); return b },
		"endless list":           func(b []byte) []byte { ne.PutUint16(page(b, c.freelist)[10:], 0xFFFE); return b },
		"endless long list":      func(b []byte) []byte { ne.PutUint16(page(b, c.freelist)[10:], 0xFFFF); return b },
		"used page on the list":  func(b []byte) []byte { ne.PutUint64(page(b, c.freelist)[boltHeader:], leaf); return b },
		"no page on the list":    func(b []byte) []byte { ne.PutUint64(page(b, c.freelist)[boltHeader:], c.pages); return b },
		"page twice on the list": func(b []byte) []byte { list := page(b, c.freelist); copy(list[24:32], list[16:24]); return b },
	}
}

// slice is one page of a whole file.
func (c *pageChecker) slice(content []byte, id uint64) []byte {
	return content[id*c.pageSize : (id+1)*c.pageSize]
}

// clearKey makes a key of a leaf the smallest there is.
func clearKey(leaf []byte, element int) {
	ne := binary.NativeEndian
	header := boltHeader + element*boltElement
	at := header + int(ne.Uint32(leaf[header+4:]))
	clear(leaf[at : at+int(ne.Uint32(leaf[header+8:]))])
}

// TestOneMetaPageIsEnough: bbolt keeps two of them, so that a torn one does no harm.
func TestOneMetaPageIsEnough(t *testing.T) {
	good := goodFile(t)
	for page := range 2 {
		path := filepath.Join(t.TempDir(), "history.db")
		content := bytes.Clone(good)
		clear(content[page*os.Getpagesize():][:80])
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		// The newer one counts; without it the file is as it was one batch before.
		got, err := Read(path, 0)
		if err != nil || len(got) != 1200 && len(got) != 800 {
			t.Errorf("without meta page %d: %d records, %v", page, len(got), err)
		}
		if told := writeLog(t, path, 5000, 1); len(told) != 0 {
			t.Errorf("without meta page %d: warnings %q", page, told)
		}
	}
}

func TestEmptyHistoryFileIsNoDamage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.db")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := Read(path, 0); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Read() of an empty file = %v, %v, want ErrNotExist", got, err)
	}
	if told := writeLog(t, path, 1, 1); len(told) != 0 {
		t.Errorf("warnings: %q", told)
	}
	if got, err := Read(path, 0); err != nil || len(got) != 1 {
		t.Errorf("Read() = %v, %v, want 1 record", got, err)
	}
}

// TestHistoryFileThatWasNotBegun: a kill can end the write that begins a file after any page.
func TestHistoryFileThatWasNotBegun(t *testing.T) {
	for pages := range 4 {
		path := filepath.Join(t.TempDir(), "history.db")
		db, err := bolt.Open(path, 0o600, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(db.Close(), os.Truncate(path, int64(pages*os.Getpagesize()))); err != nil {
			t.Fatal(err)
		}
		if got, err := Read(path, 0); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Read() of %d pages = %v, %v, want ErrNotExist", pages, got, err)
		}
		if told := writeLog(t, path, 1, 1); len(told) != 0 {
			t.Errorf("with %d pages: warnings %q", pages, told)
		}
		if got, err := Read(path, 0); err != nil || len(got) != 1 {
			t.Errorf("Read() = %v, %v, want 1 record", got, err)
		}
	}
}

// TestPanicInBboltGivesTheLockBack: what the check does not see must not hurt either. In the second case
// the file is cut while it is mapped, and the kernel answers a read with SIGBUS.
func TestPanicInBboltGivesTheLockBack(t *testing.T) {
	good := goodFile(t)
	path := filepath.Join(t.TempDir(), "history.db")
	troubles := map[string]func(*bolt.DB) error{
		"panic": func(db *bolt.DB) error {
			return db.Update(func(*bolt.Tx) error { panic("assertion failed") })
		},
		"fault": func(db *bolt.DB) error {
			return db.View(func(tx *bolt.Tx) error {
				if err := os.Truncate(path, 8192); err != nil {
					return err
				}
				newest(tx.Bucket([]byte(bucketName)), 0)
				return errors.New("read what is not there")
			})
		},
	}
	for name, trouble := range troubles {
		if err := os.WriteFile(path, good, 0o600); err != nil {
			t.Fatal(err)
		}
		f := boltFile{path: path}
		if err := f.use(false, trouble); !errors.Is(err, errDamaged) {
			t.Errorf("use() with a %s = %v, want errDamaged", name, err)
		}
		file, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			t.Errorf("after a %s the file stays locked: %v", name, err)
		}
		_ = file.Close() // was only locked
	}
}
