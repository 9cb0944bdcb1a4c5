package vm

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// emulator is the program that runs the guest.
const emulator = "qemu-system-x86_64"

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

// emulation is a running QEMU.
type emulation struct {
	cmd     *exec.Cmd
	pidfd   int
	port    *os.File // the guest's messages
	console *tail
	ended   chan error // gets how QEMU ended, once
}

// start starts QEMU so that the kernel ends it when this program ends, however that
// goes. Its descriptor 3 is the port to the guest, those from 4 on are files.
func start(argv []string, files ...*os.File) (*emulation, error) {
	if _, err := exec.LookPath(emulator); err != nil {
		return nil, fmt.Errorf("install the package qemu-system-x86: %w", err)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make a socket pair: %w", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "port of the guest")
	defer func() { _ = theirs.Close() }() // QEMU has it
	// Without non-blocking mode a read could not be given up.
	if err := unix.SetNonblock(pair[0], true); err != nil {
		return nil, fmt.Errorf("prepare a socket: %w", err)
	}
	e := &emulation{pidfd: -1, port: os.NewFile(uintptr(pair[0]), "port"), console: &tail{}, ended: make(chan error, 1)}
	cmd := exec.Command(emulator, argv...)
	e.cmd = cmd
	cmd.Stdout, cmd.Stderr = e.console, e.console
	cmd.ExtraFiles = append([]*os.File{theirs}, files...)
	cmd.WaitDelay = 5 * time.Second
	// A session of its own: a Ctrl-C at the terminal is for us.
	cmd.SysProcAttr = &syscall.SysProcAttr{PidFD: &e.pidfd, Setsid: true, Pdeathsig: unix.SIGKILL}
	started := make(chan error)
	go func() {
		// The signal comes when the thread ends that has started QEMU. It is ours
		// alone, and ends with this goroutine.
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			e.ended <- cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", emulator, err), e.port.Close())
	}
	return e, nil
}

// stop ends QEMU and returns when it is gone. That it was killed is no error; that
// it ended in any other way than by a guest which switched off, is one.
func (e *emulation) stop() error {
	killed := unix.PidfdSendSignal(e.pidfd, unix.SIGKILL, nil, 0) == nil
	err := <-e.ended
	var exit *exec.ExitError
	if killed && errors.As(err, &exit) && !exit.Exited() {
		err = nil
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", emulator, err)
	}
	return errors.Join(err, unix.Close(e.pidfd), e.port.Close())
}

// used is the processor's time that QEMU has used, once stopped.
func (e *emulation) used() time.Duration {
	if e.cmd.ProcessState == nil {
		return 0
	}
	return e.cmd.ProcessState.UserTime() + e.cmd.ProcessState.SystemTime()
}
