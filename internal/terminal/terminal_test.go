package terminal

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/pitvisor/pitvisor/internal/siginfo"
	"github.com/pitvisor/pitvisor/linuxtest"
	"golang.org/x/sys/unix"
)

// modeJob plays a scenario on its controlling terminal, in the place of `pitvisor run`.
func modeJob(args []string) int {
	t, err := Open()
	if err == nil {
		err = word() // the shell has put us where we belong
	}
	if err == nil {
		err = t.Save()
	}
	if err == nil {
		err = scenarios()[args[0]](t)
	}
	if err == nil {
		err = t.Close()
	}
	if err != nil {
		return complain(fmt.Errorf("%s: %w", args[0], err))
	}
	return 0
}

func scenarios() map[string]func(*Terminal) error {
	return map[string]func(*Terminal) error{
		"killed editor":    func(t *Terminal) error { return playKilled(t, "spoil", "die") },
		"stty":             playStty,
		"pager beside":     playPager,
		"pager before":     playPagerBefore,
		"dead group":       func(t *Terminal) error { return playKilled(t, "group", "exit") },
		"zombie group":     playZombie,
		"living group":     playLiving,
		"nothing":          playNothing,
		"others' terminal": playOthers,
		"hang-up":          playHangup,
		"stop":             func(t *Terminal) error { return playStop(t.StopSelf) },
		"stop by pipe":     func(*Terminal) error { return playStop(func() error { return stopSelf(stopByPipe) }) },
		"stop caught":      playStopCaught,
		"stop ignored":     playStopIgnored,
	}
}

// child is a command of the job.
type child struct {
	pid, fd int
	output  *bufio.Reader
}

// command starts a helper mode in the job's process group.
func command(mode string, args ...string) (child, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return child{}, err
	}
	defer w.Close()
	argv := append([]string{os.Args[0], strings.TrimSuffix(os.Args[1], "job") + mode}, args...)
	c := child{output: bufio.NewReader(r)}
	c.pid, _, err = syscall.StartProcess("/proc/self/exe", argv, &syscall.ProcAttr{
		Env: os.Environ(), Files: []uintptr{0, w.Fd(), 2}, Sys: &syscall.SysProcAttr{PidFD: &c.fd},
	})
	return c, err
}

// wait waits for its end.
func (c child) wait(flags int) error {
	return ignoringEINTR(func() error { return unix.Waitid(unix.P_PIDFD, c.fd, nil, unix.WEXITED|flags, nil) })
}

// word waits for a word of the shell.
func word() error {
	_, err := os.Stdin.Read(make([]byte, 1))
	return err
}

// playKilled restores what a command has left.
func playKilled(t *Terminal, mode string, args ...string) error {
	c, err := command(mode, args...)
	if err == nil {
		err = c.wait(0)
	}
	if err != nil {
		return err
	}
	return restored(t)
}

// restored restores what is spoilt, and looks.
func restored(t *Terminal) error {
	modes, err := t.modes()
	if err != nil {
		return err
	}
	if modes == t.saved.modes && t.Foreground() {
		return errors.New("nothing is spoilt")
	}
	if err := t.Restore(); err != nil {
		return err
	}
	modes, err = t.modes()
	if err != nil {
		return err
	}
	if modes != t.saved.modes || !t.Foreground() {
		return fmt.Errorf("modes restored: %v, foreground: %v", modes == t.saved.modes, t.Foreground())
	}
	return nil
}

// playZombie has a foreground group whose only member is not reaped yet.
func playZombie(t *Terminal) error {
	c, err := command("group", "exit")
	if err == nil {
		err = c.wait(unix.WNOWAIT)
	}
	if err == nil && t.Foreground() {
		err = errors.New("the group of the zombie is not in the foreground")
	}
	if err == nil {
		err = restored(t)
	}
	return errors.Join(err, c.wait(0))
}

// playLiving has somebody in the foreground who is at work.
func playLiving(t *Terminal) error {
	c, err := command("group", "live")
	if err != nil {
		return err
	}
	if _, err := c.output.ReadString('\n'); err != nil {
		return err
	}
	if t.Foreground() {
		return errors.New("the other group is not in the foreground")
	}
	if err := forbidWrites(); err != nil {
		return err
	}
	err = t.Restore()
	return errors.Join(err, unix.PidfdSendSignal(c.fd, unix.SIGKILL, nil, 0), c.wait(0))
}

// playStty has modes changed on purpose.
func playStty(t *Terminal) error {
	c, err := command("spoil", "exit")
	if err == nil {
		err = c.wait(0)
	}
	if err == nil {
		err = forbidWrites()
	}
	return errors.Join(err, t.RestoreGroup())
}

// playPager has somebody else in the process group who is at work.
func playPager(t *Terminal) error {
	c, err := command("spoil", "live")
	if err != nil {
		return err
	}
	if _, err := c.output.ReadString('\n'); err != nil {
		return err
	}
	if err := forbidWrites(); err != nil {
		return err
	}
	err = t.Restore()
	return errors.Join(err, unix.PidfdSendSignal(c.fd, unix.SIGKILL, nil, 0), c.wait(0))
}

// playPagerBefore saves what somebody else in the process group has made of the
// terminal, who is through with it before the end.
func playPagerBefore(t *Terminal) error {
	before := t.saved.modes
	if err := errors.Join(spoil(t.fd), t.Save(), unix.IoctlSetTermios(t.fd, unix.TCSETSW, &before), forbidWrites()); err != nil {
		return err
	}
	return t.Restore()
}

func playNothing(t *Terminal) error {
	if err := forbidWrites(); err != nil {
		return err
	}
	if err := unix.IoctlSetTermios(t.fd, unix.TCSETSW, &t.saved.modes); err != unix.EPERM {
		return fmt.Errorf("a write to the terminal = %w, want EPERM", err)
	}
	return t.Restore()
}

// playOthers sees the shell take the terminal, and must leave it at that.
func playOthers(t *Terminal) error {
	tell("job", fmt.Sprintf("foreground %v", t.Foreground()))
	if err := word(); err != nil {
		return err
	}
	if err := forbidWrites(); err != nil {
		return err
	}
	return t.Restore()
}

func playHangup(t *Terminal) error {
	tell("job", "ready")
	for {
		if _, err := t.modes(); err == unix.EIO {
			return t.Restore()
		}
		runtime.Gosched()
	}
}

// stops is how often a job stops. A stop that returns too early does so by chance.
const stops = 100

// playStop stops, and wants the word that the shell has given before it went on. It
// does so on a thread that is not the main one, which the kernel prefers for signals.
func playStop(stop func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			done <- playStop(stop) // the next goroutine gets another one
			return
		}
		done <- stopOften(stop)
	}()
	return <-done
}

func stopOften(stop func() error) error {
	if err := unix.SetNonblock(0, true); err != nil {
		return err
	}
	for i := range stops {
		if err := stop(); err != nil {
			return err
		}
		if _, err := unix.Read(0, make([]byte, 1)); err != nil {
			return fmt.Errorf("stop %d returned before the job was continued: %w", i, err)
		}
	}
	return nil
}

// playStopCaught stops although it catches the signal, and catches it afterwards.
func playStopCaught(t *Terminal) error {
	s, err := siginfo.Catch(unix.SIGTSTP)
	if err != nil {
		return err
	}
	if err := playStop(t.StopSelf); err != nil {
		return err
	}
	if info, ok, err := s.Next(); ok || err != nil {
		return fmt.Errorf("caught %+v, %w, which was to stop it", info, err)
	}
	if _, err := unix.Poll([]unix.PollFd{{Fd: 0, Events: unix.POLLIN}}, -1); err != nil {
		return err
	}
	tell("job", "ready")
	for {
		info, ok, err := s.Next()
		if err != nil || ok && info.Signal != unix.SIGTSTP {
			return fmt.Errorf("caught %+v, %w", info, err)
		}
		if ok {
			return s.Close()
		}
		_, _ = unix.Poll([]unix.PollFd{{Fd: int32(s.FD()), Events: unix.POLLIN}}, -1) // EINTR
	}
}

func playStopIgnored(t *Terminal) error {
	if _, err := sigaction(unix.SIGTSTP, &action{handler: ignore}); err != nil {
		return err
	}
	return t.StopSelf()
}

// modeBare has no terminal, and nobody who could continue it.
func modeBare([]string) int {
	if _, err := takeTerminal(""); err != nil {
		return complain(err)
	}
	if _, err := Open(); !errors.Is(err, unix.ENXIO) {
		return complain(fmt.Errorf("Open() = %w, want ENXIO", err))
	}
	if err := errors.Join(new(Terminal).StopSelf(), stopSelf(stopByPipe)); err != nil {
		return complain(err)
	}
	return 0
}

func TestWithoutATerminalOrAShell(t *testing.T) {
	linuxtest.NoLeaks(t)
	p := linuxtest.Command{Args: linuxtest.Helper(t, "bare"), Stderr: os.Stderr}.Start(t)
	linuxtest.ExitCause(t, p.Wait(t, within), 0)
}

// What a killed command has left is cleaned up.
func TestRestore(t *testing.T) {
	for _, scenario := range []string{"killed editor", "dead group", "zombie group"} {
		t.Run(scenario, func(t *testing.T) {
			linuxtest.NoLeaks(t)
			f := start(t, "foreground", scenario)
			f.order(t, "wait", "exit 0")
			f.order(t, "state", "echo true, the job's")
			f.quit(t)
		})
	}
}

// A terminal that is as it was, or that somebody else works on, is not written to.
func TestRestoreLeavesAlone(t *testing.T) {
	t.Run("nothing", func(t *testing.T) {
		linuxtest.NoLeaks(t)
		f := start(t, "foreground", "nothing")
		f.order(t, "wait", "exit 0")
		f.order(t, "state", "echo true, the job's")
		f.quit(t)
	})
	t.Run("living group", func(t *testing.T) {
		linuxtest.NoLeaks(t)
		f := start(t, "foreground", "living group")
		f.order(t, "wait", "exit 0")
		f.order(t, "state", "echo true, another's")
		f.quit(t)
	})
	for scenario, state := range map[string]string{
		"stty": "echo false, the job's", "pager beside": "echo false, the job's", "pager before": "echo true, the job's",
	} {
		t.Run(scenario, func(t *testing.T) {
			linuxtest.NoLeaks(t)
			f := start(t, "foreground", scenario)
			f.order(t, "wait", "exit 0")
			f.order(t, "state", state)
			f.quit(t)
		})
	}
	for _, where := range []string{"foreground", "background"} {
		t.Run("shell, job in the "+where, func(t *testing.T) {
			linuxtest.NoLeaks(t)
			f := start(t, where, "others' terminal")
			f.said(t, "job", fmt.Sprintf("foreground %v", where == "foreground"))
			f.order(t, "take", "taken")
			f.order(t, "wait", "exit 0")
			f.order(t, "state", "echo false, the shell's")
			f.quit(t)
		})
	}
}

// A job that was in the background all the time must not even put the modes back
// when it comes to the foreground: those that it has seen were the shell's.
func TestRestoreForgetsTheShellsModes(t *testing.T) {
	linuxtest.NoLeaks(t)
	term := &Terminal{fd: -1, saved: state{known: true}}
	if err := term.Restore(); err != nil {
		t.Errorf("Restore() = %v, want no access to the terminal at all", err)
	}
}

func TestHangupIsNoError(t *testing.T) {
	linuxtest.NoLeaks(t)
	f := start(t, "foreground", "hang-up")
	f.said(t, "job", "ready")
	if err := f.master.Close(); err != nil {
		t.Fatal(err)
	}
	f.order(t, "wait", "exit 0")
	f.quit(t)
}

func TestStopSelf(t *testing.T) {
	for _, scenario := range []string{"stop", "stop by pipe", "stop caught"} {
		t.Run(scenario, func(t *testing.T) {
			linuxtest.NoLeaks(t)
			f := start(t, "foreground", scenario)
			for range stops {
				f.order(t, "wait", fmt.Sprintf("stopped by %d", unix.SIGTSTP))
				f.order(t, "continue", "continued")
			}
			if scenario == "stop caught" {
				f.write(t, "word")
				f.said(t, "job", "ready")
				f.order(t, "suspend", "sent")
			}
			f.order(t, "wait", "exit 0")
			f.quit(t)
		})
	}
}

func TestStopSelfWhereItIsIgnored(t *testing.T) {
	linuxtest.NoLeaks(t)
	f := start(t, "foreground", "stop ignored")
	f.order(t, "wait", "exit 0")
	f.quit(t)
}

func TestCloseTwice(t *testing.T) {
	term := &Terminal{fd: -1}
	if err := term.Close(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Close again = %v, want ErrClosed", err)
	}
}
