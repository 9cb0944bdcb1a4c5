package confine

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"

	"golang.org/x/sys/unix"
)

// DockerCapabilities are the fourteen that Docker leaves to root in a container, and
// Podman and Kubernetes with few exceptions. CAP_SYS_ADMIN is not among them.
func DockerCapabilities() []int {
	return []int{
		unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_FSETID, unix.CAP_FOWNER, unix.CAP_MKNOD, unix.CAP_NET_RAW, unix.CAP_SETGID,
		unix.CAP_SETUID, unix.CAP_SETFCAP, unix.CAP_SETPCAP, unix.CAP_NET_BIND_SERVICE, unix.CAP_SYS_CHROOT, unix.CAP_KILL,
		unix.CAP_AUDIT_WRITE,
	}
}

// confine takes away what the program is not to have, and becomes the program.
func (c Container) confine(args []string) error {
	// All of this belongs to the thread, and the one that executes decides.
	runtime.LockOSThread()
	if c.Dir != "" {
		if err := unix.Chdir(c.Dir); err != nil {
			return fmt.Errorf("enter %s: %w", c.Dir, err)
		}
	}
	path, err := exec.LookPath(args[0])
	if err != nil {
		return err
	}
	if c.Capabilities != nil {
		if err := dropBounding(c.Capabilities); err != nil {
			return err
		}
	}
	// Before CAP_SYS_ADMIN is gone: without it a filter wants no_new_privs, and a
	// container has set-user-ID programs that work.
	if len(c.Refuse) > 0 {
		if err := Install(Filter(c.Refuse)); err != nil {
			return err
		}
	}
	if c.Capabilities != nil {
		if err := dropThread(c.Capabilities); err != nil {
			return err
		}
	}
	return fmt.Errorf("execute %s: %w", path, unix.Exec(path, args, os.Environ()))
}

// dropBounding takes from the bounding set all but the given ones: the rest cannot
// be had again, whatever is executed.
func dropBounding(keep []int) error {
	for one := range unix.CAP_LAST_CAP + 1 {
		has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(one), 0, 0, 0)
		if err != nil || has == 0 || slices.Contains(keep, one) {
			continue // an older kernel does not know the last ones
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(one), 0, 0, 0); err != nil {
			return fmt.Errorf("drop capability %d: %w", one, err)
		}
	}
	return nil
}

// dropThread takes them from the thread itself.
func dropThread(keep []int) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var have, want [2]unix.CapUserData
	if err := unix.Capget(&header, &have[0]); err != nil {
		return fmt.Errorf("read the capabilities: %w", err)
	}
	for _, one := range keep {
		bit := uint32(1) << (one % 32)
		want[one/32].Permitted |= bit & have[one/32].Permitted
		want[one/32].Effective |= bit & have[one/32].Permitted
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("drop the ambient capabilities: %w", err)
	}
	if err := unix.Capset(&header, &want[0]); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	return nil
}
