package linuxtest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// modeUserManager becomes the systemd of a user, or as PID 1 that of the system: see
// [UserManager]. Its arguments are the directory that becomes /run, the user, and
// the cgroup of the user's systemd below the one that it starts in.
func modeUserManager(args []string) int {
	if len(args) != 3 {
		return complain(errors.New("user-manager is for linuxtest itself"))
	}
	uid, err := strconv.Atoi(args[1])
	if err != nil {
		return complain(err)
	}
	// Namespaces and credentials belong to the thread, and the one that executes
	// decides.
	runtime.LockOSThread()
	// The cgroup that we are in becomes the root that is seen.
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS); err != nil {
		return complain(fmt.Errorf("make namespaces: %w", err))
	}
	if err := mountForSystemd(args[0]); err != nil {
		return complain(err)
	}
	argv := []string{systemdPath, "--log-target=console"}
	env := []string{"PATH=" + os.Getenv("PATH")}
	if os.Getpid() == 1 {
		argv = append(argv, "--system")
		env = append(env, "container=linuxtest", "SYSTEMD_UNIT_PATH=/run/system")
	} else {
		if err := writeGroupFile(filepath.Join("/sys/fs/cgroup", args[2]), "cgroup.procs", "0"); err != nil {
			return complain(err)
		}
		if err := becomeUser(uid); err != nil {
			return complain(fmt.Errorf("become user %d: %w", uid, err))
		}
		argv = append(argv, "--user")
		env = append(env, "HOME=/nonexistent", "XDG_RUNTIME_DIR=/run/user/"+args[1], "SYSTEMD_UNIT_PATH=/run/units")
	}
	return complain(fmt.Errorf("execute %s: %w", systemdPath, unix.Exec(systemdPath, argv, env)))
}

// mountForSystemd gives the calling thread a /run of its own, a /proc of its PID
// namespace, and /sys/fs/cgroup as on a host without cgroup v1. All else can only
// be read.
func mountForSystemd(run string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the mounts private: %w", err)
	}
	const quiet = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if os.Getpid() == 1 {
		if err := unix.Mount("proc", "/proc", "proc", quiet, ""); err != nil {
			return fmt.Errorf("mount /proc: %w", err)
		}
	}
	for _, m := range []struct {
		from, to string
		flags    uintptr
	}{
		{run, "/run", unix.MS_BIND},
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

// becomeUser changes the user of the calling thread only.
func becomeUser(uid int) error {
	for _, call := range [][3]uintptr{
		{unix.SYS_SETGROUPS, 0, 0}, {unix.SYS_SETRESGID, uintptr(uid), uintptr(uid)}, {unix.SYS_SETRESUID, uintptr(uid), uintptr(uid)},
	} {
		if _, _, errno := unix.RawSyscall(call[0], call[1], call[2], call[2]); errno != 0 {
			return errno
		}
	}
	return nil
}
