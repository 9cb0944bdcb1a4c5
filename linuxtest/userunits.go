package linuxtest

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
)

const (
	busSocket  = "[Unit]\nDefaultDependencies=no\n[Socket]\nListenStream=%s\n"
	busService = "[Unit]\nDefaultDependencies=no\nRequires=dbus.socket\n[Service]\nSlice=%s\n" +
		"ExecStart=/usr/bin/dbus-daemon --config-file=/run/%s-bus.conf --address=systemd: --nofork --nopidfile --systemd-activation --syslog-only\n"
	// Everybody may do everything, so that nothing has to be installed but the daemon.
	busConfig = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>%s</type>
  <listen>unix:tmpdir=/run</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
  </policy>
</busconfig>
`
	userService = "[Unit]\nDefaultDependencies=no\nAfter=dbus.service\n[Service]\nType=notify\nUser=%d\nGroup=%d\nSlice=user-%d.slice\n" +
		"Delegate=yes\nKillMode=mixed\nEnvironment=HOME=/nonexistent XDG_RUNTIME_DIR=/run/user/%d SYSTEMD_UNIT_PATH=/run/units\n" +
		"ExecStart=" + systemdPath + " --user --log-target=null\n"
	// With what systemd itself asks for, and finds missing.
	target = "[Unit]\nDefaultDependencies=no\n"
)

// units are the unit files and what they need, by their paths below /run.
func (c UserManager) units() map[string]string {
	units := map[string]string{"units/default.target": target}
	if !c.NoBus {
		units["units/default.target"] += "Wants=dbus.socket\n"
		units["units/dbus.socket"] = fmt.Sprintf(busSocket, "%t/bus")
		units["units/dbus.service"] = fmt.Sprintf(busService, "session.slice", "session")
	}
	for name, text := range c.Units {
		units["units/"+name] = text
	}
	units["system/dbus.socket"] = fmt.Sprintf(busSocket, "/run/dbus/system_bus_socket")
	units["system/dbus.service"] = fmt.Sprintf(busService, "system.slice", "system")
	units["system/user@.service"] = fmt.Sprintf(userService, c.UID, c.UID, c.UID, c.UID)
	units["system/default.target"] = target + fmt.Sprintf("Wants=dbus.service user@%d.service\n", c.UID)
	for _, name := range []string{"system", "session"} {
		units[name+"-bus.conf"] = fmt.Sprintf(busConfig, name)
	}
	for _, name := range []string{"sysinit", "basic", "shutdown"} {
		units["system/"+name+".target"] = target
	}
	if c.Journal {
		maps.Copy(units, journalUnits())
		units["system/default.target"] += "Wants=systemd-journald.service\n"
	}
	return units
}

// journaldPath is where systemd has it.
const journaldPath = "/lib/systemd/systemd-journald"

// journalUnits are those of a journal in /run that forgets nothing.
func journalUnits() map[string]string {
	return map[string]string{
		"systemd/journald.conf.d/linuxtest.conf": "[Journal]\nStorage=volatile\nAudit=no\nReadKMsg=no\nForwardToSyslog=no\nForwardToWall=no\n" +
			"RateLimitIntervalSec=0\nMaxLevelStore=debug\n",
		"system/systemd-journald.socket": "[Unit]\nDefaultDependencies=no\n[Socket]\nListenStream=/run/systemd/journal/stdout\n" +
			"ListenDatagram=/run/systemd/journal/socket\nSocketMode=0666\nPassCredentials=yes\nPassSecurity=yes\nReceiveBuffer=8M\n",
		"system/systemd-journald.service": "[Unit]\nDefaultDependencies=no\nRequires=systemd-journald.socket\n[Service]\nType=notify\n" +
			"ExecStart=" + journaldPath + "\nStandardOutput=null\nFileDescriptorStoreMax=1024\nRestart=no\n",
	}
}

// prepare makes the files of /run, and the user's directory in it.
func (c UserManager) prepare(run, runtime string) error {
	for name, text := range c.units() {
		path := filepath.Join(run, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(runtime, 0o755); err != nil {
		return err
	}
	if err := os.Chmod(runtime, 0o700); err != nil {
		return err
	}
	return os.Chown(runtime, c.UID, c.UID)
}
