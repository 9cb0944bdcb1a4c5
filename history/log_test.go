package history

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/registry"
	bolt "go.etcd.io/bbolt"
)

// warnings gathers what a Log tells.
type warnings struct {
	mu  sync.Mutex // guards all
	all []string
}

func (w *warnings) add(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all = append(w.all, err.Error())
}

func (w *warnings) get() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string(nil), w.all...)
}

func closeLog(tb testing.TB, l *Log) error {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return l.Close(ctx)
}

// writeLog adds n records, numbered by Start from first on, and closes.
func writeLog(tb testing.TB, path string, first, n int) []string {
	tb.Helper()
	var told warnings
	l := Open(path, told.add)
	for i := range n {
		l.Add(record(first + i))
	}
	if err := closeLog(tb, l); err != nil {
		tb.Fatalf("Close() = %v", err)
	}
	return told.get()
}

func record(n int) Record {
	return Record{
		At: time.Unix(int64(n), 0).UTC(), Run: registry.RunID{15: 1}, Pool: "web", Slot: n % 7, Start: uint64(n),
		Kind: "exited", Cause: "signaled", Exit: "SIGKILL", Detail: strings.Repeat("x", 60),
	}
}

func starts(records []Record) []uint64 {
	var all []uint64
	for _, r := range records {
		all = append(all, r.Start)
	}
	return all
}

func TestHistoryKeepsRecords(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state", "history.db") // the directory is made
	if told := writeLog(t, path, 1, 3); len(told) != 0 {
		t.Errorf("warnings: %q", told)
	}
	if told := writeLog(t, path, 4, 2); len(told) != 0 {
		t.Errorf("warnings: %q", told)
	}
	got, err := Read(path, 0)
	if err != nil || len(got) != 5 || got[1] != record(2) {
		t.Fatalf("Read() = %+v, %v", got, err)
	}
	got, err = Read(path, 2)
	if err != nil || fmt.Sprint(starts(got)) != "[4 5]" {
		t.Errorf("Read(2) = %v, %v, want the newest two", starts(got), err)
	}
}

// TestManyRecordsDoNotWaitForMore: time stands still here until everybody waits for it.
func TestManyRecordsDoNotWaitForMore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.db")
	synctest.Test(t, func(t *testing.T) {
		l := Open(path, func(err error) { t.Error(err) })
		want := gatherSize + 1 // the first may be taken before the others are there
		for n := range want {
			l.Add(record(n))
		}
		synctest.Wait()
		if got, err := Read(path, 0); err != nil || len(got) != want {
			t.Errorf("Read() = %d records, %v, want %d", len(got), err, want)
		}
		l.Add(record(want))
		synctest.Wait()
		if got, err := Read(path, 0); err != nil || len(got) != want {
			t.Errorf("Read() after one more = %d records, %v, want %d: a few wait for more", len(got), err, want)
		}
		l.Hurry()
		synctest.Wait()
		if got, err := Read(path, 0); err != nil || len(got) != want+1 {
			t.Errorf("Read() after Hurry = %d records, %v, want %d", len(got), err, want+1)
		}
		if err := closeLog(t, l); err != nil {
			t.Error(err)
		}
	})
}

func TestReadHistoryThatIsNotThere(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.db")
	if got, err := Read(path, 10); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Read() = %v, %v, want ErrNotExist", got, err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("reading made the file")
	}
	if err := closeLog(t, Open(path, nil)); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("opening without a record made the file")
	}
}

// TestH13HistoryIsBounded: 17,000 records leave the newest 10,000, in a file that no longer grows.
func TestH13HistoryIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.db")
	size := func() int64 {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	for first := 1; first <= 12_000; first += 4000 {
		writeLog(t, path, first, 4000)
	}
	before := size()
	for first := 12_001; first <= 17_000; first += 1000 {
		writeLog(t, path, first, 1000)
	}
	got, err := Read(path, 0)
	if err != nil || len(got) != keepRecords || got[0].Start != 7_001 || got[keepRecords-1].Start != 17_000 {
		t.Fatalf("Read() = %d records, %v, want %d, from 7001 to 17000", len(got), err, keepRecords)
	}
	if after := size(); after > before || after > 16<<20 {
		t.Errorf("the file has %d bytes, and had %d before 5,000 records more", after, before)
	}
}

// TestHistorySharedByMany: several writers and readers use one file at the same time.
func TestHistorySharedByMany(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.db")
	writeLog(t, path, 0, 1)
	const writers, each = 4, 200
	var told warnings
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			l := Open(path, told.add)
			for i := range each {
				l.Add(record(1 + w*each + i))
				if i%50 == 0 {
					pause(context.Background(), 20*time.Millisecond)
				}
			}
			if err := closeLog(t, l); err != nil {
				t.Error(err)
			}
		})
	}
	for range 2 {
		all.Go(func() {
			for range 20 {
				if _, err := Read(path, 10); err != nil {
					t.Errorf("Read() = %v", err)
				}
			}
		})
	}
	all.Wait()
	got, err := Read(path, 0)
	seen := map[uint64]bool{}
	for _, rec := range got {
		seen[rec.Start] = true
	}
	if err != nil || len(seen) != writers*each+1 || len(got) != len(seen) {
		t.Errorf("%d records (%d distinct), %v, want %d", len(got), len(seen), err, writers*each+1)
	}
	if w := told.get(); len(w) != 0 {
		t.Errorf("warnings: %q", w)
	}
}

// TestHistoryNeverBlocks: with the file locked by somebody else, adding is instant, memory is bounded,
// and there is one message.
func TestHistoryNeverBlocks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.db")
	writeLog(t, path, 0, 1)
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	var told warnings
	l := Open(path, told.add)
	const n = 3 * queueSize
	begin := time.Now()
	for i := range n {
		l.Add(record(i))
	}
	if took := time.Since(begin); took > time.Second {
		t.Errorf("adding %d records took %v", n, took)
	}
	if lost := l.Dropped(); lost < n-2*queueSize-1 || lost == 0 {
		t.Errorf("Dropped() = %d of %d", lost, n)
	}
	before := l.Dropped()
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := closeLog(t, l); err == nil || !strings.Contains(err.Error(), "were lost") {
		t.Errorf("Close() = %v, want a count of lost records", err)
	}
	got, err := Read(path, 0)
	if err != nil || len(got) != 1+n-int(before) {
		t.Errorf("%d records, %v, want all but the dropped: %d", len(got), err, 1+n-int(before))
	}
	if w := told.get(); len(w) != 1 || !strings.Contains(w[0], "dropped") {
		t.Errorf("warnings: %q, want one", w)
	}
}

func TestHistoryCloseKeepsItsDeadline(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.db")
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	l := Open(path, nil)
	l.Add(record(1))
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if err := l.Close(ctx); !errors.Is(err, context.DeadlineExceeded) { // later, it would be the lock's
		t.Errorf("Close() = %v, want its deadline", err)
	}
	if err := closeLog(t, l); err == nil {
		t.Error("Close() = nil though a record was lost")
	}
	l.Add(record(2))
	if l.Dropped() != 2 {
		t.Errorf("Dropped() = %d, want 2", l.Dropped())
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestH35DamagedHistoryIsSetAside: whatever is in the file's place, writing goes on in a new one, with
// one message, and the old one is kept.
func TestH35DamagedHistoryIsSetAside(t *testing.T) {
	good := filepath.Join(t.TempDir(), "good.db")
	writeLog(t, good, 1, 500)
	whole, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	zeroes := append([]byte(nil), whole...)
	clear(zeroes[2*4096:])
	tests := map[string][]byte{
		"cut in the middle": whole[:len(whole)/2],
		"one page":          whole[:4096],
		"a few bytes":       whole[:100],
		"text":              []byte("127.0.0.1 localhost\n"),
		"much text":         []byte(strings.Repeat("to be or not to be\n", 10_000)),
		"only meta pages":   zeroes,
		"no meta pages":     append(make([]byte, 8192), whole[8192:]...),
	}
	for name, content := range tests {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "history.db")
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
			if got, err := Read(path, 0); err == nil {
				t.Errorf("Read() = %d records, want an error", len(got))
			}
			told := writeLog(t, path, 1, 5)
			if len(told) != 1 || !strings.Contains(told[0], ".damaged-") {
				t.Errorf("warnings: %q, want one that names the file set aside", told)
			}
			if got, err := Read(path, 0); err != nil || len(got) != 5 {
				t.Errorf("Read() = %d records, %v, want the 5 new ones", len(got), err)
			}
			asides, err := filepath.Glob(path + ".damaged-*")
			if err != nil || len(asides) != 1 {
				t.Fatalf("set aside: %v, %v, want one", asides, err)
			}
			if kept, err := os.ReadFile(asides[0]); err != nil || string(kept) != string(content) {
				t.Errorf("the damaged file has changed: %v", err)
			}
		})
	}
}

func TestHistoryDamagedAgainAndAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.db")
	for i := range 8 {
		if err := os.WriteFile(path, []byte("damaged"), 0o600); err != nil {
			t.Fatal(err)
		}
		if told := writeLog(t, path, i, 1); len(told) != 1 {
			t.Errorf("warnings: %q, want one", told)
		}
	}
	if asides, err := filepath.Glob(path + ".damaged-*"); err != nil || len(asides) != keepAsides {
		t.Errorf("set aside: %v, %v, want %d", asides, err, keepAsides)
	}
}

// TestManyFindTheSameDamage: one of them sets the file aside, and none the new one.
func TestManyFindTheSameDamage(t *testing.T) {
	for round := range 15 {
		path := filepath.Join(t.TempDir(), "history.db")
		if err := os.WriteFile(path, []byte("damaged"), 0o600); err != nil {
			t.Fatal(err)
		}
		var told warnings
		var all sync.WaitGroup
		for w := range 4 {
			all.Go(func() {
				f := boltFile{path: path}
				l := &Log{path: path, warn: told.add, file: f}
				if err := l.append([]Record{record(w)}); err != nil {
					t.Errorf("append() = %v", err)
				}
			})
		}
		all.Wait()
		asides, _ := filepath.Glob(path + ".damaged-*")
		got, err := Read(path, 0)
		if len(asides) != 1 || len(told.get()) != 1 || err != nil || len(got) != 4 {
			t.Fatalf("round %d: set aside %v, warnings %q, %d records, %v; want 1, 1, 4", round, asides, told.get(), len(got), err)
		}
	}
}

// TestFileThatMakesBboltPanicIsSetAside although the check finds nothing wrong with it; but not the new
// file that another program has put in its place meanwhile.
func TestFileThatMakesBboltPanicIsSetAside(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.db")
	writeLog(t, path, 1, 3)
	f := boltFile{path: path}
	err := f.use(false, func(*bolt.DB) error { panic("assertion failed") })
	if !errors.Is(err, errDamaged) {
		t.Fatalf("use() with a panic = %v, want errDamaged", err)
	}
	other := f
	if aside, err := f.setAside(time.Now()); err != nil || aside == "" {
		t.Errorf("setAside() = %q, %v, want a new name", aside, err)
	}
	writeLog(t, path, 4, 1)
	if aside, err := other.setAside(time.Now()); err != nil || aside != "" {
		t.Errorf("setAside() of the new file = %q, %v, want nothing done", aside, err)
	}
	if got, err := Read(path, 0); err != nil || len(got) != 1 {
		t.Errorf("Read() = %v, %v, want the new file's record", got, err)
	}
}

// TestHistoryWithSomethingElseInItsPlace: what is no file is never renamed; it may be /dev/null.
func TestHistoryWithSomethingElseInItsPlace(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "history.db")
	places := map[string]func() error{
		"directory": func() error { return os.Mkdir(path, 0o700) },
		"device":    func() error { return os.Symlink("/dev/null", path) },
		"loop":      func() error { return os.Symlink(path, path) },
	}
	for name, make := range places {
		t.Run(name, func(t *testing.T) {
			if err := make(); err != nil {
				t.Fatal(err)
			}
			defer os.Remove(path)
			before, err := os.Lstat(path)
			if err != nil {
				t.Fatal(err)
			}
			var told warnings
			l := Open(path, told.add)
			l.Add(record(1))
			linuxtest.Wait(t, 10*time.Second, func() (bool, string) { return len(told.get()) > 0, "no warning" })
			l.Add(record(2)) // fails once more, without a second warning
			if err := closeLog(t, l); err == nil || l.Dropped() != 2 {
				t.Errorf("Close() = %v, %d dropped, want 2 lost", err, l.Dropped())
			}
			if w := told.get(); len(w) != 1 {
				t.Errorf("warnings: %q, want one", w)
			}
			if after, err := os.Lstat(path); err != nil || !os.SameFile(before, after) {
				t.Errorf("what was there is gone: %v", err)
			}
			if entries, _ := os.ReadDir(dir); len(entries) != 1 {
				t.Errorf("left in the directory: %v", entries)
			}
		})
	}
}
