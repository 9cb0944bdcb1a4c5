package registry

import (
	"github.com/pitvisor/pitvisor/cgroup"
	"golang.org/x/sys/unix"
)

// flockShared takes the kind of lock that a probe takes, and keeps it until the directory is closed.
func flockShared(dir *cgroup.Dir) error {
	return unix.Flock(dir.FD(), unix.LOCK_SH|unix.LOCK_NB)
}

// flockExclusive takes the kind of lock that an owner or a sweep takes.
func flockExclusive(dir *cgroup.Dir) error {
	return unix.Flock(dir.FD(), unix.LOCK_EX|unix.LOCK_NB)
}
