package pidfd

import (
	"errors"

	"golang.org/x/sys/unix"
)

// Tier is how much the kernel guarantees, from TierE, the least, to TierA.
type Tier uint8

// The tiers and what this package needs for them; cgroups have their own say.
const (
	TierE Tier = iota // no more than pidfds, and no cgroups
	TierD             // the same with cgroups, see package cgroup
	TierC             // pidfds: a process is known by PID and start time
	TierB             // a process is known by its pidfd's inode
	TierA             // it is opened by that, and the exit status of strangers is known
)

// String returns the letter.
func (t Tier) String() string {
	switch t {
	case TierA:
		return "A"
	case TierB:
		return "B"
	case TierC:
		return "C"
	case TierD:
		return "D"
	case TierE:
		return "E"
	}
	return "?"
}

// Features is what this kernel can do with pidfds.
type Features struct {
	Open     bool // pidfd_open and signals. Linux 5.3
	Pidfs    bool // unique inode numbers. Linux 6.9
	Info     bool // PIDFD_GET_INFO. Linux 6.13
	Handles  bool // an identity can be opened without the PID. Linux 6.14
	Refused  bool // it could be, but a sandbox such as Docker's refuses open_by_handle_at
	ExitInfo bool // exit status of processes that are not children. Proven from Linux 6.16
}

// Tier returns the best tier that these features allow.
func (f Features) Tier() Tier {
	switch {
	case f.Pidfs && f.Info && f.Handles && f.ExitInfo:
		return TierA
	case f.Pidfs:
		return TierB
	case f.Open:
		return TierC
	}
	return TierE
}

// Probe finds out by doing, with the calling process as the object.
func Probe() Features {
	var f Features
	self, err := Self()
	if err != nil {
		return f
	}
	defer func() { _ = self.Close() }() // read-only; nothing to lose
	f.Open = self.Signal(0) == nil
	inode, err := self.inode()
	f.Pidfs = err == nil
	if f.Pidfs {
		p, err := (Identity{Inode: inode, PID: self.pid}).openByHandle()
		if err == nil {
			f.Handles = true
			_ = p.Close() // nothing to lose
		}
		f.Refused = errors.Is(err, unix.EPERM) // the kernel itself lets everybody
	}
	// Only the dead have an exit status, and nobody dies for a probe. A kernel
	// that tells of core dumps (6.16) tells of exits (6.15): asked about a
	// living process it answers the one and knows the other.
	raw := unix.PidfdInfo{Mask: unix.PIDFD_INFO_PID | unix.PIDFD_INFO_COREDUMP}
	f.Info = self.getInfo(&raw) == nil
	f.ExitInfo = f.Info && raw.Mask&unix.PIDFD_INFO_COREDUMP != 0
	return f
}
