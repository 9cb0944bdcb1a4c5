package probe

import (
	"encoding/binary"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/pidfd"
	"golang.org/x/sys/unix"
)

// parseSender returns the process that sent a message, as the kernel attached
// it, or nil, and the descriptors that were sent along, which are the caller's.
func parseSender(oob []byte) (*pidfd.Process, []int) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, nil // the kernel makes none like that
	}
	var creds *unix.Ucred
	var sent []int
	fd := -1
	for _, m := range messages {
		if m.Header.Level != unix.SOL_SOCKET {
			continue
		}
		switch m.Header.Type {
		case unix.SCM_RIGHTS:
			if len(m.Data)%4 == 0 { // x/sys does not look
				fds, _ := unix.ParseUnixRights(&m) // nil when it is none
				sent = append(sent, fds...)
			}
		case unix.SCM_CREDENTIALS:
			if len(m.Data) >= unix.SizeofUcred { // x/sys does not look
				creds, _ = unix.ParseUnixCredentials(&m) // nil when it is none
			}
		case unix.SCM_PIDFD:
			if len(m.Data) >= 4 {
				fd = int(int32(binary.NativeEndian.Uint32(m.Data))) // a negative error, if the sender has gone
			}
		}
	}
	if creds == nil {
		creds = &unix.Ucred{}
	}
	if fd >= 0 {
		return pidfd.FromFD(fd, int(creds.Pid)), sent
	}
	return openSender(creds), sent
}

// openSender finds a sender by the number and the user that the kernel attached.
// Both may be somebody else's by now, if the sender has gone; where the kernel
// passes pidfds this is not needed.
func openSender(creds *unix.Ucred) *pidfd.Process {
	p, err := pidfd.Open(int(creds.Pid))
	if err != nil {
		return nil
	}
	if info, err := p.Info(); err != nil || info.UID != int(creds.Uid) {
		_ = p.Close() // a stranger's pidfd
		return nil
	}
	return p
}

// cgroupOf returns the id of the cgroup that holds the process, or held it when
// it was reaped; 0 when the kernel does not tell (before Linux 6.13).
func cgroupOf(p *pidfd.Process) uint64 {
	// With EXIT the kernel answers even for a process that has been reaped: it
	// keeps the cgroup beside the exit status.
	info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_CGROUPID | unix.PIDFD_INFO_EXIT}
	if err := unix.IoctlPidfdInfo(p.FD(), &info); err != nil || info.Mask&unix.PIDFD_INFO_CGROUPID == 0 {
		return 0
	}
	return info.Cgroupid
}

// isMember reports whether the process is in the leaf or below it, by its
// number. The number is the process's own as long as it has not exited, which is
// asked afterwards.
func isMember(p *pidfd.Process, leaf *cgroup.Dir) bool {
	pids, err := leaf.Residents()
	if err != nil {
		return false
	}
	exited, err := p.Exited()
	switch {
	case err != nil:
		return false
	case exited:
		return wasMember(p, leaf)
	}
	return slices.Contains(pids, p.PID())
}

// wasMember is for a process that has ended and was not reaped, which no list has any
// more: /proc still names its cgroup. No other cgroup has the path of the leaf, which is
// there and open.
func wasMember(p *pidfd.Process, leaf *cgroup.Dir) bool {
	name, err := p.CgroupPath()
	if err != nil {
		return false
	}
	mount, err := cgroup.FindMount()
	if err != nil || mount.Root != "/" {
		return false // what is told is not seen there
	}
	at := filepath.Join(mount.Path, name)
	return at == leaf.Path() || strings.HasPrefix(at, leaf.Path()+"/")
}
