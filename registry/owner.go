package registry

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/pidfd"
	"golang.org/x/sys/unix"
)

// ownerState is what is known about the owner of a locked directory.
type ownerState uint8

const (
	ownerUnknown ownerState = iota // there is no record yet
	ownerLives                     // or nothing proves that it does not
	ownerEnds                      // it was killed, or exits
	ownerDead                      // proven
)

// ownerOf asks the record and the kernel about a locked directory's owner.
func ownerOf(dir *cgroup.Dir) (ownerState, error) {
	info, err := readInfo(dir)
	switch {
	case errors.Is(err, errNoRecord):
		return ownerUnknown, nil
	case err != nil:
		return ownerUnknown, err
	case info.ownerDead():
		return ownerDead, nil
	case info.ownerEnding():
		return ownerEnds, nil
	}
	return ownerLives, nil
}

// ownerDead says whether the run's owner is proven dead. Not proven is false: another PID namespace,
// no owner in the record, an answer the kernel would not give.
func (i Info) ownerDead() bool {
	if i.Owner == (pidfd.Identity{}) || !i.sameNamespace() {
		return false
	}
	boot, err := pidfd.BootID()
	if err != nil {
		return false
	}
	if boot != i.Boot {
		return true
	}
	alive, err := i.Owner.Alive()
	return err == nil && !alive
}

// ownerEnding says whether the owner has been killed, or exits, though it is not dead yet. The kernel
// frees its locks on the way, so it is worth waiting a little; nothing else may follow from it, since
// the number in the record may be another process's by now.
func (i Info) ownerEnding() bool {
	if !i.sameNamespace() {
		return false
	}
	proc := "/proc/" + strconv.Itoa(i.Owner.PID)
	if stat, err := os.ReadFile(proc + "/stat"); err == nil && exiting(stat) {
		return true
	}
	status, err := os.ReadFile(proc + "/status")
	return err == nil && killPending(string(status))
}

// exiting looks for PF_EXITING in a /proc/<pid>/stat.
func exiting(stat []byte) bool {
	const flags, pfExiting = 6, 0x4 // counted from the state, which follows the name in brackets
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) <= flags {
		return false
	}
	value, err := strconv.ParseUint(string(fields[flags]), 10, 32)
	return err == nil && value&pfExiting != 0
}

// killPending looks for a SIGKILL that was sent but not yet taken in a /proc/<pid>/status.
func killPending(status string) bool {
	for line := range strings.Lines(status) {
		name, mask, _ := strings.Cut(line, ":")
		if name != "SigPnd" && name != "ShdPnd" {
			continue
		}
		value, err := strconv.ParseUint(strings.TrimSpace(mask), 16, 64)
		if err == nil && value&(1<<(unix.SIGKILL-1)) != 0 {
			return true
		}
	}
	return false
}

// sameNamespace says whether the owner's PID namespace is the caller's.
func (i Info) sameNamespace() bool {
	namespace, err := ownPIDNamespace()
	return err == nil && namespace == i.PIDNS
}

// ownPIDNamespace is the inode of the calling process's PID namespace.
func ownPIDNamespace() (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat("/proc/self/ns/pid", &st); err != nil {
		return 0, fmt.Errorf("stat own pid namespace: %w", err)
	}
	return st.Ino, nil
}
