package terminal

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/pitvisor/pitvisor/linuxtest"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	linuxtest.Main(m, linuxtest.Modes{
		"shell": modeShell, "job": modeJob, "spoil": modeSpoil, "group": modeGroup, "bare": modeBare,
	})
}

// within is how long a test waits for what must happen.
const within = 20 * time.Second

// modeShell is what a shell with job control is to its job: it leads the session of a
// terminal, runs a job in a process group of its own, in the foreground or not, and
// does with it what it is told, line by line on descriptor 3. It tells on descriptor 4.
//
//	shell TERMINAL foreground|background SCENARIO
func modeShell(args []string) int {
	signal.Ignore(unix.SIGHUP) // for the job, which inherits it
	tty, err := takeTerminal(args[0])
	if err != nil {
		return complain(err)
	}
	goR, goW, err := os.Pipe()
	if err != nil {
		return complain(err)
	}
	argv := []string{os.Args[0], strings.TrimSuffix(os.Args[1], "shell") + "job", args[2]}
	sh := shell{tty: tty, words: goW}
	sh.pid, _, err = syscall.StartProcess("/proc/self/exe", argv, &syscall.ProcAttr{
		Env:   os.Environ(),
		Files: []uintptr{goR.Fd(), 1, 2, ^uintptr(0), 4},
		Sys:   &syscall.SysProcAttr{Setpgid: true, PidFD: &sh.job},
	})
	if err == nil && args[1] == "foreground" {
		err = sh.foreground(sh.pid)
	}
	if err == nil {
		err = sh.word()
	}
	if err != nil {
		return complain(err)
	}
	for orders := bufio.NewScanner(os.NewFile(3, "orders")); orders.Scan(); {
		answer, err := sh.obey(orders.Text())
		if err != nil {
			return complain(err)
		}
		if answer != "" {
			tell("shell", answer)
		}
	}
	return 0
}

type shell struct {
	tty, job, pid int
	words         *os.File // the job's standard input
}

// foreground makes a process group the terminal's.
func (sh shell) foreground(group int) error {
	return quietly(func() error { return unix.IoctlSetPointerInt(sh.tty, unix.TIOCSPGRP, group) })
}

// word gives the job a byte to read.
func (sh shell) word() error {
	_, err := sh.words.Write([]byte{1})
	return err
}

func (sh shell) obey(order string) (string, error) {
	switch order {
	case "wait": // for the job to stop or to end
		var status unix.WaitStatus
		_, err := unix.Wait4(sh.pid, &status, unix.WUNTRACED, nil)
		for err == unix.EINTR {
			_, err = unix.Wait4(sh.pid, &status, unix.WUNTRACED, nil)
		}
		switch {
		case status.Stopped():
			return fmt.Sprintf("stopped by %d", status.StopSignal()), err
		case status.Signaled():
			return fmt.Sprintf("ended by %d", status.Signal()), err
		}
		return fmt.Sprintf("exit %d", status.ExitStatus()), err
	case "word": // the job answers
		return "", sh.word()
	case "continue":
		return "continued", errors.Join(sh.word(), unix.PidfdSendSignal(sh.job, unix.SIGCONT, nil, 0))
	case "suspend":
		return "sent", unix.PidfdSendSignal(sh.job, unix.SIGTSTP, nil, 0)
	case "take": // the terminal, with modes of the shell's own
		return "taken", errors.Join(sh.foreground(unix.Getpgrp()), spoil(sh.tty), sh.word())
	case "state":
		t := Terminal{fd: sh.tty}
		modes, err := t.modes()
		if err != nil {
			return "", err
		}
		group, err := t.group()
		whose := "another's"
		switch group {
		case sh.pid:
			whose = "the job's"
		case unix.Getpgrp():
			whose = "the shell's"
		}
		return fmt.Sprintf("echo %v, %s", modes.Lflag&unix.ECHO != 0, whose), err
	}
	return "", fmt.Errorf("unknown order %q", order)
}

// tell says something to the test.
func tell(who, what string) {
	line, err := json.Marshal([2]string{who, what})
	if err == nil {
		_, _ = unix.Write(4, append(line, '\n')) // the test notices that it is missing
	}
}

// takeTerminal begins a session on a terminal, or without one.
func takeTerminal(path string) (int, error) {
	if _, err := unix.Setsid(); err != nil {
		return -1, fmt.Errorf("setsid: %w", err)
	}
	if path == "" {
		return -1, nil
	}
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", path, err)
	}
	return fd, nil
}

// spoil sets modes as an editor does.
func spoil(fd int) error {
	t := Terminal{fd: fd}
	modes, err := t.modes()
	if err != nil {
		return err
	}
	modes.Lflag &^= unix.ECHO | unix.ICANON | unix.ISIG
	modes.Iflag &^= unix.ICRNL
	modes.Oflag &^= unix.OPOST
	modes.Cc[unix.VMIN] = 7
	return unix.IoctlSetTermios(fd, unix.TCSETS, &modes)
}

// modeSpoil is an editor that is killed, that exits as stty does, or that lives on.
func modeSpoil(args []string) int {
	t, err := Open()
	if err == nil {
		err = spoil(t.fd)
	}
	if err != nil {
		return complain(err)
	}
	fmt.Println("ready")
	switch args[0] {
	case "exit":
		return 0
	case "live":
		return rest()
	}
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err == nil {
		err = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
	}
	return complain(fmt.Errorf("not killed: %v", err))
}

// modeGroup puts itself into a process group of its own, and that into the
// foreground; then it exits, or lives on.
func modeGroup(args []string) int {
	t, err := Open()
	if err == nil {
		err = unix.Setpgid(0, 0)
	}
	if err == nil {
		err = shell{tty: t.fd}.foreground(unix.Getpgrp())
	}
	if err != nil {
		return complain(err)
	}
	fmt.Println("ready")
	if args[0] == "live" {
		return rest()
	}
	return 0
}

// rest waits to be killed.
func rest() int {
	timer := time.NewTimer(linuxtest.HelperLife)
	defer timer.Stop()
	<-timer.C
	return 0
}

// fixture is a terminal with a shell and its job.
type fixture struct {
	*linuxtest.Process
	master *os.File
	orders *os.File
	lines  *bufio.Scanner
}

// start starts a shell with a job that plays a scenario.
func start(t *testing.T, where, scenario string) *fixture {
	t.Helper()
	master, slave := linuxtest.Pty(t)
	return startOn(t, master, slave, where, scenario)
}

func startOn(t *testing.T, master *os.File, slave, where, scenario string) *fixture {
	t.Helper()
	ordersR, ordersW := pipe(t)
	linesR, linesW := pipe(t)
	f := &fixture{master: master, orders: ordersW, lines: bufio.NewScanner(linesR)}
	f.Process = linuxtest.Command{
		Args: linuxtest.Helper(t, "shell", slave, where, scenario), Stderr: os.Stderr, Extra: []*os.File{ordersR, linesW},
	}.Start(t)
	_, _ = ordersR.Close(), linesW.Close() // the shell has its own
	if err := linesR.SetReadDeadline(time.Now().Add(within)); err != nil {
		t.Fatal(err)
	}
	return f
}

func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = r.Close(), w.Close() }) // mostly closed already
	return r, w
}

// said waits for a line of the shell or its job.
func (f *fixture) said(t *testing.T, who, what string) {
	t.Helper()
	var got [2]string
	if !f.lines.Scan() {
		t.Fatalf("%s said nothing, want %q: %v", who, what, f.lines.Err())
	}
	if err := json.Unmarshal(f.lines.Bytes(), &got); err != nil {
		t.Fatalf("%q: %v", f.lines.Text(), err)
	}
	if want := [2]string{who, what}; got != want {
		t.Fatalf("said %q, want %q", got, want)
	}
}

// order tells the shell to do something, or its job when it waits for that.
func (f *fixture) order(t *testing.T, what, answer string) {
	t.Helper()
	f.write(t, what)
	f.said(t, "shell", answer)
}

func (f *fixture) write(t *testing.T, what string) {
	t.Helper()
	if _, err := f.orders.WriteString(what + "\n"); err != nil {
		t.Fatal(err)
	}
}

// quit sees the shell end well.
func (f *fixture) quit(t *testing.T) {
	t.Helper()
	if err := f.orders.Close(); err != nil {
		t.Fatal(err)
	}
	linuxtest.ExitCause(t, f.Wait(t, within), 0)
}

// forbidWrites makes it an error for this program to change any terminal, for good.
func forbidWrites() error {
	const (
		returnErrno, returnAllow = 0x00050000, 0x7fff0000
		load                     = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equal                    = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		result                   = unix.BPF_RET | unix.BPF_K
	)
	requests := []uint32{unix.TCSETS, unix.TCSETSW, unix.TCSETSF, unix.TIOCSPGRP}
	filter := []unix.SockFilter{
		{Code: load, K: 0}, // the number of the call
		{Code: equal, K: unix.SYS_IOCTL, Jt: 1},
		{Code: result, K: returnAllow},
		{Code: load, K: 24}, // its second argument
	}
	for i, r := range requests {
		filter = append(filter, unix.SockFilter{Code: equal, K: r, Jt: uint8(len(requests) - i)})
	}
	filter = append(filter, unix.SockFilter{Code: result, K: returnAllow},
		unix.SockFilter{Code: result, K: returnErrno | uint32(unix.EPERM)})
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return errno
	}
	return nil
}

// complain is for modes that cannot do their work.
func complain(err error) int {
	fmt.Fprintln(os.Stderr, "helper:", err)
	return 1
}
