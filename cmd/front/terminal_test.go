package main

import (
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/linuxtest"
)

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
