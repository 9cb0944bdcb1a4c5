package userscope

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/linuxtest"
	"golang.org/x/sys/unix"
)

// One who came by su has the runtime directory of another, and no systemd.
func TestUserWithoutAManager(t *testing.T) {
	linuxtest.NoLeaks(t)
	m := linuxtest.UserManager{}.Start(t)
	p := start(t, m.CommandAs(t, 65533, command(t, Options{ID: "x"})...))
	p.wantError(t, CauseNoManager, "sudo loginctl enable-linger 65533")
	p.notMoved(t)
	want := "get pitvisor-run-x.scope from systemd: user 65533 has no systemd running: /run/user/65534/systemd/private: permission denied, /run/user/65534/bus: permission denied"
	if p.got.Err != want {
		t.Errorf("Enter = %q, want %q", p.got.Err, want)
	}
	p.end(t)
	// Not booted with systemd at all.
	rm(t, filepath.Join(m.Runtime, "../../systemd"))
	p = start(t, m.CommandAs(t, 65533, command(t, Options{ID: "x"})...))
	p.wantError(t, CauseNoSystemd, "sudo pitvisor run --uid 65533 --gid 65533")
	p.end(t)
}

// root with the environment of a user, as by sudo -E, is not given to the user.
func TestRootIsNotGivenToAUser(t *testing.T) {
	linuxtest.NoLeaks(t)
	m := linuxtest.UserManager{}.Start(t)
	p := start(t, m.CommandAs(t, 0, command(t, Options{ID: "x"})...))
	p.wantError(t, CauseNoManager, "linger 0")
	p.notMoved(t)
	if want := "user 65534 listens there, not user 0"; strings.Count(p.got.Err, want) != 2 {
		t.Errorf("Enter = %q, want %q twice", p.got.Err, want)
	}
	p.end(t)
	noUnits(t, m)
}

func TestBusWithoutSystemd(t *testing.T) {
	linuxtest.NoLeaks(t)
	m := linuxtest.UserManager{NoBus: true}.Start(t)
	address := "unix:path=" + filepath.Join("/run/user/65534", "lonely")
	bus := m.Command(t, "dbus-daemon", "--session", "--nofork", "--nopidfile", "--print-address", "--address="+address)
	ready, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ready.Close() }()
	bus.Stdout = w
	bus.Start(t)
	_ = w.Close() // it has its own
	if _, err := ready.Read(make([]byte, 1)); err != nil {
		t.Fatalf("the bus does not come up: %v", err)
	}
	rm(t, filepath.Join(m.Runtime, "systemd/private"))
	c := m.Command(t, command(t, Options{ID: "x"})...)
	c.Env = append(c.Env, "DBUS_SESSION_BUS_ADDRESS="+address)
	p := start(t, c)
	p.wantError(t, CauseNoManager, "enable-linger")
	if !strings.Contains(p.got.Err, "lonely: systemd is not on this bus") {
		t.Errorf("Enter = %q", p.got.Err)
	}
	p.end(t)
}

func TestManagerThatDoesNotAnswer(t *testing.T) {
	linuxtest.NoLeaks(t)
	m := linuxtest.UserManager{NoBus: true}.Start(t)
	m.Signal(t, unix.SIGSTOP)
	begin := time.Now()
	p := enter(t, m, Options{ID: "slow", Timeout: 200 * time.Millisecond})
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	p.wantError(t, CauseNoAnswer, "systemctl --user list-jobs")
	p.notMoved(t)
	if !strings.HasSuffix(p.got.Err, "; systemd may still move this process") {
		t.Errorf("Enter = %q", p.got.Err)
	}
	p.end(t)
	m.Signal(t, unix.SIGCONT)
	noUnits(t, m)
}

func TestScopeOfThatNameExists(t *testing.T) {
	linuxtest.NoLeaks(t)
	m := linuxtest.UserManager{}.Start(t)
	first := enter(t, m, Options{ID: "twice"})
	second := enter(t, m, Options{ID: "twice"})
	second.wantError(t, CauseRefused, "journalctl --user --unit pitvisor-run-twice.scope")
	second.notMoved(t)
	second.end(t)
	first.end(t)
	noUnits(t, m)
}

// The user's systemd may not move the process itself, and cannot ask the system's:
// the job fails, and nothing of it is left.
func TestMoveThatFails(t *testing.T) {
	linuxtest.NoLeaks(t)
	m := linuxtest.UserManager{NoBus: true}.Start(t)
	m.CommandAs(t, 0, "systemctl", "stop", "dbus.socket", "dbus.service").Output(t, within)
	p := enter(t, m, Options{ID: "x"})
	p.wantError(t, CauseRefused, "journalctl")
	p.notMoved(t)
	p.end(t)
	noUnits(t, m)
}

func TestScopeThatIsNotDelegated(t *testing.T) {
	linuxtest.NoLeaks(t)
	m := linuxtest.UserManager{NoBus: true, Units: map[string]string{
		"pitvisor-run-.scope.d/no.conf": "[Scope]\nDelegate=no\n",
	}}.Start(t)
	p := enter(t, m, Options{ID: "x"})
	p.wantError(t, CauseNotDelegated, "systemd-run --user --scope -p Delegate=yes pitvisor")
	if p.got.Cgroup != p.got.Now || p.got.Now == p.got.Before || !strings.HasSuffix(p.got.Err, "; this process is in "+p.got.Now+" now") {
		t.Errorf("it is in %s; the error says %q: %s", p.got.Now, p.got.Cgroup, p.got.Err)
	}
	p.end(t)
	noUnits(t, m)
}

// In a container that shares the runtime directory, systemd moves the process to
// where the container cannot look.
func TestScopeOutsideOfTheContainer(t *testing.T) {
	linuxtest.NoLeaks(t)
	linuxtest.NeedCommand(t, "unshare", "setpriv")
	m := linuxtest.UserManager{NoBus: true}.Start(t)
	p := start(t, m.CommandAs(t, 0, append([]string{
		"unshare", "--cgroup", "setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--",
	}, command(t, Options{ID: "x"})...)...))
	p.wantError(t, CauseNotDelegated, "")
	if !strings.HasPrefix(p.got.Cgroup, "/../") || p.got.Cgroup != p.got.Now {
		t.Errorf("it is in %s; the error says %q", p.got.Now, p.got.Cgroup)
	}
	p.end(t)
	noUnits(t, m)
}

// The host's systemd keeps its units in cgroup v1, and cgroup v2 is there beside it.
func TestScopeInCgroupV1(t *testing.T) {
	linuxtest.NoLeaks(t)
	linuxtest.NeedAdmin(t, "to mount a file system")
	dir := t.TempDir()
	mount := func() error { return unix.Mount("none", dir, "cgroup", 0, "none,"+hierarchy) }
	if mount() != nil {
		linuxtest.Skip(t, "needs to mount cgroup v1")
	}
	scope := filepath.Join(dir, "pitvisor-run-x.scope")
	t.Cleanup(func() {
		if err := errors.Join(unix.Rmdir(scope), unix.Unmount(dir, 0)); err != nil {
			t.Error(err)
		}
		endHierarchy(t, dir, mount)
	})
	if err := os.Mkdir(scope, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		procs      string
		want       Cause
		wantCgroup string
	}{
		{"", CauseNotMoved, ""},
		{filepath.Join(scope, "cgroup.procs"), CauseLegacy, "/pitvisor-run-x.scope"},
	} {
		got := linuxtest.Command{Args: linuxtest.Helper(t, "elsewhere", c.procs)}.Output(t, within)
		if want := fmt.Sprintf("%v %q", c.want, c.wantCgroup); got != want {
			t.Errorf("in %q: %s, want %s", c.procs, got, want)
		}
	}
}

// hierarchy is what the test's cgroup v1 is called in /proc/self/cgroup.
const hierarchy = "name=pitvisor-test"

// endHierarchy waits until the hierarchy is gone. It goes with its last mount, but
// not if a cgroup was removed from it a moment ago.
func endHierarchy(t *testing.T, dir string, mount func() error) {
	t.Helper()
	linuxtest.Wait(t, within, func() (bool, string) {
		text, err := os.ReadFile("/proc/self/cgroup")
		if err != nil || !strings.Contains(string(text), hierarchy) {
			return err == nil, fmt.Sprint(err)
		}
		return false, fmt.Sprint(hierarchy, " is there: ", errors.Join(mount(), unix.Unmount(dir, 0)))
	})
}

// elsewhereMode enters a cgroup, if one is given, and says what Enter would say.
func elsewhereMode(args []string) int {
	if args[0] != "" {
		fd, err := unix.Open(args[0], unix.O_WRONLY, 0)
		if err == nil {
			_, err = unix.Write(fd, []byte("0"))
		}
		if err != nil {
			return complain(err)
		}
	}
	s := &Scope{Unit: "pitvisor-run-x.scope"}
	e := s.located(asError(context.Background(), s.elsewhere()))
	fmt.Printf("%v %q\n", e.Cause, e.Cgroup)
	return 0
}

func TestNamesThatNoScopeCanHave(t *testing.T) {
	for _, id := range []string{"", "a/b", "a b", "a.scope", "ä", strings.Repeat("x", 201)} {
		s, err := Enter(t.Context(), Options{ID: id})
		var e *Error
		if !errors.As(err, &e) || e.Cause != CauseUnknown {
			t.Errorf("Enter(%q) = %v, %v, want an *Error", id, s, err)
		}
	}
}

func TestErrorsThatHaveNoTypeGetOne(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	known := &Error{Cause: CauseLegacy}
	if got := asError(ctx, known); got != known {
		t.Errorf("asError(%v) = %v", known, got)
	}
	if got := asError(ctx, unix.EIO); got.Cause != CauseUnknown || !errors.Is(got, unix.EIO) {
		t.Errorf("asError(EIO) = %v", got)
	}
	enough := errors.New("enough")
	cancel(enough)
	if got := asError(ctx, unix.EIO); got.Cause != CauseNoAnswer || !errors.Is(got, enough) {
		t.Errorf("asError after the end of the context = %v", got)
	}
}
