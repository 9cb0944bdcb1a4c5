package linuxtest

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// modeSystemd becomes the systemd of a PID namespace: see [UserManager]. Its argument
// is the directory that becomes /run.
func modeSystemd(args []string) int {
	if os.Getpid() != 1 || len(args) != 1 {
		return complain(errors.New("systemd is for linuxtest itself"))
	}
	// Namespaces belong to the thread, and the one that executes decides.
	runtime.LockOSThread()
	// The cgroup that we are in becomes the root that is seen.
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS); err != nil {
		return complain(fmt.Errorf("make namespaces: %w", err))
	}
	if err := mountForSystemd(args[0]); err != nil {
		return complain(err)
	}
	err := unix.Exec(systemdPath, []string{systemdPath, "--system", "--log-target=null"},
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

// mountForSystemd gives the calling thread a /run of its own, a /proc of its PID
// namespace, and /sys/fs/cgroup as on a host without cgroup v1. All else can only
// be read.
func mountForSystemd(run string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the mounts private: %w", err)
	}
	const quiet = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := unix.Mount("proc", "/proc", "proc", quiet, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	for _, m := range []struct {
		from, to string
		flags    uintptr
	}{
		{run, "/run", unix.MS_BIND},
		// As PID 1 it would take the machine's console for its own.
		{os.DevNull, "/dev/console", unix.MS_BIND},
		{"/proc/sys", "/proc/sys", unix.MS_BIND},
		{"", "/proc/sys", unix.MS_BIND | unix.MS_REMOUNT | unix.MS_RDONLY},
		{"", "/", unix.MS_BIND | unix.MS_REMOUNT | unix.MS_RDONLY},
	} {
		if err := unix.Mount(m.from, m.to, "", m.flags, ""); err != nil {
			return fmt.Errorf("mount %s at %s: %w", m.from, m.to, err)
		}
	}
	const cgroups = "/sys/fs/cgroup"
	for unix.Unmount(cgroups, unix.MNT_DETACH) == nil { // until nothing is mounted there
	}
	if err := unix.Mount("cgroup2", cgroups, "cgroup2", quiet, ""); err != nil {
		return fmt.Errorf("mount cgroup2 at %s: %w", cgroups, err)
	}
	return nil
}
