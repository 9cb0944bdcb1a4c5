package probe

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// modeSend sends messages, "TIMES FDS TEXT" each, and then waits as sd_notify_barrier(3)
// does until all were handled; it prints "handled" then and lives on. In the text {pid}
// is its own number.
func modeSend(args []string) int {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fail(err)
	}
	to := &unix.SockaddrUnix{Name: os.Getenv("NOTIFY_SOCKET")}
	for _, arg := range args {
		parts := strings.SplitN(arg, " ", 3)
		times, _ := strconv.Atoi(parts[0])
		fds, _ := strconv.Atoi(parts[1])
		text := strings.ReplaceAll(parts[2], "{pid}", strconv.Itoa(os.Getpid()))
		if err := send(fd, to, times, fds, text); err != nil {
			return fail(err)
		}
	}
	if err := barrier(fd, to); err != nil {
		return fail(err)
	}
	fmt.Println("handled")
	untilTerm()
	return 0
}

// send sends a message, with a number of descriptors of pipes that are never used.
func send(fd int, to unix.Sockaddr, times, fds int, text string) error {
	for range times {
		var all []int
		for range fds {
			var p [2]int
			if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
				return err
			}
			all = append(all, p[1])
			_ = unix.Close(p[0])
		}
		var oob []byte
		if fds > 0 {
			oob = unix.UnixRights(all...)
		}
		err := unix.Sendmsg(fd, []byte(text), oob, to, 0)
		closeAll(all)
		if err != nil {
			return err
		}
	}
	return nil
}

// barrier returns when all that was sent before was handled.
func barrier(fd int, to unix.Sockaddr) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	err = unix.Sendmsg(fd, []byte("BARRIER=1"), unix.UnixRights(int(w.Fd())), to, 0)
	_ = w.Close()
	if err != nil {
		return err
	}
	_, err = io.ReadAll(r)
	return err
}
