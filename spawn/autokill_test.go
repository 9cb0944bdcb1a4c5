package spawn

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/pidfd"
	"golang.org/x/sys/unix"
)

func needAutokill(t *testing.T) {
	t.Helper()
	if !autokillKnown() {
		linuxtest.Skip(t, "needs CLONE_PIDFD_AUTOKILL")
	}
}

// autokillMode starts a process, prints its number and waits for its own end.
func autokillMode(args []string) int {
	leaf, err := cgroup.Open(args[0])
	if err != nil {
		return complain(err)
	}
	p, err := Start(&Cmd{Path: "/bin/sleep", Args: []string{"sleep", "600"}, Leaf: leaf, Autokill: true})
	if err != nil {
		return complain(err)
	}
	fmt.Println(p.PID(), p.Autokill())
	_, _ = io.Copy(io.Discard, os.Stdin) // for ever
	return 0
}

func TestAutokillEndsWithTheProgram(t *testing.T) {
	linuxtest.NeedCommand(t, "sleep")
	needAutokill(t)
	linuxtest.NoLeaks(t)
	leaf := newLeaf(t, testRoot(t), "leaf")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	owner := linuxtest.Command{
		Args: linuxtest.Helper(t, "autokill", leaf.Path()), Stdin: blockingStdin(t), Stdout: w, Stderr: os.Stderr,
	}.Start(t)
	_ = w.Close()
	line, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	number, known, _ := strings.Cut(strings.TrimSpace(line), " ")
	pid, err := strconv.Atoi(number)
	if err != nil || known != "true" {
		t.Fatalf("the owner printed %q", line)
	}
	child, err := pidfd.Open(pid)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = child.Close() }()
	if exited, err := child.Exited(); exited || err != nil {
		t.Fatalf("exited: %v, %v, before its owner was killed", exited, err)
	}
	owner.Kill(t)
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	if err := child.WaitReaped(ctx); err != nil {
		t.Fatalf("after its owner: %v", err)
	}
	status, err := child.ExitStatus()
	if err != nil || status.Signal() != unix.SIGKILL {
		t.Errorf("exit status %v, %v, want SIGKILL", status, err)
	}
}

func TestAutokillEndsWithClose(t *testing.T) {
	needAutokill(t)
	linuxtest.NoLeaks(t)
	p, err := Start(&Cmd{Path: "/bin/sleep", Args: []string{"sleep", "600"}, Leaf: newLeaf(t, testRoot(t), "leaf"), Autokill: true})
	if err != nil {
		t.Fatal(err)
	}
	other, err := pidfd.Open(p.PID())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close() }()
	if _, err := p.Reap(); !errors.Is(err, ErrRunning) {
		t.Errorf("Reap while it runs = %v, want ErrRunning", err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	if err := other.WaitReaped(ctx); err != nil {
		t.Fatalf("after Close: %v", err)
	}
}

// The kernel reaps it at once: what is known is what the pidfd keeps.
func TestAutokillExits(t *testing.T) {
	needAutokill(t)
	linuxtest.NoLeaks(t)
	leaf := newLeaf(t, testRoot(t), "leaf")
	for range linuxtest.Times(20, 4) {
		for text, want := range map[string]Exit{
			"exit 0":        {},
			"exit 7":        {Code: 7},
			"exit 127":      {Code: 127},
			"kill -KILL $$": {Code: -1, Signal: unix.SIGKILL},
			"kill -TERM $$": {Code: -1, Signal: unix.SIGTERM},
		} {
			p := start(t, &Cmd{Path: "/bin/sh", Args: []string{"sh", "-c", text}, Env: []string{"PATH=/bin:/usr/bin"}, Leaf: leaf, Autokill: true})
			if !p.Autokill() || !p.Executed() {
				t.Errorf("%s: Autokill() = %v, Executed() = %v", text, p.Autokill(), p.Executed())
			}
			got := wait(t, p)
			want.At = got.At
			if got != want {
				t.Errorf("%s: exit %+v, want %+v", text, got, want)
			}
		}
	}
	if left, err := ChildLeft(); left || err != nil {
		t.Errorf("ChildLeft() = %v, %v", left, err)
	}
}

func TestAutokillStopped(t *testing.T) {
	needAutokill(t)
	linuxtest.NoLeaks(t)
	p := start(t, &Cmd{Path: "/bin/sleep", Args: []string{"sleep", "600"}, Leaf: newLeaf(t, testRoot(t), "leaf"), Autokill: true})
	if stopped, err := p.Stopped(); stopped || err != nil {
		t.Errorf("Stopped() = %v, %v before", stopped, err)
	}
	if err := p.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	linuxtest.Wait(t, within, func() (bool, string) {
		stopped, err := p.Stopped()
		return stopped, fmt.Sprintf("Stopped() = %v, %v", stopped, err)
	})
}
