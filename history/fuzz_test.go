package history

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// damage changes a file as the bytes of how say: each group of four is a place and what to do there.
func damage(content, how []byte) []byte {
	out := append([]byte(nil), content...)
	for ; len(how) >= 4; how = how[4:] {
		place := int(binary.LittleEndian.Uint32(how) & 0xffffff)
		if how[3] == 0xff {
			out = out[:place%(len(out)+1)]
			continue
		}
		if len(out) == 0 {
			return out
		}
		at := place % len(out)
		if place&(1<<23) != 0 { // every second one hits the first bytes of a page, where it hurts
			at = (place%(len(out)/4096+1)*4096 + place/4096%64) % len(out)
		}
		switch how[3] % 4 {
		case 0:
			out[at] ^= 1 << ((how[3] >> 2) % 8)
		case 1:
			out[at] = how[3]
		case 2: // another page's content
			if n := len(out) / 4096; n > 0 {
				copy(out[at/4096*4096:], out[place%n*4096:min(len(out), place%n*4096+4096)])
			}
		case 3:
			clear(out[at:min(len(out), at+64)])
		}
	}
	return out
}

// checkDamaged reads and writes a damaged file. Whatever the damage: no panic, no endless loop, an
// error only of the known kind, and afterwards a file that works.
func checkDamaged(tb testing.TB, dir string, content []byte) {
	tb.Helper()
	path := filepath.Join(dir, "history.db")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		tb.Fatal(err)
	}
	defer func() {
		names, _ := filepath.Glob(path + "*")
		for _, name := range names {
			_ = os.Remove(name)
		}
	}()
	begin := time.Now()
	_, err := Read(path, 0)
	if errors.Is(err, fs.ErrNotExist) && len(content) == 0 {
		err = nil // nothing is no damage
	}
	if err != nil && !errors.Is(err, errDamaged) {
		tb.Errorf("Read() = %v, want errDamaged", err)
	}
	if err != nil && strings.Contains(err.Error(), "bbolt:") {
		tb.Errorf("Read() = %v: not seen by the check", err)
	}
	told := writeLog(tb, path, 777, 1)
	if (len(told) == 1) != (err != nil) || len(told) > 1 {
		tb.Errorf("reading gave %v, writing told %q", err, told)
	}
	got, err := Read(path, 1)
	if err != nil || len(got) != 1 || got[0].Start != 777 {
		// A damaged sequence number may sort the new record before the old ones.
		if all, _ := Read(path, 0); err != nil || !containsStart(all, 777) {
			tb.Errorf("after writing: Read() = %v, %v", starts(got), err)
		}
	}
	if took := time.Since(begin); took > 5*time.Second {
		tb.Errorf("took %v", took)
	}
}

func containsStart(records []Record, start uint64) bool {
	for _, r := range records {
		if r.Start == start {
			return true
		}
	}
	return false
}

// goodFile is the content of a file with inner pages and a list of free pages.
func goodFile(tb testing.TB) []byte {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "good.db")
	for first := 1; first <= 1200; first += 400 {
		writeLog(tb, path, first, 400)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	return content
}

// TestH35HistoryWithRandomDamage is a part of what FuzzDamagedHistory does, in every run of the tests.
func TestH35HistoryWithRandomDamage(t *testing.T) {
	good := goodFile(t)
	checkDamaged(t, t.TempDir(), good)
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	for range 40 {
		how := make([]byte, 4*(1+random.IntN(8)))
		for i := range how {
			how[i] = byte(random.Uint32())
		}
		checkDamaged(t, t.TempDir(), damage(good, how))
		if t.Failed() {
			t.Fatalf("seed %d, damage %x", seed, how)
		}
	}
}

func FuzzDamagedHistory(f *testing.F) {
	good := goodFile(f)
	dir := f.TempDir()
	f.Add([]byte{0, 0, 0, 0xff})
	f.Add([]byte{8, 0x10, 0, 1})
	f.Add([]byte{1, 2, 3, 2, 9, 9, 9, 3})
	f.Fuzz(func(t *testing.T, how []byte) {
		checkDamaged(t, dir, damage(good, how[:min(len(how), 64)]))
	})
}
