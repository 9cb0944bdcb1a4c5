package registry

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/pidfd"
)

// maxRecord bounds one record. The kernel takes up to 64 KiB per attribute and 128 KiB per cgroup.
const maxRecord = 32 << 10

// maxWaiting bounds the waiting slots that are tried at all: more cannot fit into maxRecord.
const maxWaiting = 1024

// maxCause bounds a cause within a pool's record.
const maxCause = 80

// Worker is the record on a leaf: the start of a worker that lives there.
type Worker struct {
	Pool    string         `json:"pool"`
	Slot    int            `json:"slot"`
	Start   uint64         `json:"start"`
	State   string         `json:"state"` // as supervise names it
	Ready   bool           `json:"ready"`
	Port    int            `json:"port,omitempty"` // that the worker reported; 0 is none
	Process pidfd.Identity `json:"process"`        // the main process; zero before it was started
	Started time.Time      `json:"started"`
}

// Pool is the record on a pool's directory. It also names the slots that have no leaf to carry a
// record of their own, because they wait for a restart or were given up.
type Pool struct {
	Name    string `json:"name"`
	Size    int    `json:"size"`
	Waiting []Slot `json:"waiting,omitempty"`
	// Pressure is what is done because a resource is short, in words.
	Pressure string `json:"pressure,omitempty"`
	Omitted  int    `json:"omitted,omitempty"` // waiting slots that did not fit into the record
}

// Slot is one slot of a pool without a leaf.
type Slot struct {
	Slot  int    `json:"slot"`
	State string `json:"state"`
	Cause string `json:"cause,omitempty"`
}

// SetWorker writes or replaces the record on a leaf. It is for ps to read; clean-up does not need it.
func SetWorker(leaf *cgroup.Dir, w Worker) error {
	text, err := json.Marshal(w)
	if err != nil {
		return fmt.Errorf("encode record of worker %s/%d: %w", w.Pool, w.Slot, err)
	}
	if err := leaf.SetXattr(xattrWorker, text); err != nil {
		return fmt.Errorf("write record of worker %s/%d: %w", w.Pool, w.Slot, err)
	}
	return nil
}

// SetPool writes or replaces the record on a pool's directory. Waiting slots beyond what the kernel
// takes are counted in Omitted instead, and long causes are cut.
func SetPool(dir *cgroup.Dir, p Pool) error {
	text, err := encodePool(p)
	if err != nil {
		return fmt.Errorf("encode record of pool %s: %w", p.Name, err)
	}
	if err := dir.SetXattr(xattrPool, text); err != nil {
		return fmt.Errorf("write record of pool %s: %w", p.Name, err)
	}
	return nil
}

// encodePool keeps as many waiting slots as fit, the first ones.
func encodePool(p Pool) ([]byte, error) {
	short := p
	short.Waiting = slices.Clone(p.Waiting[:min(len(p.Waiting), maxWaiting)])
	short.Omitted += len(p.Waiting) - len(short.Waiting)
	for i := range short.Waiting {
		short.Waiting[i].Cause = cut(short.Waiting[i].Cause, maxCause)
	}
	for {
		text, err := json.Marshal(short)
		if err != nil || len(text) <= maxRecord || len(short.Waiting) == 0 {
			return text, err
		}
		keep := len(short.Waiting) * maxRecord / len(text) * 9 / 10
		short.Omitted += len(short.Waiting) - keep
		short.Waiting = short.Waiting[:keep]
	}
}

// readWorker reads the record of a leaf; false when there is none, or none that can be read.
func readWorker(leaf *cgroup.Dir) (Worker, bool) {
	var w Worker
	text, err := leaf.Xattr(xattrWorker)
	if err != nil || json.Unmarshal(text, &w) != nil {
		return Worker{}, false
	}
	return w, true
}

// readPool reads the record of a pool's directory; false when there is none, or none that can be read.
func readPool(dir *cgroup.Dir) (Pool, bool) {
	var p Pool
	text, err := dir.Xattr(xattrPool)
	if err != nil || json.Unmarshal(text, &p) != nil {
		return Pool{}, false
	}
	return p, true
}

// cut shortens s to at most n bytes.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return s[:n]
}
