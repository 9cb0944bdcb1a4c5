package weak

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/pidfd"
	"golang.org/x/sys/unix"
)

// These tests show what tier E cannot do, so that nobody takes it for more. When
// one of them fails the promise has grown: then the package comment and the manual
// may say so.

// asRootMode is a program with the set-user-ID bit, such as sudo.
func asRootMode([]string) int {
	if err := syscall.Setresuid(0, 0, 0); err != nil {
		return complain(err)
	}
	fmt.Println(os.Getpid())
	<-time.After(linuxtest.HelperLife)
	return 0
}

func TestEscapeOfAnotherUserIsNamed(t *testing.T) {
	linuxtest.NeedRoot(t, "to become another user")
	exe := setUserID(t, linuxtest.Helper(t, "as-root"))
	script := fmt.Sprintf("setsid %s %s & sleep 100", exe[0], exe[1])
	p, line := startProgram(t, nobody, "/bin/sh", "-c", script)
	pid, err := strconv.Atoi(line)
	if err != nil {
		t.Fatal(err)
	}
	escaped := hold(t, pid)
	got := p.end(t)
	if !got.Refused || !got.ChildLeft || got.Total != 1 || len(got.Blockers) != 1 || !strings.HasPrefix(got.Blockers[0], line+" ") {
		t.Errorf("Kill: %+v, want EPERM for process %s", got, line)
	}
	if got.Exit != "SIGKILL" {
		t.Errorf("the command: %s, want it killed all the same", got.Exit)
	}
	if exited, err := escaped.Exited(); exited || err != nil {
		t.Errorf("process %s: Exited() = %v, %v: tier E has got stronger", line, exited, err)
	}
}

// setUserID copies the program of a command line to a place where it runs as root.
func setUserID(t *testing.T, argv []string) []string {
	t.Helper()
	data, err := os.ReadFile(argv[0])
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for at := dir; at != os.TempDir() && at != "/"; at = filepath.Dir(at) {
		if err := os.Chmod(at, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		t.Fatal(err)
	}
	if fs.Flags&unix.ST_NOSUID != 0 {
		linuxtest.Skip(t, "needs set-user-ID programs in the temporary directory")
	}
	path := filepath.Join(dir, "program")
	err = os.WriteFile(path, data, 0o755)
	if err == nil {
		err = os.Chmod(path, os.ModeSetuid|0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	return append([]string{path}, argv[1:]...)
}

// hold opens a process that is ended at the end of the test.
func hold(t *testing.T, pid int) *pidfd.Process {
	t.Helper()
	p, err := pidfd.Open(pid)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Signal(unix.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Error(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), within)
		defer cancel()
		if err := errors.Join(p.Wait(ctx), p.Close()); err != nil {
			t.Error(err)
		}
	})
	return p
}

// joinMode starts a command in the PID namespace of another process.
func joinMode(args []string) int {
	runtime.LockOSThread() // the namespace of the children belongs to the thread
	fd, err := unix.Open(args[0], unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err == nil {
		err = unix.Setns(fd, unix.CLONE_NEWPID)
	}
	if err != nil {
		return complain(err)
	}
	pid, _, err := syscall.StartProcess(args[1], args[1:], &syscall.ProcAttr{Files: []uintptr{0, 1, 2}})
	if err == nil {
		_, err = unix.Wait4(pid, nil, 0, nil)
	}
	if err != nil {
		return complain(err)
	}
	<-time.After(linuxtest.HelperLife)
	return 0
}

// A daemon whose parent has joined another PID namespace is given to the init of
// that one. A cgroup would still hold it; tier E does not even see it, and says that
// all is clean.
func TestEscapeToAnotherPIDNamespaceIsNotSeen(t *testing.T) {
	linuxtest.NeedAdmin(t, "to make a PID namespace")
	away := linuxtest.PIDNamespace(t, linuxtest.Command{Args: linuxtest.Helper(t, "run")})
	var there []int
	linuxtest.Wait(t, within, func() (bool, string) {
		there = childrenOf(t, away.PID())
		return len(there) == 1, fmt.Sprintf("the other init has children %v", there)
	})
	join := linuxtest.Helper(t, "join", append([]string{fmt.Sprintf("/proc/%d/ns/pid", away.PID())}, linuxtest.Helper(t, "double-fork")...)...)
	p, line := startProgram(t, 0, join...)
	if line != "ready" {
		t.Fatalf("it printed %q", line)
	}
	escaped := 0
	linuxtest.Wait(t, within, func() (bool, string) {
		for _, pid := range childrenOf(t, away.PID()) {
			if pid != there[0] {
				escaped = pid
			}
		}
		return escaped != 0, "nobody was given to the other init"
	})
	daemon := hold(t, escaped)
	got := p.end(t)
	if got.Err != "" || got.ChildLeft {
		t.Errorf("Kill: %+v, want it to know of nothing", got)
	}
	if exited, err := daemon.Exited(); exited || err != nil {
		t.Errorf("Exited() = %v, %v: tier E has got stronger", exited, err)
	}
}

func childrenOf(t *testing.T, pid int) []int {
	t.Helper()
	parents, err := scan()
	if err != nil {
		t.Fatal(err)
	}
	return parents[pid]
}
