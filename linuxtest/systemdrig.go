package linuxtest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// systemdRig says what a systemd sees of the machine.
type systemdRig struct {
	Run     string // becomes /run
	Root    string // the root file system; "/" is the machine's own
	Stage   string // an empty directory
	Keep    string // the directory of the test process, which is seen as it is
	Own     bool   // /usr, /etc and /var can be written
	Journal bool
}

const quiet = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

// mountPoint is one call of mount(2).
type mountPoint struct {
	from, to, kind string
	flags          uintptr
	options        string
}

func mountAll(points ...mountPoint) error {
	for _, p := range points {
		if err := unix.Mount(p.from, p.to, p.kind, p.flags, p.options); err != nil {
			return fmt.Errorf("mount %s at %s: %w", p.from, p.to, err)
		}
	}
	return nil
}

// mount gives the calling thread a /run of its own, a /proc of its PID namespace, and
// /sys/fs/cgroup as on a host without cgroup v1. All else can only be read, unless it
// is an overlay: what is written there is in the memory of this mount namespace.
func (r systemdRig) mount() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the mounts private: %w", err)
	}
	root := r.Root != "/"
	if root || r.Own {
		if err := r.setStage(); err != nil {
			return err
		}
	}
	err := mountAll(
		mountPoint{"proc", "/proc", "proc", quiet, ""},
		mountPoint{r.Run, "/run", "", unix.MS_BIND, ""},
		// As PID 1 it would take the machine's console for its own.
		mountPoint{os.DevNull, "/dev/console", "", unix.MS_BIND, ""},
		mountPoint{"/proc/sys", "/proc/sys", "", unix.MS_BIND, ""},
		mountPoint{"", "/proc/sys", "", unix.MS_BIND | unix.MS_REMOUNT | unix.MS_RDONLY, ""},
	)
	if err != nil {
		return err
	}
	if r.Own && !root {
		if err := r.own(); err != nil {
			return err
		}
	}
	if !root || !r.Own {
		if err := mountAll(mountPoint{"", "/", "", unix.MS_BIND | unix.MS_REMOUNT | unix.MS_RDONLY, ""}); err != nil {
			return err
		}
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	const cgroups = "/sys/fs/cgroup"
	for unix.Unmount(cgroups, unix.MNT_DETACH) == nil { // until nothing is mounted there
	}
	if err := mountAll(mountPoint{"cgroup2", cgroups, "cgroup2", quiet, ""}); err != nil {
		return err
	}
	if r.Journal {
		return r.identify()
	}
	return nil
}

// setStage gives overlays the memory for their changes, and enters the root if it is
// another one.
func (r systemdRig) setStage() error {
	if err := mountAll(mountPoint{"tmpfs", r.Stage, "tmpfs", 0, "mode=755"}); err != nil {
		return err
	}
	if err := unix.Chdir(r.Stage); err != nil {
		return err
	}
	if r.Root == "/" {
		return nil
	}
	return r.enterRoot()
}

// enterRoot makes an overlay of another root file system the root, with /dev, /sys
// and the test's own directory of the machine in it.
func (r systemdRig) enterRoot() error {
	top := filepath.Join(r.Stage, "root")
	err := overlay(r.Root, "root", "root")
	for _, dir := range []string{"dev", "proc", "sys", "run", "tmp", r.Keep} {
		if err == nil {
			err = os.MkdirAll(filepath.Join(top, dir), 0o755)
		}
	}
	if err == nil {
		err = os.Chmod(filepath.Join(top, "tmp"), 0o777|fs.ModeSticky)
	}
	if err != nil {
		return err
	}
	err = mountAll(
		mountPoint{"/dev", filepath.Join(top, "dev"), "", unix.MS_BIND | unix.MS_REC, ""},
		mountPoint{"/sys", filepath.Join(top, "sys"), "", unix.MS_BIND | unix.MS_REC, ""},
		mountPoint{r.Keep, filepath.Join(top, r.Keep), "", unix.MS_BIND, ""},
	)
	if err != nil {
		return err
	}
	if err := unix.Chdir("root"); err != nil {
		return err
	}
	// The old root on top of the new one, and off again: see pivot_root(2).
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("make %s the root: %w", top, err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount the machine's root: %w", err)
	}
	return nil
}

// own lays something writable over what packages are installed to.
func (r systemdRig) own() error {
	// It may be below what is covered.
	keep, err := unix.Open(r.Keep, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(keep) }() // a path; nothing to lose
	for _, dir := range []string{"usr", "etc", "var"} {
		if err := overlay("/"+dir, dir, "/"+dir); err != nil {
			return err
		}
	}
	if _, err := os.Stat(r.Keep); err == nil {
		return nil
	}
	if err := os.MkdirAll(r.Keep, 0o755); err != nil {
		return err
	}
	return mountAll(mountPoint{fmt.Sprintf("/proc/self/fd/%d", keep), r.Keep, "", unix.MS_BIND, ""})
}

// overlay mounts lower at a directory, with its own changes in memory. The working
// directory is the stage: the name of a test's directory may have what separates options.
func overlay(lower, name, at string) error {
	upper, work := "upper-"+name, "work-"+name
	for _, dir := range []string{upper, work, at} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	lower = strings.NewReplacer(`\`, `\\`, ",", `\,`, ":", `\:`).Replace(lower)
	return mountAll(mountPoint{"overlay", at, "overlay", 0, fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", lower, upper, work)})
}

// identify gives the machine the name that a journal needs.
func (r systemdRig) identify() error {
	const path = "/etc/machine-id"
	if text, err := os.ReadFile(path); err == nil && len(text) > 32 {
		return nil
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.WriteFile(path, []byte("6c696e75787465737400000000000001\n"), 0o444)
}
