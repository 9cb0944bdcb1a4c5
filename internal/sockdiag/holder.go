package sockdiag

import (
	"math"
	"os"
	"strconv"

	"github.com/pitvisor/pitvisor/internal/procfs"
)

// Holder names a process anywhere on the machine that has the socket open, "" when none
// can be seen. It looks through all processes, and is for messages only.
func Holder(inode uint64) string {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return ""
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		p, err := procfs.Open(pid)
		if err != nil {
			continue
		}
		found := false
		_, _ = p.Sockets(math.MaxInt, func(i uint64) bool { // an error is: cannot be seen
			found = i == inode
			return !found
		})
		name := p.String()
		p.Close()
		if found {
			return name
		}
	}
	return ""
}
