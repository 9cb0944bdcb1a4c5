package main

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/internal/siginfo"
	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/pidfd"
)

// modeTally prints which signals it gets, one a line, until SIGTERM, or a SIGHUP that
// nobody hears of. The lines go to a file as well, if one is named. Package os/signal will not
// do: it may make one of two equal signals.
func modeTally(args []string) int {
	source, err := siginfo.Catch(unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGHUP, unix.SIGUSR1, unix.SIGUSR2, unix.SIGWINCH, unix.SIGCONT)
	outputs := []*os.File{os.Stdout}
	for _, name := range args {
		file, openErr := os.OpenFile(name, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
		outputs, err = append(outputs, file), errors.Join(err, openErr)
	}
	tell := func(what string) bool {
		heard := true
		for _, f := range outputs {
			_, err := fmt.Fprintf(f, "<%s>\n", what)
			heard = heard && err == nil
		}
		return heard
	}
	if err != nil || !tell("ready") {
		return 1
	}
	for begin := time.Now(); time.Since(begin) < linuxtest.HelperLife; {
		_, _ = unix.Poll([]unix.PollFd{{Fd: int32(source.FD()), Events: unix.POLLIN}}, 1000) // EINTR
		for {
			info, ok, err := source.Next()
			if !ok || err != nil {
				break
			}
			heard := tell(unix.SignalName(info.Signal))
			if info.Signal == unix.SIGTERM || info.Signal == unix.SIGHUP && !heard {
				return 5
			}
		}
	}
	return 6
}

// shell is an interactive bash on a terminal of its own.
type shell struct {
	*linuxtest.Process
	yard
	t      *testing.T
	master *os.File
	dir    string
	run    string // what stands before a command: nothing, or pitvisor run --
	unread string
	heard  strings.Builder
}

// startShell starts bash and waits for its first prompt.
func startShell(t *testing.T, y yard, run string) *shell {
	t.Helper()
	s := &shell{yard: y, t: t, run: run, dir: t.TempDir()}
	master, path := linuxtest.Pty(t)
	s.master = master
	slave, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer slave.Close()
	s.resize(30, 100)
	s.Process = linuxtest.Command{
		Args: []string{"/usr/bin/setsid", "--ctty", "bash", "--norc", "--noprofile", "--noediting", "-i"},
		Env: []string{
			"PATH=" + y.bin + ":" + searchPath(), "HOME=" + s.dir, "LC_ALL=C", "TERM=xterm", "PS1=prompt:$?:", "HISTFILE=",
			"LESSHISTFILE=-", "PITVISOR_CGROUP_ROOT=" + y.root,
		},
		Dir: s.dir, Stdin: slave, Stdout: slave, Stderr: slave,
	}.Start(t)
	if err := s.master.SetReadDeadline(time.Now().Add(2 * patience)); err != nil {
		t.Fatal(err)
	}
	s.expect(`prompt:0:`)
	return s
}

// resize changes the size of the window.
func (s *shell) resize(rows, columns uint16) {
	s.t.Helper()
	if err := unix.IoctlSetWinsize(int(s.master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns}); err != nil {
		s.t.Fatal(err)
	}
}

// keys types.
func (s *shell) keys(keys string) {
	s.t.Helper()
	if _, err := s.master.WriteString(keys); err != nil {
		s.t.Fatal(err)
	}
}

// command types a command line, in which RUN is what the test is about.
func (s *shell) command(line string) {
	s.t.Helper()
	s.keys(strings.ReplaceAll(line, "RUN ", s.run) + "\n")
	s.expect(`\n`) // the echo
}

// expect waits for what matches, and returns what came before and the match.
func (s *shell) expect(pattern string) string {
	s.t.Helper()
	for re, buf := regexp.MustCompile(pattern), make([]byte, 64<<10); ; {
		if at := re.FindStringIndex(s.unread); at != nil {
			text := s.unread[:at[1]]
			s.unread = s.unread[at[1]:]
			return text
		}
		n, err := s.master.Read(buf)
		s.unread += string(buf[:n])
		s.heard.Write(buf[:n])
		if err != nil {
			s.t.Fatalf("no %s: %v; heard:\n%s", pattern, err, s.end())
		}
	}
}

// end is the end of what was heard.
func (s *shell) end() string {
	text := s.heard.String()
	return text[max(0, len(text)-2000):]
}

// prompt waits for the prompt after a command with this exit code.
func (s *shell) prompt(code int) string {
	s.t.Helper()
	text := s.expect(`prompt:\d+:`)
	if !strings.HasSuffix(text, fmt.Sprintf("prompt:%d:", code)) {
		s.t.Fatalf("%q, want exit code %d; heard:\n%s", text, code, s.end())
	}
	return text
}

// tty is the state of a terminal.
type tty struct {
	modes unix.Termios
	group int
}

func (s *shell) tty() tty {
	s.t.Helper()
	modes, err := unix.IoctlGetTermios(int(s.master.Fd()), unix.TCGETS)
	if err != nil {
		s.t.Fatal(err)
	}
	group, err := unix.IoctlGetInt(int(s.master.Fd()), unix.TIOCGPGRP)
	if err != nil {
		s.t.Fatal(err)
	}
	return tty{*modes, group}
}

// same wants the terminal to be as it was.
func (s *shell) same(before tty) {
	s.t.Helper()
	if now := s.tty(); now != before {
		s.t.Errorf("the terminal is %+v, was %+v; heard:\n%s", now, before, s.end())
	}
}

// child holds the only process that the shell has started: pitvisor, or the command
// where it is not there.
func (s *shell) child() *pidfd.Process {
	s.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", s.PID()))
	if err != nil {
		s.t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		s.t.Fatalf("children of the shell: %v; heard:\n%s", err, s.end())
	}
	p, err := pidfd.Open(pid)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = p.Close() })
	return p
}

// once wants the tally to have got a signal once. SIGUSR1 takes the same way as one
// that was forwarded would, behind it.
func (s *shell) once(child *pidfd.Process, sig string) {
	s.t.Helper()
	text := s.expect("<" + sig + ">")
	if err := child.Signal(unix.SIGUSR1); err != nil {
		s.t.Fatal(err)
	}
	text += s.expect("<SIGUSR1>")
	if n := strings.Count(text, "<"+sig+">"); n != 1 {
		s.t.Errorf("%d times %s, want once: %q", n, sig, text)
	}
}

// quit ends the shell, and with it the test.
func (s *shell) quit() {
	s.t.Helper()
	s.keys("exit 0\n")
	linuxtest.ExitCause(s.t, s.Wait(s.t, patience), 0)
	s.nothingLeft(s.t)
}

func (s *shell) signal(p *pidfd.Process, sig unix.Signal) {
	s.t.Helper()
	if err := p.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
}
