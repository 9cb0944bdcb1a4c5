package confine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// newRoot is where the root is made, on a tmpfs that only this mount namespace has.
const newRoot = "/tmp/root"

const quiet = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

// mount is one call of mount(2).
type mount struct {
	from, to, kind string
	flags          uintptr
	data           string
}

func (m mount) do() error {
	if err := unix.Mount(m.from, m.to, m.kind, m.flags, m.data); err != nil {
		return fmt.Errorf("mount %s%s at %s: %w", m.kind, m.from, m.to, err)
	}
	return nil
}

// all mounts one after the other, and makes the directories that are missing.
func all(mounts ...mount) error {
	for _, m := range mounts {
		if err := os.MkdirAll(m.to, 0o755); err != nil {
			return err
		}
		if err := m.do(); err != nil {
			return err
		}
	}
	return nil
}

// build makes the container around the calling process. Afterwards the goroutine is
// locked to its thread, which alone is in the cgroup namespace.
func (c Container) build() error {
	runtime.LockOSThread()
	if err := (mount{"", "/", "", unix.MS_REC | unix.MS_PRIVATE, ""}).do(); err != nil {
		return fmt.Errorf("keep mounts from the host: %w", err)
	}
	binds, err := c.openBinds()
	if err != nil {
		return err
	}
	if err := c.mountRoot(); err != nil {
		return err
	}
	for i, b := range c.Binds {
		err := errors.Join(b.mount(binds[i]), unix.Close(binds[i]))
		if err != nil {
			return err
		}
	}
	if err := c.mountCgroup(); err != nil {
		return err
	}
	if err := enterRoot(); err != nil {
		return err
	}
	if c.Masked {
		if err := mask(); err != nil {
			return err
		}
	}
	if err := unix.Sethostname([]byte("container")); err != nil {
		return fmt.Errorf("set the host name: %w", err)
	}
	return loopbackUp()
}

// openBinds finds the host's files before anything is mounted over them. The one at
// CgroupHost's place is the last.
func (c Container) openBinds() ([]int, error) {
	var fds []int
	for _, b := range c.Binds {
		fd, err := unix.Open(b.From, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("open %s: %w", b.From, err)
		}
		fds = append(fds, fd)
	}
	return fds, nil
}

// mount puts what fd names into the new root.
func (b Bind) mount(fd int) error {
	to := filepath.Join(newRoot, b.To)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		if err := os.MkdirAll(to, 0o755); err != nil {
			return err
		}
	} else if err := makeFile(to); err != nil {
		return err
	}
	if err := (mount{fmt.Sprintf("/proc/self/fd/%d", fd), to, "", unix.MS_BIND | unix.MS_REC, ""}).do(); err != nil {
		return err
	}
	if b.Writable {
		return nil
	}
	return mount{"", to, "", unix.MS_BIND | unix.MS_REMOUNT | unix.MS_RDONLY, ""}.do()
}

func makeFile(name string) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDONLY, 0o644)
	if err != nil {
		return err
	}
	return f.Close()
}

// mountRoot lays a writable layer over the host's root file system, as engines lay
// one over an image, and mounts what every Linux has.
func (c Container) mountRoot() error {
	if err := (mount{"tmpfs", "/tmp", "tmpfs", 0, "mode=755"}).do(); err != nil {
		return err
	}
	for _, dir := range []string{"/tmp/upper", "/tmp/work"} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	var sysFlags uintptr = quiet
	if c.Masked {
		sysFlags |= unix.MS_RDONLY
	}
	in := func(path string) string { return newRoot + path }
	err := all(mount{"overlay", newRoot, "overlay", 0, "lowerdir=/,upperdir=/tmp/upper,workdir=/tmp/work"})
	if errors.Is(err, unix.ENODEV) {
		err = bindRoot()
	}
	if err != nil {
		return err
	}
	if err := all(
		mount{"proc", in("/proc"), "proc", quiet, ""},
		mount{"sysfs", in("/sys"), "sysfs", sysFlags, ""},
		mount{"tmpfs", in("/dev"), "tmpfs", unix.MS_NOSUID, "mode=755"},
		mount{"tmpfs", in("/dev/shm"), "tmpfs", quiet, "mode=1777"},
		mount{"devpts", in("/dev/pts"), "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5"},
		mount{"tmpfs", in("/run"), "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=755"},
		mount{"tmpfs", in("/tmp"), "tmpfs", unix.MS_NODEV, "mode=1777"},
		mount{"tmpfs", in("/var/tmp"), "tmpfs", unix.MS_NODEV, "mode=1777"},
	); err != nil {
		return err
	}
	devices := []string{"null", "zero", "full", "random", "urandom", "tty"}
	if c.Capabilities == nil {
		devices = append(devices, "fuse", "console") // of --privileged only those that tests want
	}
	return makeDevices(newRoot+"/dev/", devices)
}

// bindRoot is for kernels without overlay file systems: the host's directories can be
// read, /var, /root and the like are new and empty.
func bindRoot() error {
	if err := all(mount{"tmpfs", newRoot, "tmpfs", 0, "mode=755"}); err != nil {
		return err
	}
	entries, err := os.ReadDir("/")
	if err != nil {
		return err
	}
	for _, e := range entries {
		from, to := "/"+e.Name(), filepath.Join(newRoot, e.Name())
		switch {
		case e.Type()&fs.ModeSymlink != 0:
			var target string
			if target, err = os.Readlink(from); err == nil {
				err = os.Symlink(target, to)
			}
		case e.IsDir() && slices.Contains([]string{"bin", "sbin", "lib", "lib64", "usr", "etc", "opt", "nix"}, e.Name()):
			err = all(mount{from, to, "", unix.MS_BIND, ""}, mount{"", to, "", unix.MS_BIND | unix.MS_REMOUNT | unix.MS_RDONLY, ""})
		case e.IsDir():
			err = os.Mkdir(to, 0o755)
		}
		if err != nil {
			return err
		}
	}
	return os.MkdirAll(filepath.Join(newRoot, "var", "lib"), 0o755)
}

// makeDevices takes the host's: a container of this kind may not be allowed to make
// device files.
func makeDevices(dev string, names []string) error {
	for _, name := range names {
		if _, err := os.Stat("/dev/" + name); err != nil {
			continue // this host has no such thing
		}
		if err := makeFile(dev + name); err != nil {
			return err
		}
		from := "/dev/" + name
		if name == "console" {
			from = os.DevNull // nothing of the host's
		}
		if err := (mount{from, dev + name, "", unix.MS_BIND, ""}).do(); err != nil {
			return err
		}
	}
	for name, target := range map[string]string{
		"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2", "ptmx": "pts/ptmx",
	} {
		if err := os.Symlink(target, dev+name); err != nil {
			return err
		}
	}
	return nil
}

// mountCgroup shows cgroup2 as the container is to see it.
func (c Container) mountCgroup() error {
	const at = newRoot + "/sys/fs/cgroup"
	switch c.Cgroup {
	case CgroupNone:
		return nil
	case CgroupHost:
		from, err := findCgroup2()
		if err != nil {
			return err
		}
		return mount{from, at, "", unix.MS_BIND, ""}.do()
	}
	// The cgroup that we are in becomes the root that is seen.
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("make a cgroup namespace: %w", err)
	}
	// nsdelegate belongs to the host's mount: from inside it is ignored.
	if err := (mount{"cgroup2", at, "cgroup2", quiet, "nsdelegate"}).do(); err != nil {
		return err
	}
	if c.Cgroup == CgroupReadOnly {
		return mount{"", at, "", unix.MS_BIND | unix.MS_REMOUNT | unix.MS_RDONLY | quiet, ""}.do()
	}
	return nil
}

// enterRoot makes the new root the only one.
func enterRoot() error {
	if err := unix.Chdir(newRoot); err != nil {
		return fmt.Errorf("enter %s: %w", newRoot, err)
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("make %s the root: %w", newRoot, err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("let go of the old root: %w", err)
	}
	return unix.Chdir("/")
}

// mask does to /proc what Docker does.
func mask() error {
	for _, path := range []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"} {
		if _, err := os.Stat(path); err != nil {
			continue
		}
		for _, m := range []mount{
			{path, path, "", unix.MS_BIND | unix.MS_REC, ""},
			{"", path, "", unix.MS_BIND | unix.MS_REMOUNT | unix.MS_RDONLY | quiet, ""},
		} {
			if err := m.do(); err != nil {
				return err
			}
		}
	}
	for _, path := range []string{"/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/interrupts"} {
		if _, err := os.Stat(path); err != nil {
			continue
		}
		if err := (mount{os.DevNull, path, "", unix.MS_BIND, ""}).do(); err != nil {
			return err
		}
	}
	return nil
}

// loopbackUp gives the network namespace 127.0.0.1 and ::1.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("bring the loopback interface up: %w", err)
	}
	defer func() { _ = unix.Close(fd) }() // nothing was sent
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_UP)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCSIFFLAGS, uintptr(unsafe.Pointer(request))); errno != 0 {
		return fmt.Errorf("bring the loopback interface up: %w", errno)
	}
	return nil
}

// findCgroup2 returns where the calling process sees cgroup2, best the writable one.
func findCgroup2() (string, error) {
	text, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		return "", fmt.Errorf("find the cgroup2 mount: %w", err)
	}
	found := ""
	for line := range strings.Lines(string(text)) {
		left, right, ok := strings.Cut(line, " - ")
		fields := strings.Fields(left)
		if !ok || len(fields) < 6 || !strings.HasPrefix(right, "cgroup2 ") {
			continue
		}
		if found == "" || fields[4] == "/sys/fs/cgroup" {
			found = fields[4]
		}
	}
	if found == "" {
		return "", errors.New("no cgroup2 file system is mounted: mount -t cgroup2 none /sys/fs/cgroup/unified")
	}
	return found, nil
}
