package cgroup

import "strings"

// GuestPrefix begins the name of a cgroup for who is in a leaf as a guest: started
// there by somebody else than those whose leaf it is. Limits and kills are for guests
// too; what is asked about residents leaves them out.
const GuestPrefix = "guest-"

// Residents is [Dir.PIDsRecursive] without guests.
func (d *Dir) Residents() ([]int, error) {
	var pids []int
	err := d.walkNamed(func(dirfd int, way []level) (err error) {
		if !isGuest(way) {
			pids, err = pidsAt(dirfd, pids)
		}
		return err
	})
	if err != nil {
		return nil, d.wrap("read processes", err)
	}
	return pids, nil
}

// Houses is [Dir.Contains] without the cgroups of guests.
func (d *Dir) Houses(id uint64) (bool, error) {
	found := false
	err := d.walkNamed(func(dirfd int, way []level) error {
		if isGuest(way) {
			return nil
		}
		st, err := statFD(dirfd)
		found = found || st.Ino == id
		return err
	})
	if err != nil {
		return false, d.wrap("look for a cgroup id in the tree", err)
	}
	return found, nil
}

// isGuest says whether the way down from a leaf leads through a cgroup of a guest.
func isGuest(way []level) bool {
	return len(way) > 1 && strings.HasPrefix(way[1].name, GuestPrefix)
}
