//go:build amd64 || arm64

package siginfo

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/linuxtest"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	linuxtest.Main(m, linuxtest.Modes{"catch": modeCatch, "storm": modeStorm, "ignoring": modeIgnoring, "raw-child": modeRawChild})
}

// within is how long a test waits for what must happen.
const within = 20 * time.Second

// all is what pitvisor catches, and more.
var all = [...]unix.Signal{
	unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2,
	unix.SIGWINCH, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU, unix.SIGCONT, unix.SIGCHLD, unix.SIGALRM,
}

// mustCatch catches signals in the test process.
func mustCatch(t *testing.T, signals ...unix.Signal) *Source {
	t.Helper()
	s, err := Catch(signals...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() }) // most tests have closed it
	return s
}

// next waits for a signal.
func next(s *Source) (Info, error) {
	for end := time.Now().Add(within); time.Now().Before(end); {
		info, ok, err := s.Next()
		if ok || err != nil {
			return info, err
		}
		_, err = unix.Poll([]unix.PollFd{{Fd: int32(s.FD()), Events: unix.POLLIN}}, 1000)
		if err != nil && err != unix.EINTR {
			return Info{}, err
		}
	}
	return Info{}, fmt.Errorf("no signal after %v", within)
}

// drain takes what is there.
func drain(s *Source) ([]Info, error) {
	var infos []Info
	for {
		info, ok, err := s.Next()
		if !ok || err != nil {
			return infos, err
		}
		infos = append(infos, info)
	}
}

// modeCatch catches everything and prints it, until SIGTERM. With a terminal's path
// it gets that as its controlling terminal first; with "notify" it uses os/signal.
func modeCatch(args []string) int {
	if len(args) > 0 && args[0] != "notify" {
		if err := takeTerminal(args[0]); err != nil {
			return complain(err)
		}
	}
	how := catch
	if slices.Contains(args, "notify") {
		how = notify
	}
	s, err := open(all[:], how)
	if err != nil {
		return complain(err)
	}
	fmt.Println("ready")
	for {
		info, err := next(s)
		if err != nil {
			return complain(err)
		}
		if err := json.NewEncoder(os.Stdout).Encode(info); err != nil {
			return complain(err)
		}
		if info.Signal == unix.SIGTERM {
			return 0
		}
	}
}

// takeTerminal begins a session on a terminal.
func takeTerminal(path string) error {
	if _, err := unix.Setsid(); err != nil {
		return fmt.Errorf("setsid: %w", err)
	}
	// Left open: it is the process's terminal.
	if _, err := unix.Open(path, unix.O_RDWR, 0); err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	return nil
}

// catcher is a running modeCatch.
type catcher struct {
	*linuxtest.Process
	lines *bufio.Scanner
}

func startCatcher(t *testing.T, args ...string) *catcher {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() }) // only read from
	c := &catcher{lines: bufio.NewScanner(r)}
	c.Process = linuxtest.Command{Args: linuxtest.Helper(t, args[0], args[1:]...), Stdout: w, Stderr: os.Stderr}.Start(t)
	_ = w.Close() // the helper has its own
	if err := r.SetReadDeadline(time.Now().Add(2 * within)); err != nil {
		t.Fatal(err)
	}
	if line := c.line(t); line != "ready" {
		t.Fatalf("%v said %q, want ready", args, line)
	}
	return c
}

func (c *catcher) line(t *testing.T) string {
	t.Helper()
	if !c.lines.Scan() {
		t.Fatalf("the helper said nothing: %v", c.lines.Err())
	}
	return c.lines.Text()
}

// got reads the next signal that the helper caught.
func (c *catcher) got(t *testing.T) Info {
	t.Helper()
	var info Info
	line := c.line(t)
	if err := json.Unmarshal([]byte(line), &info); err != nil {
		t.Fatalf("the helper said %q: %v", line, err)
	}
	return info
}

// send signals the helper.
func (c *catcher) send(t *testing.T, sig unix.Signal) {
	t.Helper()
	if err := c.Signal(sig); err != nil {
		t.Fatal(err)
	}
}

// end ends the helper.
func (c *catcher) end(t *testing.T) {
	t.Helper()
	c.send(t, unix.SIGTERM)
	for c.got(t).Signal != unix.SIGTERM {
	}
	linuxtest.ExitCause(t, c.Wait(t, within), 0)
}

// complain is for modes that cannot do their work.
func complain(err error) int {
	fmt.Fprintln(os.Stderr, err)
	return 1
}
