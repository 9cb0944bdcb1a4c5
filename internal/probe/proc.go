package probe

import (
	"errors"
	"math"
	"os"
	"slices"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/internal/procfs"
)

// heldSockets returns which of the sockets the leaf's processes have open, and
// the processes whose descriptors may not be read.
func heldSockets(leaf *cgroup.Dir, want []uint64) (held map[uint64]bool, hidden []string, err error) {
	pids, err := leaf.Residents()
	if err != nil {
		return nil, nil, err
	}
	held = make(map[uint64]bool)
	for _, pid := range pids {
		if len(held) == len(want) {
			break
		}
		p, err := procfs.Open(pid)
		if err != nil {
			continue // gone
		}
		found, err := hasSockets(p, want)
		if errors.Is(err, os.ErrPermission) {
			hidden = append(hidden, p.String())
		}
		// Only now is it certain that it was a member: it has had the number
		// since before the list was read again, and has it still.
		if len(found) > 0 && stillIn(p, leaf) {
			for _, inode := range found {
				held[inode] = true
			}
		}
		p.Close()
	}
	return held, hidden, nil
}

func hasSockets(p *procfs.Process, want []uint64) ([]uint64, error) {
	var found []uint64
	_, err := p.Sockets(math.MaxInt, func(inode uint64) bool {
		if slices.Contains(want, inode) && !slices.Contains(found, inode) {
			found = append(found, inode)
		}
		return true
	})
	return found, err
}

// stillIn reports whether the process is alive and in the leaf.
func stillIn(p *procfs.Process, leaf *cgroup.Dir) bool {
	pids, err := leaf.Residents()
	if err != nil || !slices.Contains(pids, p.PID()) {
		return false
	}
	_, err = p.State()
	return err == nil
}
