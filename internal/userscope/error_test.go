package userscope

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/linuxtest"
	"golang.org/x/sys/unix"
)

// asUser makes a command of the manager's user one of another user.
func asUser(uid string) func(*linuxtest.Command) {
	return func(c *linuxtest.Command) {
		for i, arg := range c.Args {
			if arg == "65534" {
				c.Args[i] = uid
			}
		}
	}
}

// One who came by su has the runtime directory of another, and no systemd.
func TestUserWithoutAManager(t *testing.T) {
	linuxtest.NoLeaks(t)
	m := linuxtest.UserManager{}.Start(t)
	p := enter(t, m, Options{ID: "x"}, asUser("65533"))
	p.wantError(t, CauseNoManager, "sudo loginctl enable-linger 65533")
	p.notMoved(t)
	if want := "get pitvisor-run-x.scope from systemd: user 65533 has no systemd running: /run/user/65534/systemd/private: permission denied, "; !strings.HasPrefix(p.got.Err, want) {
		t.Errorf("Enter = %q, want %q...", p.got.Err, want)
	}
	p.end(t)
	// Not booted with systemd at all.
	rm(t, filepath.Join(m.Runtime, "../../systemd"))
	p = enter(t, m, Options{ID: "x"}, asUser("65533"))
	p.wantError(t, CauseNoSystemd, "sudo pitvisor run --uid 65533 --gid 65533")
	p.end(t)
}

// root with the environment of a user, as by sudo -E, is not given to the user.
func TestRootIsNotGivenToAUser(t *testing.T) {
	linuxtest.NoLeaks(t)
	m := linuxtest.UserManager{}.Start(t)
	p := enter(t, m, Options{ID: "x"}, asUser("0"))
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
	bus := m.Command(t, "dbus-daemon", "--session", "--nofork", "--nopidfile", "--address="+address)
	bus.Start(t)
	linuxtest.Wait(t, within, func() (bool, string) {
		_, err := os.Stat(filepath.Join(m.Runtime, "lonely"))
		return err == nil, "the bus does not come up"
	})
	rm(t, filepath.Join(m.Runtime, "systemd/private"))
	p := enter(t, m, Options{ID: "x"}, func(c *linuxtest.Command) {
		c.Env = append(c.Env, "DBUS_SESSION_BUS_ADDRESS="+address)
	})
	p.wantError(t, CauseNoManager, "enable-linger")
	if !strings.Contains(p.got.Err, "lonely: systemd is not on this bus") {
		t.Errorf("Enter = %q", p.got.Err)
	}
	p.end(t)
}

func TestManagerThatDoesNotAnswer(t *testing.T) {
	linuxtest.NoLeaks(t)
	m := linuxtest.UserManager{NoBus: true}.Start(t)
	signal(t, m, unix.SIGSTOP)
	begin := time.Now()
	p := enter(t, m, Options{ID: "slow", Timeout: 200 * time.Millisecond}, nil)
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	p.wantError(t, CauseNoAnswer, "systemctl --user list-jobs")
	p.notMoved(t)
	if !strings.HasSuffix(p.got.Err, "; systemd may still move this process") {
		t.Errorf("Enter = %q", p.got.Err)
	}
	p.end(t)
	signal(t, m, unix.SIGCONT)
	noUnits(t, m)
}

func TestScopeOfThatNameExists(t *testing.T) {
	linuxtest.NoLeaks(t)
	m := linuxtest.UserManager{}.Start(t)
	first := enter(t, m, Options{ID: "twice"}, nil)
	second := enter(t, m, Options{ID: "twice"}, nil)
	second.wantError(t, CauseRefused, "journalctl --user --unit pitvisor-run-twice.scope")
	second.notMoved(t)
	second.end(t)
	first.end(t)
	noUnits(t, m)
}

// The kernel does not let systemd move the process: the job fails, and nothing of
// it is left.
func TestMoveThatFails(t *testing.T) {
	linuxtest.NoLeaks(t)
	m := linuxtest.UserManager{NoBus: true}.Start(t)
	if err := os.Chown(filepath.Join(m.Dir, "../cgroup.procs"), 0, 0); err != nil {
		t.Fatal(err)
	}
	p := enter(t, m, Options{ID: "x"}, nil)
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
	p := enter(t, m, Options{ID: "x"}, nil)
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
	linuxtest.NeedCommand(t, "unshare")
	m := linuxtest.UserManager{NoBus: true}.Start(t)
	p := enter(t, m, Options{ID: "x"}, func(c *linuxtest.Command) {
		at := slices.Index(c.Args, "setpriv")
		c.Args = slices.Insert(c.Args, at, "unshare", "--cgroup", "--")
	})
	p.wantError(t, CauseNotDelegated, "")
	if !strings.HasPrefix(p.got.Cgroup, "/../") || p.got.Cgroup != p.got.Now {
		t.Errorf("it is in %s; the error says %q", p.got.Now, p.got.Cgroup)
	}
	p.end(t)
	noUnits(t, m)
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
