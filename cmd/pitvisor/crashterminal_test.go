package main

import (
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/linuxtest"
)

// TestCrashGivesTheTerminalBack: a shell at a terminal, in a worker of a supervisor that is
// killed. The caller says so and leaves its terminal as it was; the shell and what runs in it
// are gone with the worker.
func TestCrashGivesTheTerminalBack(t *testing.T) {
	linuxtest.NeedClone3(t)
	w := newWorld(t)
	config := w.config(sleepers("web", 1))
	u := w.up(config)
	u.ready("web/0")
	master, slave, err := openTerminal()
	if err != nil {
		linuxtest.Skip(t, "needs /dev/ptmx")
	}
	defer func() { _ = master.Close() }()
	before, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	argv := w.argv("exec", "-t", "-e", "PS1=> ", "-e", "ENV=", "web/0", "sh")
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill() }()
	talk := &terminalTalk{T: t, master: master}
	go talk.read()
	talk.until("> ")
	talk.keys("trap '' HUP; sh -c 'echo go\"\"ing; exec sleep 1000'\r")
	talk.until("\ngoing\r\n")
	left := u.crash(w)
	if len(left.members) != 3 {
		t.Errorf("left are %v, want the worker, the shell and what runs in it", left.members)
	}
	talk.until("pitvisor: the supervisor has ended")
	if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() != exitSelf {
		t.Errorf("ended with %v, want %d", err, exitSelf)
	}
	if after, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS); err != nil || *after != *before {
		t.Errorf("the terminal is %+v, was %+v", after, before)
	}
	_ = slave.Close()
	next := w.up(config)
	next.ready("web/0")
	left.isGone()
	next.endsClean(w)
}
