package pidfd

import (
	"bufio"
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/pitvisor/pitvisor/linuxtest"
	"golang.org/x/sys/unix"
)

// groupOfTwo starts a leader that ends when stdin does, and two members.
func groupOfTwo(t *testing.T) (leader *linuxtest.Process, stdin *os.File, members []*Process) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	in, stdin, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = stdin.Close() }) // the test may have closed it
	const script = "sleep 1000 & echo $!; sleep 1000 & echo $!; read x"
	leader = linuxtest.Command{Args: []string{"/usr/bin/setsid", "/bin/sh", "-c", script}, Stdin: in, Stdout: w}.Start(t)
	_, _ = w.Close(), in.Close() // it has its own
	lines := bufio.NewReader(r)
	for range 2 {
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		pid, err := strconv.Atoi(strings.TrimSpace(line))
		if err != nil {
			t.Fatal(err)
		}
		members = append(members, open(t, pid))
	}
	return leader, stdin, members
}

func TestSignalGroupReachesTheMembersOfALeaderThatIsGone(t *testing.T) {
	bystander := linuxtest.Bystander(t, linuxtest.Command{Args: linuxtest.Helper(t, "run")})
	leader, stdin, members := groupOfTwo(t)
	p := open(t, leader.PID())
	_ = stdin.Close() // which ends the leader
	leader.Wait(t, within)
	err := p.SignalGroup(unix.SIGKILL)
	if errors.Is(err, ErrNotSupported) {
		for _, m := range members {
			_ = m.Signal(unix.SIGKILL) // it was alive a moment ago
		}
		linuxtest.Skip(t, "needs pidfd_send_signal to a process group")
	}
	if err != nil {
		t.Errorf("SignalGroup of a reaped leader = %v", err)
	}
	for _, m := range members {
		waitFor(t, m.Wait)
	}
	if err := open(t, bystander.PID()).SignalGroup(unix.SIGKILL); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("SignalGroup of one that leads no group = %v, want ErrProcessDone", err)
	}
}
