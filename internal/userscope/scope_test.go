package userscope

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/linuxtest"
)

// way is one to a user's systemd.
type way struct {
	name    string
	prepare func(*testing.T, *linuxtest.Manager, *linuxtest.Command) // nil is nothing
}

func ways() []way {
	noSocket := func(t *testing.T, m *linuxtest.Manager, _ *linuxtest.Command) {
		rm(t, filepath.Join(m.Runtime, "systemd/private"))
	}
	return []way{
		{name: "socket"},
		{name: "no environment, as under cron", prepare: func(_ *testing.T, _ *linuxtest.Manager, c *linuxtest.Command) {
			c.Env = []string{"PATH=" + os.Getenv("PATH")}
		}},
		{name: "bus of the runtime directory", prepare: noSocket},
		{name: "bus of the session", prepare: func(t *testing.T, m *linuxtest.Manager, c *linuxtest.Command) {
			noSocket(t, m, c)
			// systemd comes to the bus when somebody else has, and by that name.
			m.Command(t, "busctl", "--user", "call", "org.freedesktop.systemd1", "/", "org.freedesktop.DBus.Peer", "Ping").Output(t, within)
			if err := os.Rename(filepath.Join(m.Runtime, "bus"), filepath.Join(m.Runtime, "other")); err != nil {
				t.Fatal(err)
			}
			c.Env = append(c.Env, "DBUS_SESSION_BUS_ADDRESS=unix:path=/nowhere;unix:path=/run/user/65534/%6fther,guid=00")
		}},
	}
}

func TestEnterGivesADelegatedCgroup(t *testing.T) {
	for _, way := range ways() {
		t.Run(way.name, func(t *testing.T) {
			linuxtest.NoLeaks(t)
			m := linuxtest.UserManager{}.Start(t)
			c := m.Command(t, command(t, Options{ID: "abc"}, "run", "leaf")...)
			if way.prepare != nil {
				way.prepare(t, m, &c)
			}
			p := start(t, c)
			if p.got.Err != "" {
				t.Fatalf("Enter: %s (%s)", p.got.Err, p.got.Hint)
			}
			if want := "/sys/fs/cgroup/user.slice/user-65534.slice/user@65534.service/app.slice/pitvisor-run-abc.scope"; p.got.Path != want || p.got.Unit != filepath.Base(want) {
				t.Errorf("Enter = %s in %s, want %s", p.got.Unit, p.got.Path, want)
			}
			if p.got.Root != cgroup.RootDelegated || p.got.Descriptors {
				t.Errorf("root is %q, want delegated; the connection takes descriptors: %v", p.got.Root, p.got.Descriptors)
			}
			dir := filepath.Join(m.Dir, "app.slice", p.got.Unit)
			members := linuxtest.Members(filepath.Join(dir, "run/leaf"))
			if len(members) != 1 || members[0].PID != p.PID() {
				t.Errorf("members of %s: %v, want process %d", dir, members, p.PID())
			}
			p.end(t)
			linuxtest.CgroupGone(t, dir, within) // with the empty cgroups below it
		})
	}
}

// root gets one from the system's manager, when that is asked for.
func TestEnterThroughTheSystem(t *testing.T) {
	linuxtest.NoLeaks(t)
	m := linuxtest.UserManager{NoBus: true}.Start(t)
	p := start(t, m.CommandAs(t, 0, command(t, Options{ID: "abc", System: true}, "run")...))
	if want := "/sys/fs/cgroup/system.slice/pitvisor-run-abc.scope"; p.got.Path != want || p.got.Root != cgroup.RootDelegated {
		t.Errorf("Enter = %s, root %q, want %s: %s", p.got.Path, p.got.Root, want, p.got.Err)
	}
	p.end(t)
	linuxtest.CgroupGone(t, filepath.Join(m.Dir, "../../../system.slice/pitvisor-run-abc.scope"), within)
	// A user may not.
	p = start(t, m.Command(t, command(t, Options{ID: "abc", System: true})...))
	p.wantError(t, CauseRefused, "")
	p.notMoved(t)
	p.end(t)
}

func TestScopeShowsWhatItIsFor(t *testing.T) {
	linuxtest.NoLeaks(t)
	m := linuxtest.UserManager{NoBus: true}.Start(t)
	p := enter(t, m, Options{ID: "shown", Description: "make test"})
	got := m.Systemctl(t, "show", "-p", "Description,Delegate,CollectMode,Transient,ActiveState", p.got.Unit)
	for _, want := range []string{"Description=make test", "Delegate=yes", "CollectMode=inactive-or-failed", "Transient=yes", "ActiveState=active"} {
		if !strings.Contains(got+"\n", want+"\n") {
			t.Errorf("no %q in %q", want, got)
		}
	}
	p.end(t)
	noUnits(t, m)
}

// The scope is not there for the caller alone.
func TestScopeLivesUntilItsLastProcessEnds(t *testing.T) {
	linuxtest.NoLeaks(t)
	m := linuxtest.UserManager{NoBus: true}.Start(t)
	p := enter(t, m, Options{ID: "daemon"})
	dir := filepath.Join(m.Dir, "app.slice", p.got.Unit)
	daemon := linuxtest.Command{Args: linuxtest.Helper(t, "run"), Cgroup: dir}.Start(t)
	p.end(t)
	if got := m.Systemctl(t, "is-active", p.got.Unit); got != "active" {
		t.Errorf("the scope is %s while a process is in it", got)
	}
	daemon.Kill(t)
	noUnits(t, m)
	linuxtest.CgroupGone(t, dir, within)
}

// One that was killed leaves no failed unit.
func TestKilledCallerLeavesNoUnit(t *testing.T) {
	linuxtest.NoLeaks(t)
	m := linuxtest.UserManager{NoBus: true}.Start(t)
	p := enter(t, m, Options{ID: "killed"}, "run")
	p.Kill(t)
	noUnits(t, m)
}

func TestManyEnterAtOnce(t *testing.T) {
	linuxtest.NoLeaks(t)
	m := linuxtest.UserManager{}.Start(t)
	all := make([]*caller, 20)
	for i := range all {
		all[i] = enter(t, m, Options{ID: fmt.Sprint("many-", i)})
		if all[i].got.Err != "" {
			t.Errorf("%d: %s", i, all[i].got.Err)
		}
	}
	for _, p := range all {
		p.end(t)
	}
	noUnits(t, m)
}

func TestEndpoints(t *testing.T) {
	env := map[string]string{"XDG_RUNTIME_DIR": "/run/user/7", "DBUS_SESSION_BUS_ADDRESS": "unix:path=/run/user/7/bus,guid=12"}
	getenv := func(name string) string { return env[name] }
	want := "[{/run/user/7/systemd/private false 7} {/run/user/7/bus true 7}]"
	if got := fmt.Sprint(endpoints(false, getenv, 7)); got != want {
		t.Errorf("endpoints = %s, want %s", got, want)
	}
	env = map[string]string{"XDG_RUNTIME_DIR": "/run/user/0", "DBUS_SESSION_BUS_ADDRESS": "unix:abstract=/tmp/x"}
	want = "[{/run/user/0/systemd/private false 7} {@/tmp/x true 7} {/run/user/0/bus true 7} {/run/user/7/systemd/private false 7} {/run/user/7/bus true 7}]"
	if got := fmt.Sprint(endpoints(false, getenv, 7)); got != want {
		t.Errorf("endpoints = %s, want %s", got, want)
	}
	want = "[{/run/systemd/private false 0} {/run/dbus/system_bus_socket true 0}]"
	if got := fmt.Sprint(endpoints(true, getenv, 7)); got != want {
		t.Errorf("endpoints of the system = %s, want %s", got, want)
	}
}

func TestSocketsOfAnAddress(t *testing.T) {
	for address, want := range map[string]string{
		"": "[]", "autolaunch:": "[]", "tcp:host=h,port=1": "[]", "unix:path=": "[]", "unix:path=%zz": "[]",
		"unix:path=/a":                           "[/a]",
		"unix:guid=1,path=/a%20b":                "[/a b]",
		"unix:abstract=/a,guid=1;unix:path=/b":   "[@/a /b]",
		"unix:tmpdir=/tmp;nonsense;unix:path=/c": "[/c]",
	} {
		if got := fmt.Sprint(sockets(address)); got != want {
			t.Errorf("sockets(%q) = %s, want %s", address, got, want)
		}
	}
}
