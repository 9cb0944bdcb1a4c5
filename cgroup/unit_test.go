package cgroup

import (
	"strings"
	"testing"

	"github.com/pitvisor/pitvisor/linuxtest"
)

// asService is what systemd puts into the environment of a service.
func asService(t *testing.T) {
	t.Helper()
	t.Setenv("INVOCATION_ID", "0123456789abcdef0123456789abcdef")
}

// A unit that may not work names the setting that forbids it.
func TestFindRootNamesTheSettingOfTheUnit(t *testing.T) {
	linuxtest.NeedAdmin(t, "to make a mount namespace")
	d := testDir(t)
	service := child(t, d, "pit.service")
	manager := child(t, d, "user@65534.service")
	usersOwn := child(t, manager, "pit.service")
	asService(t)

	out := call(t, service.Path(), "mounts", "read-only", "", "find-root", "")
	wantRefusal(t, out, "is: read-only", "systemctl edit pit.service, write ProtectControlGroups=no below [Service]")
	out = call(t, service.Path(), "mounts", "read-only", "", "find-root", d.Path()+"/mine")
	wantRefusal(t, out, "is: read-only", "ProtectControlGroups=no")
	out = call(t, child(t, service, "supervisor").Path(), "mounts", "read-only", "", "find-root", "")
	wantRefusal(t, out, "is: read-only", "systemctl edit pit.service, write ProtectControlGroups=no")
	out = call(t, usersOwn.Path(), "mounts", "read-only", "", "find-root", "")
	wantRefusal(t, out, "is: read-only", "systemctl --user edit pit.service, write ProtectControlGroups=no")
	out = call(t, service.Path(), "mounts", "pressure", service.Path(), "find-root", "")
	wantRefusal(t, out, "is: read-only", "systemctl edit pit.service, write ProtectControlGroups=no")
	out = call(t, child(t, d, "strict.service").Path(), "mounts", "strict", "", "find-root", "")
	wantRefusal(t, out, "is: read-only", "gives this service a read-only /sys/fs/cgroup")
	out = call(t, service.Path(), "as", "65534", "find-root", "")
	wantRefusal(t, out, "is: permission", "systemctl edit pit.service, write Delegate=yes below [Service]")
}

// What systemd puts into the environment is inherited by what is no unit.
func TestFindRootBlamesNoUnitWithoutOne(t *testing.T) {
	linuxtest.NeedAdmin(t, "to make a mount namespace")
	d := testDir(t)
	scope, service := child(t, d, "vte.scope"), child(t, d, "pit.service")
	read := func(dir *Dir) string { return call(t, dir.Path(), "mounts", "read-only", "", "find-root", "") }
	wantRefusal(t, read(service), "is: read-only", hintReadOnly) // no environment
	asService(t)
	wantRefusal(t, read(scope), "is: read-only", hintReadOnly)
	out := call(t, scope.Path(), "as", "65534", "find-root", "")
	wantRefusal(t, out, "is: permission", hintDelegate)
}

// Root can work without Delegate=, but should know that its workers are elsewhere.
func TestFindRootOfRootSaysThatTheUnitIsNotDelegated(t *testing.T) {
	linuxtest.NeedAdmin(t, "to make a mount namespace")
	d := testDir(t)
	service := child(t, d, "pit.service")
	wantNil(t, "SetXattr", service.SetXattr("user.delegate", []byte("0"))) // no mark
	asService(t)
	out := call(t, service.Path(), "mounts", "bind", d.Path(), "find-root", "")
	if got := field(out, "undelegated"); !strings.Contains(got, "systemctl edit pit.service, write Delegate=yes") {
		t.Errorf("FindRoot = %q, want a word about Delegate=", out)
	}
	wantNil(t, "SetXattr", service.SetXattr("user.delegate", []byte("1")))
	out = call(t, service.Path(), "mounts", "bind", d.Path(), "find-root", "")
	if got := field(out, "undelegated"); got != "" || field(out, "source") != string(RootDelegated) {
		t.Errorf("FindRoot = %q, want the unit and no complaint", out)
	}
}

// A service that sees its own cgroup alone works there, without a name for it.
func TestFindRootInAPrivateUnit(t *testing.T) {
	linuxtest.NeedAdmin(t, "to make a mount namespace")
	d := testDir(t)
	m, err := FindMount()
	if err != nil {
		t.Fatal(err)
	}
	service := child(t, d, "pit.service")
	private := func() string { return call(t, service.Path(), "mounts", "private", "", "find-root", "") }
	wantRoot(t, private(), m.Path+"/pitvisor", RootOwned) // a container
	asService(t)
	wantRoot(t, private(), m.Path, RootDelegated)
}
