package pidfd

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Info is what the kernel says of a process that was not reaped yet.
type Info struct {
	PID  int // in the PID namespace of the caller
	PPID int // 0 when the parent is outside that namespace
	UID  int // the real user ID

	// CgroupID is the ID of its cgroup, which is the inode number of the cgroup's
	// directory. 0 before Linux 6.13: not known here.
	CgroupID uint64
}

// Info asks the kernel about the process. It fails with [ErrGone] when it was
// reaped. Linux 6.13 answers for the pidfd itself; before, /proc is read by PID
// and believed only if the process was there before and after.
func (p *Process) Info() (Info, error) {
	info, err := p.infoIoctl()
	if errors.Is(err, ErrNotSupported) {
		info, err = p.infoProc()
	}
	if err != nil {
		return Info{}, fmt.Errorf("read info of process %d: %w", p.pid, err)
	}
	return info, nil
}

// infoIoctl needs Linux 6.13.
func (p *Process) infoIoctl() (Info, error) {
	raw := unix.PidfdInfo{Mask: unix.PIDFD_INFO_PID | unix.PIDFD_INFO_CREDS | unix.PIDFD_INFO_CGROUPID}
	if err := p.getInfo(&raw); err != nil {
		return Info{}, err
	}
	info := Info{PID: int(raw.Tgid), PPID: int(raw.Ppid), UID: int(raw.Ruid)}
	if raw.Mask&unix.PIDFD_INFO_CGROUPID != 0 {
		info.CgroupID = raw.Cgroupid
	}
	return info, nil
}

// getInfo is PIDFD_GET_INFO with its errors told apart.
func (p *Process) getInfo(raw *unix.PidfdInfo) error {
	err := p.use(func(fd int) error { return unix.IoctlPidfdInfo(fd, raw) })
	switch {
	case errors.Is(err, unix.ESRCH):
		return ErrGone
	// Anonymous pidfds before 6.9 say ENOTTY, pidfs before 6.13 says EINVAL.
	case errors.Is(err, unix.ENOTTY), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EPERM):
		return ErrNotSupported
	}
	return err
}

// infoProc works wherever there are pidfds.
func (p *Process) infoProc() (Info, error) {
	data, err := p.readProc("status")
	if err != nil {
		return Info{}, err
	}
	info := Info{PID: p.pid}
	if info.PPID, err = statusNumber(data, "PPid:"); err != nil {
		return Info{}, err
	}
	if info.UID, err = statusNumber(data, "Uid:"); err != nil {
		return Info{}, err
	}
	return info, nil
}

// readProc reads a file of /proc/<pid>, and says [ErrGone] unless that was the
// process this pidfd holds: as long as it was not reaped nobody else can have
// the number, so it is enough to see it unreaped afterwards.
func (p *Process) readProc(name string) ([]byte, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(p.pid) + "/" + name)
	reaped, pollErr := p.reaped()
	switch {
	case pollErr != nil:
		return nil, pollErr
	case reaped:
		return nil, ErrGone
	}
	return data, err
}

// statusNumber returns the first number of a line of /proc/<pid>/status.
func statusNumber(status []byte, key string) (int, error) {
	for line := range bytes.Lines(status) {
		rest, ok := bytes.CutPrefix(line, []byte(key))
		if !ok {
			continue
		}
		fields := bytes.Fields(rest)
		if len(fields) == 0 {
			break
		}
		return strconv.Atoi(string(fields[0]))
	}
	return 0, fmt.Errorf("no number at %q", key)
}

// startTime returns field 22 of /proc/<pid>/stat: clock ticks since boot.
func startTime(stat []byte) (uint64, error) {
	// The name in field 2 may hold spaces and brackets; the last one ends it.
	end := bytes.LastIndexByte(stat, ')')
	if end < 0 {
		return 0, errors.New("no name in the stat line")
	}
	const field = 22 - 3 // counted from the one behind the name
	fields := strings.Fields(string(stat[end+1:]))
	if len(fields) <= field {
		return 0, errors.New("no start time in the stat line")
	}
	return strconv.ParseUint(fields[field], 10, 64)
}

// ExitStatus returns how the process ended. It works for processes that are not
// children, once their parent has reaped them: before that it fails with
// [ErrNotReaped], see [Process.WaitReaped]. Linux 6.15; before, and for a pidfd
// that the kernel kept nothing for, it fails with [ErrNotSupported].
func (p *Process) ExitStatus() (unix.WaitStatus, error) {
	raw := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
	err := p.getInfo(&raw)
	switch {
	case errors.Is(err, ErrGone): // a kernel that knows no EXIT has nothing to say of the dead
		err = ErrNotSupported
	case err == nil && raw.Mask&unix.PIDFD_INFO_EXIT == 0:
		err = ErrNotReaped
	}
	if err != nil {
		return 0, fmt.Errorf("read exit status of process %d: %w", p.pid, err)
	}
	return unix.WaitStatus(uint32(raw.Exit_code)), nil
}
