package cgroup

import "strings"

// Group is one cgroup of a tree and what was in it, as [Dir.Groups] saw it.
type Group struct {
	Path string // below the top of the tree, "" for the top itself; a very long one is cut
	ID   uint64
	PIDs []int // as in [Dir.PIDs]
}

// maxGroupPath bounds Group.Path. Workers can nest cgroups thousands of levels deep.
const maxGroupPath = 4096

// Groups calls visit for this cgroup and for every one below it that holds
// processes, parents first. PIDs is only valid during the call. A process that
// moves meanwhile may be seen twice, or not at all.
func (d *Dir) Groups(visit func(Group)) error {
	var pids []int
	err := d.walkNamed(func(dirfd int, way []level) (err error) {
		pids, err = pidsAt(dirfd, pids[:0])
		if err != nil || len(pids) == 0 && way != nil {
			return err
		}
		st, err := statFD(dirfd)
		if err == nil {
			visit(Group{Path: pathOf(way), ID: st.Ino, PIDs: pids})
		}
		return err
	})
	if err != nil {
		return d.wrap("read processes", err)
	}
	return nil
}

// pathOf joins the names of the levels below the first.
func pathOf(way []level) string {
	if len(way) < 2 {
		return ""
	}
	var b strings.Builder
	for i, l := range way[1:] {
		if b.Len()+len(l.name) > maxGroupPath {
			b.WriteString("/...")
			break
		}
		if i > 0 {
			b.WriteByte('/')
		}
		b.WriteString(l.name)
	}
	return b.String()
}
