package registry

import (
	"github.com/pitvisor/pitvisor/cgroup"
)

// xattrSocket holds the path of the socket on which the owner of a run can be asked. It is written
// after the record, because the socket is made after the run.
const xattrSocket = "user.pitvisor.socket"

// maxSocket bounds the path: nothing longer is a path.
const maxSocket = 4096

// SetSocket notes in the tree where the owner of the run can be asked, so that others find it.
func (run *Run) SetSocket(path string) error {
	return run.dir.SetXattr(xattrSocket, []byte(path))
}

// readSocket is what SetSocket has noted; "" when there is nothing.
func readSocket(dir *cgroup.Dir) string {
	path, err := dir.Xattr(xattrSocket)
	if err != nil || len(path) > maxSocket {
		return ""
	}
	return string(path)
}

// ViewLeaf describes one leaf of a pool: its record and its processes. False means that it is not a
// worker's.
func ViewLeaf(pool string, leaf *cgroup.Dir) (WorkerView, bool) {
	view, _, ok := viewLeaf(pool, leaf)
	return view, ok
}
