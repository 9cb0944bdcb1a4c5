package linuxtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// modeSystemd becomes the systemd of a PID namespace: see [UserManager]. Its argument
// is a systemdRig.
func modeSystemd(args []string) int {
	if os.Getpid() != 1 || len(args) != 1 {
		return complain(errors.New("systemd is for linuxtest itself"))
	}
	var rig systemdRig
	if err := json.Unmarshal([]byte(args[0]), &rig); err != nil {
		return complain(err)
	}
	// Namespaces belong to the thread, and the one that executes decides.
	runtime.LockOSThread()
	// The cgroup that we are in becomes the root that is seen.
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS); err != nil {
		return complain(fmt.Errorf("make namespaces: %w", err))
	}
	if err := rig.mount(); err != nil {
		return complain(err)
	}
	log := "--log-target=null"
	if rig.Journal {
		log = "--log-target=journal"
	}
	err := unix.Exec(systemdPath, []string{systemdPath, "--system", log},
		[]string{"PATH=" + os.Getenv("PATH"), "container=linuxtest", "SYSTEMD_UNIT_PATH=/run/system"})
	return complain(fmt.Errorf("execute %s: %w", systemdPath, err))
}

// modeBeside joins the cgroup namespace of PID 1, becomes a user, and then a program.
func modeBeside(args []string) int {
	if len(args) < 2 {
		return complain(errors.New("beside is for linuxtest itself"))
	}
	uid, err := strconv.Atoi(args[0])
	if err != nil {
		return complain(err)
	}
	runtime.LockOSThread()
	if err := joinNamespace("/proc/1/ns/cgroup", unix.CLONE_NEWCGROUP); err != nil {
		return complain(err)
	}
	if err := becomeUser(uintptr(uid)); err != nil {
		return complain(fmt.Errorf("become user %d: %w", uid, err))
	}
	return complain(fmt.Errorf("execute %s: %w", args[1], unix.Exec(args[1], args[1:], os.Environ())))
}

// becomeUser changes the user of the calling thread only.
func becomeUser(uid uintptr) error {
	for _, call := range [][3]uintptr{{unix.SYS_SETGROUPS, 0, 0}, {unix.SYS_SETRESGID, uid, uid}, {unix.SYS_SETRESUID, uid, uid}} {
		if _, _, errno := unix.RawSyscall(call[0], call[1], call[2], call[2]); errno != 0 {
			return errno
		}
	}
	return nil
}
