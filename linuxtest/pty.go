package linuxtest

import (
	"os"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// Pty opens a pseudo-terminal, pty(7). It returns the master, which is closed when the
// test ends and may be closed before, and the path of the slave, which is nobody's
// controlling terminal yet.
func Pty(tb testing.TB) (master *os.File, slave string) {
	tb.Helper()
	// Not blocking, so that deadlines hold.
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		tb.Fatalf("open a pseudo-terminal: %v", err)
	}
	master = os.NewFile(uintptr(fd), "ptmx")
	tb.Cleanup(func() { _ = master.Close() })
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		tb.Fatalf("unlock a pseudo-terminal: %v", err)
	}
	return master, "/dev/pts/" + strconv.Itoa(n)
}
