package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/linuxtest"
)

// TestExecCommand: files, exit codes, environment, completion.
func TestExecCommand(t *testing.T) {
	linuxtest.NeedClone3(t)
	w := newWorld(t)
	u := w.up(w.config(`[pool.web]
command = ["sleep", "600"]
size = 2
directory = "/usr"
[pool.web.env]
COLOUR = "red"
`))
	u.ready("web/0", "web/1")
	t.Setenv("SHAPE", "round")
	for _, c := range []struct {
		args   string
		code   int
		stdout string
		stderr string
	}{
		{"web/1 -- sh -c|echo $PITVISOR_WORKER $COLOUR; pwd; exit 7", 7, "web/1 red\n/usr\n", ""},
		{"-w /etc -e COLOUR=blue -e SHAPE -e NONE web/0.1 sh -c|echo $COLOUR $SHAPE ${NONE-unset}; pwd", 0, "blue round unset\n/etc\n", ""},
		{"web/0 -- sh -c|kill -9 $$", 137, "", ""},
		{"web/0 -- sh -c|kill -s RTMIN $$ 2>/dev/null || kill -34 $$", 128 + 34, "", ""},
		{"-i=false web/0 cat", 0, "", ""},
		{"web/0 no-such-program", 127, "", "start no-such-program"},
		{"web/0 /etc/passwd", 126, "", "may not execute /etc/passwd"},
		{"web/9 true", 125, "", `no worker fits "web/9"`},
		{"web true", 125, "", `"web" fits 2 workers`},
		{"-w /nowhere web/0 true", 125, "", "enter directory /nowhere"},
		{"--run none web/0 true", 125, "", "no supervisor runs as"},
		{"web/0", 2, "", "no command"},
		{"-t web/0 sh", 2, "", "standard input is no terminal"},
	} {
		words, script, has := strings.Cut(c.args, "|")
		args := strings.Fields(words)
		if has {
			args = append(args, script)
		}
		stdout, stderr, code := w.tool("exec", args...)
		if code != c.code || stdout != c.stdout || !strings.Contains(stderr, c.stderr) || c.stderr == "" && stderr != "" {
			t.Errorf("exec %q = %d, %q, %q; want %d, %q, %q", c.args, code, stdout, stderr, c.code, c.stdout, c.stderr)
		}
	}
	if stdout, _, _ := w.tool("__complete", "exec", ""); !strings.HasPrefix(stdout, "web/0\tup\nweb/1\tup\n:") {
		t.Errorf("completes %q", stdout)
	}
	u.send(unix.SIGTERM)
	if code := u.wait(); code != 0 {
		t.Errorf("exit code = %d", code)
	}
	w.assertEmpty()
}

// execProc is a `pitvisor exec` under way.
func (w *world) execProc(stdin *os.File, args ...string) (cmd *exec.Cmd, out *bufio.Reader) {
	w.tb.Helper()
	argv := w.argv("exec", args...)
	cmd = exec.Command(argv[0], argv[1:]...)
	read, write := pipe(w.tb)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, write, os.Stderr
	if err := cmd.Start(); err != nil {
		w.tb.Fatal(err)
	}
	_ = write.Close()
	w.tb.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = read.Close()
	})
	return cmd, bufio.NewReader(read)
}

// TestExecPassesSignals, and a caller that is killed takes the command along.
func TestExecPassesSignals(t *testing.T) {
	linuxtest.NeedClone3(t)
	w := newWorld(t)
	u := w.up(w.config(sleepers("web", 1)))
	u.ready("web/0")
	cmd, out := w.execProc(nil, "web/0", "sh", "-c", `trap 'echo got; exit 5' TERM; echo here; while :; do sleep 600 & wait; done`)
	if line, err := out.ReadString('\n'); line != "here\n" {
		t.Fatalf("said %q, %v", line, err)
	}
	if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(out); string(rest) != "got\n" || err != nil {
		t.Errorf("said %q, %v", rest, err)
	}
	if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() != 5 {
		t.Errorf("ended with %v", err)
	}
	cmd, out = w.execProc(nil, "web/0", "sh", "-c", `echo here; setsid sleep 600`)
	if line, err := out.ReadString('\n'); line != "here\n" {
		t.Fatalf("said %q, %v", line, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(out); len(rest) > 0 || err != nil { // until the last of them is gone
		t.Errorf("said %q, %v", rest, err)
	}
	u.send(unix.SIGTERM)
	if code := u.wait(); code != 0 {
		t.Errorf("exit code = %d", code)
	}
	w.assertEmpty()
}

// terminalTalk is a terminal with `pitvisor exec -t` at it.
type terminalTalk struct {
	*testing.T
	master *os.File

	mu   sync.Mutex // guards what follows
	seen string
}

// read collects what is shown.
func (t *terminalTalk) read() {
	buf := make([]byte, 4096)
	for {
		n, err := t.master.Read(buf)
		t.mu.Lock()
		t.seen += string(buf[:n])
		t.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// until waits until a text has been shown after what was waited for before.
func (t *terminalTalk) until(text string) {
	t.Helper()
	linuxtest.Wait(t, patience, func() (bool, string) {
		t.mu.Lock()
		defer t.mu.Unlock()
		_, rest, found := strings.Cut(t.seen, text)
		if found {
			t.seen = rest
		}
		return found, fmt.Sprintf("waiting for %q, shown %q", text, t.seen)
	})
}

func (t *terminalTalk) keys(text string) {
	t.Helper()
	if _, err := io.WriteString(t.master, text); err != nil {
		t.Fatal(err)
	}
}

// shellAtTerminal is `pitvisor exec` of a shell in web/0, at a terminal of 33 lines of 77.
type shellAtTerminal struct {
	*terminalTalk
	cmd    *exec.Cmd
	slave  *os.File
	before *unix.Termios
}

// shell starts one and waits for its first prompt.
func (w *world) shell(t *testing.T, flag string) *shellAtTerminal {
	t.Helper()
	master, slave, err := openTerminal()
	if err != nil {
		linuxtest.Skip(t, "needs /dev/ptmx")
	}
	t.Cleanup(func() { _ = master.Close() })
	if err := unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 33, Col: 77}); err != nil {
		t.Fatal(err)
	}
	x := &shellAtTerminal{terminalTalk: &terminalTalk{T: t, master: master}, slave: slave}
	if x.before, err = unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS); err != nil {
		t.Fatal(err)
	}
	argv := w.argv("exec", flag, "-e", "PS1=> ", "-e", "ENV=", "web/0", "sh")
	x.cmd = exec.Command(argv[0], argv[1:]...)
	x.cmd.Stdin, x.cmd.Stdout, x.cmd.Stderr = slave, slave, slave
	x.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := x.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = x.cmd.Process.Kill() })
	go x.read()
	x.until("> ")
	return x
}

// ends waits for the end of pitvisor, which leaves the terminal as it was.
func (x *shellAtTerminal) ends(code int) {
	x.Helper()
	if err := x.cmd.Wait(); err == nil || x.cmd.ProcessState.ExitCode() != code {
		x.Errorf("ended with %v, want %d", err, code)
	}
	if after, err := unix.IoctlGetTermios(int(x.slave.Fd()), unix.TCGETS); err != nil || *after != *x.before {
		x.Errorf("the terminal is %+v, was %+v", after, x.before)
	}
	_ = x.slave.Close()
}

// TestExecTTY: a shell at a terminal: its size and its changes, keys, job control, and
// our terminal as it was.
func TestExecTTY(t *testing.T) {
	linuxtest.NeedClone3(t)
	w := newWorld(t)
	u := w.up(w.config(sleepers("web", 1)))
	u.ready("web/0")
	talk := w.shell(t, "-it")
	talk.keys("stty size\r")
	talk.until("33 77\r\n> ")
	if err := unix.IoctlSetWinsize(int(talk.master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 40, Col: 100}); err != nil {
		t.Fatal(err)
	}
	talk.keys("while [ \"$(stty size)\" != '40 100' ]; do :; done; echo re''sized\r")
	talk.until("\nresized\r\n> ")
	talk.keys("sh -c 'echo go\"\"ing; exec sleep 600'\r")
	talk.until("\ngoing\r\n") // in the foreground by now
	talk.keys("\x03")         // Ctrl-C ends the sleep, and not pitvisor
	talk.until("> ")
	talk.keys("echo still $PITVISOR_WORKER\r")
	talk.until("still web/0\r\n> ")
	talk.keys("exit 9\r")
	talk.until("exit 9\r\n")
	talk.ends(9)
	u.send(unix.SIGTERM)
	u.wait()
	w.assertEmpty()
}
