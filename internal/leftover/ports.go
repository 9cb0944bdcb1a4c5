package leftover

import (
	"cmp"
	"slices"

	"github.com/pitvisor/pitvisor/internal/procfs"
	"github.com/pitvisor/pitvisor/internal/sockdiag"
)

// maxDescriptors bounds how many descriptors are looked at for one answer. A process
// may have a million.
const maxDescriptors = 200_000

// ports finds the sockets of processes that wait for others. Every network namespace
// that it meets is asked once.
type ports struct {
	left   int // descriptors
	tables map[string]table
}

// table has the sockets of a namespace by their inodes; nil when they are not to be
// had.
type table map[uint64]sockdiag.Socket

func newPorts() ports {
	return ports{left: maxDescriptors, tables: make(map[string]table)}
}

// of returns the sockets of a process, and how many more there are; false when it
// cannot tell.
func (t *ports) of(p *procfs.Process) (listening []sockdiag.Socket, leftOut int, ok bool) {
	name, err := p.Link("ns/net")
	if err != nil {
		return nil, 0, false
	}
	all, known := t.tables[name]
	if !known {
		all = tableOf(p)
		t.tables[name] = all
	}
	if len(all) == 0 {
		return nil, 0, all != nil
	}
	looked, err := p.Sockets(t.left+1, func(inode uint64) bool {
		if s, waits := all[inode]; waits {
			listening = append(listening, s)
		}
		return true
	})
	t.left = max(0, t.left-looked)
	slices.SortFunc(listening, byName)
	listening = slices.Compact(listening) // a socket may have several descriptors
	leftOut = max(0, len(listening)-MaxListening)
	return listening[:len(listening)-leftOut], leftOut, err == nil && t.left > 0
}

func tableOf(p *procfs.Process) table {
	sockets, err := sockdiag.Of(p)
	if err != nil {
		return nil
	}
	all := make(table, len(sockets))
	for _, s := range sockets {
		all[s.Inode] = s
	}
	return all
}

func byName(a, b sockdiag.Socket) int {
	return cmp.Or(cmp.Compare(a.Proto, b.Proto), cmp.Compare(a.Port, b.Port), cmp.Compare(a.String(), b.String()), cmp.Compare(a.Inode, b.Inode))
}
