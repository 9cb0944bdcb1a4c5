package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/api"
)

// executeTTY runs a command with a pseudo-terminal of its own, and copies between that
// and our terminal, which is in raw mode meanwhile: what is typed is the command's.
func executeTTY(c *api.Client, order api.Exec, signals <-chan os.Signal) (*api.ExecEvent, error) {
	master, slave, err := openTerminal()
	if err != nil {
		return nil, fmt.Errorf("make a terminal: %w", err)
	}
	defer func() { _ = master.Close() }() // all was read
	sizes := make(chan os.Signal, 1)
	signal.Notify(sizes, unix.SIGWINCH)
	defer signal.Stop(sizes)
	resize(master)
	order.Env = append([]string{"TERM=" + os.Getenv("TERM")}, order.Env...)
	r, err := c.Exec(context.Background(), order, slave, slave, slave)
	_ = slave.Close() // the command has its own
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }() // it has ended
	before, err := makeRaw(os.Stdin)
	if err != nil {
		return nil, fmt.Errorf("set the terminal: %w", err)
	}
	defer func() { _ = unix.IoctlSetTermios(int(os.Stdin.Fd()), unix.TCSETS, before) }() // it may have gone
	defer passSignals(r, signals)()
	return converse(r, master, sizes)
}

// converse copies until the command has ended and all it has printed was shown.
func converse(r *api.Running, master *os.File, sizes <-chan os.Signal) (*api.ExecEvent, error) {
	go func() {
		_, _ = io.Copy(master, os.Stdin)
		_ = r.Close() // our terminal has gone: the command goes, too
	}()
	shown := make(chan struct{})
	go func() {
		defer close(shown)
		_, _ = io.Copy(os.Stdout, master) // until nobody has the other end
	}()
	done := make(chan struct{})
	defer close(done)
	go func() {
		for {
			select {
			case <-sizes:
				resize(master)
			case <-done:
				return
			}
		}
	}()
	e, err := r.Wait()
	if err == nil {
		<-shown
	}
	return e, err
}

// openTerminal makes a pseudo-terminal.
func openTerminal() (master, slave *os.File, err error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("open /dev/ptmx: %w", err)
	}
	master = os.NewFile(uintptr(fd), "/dev/ptmx")
	if err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err == nil {
		slave, err = openSlave(fd)
	}
	if err != nil {
		_ = master.Close() // nothing was written
		return nil, nil, err
	}
	return master, slave, nil
}

// openSlave opens the other end, by the master alone or, before Linux 4.13, by name.
func openSlave(master int) (*os.File, error) {
	const flags = unix.O_RDWR | unix.O_NOCTTY | unix.O_CLOEXEC
	n, err := unix.IoctlGetUint32(master, unix.TIOCGPTN)
	if err != nil {
		return nil, fmt.Errorf("number of the terminal: %w", err)
	}
	name := filepath.Join("/dev/pts", strconv.Itoa(int(n)))
	fd, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER, flags)
	if errno == 0 {
		return os.NewFile(fd, name), nil
	}
	f, err := os.OpenFile(name, flags, 0)
	if err != nil {
		return nil, errors.Join(errno, err)
	}
	return f, nil
}

// resize gives the other terminal the size of ours. The kernel tells who reads there.
func resize(master *os.File) {
	size, err := unix.IoctlGetWinsize(int(os.Stdin.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return // it has gone
	}
	_ = unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, size) // it may have ended
}

// makeRaw lets everything that is typed through as it is, and returns how it was.
func makeRaw(f *os.File) (before *unix.Termios, err error) {
	fd := int(f.Fd())
	if before, err = unix.IoctlGetTermios(fd, unix.TCGETS); err != nil {
		return nil, err
	}
	raw := *before
	raw.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	raw.Oflag &^= unix.OPOST
	raw.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	raw.Cflag = raw.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	raw.Cc[unix.VMIN], raw.Cc[unix.VTIME] = 1, 0
	return before, unix.IoctlSetTermios(fd, unix.TCSETS, &raw)
}
