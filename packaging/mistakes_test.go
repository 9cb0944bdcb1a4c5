package packaging

import (
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/pitvisor/pitvisor/linuxtest"
)

// mistake is one of an operator's: what is wrong with a service, and what there is to
// read about it where an operator looks, in `systemctl status`.
type mistake struct {
	name   string
	unit   string                 // "" is pitvisor.service
	config string                 // "" is that of workers
	dropIn string                 // below [Service]
	spoil  func(*testing.T, host) // after the configuration was written; nil is nothing
	mend   func(*testing.T, host)
	starts bool // it works, with a warning
	code   string
	says   []string
}

const ofDaemon = "pitvisor@daemon.service"

func mistakes() []mistake {
	run := func(args ...string) func(*testing.T, host) {
		return func(_ *testing.T, h host) { h.root(args...) }
	}
	shell := func(script string) func(*testing.T, host) { return run("sh", "-c", script) }
	return []mistake{
		{
			name: "no Delegate=, as an ordinary user", unit: ofDaemon, dropIn: "Delegate=no\nDelegateSubgroup=\n", code: "2",
			says: []string{"systemd has not delegated a cgroup to pitvisor@daemon.service: systemctl edit pitvisor@daemon.service, write Delegate=yes below [Service], and restart it"},
		},
		{
			name: "no Delegate=, as root", dropIn: "Delegate=no\nDelegateSubgroup=\n", starts: true,
			says: []string{"workers are in /sys/fs/cgroup/pitvisor, outside of the unit", "systemctl edit pitvisor.service, write Delegate=yes below [Service]"},
		},
		{
			name: "ProtectControlGroups=yes", dropIn: "ProtectControlGroups=yes\n", code: "2",
			says: []string{"read-only file system", "systemctl edit pitvisor.service, write ProtectControlGroups=no below [Service], and restart it"},
		},
		{
			name: "no cgroup2, as on a host with cgroup v1", dropIn: "TemporaryFileSystem=/sys/fs/cgroup\n", code: "125",
			says: []string{"no cgroup to work in", "no cgroup2 file system is mounted", "systemd.unified_cgroup_hierarchy=1"},
		},
		{
			name: "a configuration that may not be read", unit: ofDaemon, spoil: shell("chmod 600 /etc/pitvisor/daemon.toml"), code: "2",
			mend: shell("chmod 644 /etc/pitvisor/daemon.toml"),
			says: []string{"/etc/pitvisor/daemon.toml: open file: permission denied", "it belongs to root and has mode 0600", "chown daemon /etc/pitvisor/daemon.toml"},
		},
		{
			name: "a directory that may not be entered", unit: ofDaemon, dropIn: "ConfigurationDirectoryMode=700\n", spoil: shell("chmod 700 /etc/pitvisor"), code: "2",
			mend: shell("chmod 755 /etc/pitvisor"),
			says: []string{"user daemon may not enter /etc/pitvisor: chmod o+x /etc/pitvisor"},
		},
		{
			name: "a configuration of another owner", spoil: shell("chown daemon /etc/pitvisor/pitvisor.toml"), starts: true,
			mend: shell("chown root /etc/pitvisor/pitvisor.toml"),
			says: []string{"/etc/pitvisor/pitvisor.toml belongs to daemon, who can have root start anything: chown root /etc/pitvisor/pitvisor.toml"},
		},
		{
			name: "a configuration that everybody can change", spoil: shell("chmod 666 /etc/pitvisor/pitvisor.toml"), starts: true,
			mend: shell("chmod 644 /etc/pitvisor/pitvisor.toml"),
			says: []string{"has mode 0666: everybody can have root start anything: chmod go-w /etc/pitvisor/pitvisor.toml"},
		},
		{
			name: "no configuration", spoil: shell("mv /etc/pitvisor/pitvisor.toml /etc/pitvisor/away"), code: "2",
			mend: shell("mv /etc/pitvisor/away /etc/pitvisor/pitvisor.toml"),
			says: []string{"/etc/pitvisor/pitvisor.toml", "no such file or directory", "name a configuration with -f FILE"},
		},
		{
			name: "an unknown key", config: strings.Replace(workers, "size", "sise", 1), code: "2",
			says: []string{`/etc/pitvisor/pitvisor.toml:4:1: unknown key "sise" in [pool.web]: did you mean "size"?`},
		},
		{
			name: "a state directory that cannot be written", dropIn: "StateDirectory=\nReadOnlyPaths=/var\n", code: "125",
			says: []string{"/var/lib/pitvisor", "read-only file system", "--state-dir", "StateDirectory=pitvisor below [Service]"},
		},
		{
			name: "a full disk", code: "125", spoil: shell("mkdir -p /var/lib/pitvisor; mount -t tmpfs -o size=16k,nr_inodes=2 none /var/lib/pitvisor; : >/var/lib/pitvisor/full"),
			mend: shell("umount /var/lib/pitvisor"),
			says: []string{"/var/lib/pitvisor", "no space left on device", "free some space"},
		},
	}
}

// testMistakes: each one is named together with its cure.
func testMistakes(t *testing.T, deb string) {
	linuxtest.NoLeaks(t)
	h := boot(t)
	h.install(deb)
	for _, unit := range []string{unit, "pitvisor@.service"} {
		// Where an operator has it.
		h.dropIn(unit, "said", "StandardOutput=journal\nStandardError=journal\n")
	}
	for _, m := range mistakes() {
		t.Run(m.name, func(t *testing.T) {
			h := h
			h.t = t
			m.make(t, h)
		})
	}
	t.Run("a port that is taken", func(t *testing.T) { h := h; h.t = t; testPortTaken(t, h) })
	t.Run("two units on one configuration", func(t *testing.T) { h := h; h.t = t; testTwoUnits(t, h) })
}

func (m mistake) make(t *testing.T, h host) {
	if m.unit == "" {
		m.unit = unit
	}
	if m.config == "" {
		m.config = workers
	}
	name := "pitvisor.toml"
	if m.unit == ofDaemon {
		name = "daemon.toml"
	}
	h.configure(name, m.config)
	if m.dropIn != "" {
		h.dropIn(m.unit, "mistake", m.dropIn)
		defer h.revert(m.unit, "mistake")
	}
	if m.spoil != nil {
		m.spoil(t, h)
		defer m.mend(t, h)
	}
	out, code := h.try("systemctl", "start", m.unit)
	status := h.status(m.unit)
	if started := code == 0; started != m.starts {
		t.Errorf("systemctl start = %d: %s\n%s", code, out, status)
	}
	if got := h.property(m.unit, "ExecMainStatus"); !m.starts && got != m.code {
		t.Errorf("exit code %s, want %s", got, m.code)
	}
	// What no restart can cure is not started again.
	if state := h.property(m.unit, "ActiveState") + h.property(m.unit, "NRestarts"); m.code == "2" && state != "failed0" {
		t.Errorf("the unit is %s after code 2", state)
	}
	for _, want := range m.says {
		if !strings.Contains(status, want) {
			t.Errorf("systemctl status does not say %q:\n%s", want, status)
		}
	}
	h.root("systemctl", "stop", m.unit)
	h.try("systemctl", "reset-failed", m.unit)
	h.gone(h.cgroup(m.unit))
}

// status is what an operator reads, without what was said before.
func (h host) status(unit string) string {
	h.t.Helper()
	h.root("journalctl", "--sync")
	out, _ := h.try("systemctl", "status", "--no-pager", "--lines=20", unit) // 3: it does not run
	return out
}

// testTwoUnits: the second one does not start every worker once more.
func testTwoUnits(t *testing.T, h host) {
	const other = "shop.service"
	h.configure("pitvisor.toml", workers)
	file := filepath.Join(filepath.Dir(h.property(unit, "FragmentPath")), other) // beside the first
	h.root("cp", "/usr/lib/systemd/system/pitvisor.service", file)
	defer h.root("systemctl", "daemon-reload")
	defer h.root("rm", file)
	h.root("systemctl", "daemon-reload")
	h.root("systemctl", "start", other)
	defer h.gone(h.cgroup(other))
	defer h.root("systemctl", "stop", other)
	if out, code := h.try("systemctl", "start", unit); code == 0 {
		t.Errorf("both start: %s", out)
	}
	status := h.status(unit)
	for _, want := range []string{"the pools of /etc/pitvisor/pitvisor.toml are kept already, by pid ", " in shop.service", "stop that one first (systemctl stop shop.service)"} {
		if !strings.Contains(status, want) {
			t.Errorf("systemctl status does not say %q:\n%s", want, status)
		}
	}
	if got := h.property(unit, "ExecMainStatus"); got != "2" {
		t.Errorf("exit code %s, want 2", got)
	}
}

// testPortTaken: who has the port is named, whether the worker minds or not.
func testPortTaken(t *testing.T, h host) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
	if err := l.Close(); err != nil { // only to find one
		t.Fatal(err)
	}
	listen := linuxtest.Helper(t, "listen")
	h.root(append([]string{"systemd-run", "--quiet", "--unit=squatter", "--service-type=exec", "--"}, append(listen, port)...)...)
	defer h.root("systemctl", "stop", "squatter.service")
	for _, worker := range []struct{ name, command, says, hint string }{
		{"the worker goes on", "sleep 1000", "port is taken by a process outside the worker: ", "; hint: end that process, or give pool web another port"},
		{"the worker ends", strings.Join(listen, " ") + " $PITVISOR_PORT", "exited: exit ", "bind: address already in use"},
	} {
		h.configure("pitvisor.toml", fmt.Sprintf("[pool.web]\ncommand = [\"/bin/sh\", \"-c\", \"exec %s\"]\n"+
			"[pool.web.ready]\ntcp = \"127.0.0.1:{port}\"\nport = %s\n", worker.command, port))
		h.root("systemctl", "start", "--no-block", unit)
		linuxtest.Wait(t, patience, func() (bool, string) {
			status := h.status(unit)
			return strings.Contains(status, worker.says) && strings.Contains(status, worker.hint), worker.name + ": " + status
		})
		h.root("systemctl", "stop", unit)
		h.gone(h.cgroup(unit))
	}
}
