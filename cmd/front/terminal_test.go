package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
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

// TestOnTerminal: jobs of an interactive shell behave as they do without pitvisor.
func TestOnTerminal(t *testing.T) {
	linuxtest.NeedCommand(t, "setsid", "bash", "stty", "seq")
	y := newYard(t)
	tally := strings.Join(linuxtest.Helper(t, "tally"), " ")
	tests := []struct {
		name string
		play func(s *shell, tally string)
	}{
		{"keys", playKeys},
		{"signals", playSignals},
		{"kill of the job", playKill},
		{"stop and continue", playStop},
		{"stop of the command", playStopCommand},
		{"read in the background", playBackground},
		{"pipeline", playPipeline},
		{"less", playLess},
		{"less behind", playLessBehind},
		{"vi", playVi},
		{"shell", playShell},
		{"killed in raw mode", playRaw},
		{"new modes", playModes},
		{"hang-up", playHangup},
	}
	for _, run := range []string{"", "pitvisor run -- "} {
		for _, test := range tests {
			t.Run(test.name+map[string]string{"": " bare"}[run], func(t *testing.T) {
				linuxtest.NoLeaks(t)
				test.play(startShell(t, y, run), tally)
			})
		}
	}
}

func playKeys(s *shell, tally string) {
	before := s.tty()
	s.command("RUN " + tally)
	s.expect("<ready>")
	child := s.child()
	for range 10 {
		s.keys("\x03")
		s.once(child, "SIGINT")
	}
	s.keys("\x1c")
	s.once(child, "SIGQUIT")
	s.resize(40, 120)
	s.once(child, "SIGWINCH")
	s.signal(child, unix.SIGTERM)
	s.prompt(5)
	s.same(before)
	s.quit()
}

func (s *shell) signal(p *pidfd.Process, sig unix.Signal) {
	s.t.Helper()
	if err := p.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
}

func playSignals(s *shell, tally string) {
	s.command("RUN " + tally)
	s.expect("<ready>")
	child := s.child()
	for _, sig := range []unix.Signal{unix.SIGINT, unix.SIGQUIT, unix.SIGHUP, unix.SIGUSR2, unix.SIGWINCH, unix.SIGCONT} {
		s.signal(child, sig)
		s.once(child, unix.SignalName(sig))
	}
	s.signal(child, unix.SIGTERM)
	s.prompt(5)
	s.quit()
}

func playKill(s *shell, tally string) {
	s.command("RUN " + tally + " &")
	s.expect("<ready>")
	child := s.child()
	for range 10 {
		s.command("kill -INT %1")
		s.once(child, "SIGINT")
	}
	s.command("kill %1; wait; echo o''ver")
	if text := s.expect("over\r\n"); strings.Count(text, "<SIGTERM>") != 1 {
		s.t.Errorf("%q, want one SIGTERM", text)
	}
	s.quit()
}

func playStop(s *shell, tally string) {
	before := s.tty()
	s.command("RUN " + tally)
	s.expect("<ready>")
	child := s.child()
	s.keys("\x1a")
	s.expect(`\[1\]\+  Stopped`)
	s.prompt(128 + int(unix.SIGTSTP))
	s.same(before)
	s.command("jobs")
	s.expect(`\[1\]\+  Stopped +` + regexp.QuoteMeta(s.run+tally))
	s.prompt(0)
	s.command("fg")
	s.once(child, "SIGCONT")
	s.keys("\x03")
	s.once(child, "SIGINT")
	s.keys("\x1a")
	s.prompt(128 + int(unix.SIGTSTP))
	s.command("bg")
	s.once(child, "SIGCONT")
	s.command("jobs")
	s.expect(`\[1\]\+  Running +` + regexp.QuoteMeta(s.run+tally) + " &")
	s.prompt(0)
	s.signal(child, unix.SIGTERM)
	s.expect("<SIGTERM>")
	s.command("wait %1")
	s.prompt(5)
	s.same(before)
	s.quit()
}

// playStopCommand stops the command alone; the shell must take over all the same.
func playStopCommand(s *shell, _ string) {
	before := s.tty()
	s.command("RUN sh -c 'kill -STOP $$; echo on again; exit 4'")
	s.expect(`\[1\]\+  Stopped`)
	s.expect(`prompt:\d+:`)
	s.same(before)
	s.command("fg")
	s.expect("on again")
	s.prompt(4)
	s.same(before)
	s.quit()
}

// playBackground has a command read the terminal in the background.
func playBackground(s *shell, _ string) {
	s.command("RUN cat & wait")
	s.expect(`\[1\]\+  Stopped`)
	s.expect(`prompt:\d+:`)
	s.command("fg")
	s.expect("cat")
	s.keys("text\n")
	s.expect("text\r\ntext\r\n")
	s.keys("\x04")
	s.prompt(0)
	s.quit()
}

// playPipeline has two runs in one job.
func playPipeline(s *shell, _ string) {
	before := s.tty()
	s.command("RUN cat | RUN sed -u s/^/-/")
	s.keys("text\n")
	s.expect("-text")
	s.keys("\x1a")
	s.expect(`\[1\]\+  Stopped`)
	s.expect(`prompt:\d+:`)
	s.same(before)
	s.command("fg")
	s.expect("sed -u s/\\^/-/\r\n")
	s.keys("again\n\x04")
	s.expect("-again")
	s.prompt(0)
	s.same(before)
	s.quit()
}

func playLess(s *shell, _ string) {
	linuxtest.NeedCommand(s.t, "less")
	before := s.tty()
	s.command("RUN seq 1 100000 | less")
	s.expect("29\r\n:")
	s.keys("G")
	s.expect(`100000\r\n.*\(END\)`)
	s.keys("q")
	s.prompt(0)
	s.same(before)
	s.command("RUN seq 1 1000000 | less") // more than fits the pipe
	s.expect("29\r\n:")
	s.keys("q")
	s.prompt(0)
	s.command(`echo "${PIPESTATUS[@]}"`)
	s.expect("\n?141 0\r\n")
	s.prompt(0)
	s.same(before)
	s.quit()
}

// playLessBehind ends the command while less shows what it has said: less still has
// the terminal.
func playLessBehind(s *shell, _ string) {
	linuxtest.NeedCommand(s.t, "less")
	before := s.tty()
	for range 5 {
		s.command("RUN seq 1 100 | less")
		s.expect("29\r\n:")
		linuxtest.Wait(s.t, patience, func() (bool, string) { return len(s.runs(s.t)) == 0, "the run has not ended" })
		s.keys(" ")
		s.expect("58\r\n:")
		s.keys("q")
		s.prompt(0)
		s.same(before)
	}
	s.quit()
}

func playVi(s *shell, _ string) {
	linuxtest.NeedCommand(s.t, "vi")
	before := s.tty()
	s.command("RUN vi -u NONE -n -i NONE file")
	s.expect("~.*~")
	s.keys("ihello")
	s.expect("hello")
	s.keys("\x1b\x1a")
	s.expect(`\[1\]\+  Stopped`)
	s.expect(`prompt:\d+:`)
	s.same(before)
	s.command("fg")
	s.expect("hello")
	s.keys(":wq\r")
	s.prompt(0)
	s.same(before)
	if text, err := os.ReadFile(filepath.Join(s.dir, "file")); err != nil || string(text) != "hello\n" {
		s.t.Errorf("vi has written %q, %v", text, err)
	}
	s.quit()
}

// playShell starts a shell below the shell, which has jobs of its own.
func playShell(s *shell, tally string) {
	before := s.tty()
	s.command("PS1='inner:$?:' RUN bash --norc --noediting -i")
	s.expect("inner:0:")
	s.command(tally)
	s.expect("<ready>")
	s.keys("\x1a")
	s.expect(`inner:\d+:`)
	s.command("fg")
	s.expect("<SIGCONT>")
	s.keys("\x03")
	s.expect("<SIGINT>")
	s.keys("\x1c")
	s.expect("<SIGQUIT>")
	s.keys("\x1a")
	s.expect(`inner:\d+:`)
	s.command("kill -KILL %1; wait -f %1")
	s.expect(`inner:\d+:`)
	s.keys("exit 3\n")
	s.prompt(3)
	s.same(before)
	s.quit()
}

func playRaw(s *shell, _ string) {
	before := s.tty()
	s.command("RUN sh -c 'stty raw -echo; kill -KILL $$'")
	s.prompt(137)
	s.same(before)
	if s.run != "" {
		s.command("pitvisor run --timeout 100ms -- sh -c 'stty raw -echo; exec sleep 1000'")
		s.prompt(124)
		s.same(before)
		s.command("pitvisor run -- sh -c 'stty raw -echo; kill -KILL $PPID; exec sleep 1000'")
		s.prompt(137)
		s.same(before)
		linuxtest.Wait(s.t, patience, func() (bool, string) { return len(s.runs(s.t)) == 0, "the run has not ended" })
	}
	s.quit()
}

// playModes changes the terminal on purpose.
func playModes(s *shell, _ string) {
	before := s.tty()
	s.command("RUN stty -echo")
	s.prompt(0)
	before.modes.Lflag &^= unix.ECHO
	s.same(before)
	s.keys(s.run + "stty sane\n")
	s.prompt(0)
	s.quit()
}

func playHangup(s *shell, tally string) {
	file := filepath.Join(s.dir, "tally")
	s.command("RUN " + tally + " " + file)
	s.expect("<ready>")
	child := s.child()
	if err := s.master.Close(); err != nil {
		s.t.Fatal(err)
	}
	s.Wait(s.t, patience) // in whatever way bash puts it
	linuxtest.Wait(s.t, patience, func() (bool, string) {
		exited, err := child.Exited()
		return exited && err == nil, "still there"
	})
	text, err := os.ReadFile(file)
	if err != nil || !strings.Contains(string(text), "<SIGHUP>\n") {
		s.t.Errorf("the command has got %q, %v", text, err)
	}
	s.nothingLeft(s.t)
}
