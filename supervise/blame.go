package supervise

import (
	"errors"
	"fmt"
	"strings"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/registry"
	"github.com/pitvisor/pitvisor/resource"
)

var (
	errOOM  = errors.New("the kernel killed a process of the worker for want of memory")
	errPIDs = errors.New("the worker ran into a limit of processes")
)

// blame is which limits a leaf ran into.
type blame struct {
	oom  resource.OOM
	pids resource.PIDs
}

// above are the cgroups over a leaf that are ours, the nearest first.
func (p *pool) above() []*cgroup.Dir { return p.dirs[:] }

// count hands down what a leaf counts its kills and refused forks with, where a
// cgroup over it has a limit: what is counted further up may be another worker's.
// A host that has no such controller has no such limit either.
func (p *pool) count(run *registry.Run) {
	for controller, file := range map[string]string{"memory": "memory.max", "pids": "pids.max"} {
		limited := false
		for _, d := range p.above() {
			text, err := d.ReadFile(file)
			limited = limited || err == nil && strings.TrimSpace(string(text)) != "max"
		}
		counts := limited && run.Enable(controller) == nil && p.dir.Enable(controller) == nil
		if counts {
			p.evidence.Store(true)
			p.crowded.Store(p.crowded.Load() || controller == "pids")
		}
	}
}

// hits is how often the limits of processes over the leaves were hit so far.
func (p *pool) hits() uint32 {
	if !p.crowded.Load() {
		return 0
	}
	return uint32(resource.PIDsHits(p.above()...))
}

// blame finds out which limits a leaf ran into, from what hits said at its start.
func (p *pool) blame(leaf *cgroup.Dir, hits uint32) blame {
	var b blame
	// Without the controller, or with the leaf gone, nothing is known.
	b.oom, _ = resource.OOMSource(leaf, p.above()...)
	b.pids, _ = resource.PIDsSource(uint64(hits), leaf, p.above()...)
	return b
}

// limitWords names a limit.
func limitWords(h resource.Hit, file string) string {
	words := [...]string{"its own limit", "the limit of its pool", "the limit of the run", "the limit of all runs"}
	var text string
	switch {
	case h.Whose == resource.LimitBelow:
		text = "a limit that it has set itself"
	case h.Level >= 0 && h.Level < len(words):
		text = fmt.Sprintf("%s, %s of %s", words[h.Level], file, h.Path)
	case file == "memory.max":
		text = "the host had no more, or a limit further up was reached"
	default:
		text = "a limit further up"
	}
	if !h.Sure {
		text += ", as far as can be told"
	}
	return text
}

// memoryError says for whose limit a process was killed.
func (b *blame) memoryError() error {
	return fmt.Errorf("%w: %s", errOOM, limitWords(b.oom.Hit, "memory.max"))
}

// pidsError says for whose limit a fork was refused.
func (b *blame) pidsError() error {
	return fmt.Errorf("%w: %s", errPIDs, limitWords(b.pids.Hit, "pids.max"))
}
