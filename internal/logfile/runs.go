package logfile

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// AboutName is the file in a run's directory that says whose output it is.
const AboutName = "about.json"

// About says whose output a run's directory holds.
type About struct {
	Name    string    `json:"name"` // of the configuration
	Started time.Time `json:"started"`
}

// Run is the directory of one run's output.
type Run struct {
	ID   string
	Dir  string
	Live bool // its supervisor lives
	About
}

// WriteAbout writes down whose output a run's directory holds.
func WriteAbout(dir string, a About) error {
	data, err := json.Marshal(a)
	if err != nil {
		return fmt.Errorf("write about %s: %w", dir, err)
	}
	return os.WriteFile(filepath.Join(dir, AboutName), append(data, '\n'), 0o640)
}

// IsRunID says whether a name has the form of a run's ID: 26 digits of
// Crockford's base 32, in lower case. IDs begin with the time, so they sort by it.
func IsRunID(name string) bool {
	return len(name) == 26 && strings.Trim(name, "0123456789abcdefghjkmnpqrstvwxyz") == ""
}

// Runs lists the runs below root, oldest first. There is none if there is no root.
func Runs(root string) ([]Run, error) {
	entries, err := os.ReadDir(root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list runs: %w", err)
	}
	var all []Run
	for _, e := range entries {
		if e.IsDir() && IsRunID(e.Name()) {
			all = append(all, OpenRun(root, e.Name()))
		}
	}
	slices.SortFunc(all, func(a, b Run) int { return strings.Compare(a.ID, b.ID) })
	return all, nil
}

// OpenRun looks at one run. What can not be read of it stays empty.
func OpenRun(root, id string) Run {
	r := Run{ID: id, Dir: filepath.Join(root, id)}
	if data, err := os.ReadFile(filepath.Join(r.Dir, AboutName)); err == nil {
		_ = json.Unmarshal(data, &r.About) // a name for people; empty will do
	}
	if f, err := os.Open(r.Dir); err == nil {
		// The supervisor holds the lock alone. Ours is given back at once.
		r.Live = errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
		_ = f.Close() // read-only; nothing to lose
	}
	return r
}

// Pools lists the pools that have output in a run.
func (r Run) Pools() ([]string, error) {
	entries, err := os.ReadDir(r.Dir)
	if err != nil {
		return nil, fmt.Errorf("list pools: %w", err)
	}
	var pools []string
	for _, e := range entries {
		if e.IsDir() {
			pools = append(pools, e.Name())
		}
	}
	return pools, nil
}

// SlotStream names a stream of a pool.
type SlotStream struct {
	Slot   int
	Stream string
}

// Streams lists the streams of a pool, by slot, that have a live or a rotated file.
func (r Run) Streams(pool string) ([]SlotStream, error) {
	dir := filepath.Join(r.Dir, pool)
	seen := map[SlotStream]bool{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list output of pool %s: %w", pool, err)
	}
	for _, e := range entries {
		if slot, stream, ok := ParseLive(e.Name()); ok {
			seen[SlotStream{slot, stream}] = true
		}
	}
	rotated, err := os.ReadDir(filepath.Join(dir, RotatedDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list rotated output of pool %s: %w", pool, err)
	}
	for _, e := range rotated {
		if slot, stream, _, ok := ParsePiece(e.Name()); ok {
			seen[SlotStream{slot, stream}] = true
		}
	}
	all := make([]SlotStream, 0, len(seen))
	for s := range seen {
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b SlotStream) int {
		if a.Slot != b.Slot {
			return a.Slot - b.Slot
		}
		return -strings.Compare(a.Stream, b.Stream) // stdout first
	})
	return all, nil
}
