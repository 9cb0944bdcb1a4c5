package linuxtest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Call is a system call that was stopped before the kernel ran it.
type Call struct {
	Name     string
	Args     [6]uint64
	Path     string // the path argument, or what the descriptor argument names; "" when there is none
	PID, TID int    // who calls
	Comm     string
	Target   bool // the caller runs the target's program: itself, a child before exec, or another copy
}

// String is the call with what it is about and who made it.
func (c Call) String() string {
	return fmt.Sprintf("%s(%#x, %#x, %#x) %q by %s, pid %d", c.Name, c.Args[0], c.Args[1], c.Args[2], c.Path, c.Comm, c.PID)
}

// verdict is what becomes of a stopped call.
type verdict uint8

const (
	verdictContinue verdict = iota // the kernel runs it
	verdictDeny                    // it fails with EPERM
	verdictKill                    // the target gets SIGKILL instead
)

// trap is a running target with a seccomp listener on it and on all that it
// starts.
type trap struct {
	target   *Process
	exe      [2]uint64 // device and inode of the target's program
	calls    map[uint32]trapCall
	judge    func(Call) verdict // called by one goroutine
	running  bool               // the target has been exec'ed; only serve uses it
	listener int
	stop     [2]int // closing the second ends serve
	done     sync.WaitGroup
	once     sync.Once // close
}

// startTrap starts c with its system calls of the given names stopped until judge
// has spoken. The listener is served until nothing is left that the target
// started, or until the end of the test. Skips without seccomp user notification
// (Linux 5.5 with CONTINUE).
func startTrap(tb testing.TB, c Command, selfPass bool, names []string, judge func(Call) verdict) *trap {
	tb.Helper()
	if auditArch() == 0 {
		Skip(tb, "needs a filter of system calls for "+runtime.GOARCH+", which linuxtest has not")
	}
	t := &trap{calls: map[uint32]trapCall{}, judge: judge}
	numbers, err := t.choose(names)
	if err != nil {
		tb.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(c.Args[0], &st); err != nil {
		tb.Fatalf("find the target %s: %v", c.Args[0], err)
	}
	t.exe = [2]uint64{uint64(st.Dev), st.Ino}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		tb.Fatalf("make a socket pair: %v", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "trap")
	pass := "all"
	if selfPass {
		pass = "self"
	}
	c.Args = append(Helper(tb, "trap-exec", numbers, pass), c.Args...)
	c.Extra = append([]*os.File{theirs}, c.Extra...)
	t.target = c.Start(tb)
	_ = theirs.Close() // the target has its own
	t.listener, err = receiveFD(pair[0])
	_ = unix.Close(pair[0])
	if err != nil {
		status, _, _ := t.target.wait(time.Second)
		tb.Fatalf("get the seccomp listener of %q: %v (wait status %#x)", c.Args, err, uint32(status))
	}
	if err := unix.Pipe2(t.stop[:], unix.O_CLOEXEC); err != nil {
		tb.Fatalf("make a pipe: %v", err)
	}
	t.done.Go(t.serve)
	tb.Cleanup(t.close)
	return t
}

// choose looks the names up.
func (t *trap) choose(names []string) (numbers string, err error) {
	known := map[string]trapCall{}
	for _, call := range trapCalls() {
		known[call.name] = call
	}
	var list []string
	for _, name := range names {
		call, ok := known[name]
		if !ok {
			return "", fmt.Errorf("linuxtest: no trap for the system call %q", name)
		}
		t.calls[call.number] = call
		list = append(list, strconv.FormatUint(uint64(call.number), 10))
	}
	if len(list) == 0 {
		return "", errors.New("linuxtest: no system call to trap")
	}
	if _, ok := t.calls[unix.SYS_EXECVE]; !ok {
		// Needed to see where the target begins.
		list = append(list, strconv.Itoa(unix.SYS_EXECVE))
	}
	return strings.Join(list, ","), nil
}

// receiveFD takes one descriptor from a unix socket.
func receiveFD(socket int) (int, error) {
	buf := make([]byte, unix.CmsgSpace(4))
	if !readable(socket, 20*time.Second) {
		return -1, errors.New("nothing came in 20s")
	}
	_, n, _, _, err := unix.Recvmsg(socket, make([]byte, 1), buf, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return -1, err
	}
	messages, err := unix.ParseSocketControlMessage(buf[:n])
	if err != nil {
		return -1, err
	}
	if len(messages) == 0 {
		return -1, errors.New("the target ended before it was ready")
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return -1, err
	}
	return fds[0], nil
}

// close ends serve. It runs before the clean-up of the target, whose calls fail
// with ENOSYS from here on; so it ends the target first.
func (t *trap) close() {
	t.once.Do(func() {
		_ = t.target.Signal(unix.SIGKILL) // it may be gone
		_ = unix.Close(t.stop[1])
		t.done.Wait()
		_ = unix.Close(t.stop[0])
		_ = unix.Close(t.listener)
	})
}

// end gives back what a trap holds before the end of the test.
func (t *trap) end(tb testing.TB) {
	tb.Helper()
	t.close()
	t.target.end(tb)
}

// notification is struct seccomp_notif.
type notification struct {
	id     uint64
	pid    uint32
	flags  uint32
	number int32
	arch   uint32
	ip     uint64
	args   [6]uint64
}

// response is struct seccomp_notif_resp.
type response struct {
	id    uint64
	value int64
	errno int32
	flags uint32
}

// serve answers until nobody is left to ask or close is called.
func (t *trap) serve() {
	for {
		fds := []unix.PollFd{{Fd: int32(t.listener), Events: unix.POLLIN}, {Fd: int32(t.stop[0])}}
		_, err := unix.Poll(fds, -1)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || fds[1].Revents != 0 || fds[0].Revents&unix.POLLIN == 0 {
			return // stopped, or POLLHUP: the last process under the filter is gone
		}
		t.answer()
	}
}

func (t *trap) answer() {
	var n notification
	// EINTR, or ENOENT when the caller was killed meanwhile: poll again.
	if t.ioctl(unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&n)) != 0 {
		return
	}
	call := t.describe(&n)
	// What was read from /proc is about the caller only if it still waits.
	if t.ioctl(unix.SECCOMP_IOCTL_NOTIF_ID_VALID, unsafe.Pointer(&n.id)) != 0 {
		return
	}
	r := response{id: n.id}
	switch t.decide(n.number, call) {
	case verdictContinue:
		r.flags = unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE
	case verdictDeny:
		r.errno = -int32(unix.EPERM)
	case verdictKill:
		_ = t.target.Signal(unix.SIGKILL) // it may be gone
		if call.PID == t.target.pid {
			return // dies without an answer
		}
		r.flags = unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE
	}
	_ = t.ioctl(unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&r)) // ENOENT: killed meanwhile
}

// decide leaves to judge what the target does, not how it came to be.
func (t *trap) decide(number int32, call Call) verdict {
	if !t.running {
		t.running = number == unix.SYS_EXECVE
		return verdictContinue
	}
	if _, ok := t.calls[uint32(number)]; !ok {
		return verdictContinue
	}
	return t.judge(call)
}

func (t *trap) ioctl(request uintptr, p unsafe.Pointer) unix.Errno {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(t.listener), request, uintptr(p))
	return errno
}

// describe reads what /proc knows of the caller.
func (t *trap) describe(n *notification) Call {
	kind := t.calls[uint32(n.number)]
	call := Call{Name: kind.name, Args: n.args, TID: int(n.pid), PID: int(n.pid)}
	proc := filepath.Join("/proc", strconv.Itoa(call.TID))
	if status, err := os.ReadFile(filepath.Join(proc, "status")); err == nil {
		for line := range bytes.Lines(status) {
			key, value, _ := strings.Cut(strings.TrimSpace(string(line)), ":\t")
			switch key {
			case "Name":
				call.Comm = value
			case "Tgid":
				call.PID, _ = strconv.Atoi(value) // the kernel writes a number
			}
		}
	}
	var st unix.Stat_t
	if unix.Stat(filepath.Join(proc, "exe"), &st) == nil {
		call.Target = t.exe == [2]uint64{uint64(st.Dev), st.Ino}
	}
	switch {
	case kind.path >= 0:
		call.Path = readString(call.TID, n.args[kind.path])
	case kind.fd >= 0:
		call.Path, _ = os.Readlink(filepath.Join(proc, "fd", strconv.Itoa(int(int32(n.args[kind.fd])))))
	}
	return call
}

// readString reads a C string from the caller's memory.
func readString(pid int, address uint64) string {
	buf := make([]byte, unix.PathMax)
	// One page at a time: the string may end right before an unmapped one.
	page := uint64(os.Getpagesize())
	got := 0
	for got < len(buf) {
		size := min(int(page-(address+uint64(got))%page), len(buf)-got)
		local := []unix.Iovec{{Base: &buf[got], Len: uint64(size)}}
		remote := []unix.RemoteIovec{{Base: uintptr(address) + uintptr(got), Len: size}}
		n, err := unix.ProcessVMReadv(pid, local, remote, 0)
		if err != nil || n <= 0 {
			break
		}
		if end := bytes.IndexByte(buf[got:got+n], 0); end >= 0 {
			return string(buf[:got+end])
		}
		got += n
	}
	return string(buf[:got])
}
