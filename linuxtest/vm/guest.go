package vm

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// jobFile is where the initramfs has the job.
const jobFile = "/job.json"

// guestMain is PID 1. It does not return.
func guestMain() {
	var port *sender
	err := func() error {
		if err := mountEssentials(); err != nil {
			return err
		}
		text, err := os.ReadFile(jobFile)
		if err != nil {
			return err
		}
		var j job
		if err := json.Unmarshal(text, &j); err != nil {
			return err
		}
		if err := loadModules(); err != nil {
			return err
		}
		port, err = openPort()
		if err != nil {
			return err
		}
		return serve(port, j)
	}()
	if err != nil {
		fmt.Fprintf(os.Stderr, "pitvisor-linuxtest: %v\n", err)
		if port != nil {
			_ = port.message(message{Type: "error", Text: err.Error()}) // the console has it as well
		}
	}
	powerOff()
}

// serve does the job and tells the host about it.
func serve(port *sender, j job) error {
	if err := enterRoot(j); err != nil {
		return err
	}
	guest, err := Inspect(cgroupRoot)
	if err != nil {
		return err
	}
	if err := port.message(message{Type: "ready", Guest: guest}); err != nil {
		return err
	}
	for i, p := range j.Programs {
		if err := port.message(message{Type: "start", Program: i}); err != nil {
			return err
		}
		exit, left, err := runProgram(p, j.Env, port)
		m := message{Type: "end", Program: i, Exit: exit, Left: left}
		if err != nil {
			m.Text = err.Error()
		}
		if err := port.message(m); err != nil {
			return err
		}
	}
	return port.message(message{Type: "bye"})
}

func powerOff() {
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF) // the kernel panics when PID 1 returns
	select {}
}

// mount is one call of mount(2).
type mount struct {
	source, target, kind string
	flags                uintptr
	data                 string
}

func (m mount) do() error {
	if err := os.MkdirAll(m.target, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(m.source, m.target, m.kind, m.flags, m.data); err != nil {
		return fmt.Errorf("mount %s on %s: %w", m.kind, m.target, err)
	}
	return nil
}

func mountAll(mounts []mount) error {
	for _, m := range mounts {
		if err := m.do(); err != nil {
			return err
		}
	}
	return nil
}

const restrained = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

// mountEssentials mounts what is needed to find modules and disks.
func mountEssentials() error {
	return mountAll([]mount{
		{"proc", "/proc", "proc", restrained, ""},
		{"sysfs", "/sys", "sysfs", restrained, ""},
		{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=0755"},
	})
}

// loadModules loads the initramfs's modules in their order.
func loadModules() error {
	order, err := os.ReadFile("/modules/modules.order")
	if err != nil {
		return err
	}
	for name := range strings.FieldsSeq(string(order)) {
		f, err := os.Open(filepath.Join("/modules", name))
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		_ = f.Close() // read-only; nothing to lose
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("load the module %s: %w", name, err)
		}
	}
	return nil
}

// within asks again and again until the answer is yes: devices appear when their
// drivers are ready.
func within(limit time.Duration, ready func() bool) bool {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(limit); time.Now().Before(end); <-tick.C {
		if ready() {
			return true
		}
	}
	return ready()
}

// openPort opens the virtio port to the host. When the host goes away, so do we.
func openPort() (*sender, error) {
	var device string
	ok := within(20*time.Second, func() bool {
		names, _ := filepath.Glob("/sys/class/virtio-ports/*/name")
		for _, name := range names {
			text, err := os.ReadFile(name)
			if err == nil && strings.TrimSpace(string(text)) == portName {
				device = filepath.Join("/dev", filepath.Base(filepath.Dir(name)))
			}
		}
		return device != "" && exists(device)
	})
	if !ok {
		return nil, errors.New("no virtio port to the host appears")
	}
	// Not through the runtime's poller: a plain blocking descriptor.
	fd, err := unix.Open(device, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", device, err)
	}
	return &sender{w: plainFile(fd)}, nil
}

// plainFile writes to a descriptor that blocks.
type plainFile int

func (fd plainFile) Write(data []byte) (int, error) {
	written := 0
	for written < len(data) {
		n, err := unix.Write(int(fd), data[written:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return written, err
		}
		written += n
	}
	return written, nil
}

// enterRoot makes the disk the root, or stays in the initramfs without one, and
// gives it all that a Linux has.
func enterRoot(j job) error {
	disk := 0
	next := func() string {
		disk++
		return "/dev/vd" + string(rune('a'+disk-1))
	}
	if j.Root {
		if err := switchRoot(next()); err != nil {
			return err
		}
	}
	mounts := []mount{
		{"devpts", "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=0620,gid=5,ptmxmode=0666"},
		{"tmpfs", "/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
		{"tmpfs", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755"},
		{"tmpfs", "/tmp", "tmpfs", unix.MS_NODEV, "mode=1777"}, // tests make set-user-ID programs
		{"cgroup2", "/sys/fs/cgroup", "cgroup2", restrained, "nsdelegate,memory_recursiveprot"},
	}
	if j.Payload {
		mounts = append(mounts, mount{next(), "/src", "ext4", 0, ""})
	}
	for i := range disk {
		name := "/dev/vd" + string(rune('a'+i))
		if !within(20*time.Second, func() bool { return exists(name) }) {
			return fmt.Errorf("the disk %s does not appear", name)
		}
	}
	if err := mountAll(mounts); err != nil {
		return err
	}
	return settle()
}

// switchRoot moves to another root file system, which stays writable: the host
// keeps no changes.
func switchRoot(device string) error {
	if !within(20*time.Second, func() bool { return exists(device) }) {
		return fmt.Errorf("the disk %s does not appear", device)
	}
	if err := (mount{device, "/newroot", "ext4", 0, ""}).do(); err != nil {
		return err
	}
	return moveRoot()
}

// moveRoot makes /newroot the root, with what is mounted already.
func moveRoot() error {
	for _, dir := range []string{"/proc", "/sys", "/dev"} {
		if err := (mount{dir, "/newroot" + dir, "", unix.MS_MOVE, ""}).do(); err != nil {
			return err
		}
	}
	if err := os.Chdir("/newroot"); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("chroot: %w", err)
	}
	return os.Chdir("/")
}

// settle does what an init does on every Linux.
func settle() error {
	for link, target := range map[string]string{
		"/dev/fd": "/proc/self/fd", "/dev/stdin": "/proc/self/fd/0", "/dev/stdout": "/proc/self/fd/1", "/dev/stderr": "/proc/self/fd/2",
	} {
		if err := os.Symlink(target, link); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	if err := unix.Sethostname([]byte("vm")); err != nil {
		return fmt.Errorf("set the host name: %w", err)
	}
	if err := loopbackUp(); err != nil {
		return err
	}
	// Programs raise their soft limit themselves.
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 1024, Max: 1 << 20}); err != nil {
		return fmt.Errorf("set the limit of open files: %w", err)
	}
	return enableControllers()
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open a socket: %w", err)
	}
	defer func() { _ = unix.Close(fd) }() // nothing was sent
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, ifr); err != nil {
		return fmt.Errorf("read the flags of lo: %w", err)
	}
	ifr.SetUint16(ifr.Uint16() | unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
		return fmt.Errorf("switch lo on: %w", err)
	}
	return nil
}

// uptime is the time since the kernel started.
func uptime() float64 {
	text, err := os.ReadFile("/proc/uptime")
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(text), " ")
	seconds, _ := strconv.ParseFloat(first, 64)
	return seconds
}
