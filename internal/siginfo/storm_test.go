//go:build amd64 || arm64

package siginfo

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/pitvisor/pitvisor/linuxtest"
	"golang.org/x/sys/unix"
)

// modeStorm sends signals, its arguments in turns, to the process whose pidfd is its
// descriptor 3, until that one ends it.
func modeStorm(args []string) int {
	for i := 0; ; i++ {
		sig, err := strconv.Atoi(args[i%len(args)])
		if err == nil {
			err = unix.PidfdSendSignal(3, unix.Signal(sig), nil, 0)
		}
		if err != nil {
			return complain(err)
		}
	}
}

// storm starts processes that send signals to this one until the test is over.
func storm(t *testing.T, processes int, signals ...unix.Signal) (senders map[int32]bool) {
	t.Helper()
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		t.Fatal(err)
	}
	self := os.NewFile(uintptr(fd), "pidfd")
	defer func() { _ = self.Close() }() // the senders have their own
	var args []string
	for _, sig := range signals {
		args = append(args, strconv.Itoa(int(sig)))
	}
	senders = map[int32]bool{}
	for range processes {
		c := linuxtest.Command{Args: linuxtest.Helper(t, "storm", args...), Extra: []*os.File{self}, Stderr: os.Stderr}
		senders[int32(c.Start(t).PID())] = true
	}
	return senders
}

// Handlers run between any two instructions of threads that compute, allocate,
// collect garbage, grow stacks and make system calls, and none of them notices.
func TestStormDisturbsNothing(t *testing.T) {
	linuxtest.NoLeaks(t)
	s := mustCatch(t, unix.SIGUSR1, unix.SIGUSR2, unix.SIGTERM)
	var stop atomic.Bool
	var work sync.WaitGroup
	for range 3 {
		work.Go(func() {
			for !stop.Load() {
				busy(t)
			}
		})
	}
	t.Run("storm", func(t *testing.T) { // which is over before the signals are let go
		senders := storm(t, 4, unix.SIGUSR1, unix.SIGUSR2)
		counts := map[unix.Signal]int{}
		for counts[unix.SIGUSR1]+counts[unix.SIGUSR2] < 10_000 {
			info, err := next(s)
			if err != nil {
				t.Fatal(err)
			}
			counts[info.Signal]++
			// The kernel may have lost who it was; then both numbers are 0.
			known := info.PID != 0
			if info.Code != 0 || known && (info.UID != uint32(os.Getuid()) || !senders[info.PID]) {
				t.Fatalf("caught %+v", info)
			}
		}
		if len(counts) != 2 {
			t.Errorf("caught %v, want both", counts)
		}
	})
	stop.Store(true)
	work.Wait()
}

// busy does things that a clumsy handler would spoil.
func busy(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Error(err)
		return
	}
	defer func() { _, _ = r.Close(), w.Close() }() // nothing is left in it
	want := bytes.Repeat([]byte{7}, 100)
	got := make([]byte, 200)
	for range 50 {
		// The results and errors of calls, and what is in floating-point registers.
		if err := unix.Fchdir(-1); err != unix.EBADF {
			t.Errorf("fchdir(-1) = %v", err)
		}
		if n, err := w.Write(want); n != len(want) || err != nil {
			t.Errorf("write = %d, %v", n, err)
		}
		if n, err := r.Read(got); err != nil || !bytes.Equal(got[:n], want) {
			t.Errorf("read = %d, %v", n, err)
		}
		if got := deep(200, 1.5); got != 1.5*201 {
			t.Errorf("deep = %v", got)
		}
	}
	runtime.GC()
}

// deep needs a stack that grows.
func deep(n int, x float64) float64 {
	var room [256]byte
	room[n%256] = 1
	if n == 0 {
		return x * float64(room[0])
	}
	return x + deep(n-1, x)
}

// Whoever floods the pipe does not keep another signal from being seen.
func TestFullPipeLosesNoKind(t *testing.T) {
	for name, how := range map[string]func([]unix.Signal, int) (func() error, error){"handler": catch, "os/signal": notify} {
		t.Run(name, func(t *testing.T) {
			linuxtest.NoLeaks(t)
			s, err := open([]unix.Signal{unix.SIGUSR1, unix.SIGUSR2, unix.SIGTERM, unix.SIGCHLD}, how)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = s.Close() }() // checked by NoLeaks
			fill(t, s.w)
			sendSelf(t, unix.SIGUSR1)
			sendSelf(t, unix.SIGTERM)
			linuxtest.Start(t, linuxtest.Helper(t, "exit", "0")...).Wait(t, within)
			linuxtest.Wait(t, within, func() (bool, string) {
				lost := state.lost[0].Load() | state.lost[1].Load()
				return lost == 1<<unix.SIGUSR1|1<<unix.SIGTERM|1<<unix.SIGCHLD, fmt.Sprintf("marks %#x", lost)
			})
			infos, err := drain(s)
			if err != nil || len(infos) < 500 {
				t.Fatalf("%d signals, %v, want a full pipe and three more", len(infos), err)
			}
			want := []Info{{Signal: unix.SIGUSR1}, {Signal: unix.SIGTERM}, {Signal: unix.SIGCHLD, Code: siKernel}}
			if name != "handler" {
				want[2].Code = 0
			}
			linuxtest.Exactly(t, infos[len(infos)-3:], want...)
			for _, info := range infos[:len(infos)-3] {
				if info.Signal != unix.SIGUSR2 {
					t.Fatalf("caught %+v, want only what the pipe was filled with", info)
				}
			}
			// And it goes on as before.
			sendSelf(t, unix.SIGUSR1)
			if info, err := next(s); err != nil || info.Signal != unix.SIGUSR1 {
				t.Errorf("caught %+v, %v afterwards, want SIGUSR1", info, err)
			}
			if infos, err := drain(s); err != nil || len(infos) != 0 {
				t.Errorf("caught %+v, %v more", infos, err)
			}
		})
	}
}

// fill writes records until there is no room.
func fill(t *testing.T, w int) {
	t.Helper()
	record := make([]byte, recordSize)
	record[0] = byte(unix.SIGUSR2)
	for {
		_, err := unix.Write(w, record)
		if err == unix.EAGAIN {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestCloseUnderFire(t *testing.T) {
	linuxtest.NoLeaks(t)
	rounds := 5000
	if testing.Short() {
		rounds = 500
	}
	storm(t, 4, unix.SIGWINCH) // which does nothing while it is not caught
	for range rounds {
		s, err := Catch(unix.SIGWINCH)
		if err != nil {
			t.Fatal(err)
		}
		w := s.w
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		checkUntouched(t, w, func() {})
		if t.Failed() {
			return
		}
	}
}

// A handler that has begun may write into the pipe: its number must not become
// somebody else's before.
func TestCloseWaitsForHandlers(t *testing.T) {
	linuxtest.NoLeaks(t)
	s := mustCatch(t, unix.SIGWINCH)
	state.inside.Add(1)
	leave := sync.OnceFunc(func() { state.inside.Add(-1) })
	defer leave()
	closed := make(chan error, 1)
	go func() { closed <- s.Close() }()
	linuxtest.Wait(t, within, func() (bool, string) { return state.pipe.Load() == 0, "the pipe is not taken away" })
	select {
	case err := <-closed:
		t.Fatalf("Close = %v while a handler is at work", err)
	case <-time.After(10 * time.Millisecond):
	}
	leave()
	if err := <-closed; err != nil {
		t.Error(err)
	}
}

// A handler that begins after Close, on a thread that was slow, finds no pipe.
func TestLateHandlerWritesNothing(t *testing.T) {
	linuxtest.NoLeaks(t)
	s := mustCatch(t, unix.SIGWINCH)
	late, err := sigaction(unix.SIGWINCH, nil)
	if err != nil {
		t.Fatal(err)
	}
	w := s.w
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	before, err := sigaction(unix.SIGWINCH, &late)
	if err != nil {
		t.Fatal(err)
	}
	checkUntouched(t, w, func() { sendSelf(t, unix.SIGWINCH) })
	if _, err := sigaction(unix.SIGWINCH, &before); err != nil {
		t.Fatal(err)
	}
	if n := state.inside.Load(); n != 0 {
		t.Errorf("%d handlers at work, want 0", n)
	}
}

// checkUntouched opens a pipe, which gets the number of the closed one, and looks
// whether anything comes out of it.
func checkUntouched(t *testing.T, closed int, when func()) {
	t.Helper()
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_NONBLOCK|unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	when()
	n, err := unix.Read(ends[0], make([]byte, recordSize))
	if n > 0 || err != unix.EAGAIN || ends[1] != closed {
		t.Errorf("%d bytes, %v in pipe %v after Close of pipe %d", n, err, ends, closed)
	}
	if err := errors.Join(unix.Close(ends[0]), unix.Close(ends[1])); err != nil {
		t.Error(err)
	}
}

// modeRawChild catches a signal, makes a child that shares all but its files (as a
// child is before exec), and says whether the parent heard of the child's signal.
func modeRawChild([]string) int {
	s, err := Catch(unix.SIGUSR1)
	if err != nil {
		return complain(err)
	}
	var pidfd int32
	runtime.LockOSThread()
	pid, errno := rawChild(&pidfd)
	if errno != 0 {
		return complain(fmt.Errorf("clone: %w", errno))
	}
	if err := unix.PidfdSendSignal(int(pidfd), unix.SIGUSR1, nil, 0); err != nil {
		return complain(err)
	}
	var status unix.WaitStatus
	if _, err := unix.Wait4(int(pid), &status, 0, nil); err != nil {
		return complain(err)
	}
	infos, err := drain(s)
	fmt.Printf("child %d; caught %v %v", status.ExitStatus(), infos, err)
	return 0
}

// rawChild makes a child that waits for a signal handler to have run, and exits
// with 7 then. It runs no Go. Signals are blocked until it waits.
//
//go:norace
//go:nosplit
func rawChild(pidfd *int32) (uintptr, syscall.Errno) {
	var old, none uint64
	full := ^none
	unix.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&full)), uintptr(unsafe.Pointer(&old)), 8, 0, 0)
	pid, _, errno := unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD|unix.CLONE_PIDFD), 0, uintptr(unsafe.Pointer(pidfd)), 0, 0, 0)
	if pid != 0 || errno != 0 {
		unix.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&old)), 0, 8, 0, 0)
		return pid, errno
	}
	var long unix.Timespec
	long.Sec = 60
	code := uintptr(1)
	_, _, errno = unix.RawSyscall6(unix.SYS_PPOLL, 0, 0, uintptr(unsafe.Pointer(&long)), uintptr(unsafe.Pointer(&none)), 8, 0)
	if errno == unix.EINTR {
		code = 7
	}
	for {
		unix.RawSyscall(unix.SYS_EXIT_GROUP, code, 0, 0)
	}
}

func TestChildBeforeExecWritesNothing(t *testing.T) {
	linuxtest.NoLeaks(t)
	out := linuxtest.Command{Args: linuxtest.Helper(t, "raw-child"), Stderr: os.Stderr}.Output(t, within)
	if want := "child 7; caught [] <nil>"; out != want {
		t.Errorf("%q, want %q", out, want)
	}
}
