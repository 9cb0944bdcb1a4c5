package linuxtest

import (
	"fmt"
	"os"
	"path/filepath"
)

const (
	busSocket = "[Unit]\nDefaultDependencies=no\n[Socket]\nListenStream=%s\n"
	// It ends with the socket's own end, and says when it is ready.
	busService = "[Unit]\nDefaultDependencies=no\nRequires=dbus.socket\n[Service]\nType=notify\nSlice=%s\n" +
		"ExecStart=/usr/bin/dbus-daemon %s --address=systemd: --nofork --nopidfile --systemd-activation --syslog-only\n"
	userService = "[Unit]\nDefaultDependencies=no\nAfter=dbus.service\n[Service]\nType=notify\nUser=%d\nGroup=%d\nSlice=user-%d.slice\n" +
		"Delegate=yes\nKillMode=mixed\nEnvironment=HOME=/nonexistent XDG_RUNTIME_DIR=/run/user/%d SYSTEMD_UNIT_PATH=/run/units\n" +
		"ExecStart=" + systemdPath + " --user --log-target=console\n"
	// With what systemd itself asks for, and finds missing.
	target = "[Unit]\nDefaultDependencies=no\n"
)

// units are the unit files, by their paths below /run.
func (c UserManager) units() map[string]string {
	units := map[string]string{"units/default.target": target}
	if !c.NoBus {
		units["units/default.target"] += "Wants=dbus.socket\n"
		units["units/dbus.socket"] = fmt.Sprintf(busSocket, "%t/bus")
		units["units/dbus.service"] = fmt.Sprintf(busService, "session.slice", "--session")
	}
	for name, text := range c.Units {
		units["units/"+name] = text
	}
	if c.Booted {
		units["system/dbus.socket"] = fmt.Sprintf(busSocket, "/run/dbus/system_bus_socket")
		units["system/dbus.service"] = fmt.Sprintf(busService, "system.slice", "--system")
		units["system/user@.service"] = fmt.Sprintf(userService, c.UID, c.UID, c.UID, c.UID)
		units["system/default.target"] = target + fmt.Sprintf("Wants=dbus.service user@%d.service\n", c.UID)
		for _, name := range []string{"sysinit", "basic", "shutdown"} {
			units["system/"+name+".target"] = target
		}
	}
	return units
}

// prepare makes the files and, without a PID 1, the cgroups that it and logind would
// have made.
func (c UserManager) prepare(run string, m *Manager) error {
	for name, text := range c.units() {
		path := filepath.Join(run, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	// What says that a host was booted with systemd, and the user's own directory.
	for _, dir := range []string{filepath.Join(run, "systemd", "system"), m.Runtime} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := os.Chmod(m.Runtime, 0o700); err != nil {
		return err
	}
	given := []string{m.Runtime}
	if !c.Booted {
		cgroups, err := m.delegate()
		if err != nil {
			return err
		}
		given = append(given, cgroups...)
	}
	for _, path := range given {
		if err := os.Chown(path, c.UID, c.UID); err != nil {
			return err
		}
	}
	return nil
}

// delegate makes the manager's cgroup, and returns the files that have to be the
// user's: of a delegated cgroup, and for the right to move processes within the
// user's slice.
func (m *Manager) delegate() ([]string, error) {
	if err := os.MkdirAll(m.Dir, 0o755); err != nil {
		return nil, err
	}
	given := []string{m.Dir, filepath.Join(m.slice(), "cgroup.procs")}
	for _, name := range []string{"cgroup.procs", "cgroup.threads", "cgroup.subtree_control"} {
		given = append(given, filepath.Join(m.Dir, name))
	}
	return given, nil
}
