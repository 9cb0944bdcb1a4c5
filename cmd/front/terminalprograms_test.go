package main

import (
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/linuxtest"
)

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
