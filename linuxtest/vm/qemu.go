package vm

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"

	"golang.org/x/sys/unix"
)

// emulator is the program that runs the guest.
const emulator = "qemu-system-x86_64"

// qemuFiles is how many descriptors QEMU inherits: the port to the guest, the
// initramfs and the scratch disk, as 3, 4 and 5.
const qemuFiles = 3

// acceleration finds out how to run the guest's instructions: "kvm" where the
// processor helps, else "tcg", and why.
func acceleration() (accel, why string) {
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return "tcg", err.Error()
	}
	_ = f.Close() // only tried
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "tcg", err.Error()
	}
	// There are hypervisors without the processor's help whose /dev/kvm opens and
	// runs only kernels that were made for them.
	if !bytes.Contains(info, []byte(" vmx")) && !bytes.Contains(info, []byte(" svm")) {
		return "tcg", "/dev/kvm opens, but the processor has neither vmx nor svm"
	}
	return "kvm", ""
}

// arguments is QEMU's command line.
func (m *Machine) arguments(accel string, disks []string) []string {
	argv := []string{
		"-M", "pc", "-smp", strconv.Itoa(m.cpus()), "-m", strconv.Itoa(m.memory()),
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio",
		"-kernel", m.Kernel.Image, "-initrd", "/proc/self/fd/4", "-append", cmdline(accel),
		"-chardev", "socket,id=port,fd=3",
		"-device", "virtio-serial-pci", "-device", "virtserialport,chardev=port,name=" + portName,
	}
	if accel == "kvm" {
		argv = append(argv, "-accel", "kvm", "-cpu", "host")
	} else {
		// One thread: with more, kernels that patch themselves crash now and then.
		argv = append(argv, "-accel", "tcg,thread=single", "-cpu", "qemu64,+rdrand")
	}
	for i, disk := range disks {
		// snapshot=on keeps what the guest writes in an unlinked file.
		argv = append(argv,
			"-drive", fmt.Sprintf("file=%s,if=none,id=d%d,format=raw,snapshot=on,cache=unsafe", disk, i),
			"-device", fmt.Sprintf("virtio-blk-pci,drive=d%d", i))
	}
	return argv
}

func cmdline(accel string) string {
	line := "console=ttyS0 quiet panic=-1 mitigations=off psi=1 random.trust_cpu=on rdinit=/init"
	if accel != "kvm" {
		line += " no_timer_check"
	}
	return line
}

// memoryFile makes a file that has no name.
func memoryFile(name string) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make a file in memory: %w", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// guarded is a running QEMU below its guard.
type guarded struct {
	cmd     *exec.Cmd
	line    *os.File // while it is open, QEMU runs
	port    *os.File // the guest's messages
	console *tail
}

// startGuarded starts QEMU below a guard.
func startGuarded(self string, argv []string, initramfs, scratch *os.File) (*guarded, error) {
	if _, err := exec.LookPath(emulator); err != nil {
		return nil, fmt.Errorf("install the package qemu-system-x86: %w", err)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make a socket pair: %w", err)
	}
	// Without non-blocking mode a read could not be given up.
	if err := unix.SetNonblock(pair[0], true); err != nil {
		return nil, fmt.Errorf("prepare a socket: %w", err)
	}
	port, theirs := os.NewFile(uintptr(pair[0]), "port"), os.NewFile(uintptr(pair[1]), "port of the guest")
	r, line, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, port.Close(), theirs.Close())
	}
	g := &guarded{line: line, port: port, console: &tail{}}
	g.cmd = exec.Command(self)
	g.cmd.Args = append([]string{guardName, emulator}, argv...)
	g.cmd.Stdout, g.cmd.Stderr = g.console, g.console
	g.cmd.ExtraFiles = []*os.File{r, theirs, initramfs, scratch}
	err = g.cmd.Start()
	_, _ = r.Close(), theirs.Close() // the guard has them
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start the guard of QEMU: %w", err), line.Close(), port.Close())
	}
	return g, nil
}

// stop ends QEMU and its guard, and returns when they are gone.
func (g *guarded) stop() error {
	err := errors.Join(g.line.Close(), g.port.Close())
	if waitErr := g.cmd.Wait(); waitErr != nil {
		err = errors.Join(err, fmt.Errorf("QEMU: %w: %s", waitErr, lastLines(g.console.String(), 10)))
	}
	return err
}
