package cgroup

import (
	"fmt"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// unit is a service of systemd.
type unit struct {
	name string // "pitvisor.service"; "" when its cgroup namespace hides it
	user bool   // of a user's systemd
}

// startedUnit finds the service that the caller runs in. What systemd puts into the
// environment goes on to everything that is started from there, a terminal for one,
// so the caller's cgroup must be a service's as well: its own, or the supervisor's
// leaf in it, or the top of a namespace, as ProtectControlGroups=strict makes.
func (m Mount) startedUnit() (unit, bool) {
	invoked := os.Getenv("INVOCATION_ID") != ""
	if !invoked && os.Getenv("NOTIFY_SOCKET") == "" {
		return unit{}, false
	}
	self, err := m.selfPath()
	if err != nil {
		return unit{}, false
	}
	if self == m.Path {
		return unit{}, invoked && m.Root == "/" && os.Getpid() != 1 // not a container's first process
	}
	dir := self
	if isSupervisor(path.Base(dir)) {
		dir = path.Dir(dir)
	}
	name := path.Base(dir)
	return unit{name: name, user: strings.Contains(dir, "/user@")}, strings.HasSuffix(name, ".service")
}

// privateUnit says whether the caller is a service that sees nothing of cgroups but its
// own, which is at the top of the mount: ProtectControlGroups=private of systemd 257.
// The top of the hierarchy itself has no cgroup.events.
func (m Mount) privateUnit() bool {
	u, ok := m.startedUnit()
	if !ok || u.name != "" {
		return false
	}
	_, err := os.Stat(path.Join(m.Path, "cgroup.events"))
	return err == nil
}

// String names it in a sentence.
func (u unit) String() string {
	if u.name == "" {
		return "this service"
	}
	return u.name
}

// set is what its administrator does to change a setting.
func (u unit) set(setting string) string {
	command, name := "systemctl edit", u.name
	if u.user {
		command = "systemctl --user edit"
	}
	if name == "" {
		name = "UNIT"
	}
	return fmt.Sprintf("%s %s, write %s below [Service], and restart it", command, name, setting)
}

// hint blames the setting of the unit for an error; "" when it is not to blame.
func (u unit) hint(err error) string {
	switch err {
	case unix.EROFS:
		return fmt.Sprintf("systemd gives %s a read-only /sys/fs/cgroup, as ProtectControlGroups=yes does (or ReadOnlyPaths=): %s", u, u.set("ProtectControlGroups=no"))
	case errUndelegated:
		return fmt.Sprintf("systemd has not delegated a cgroup to %s: %s", u, u.set("Delegate=yes"))
	}
	return ""
}
