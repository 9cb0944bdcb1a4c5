package packaging

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/linuxtest"
)

// patience is for processors that are emulated, and shared.
const patience = 100 * time.Second

// host is a machine with systemd as PID 1, with a /usr, /etc and /var of its own, and
// with dpkg: packages are installed there as on any other, and nothing of it stays.
type host struct {
	*linuxtest.Manager // nil: it is the machine that we are on, see booted
	t                  *testing.T
	run                string // its /run, as we see it
	units              string // where /run has units of the system
	top                string // its top cgroup, as we see it
}

// boot starts one in namespaces, unless the machine itself is one.
func boot(t *testing.T) host {
	t.Helper()
	if os.Getenv("LINUXTEST_SYSTEMD") != "" {
		return booted(t)
	}
	const target = "[Unit]\nDefaultDependencies=no\n"
	units := map[string]string{"basic.target": target, "shutdown.target": target}
	m := linuxtest.UserManager{NoBus: true, Own: true, Journal: true, Units: units}.Start(t)
	h := host{Manager: m, t: t, run: filepath.Dir(filepath.Dir(m.Runtime)), units: "system", top: filepath.Join(m.Dir, "../../..")}
	if _, code := h.try("dpkg", "--version"); code != 0 {
		linuxtest.Skip(t, "needs the command dpkg")
	}
	return h
}

// install installs the package and shows its units to systemd, which looks nowhere
// but in /run there. What a service says goes to a file, for want of a journal.
func (h host) install(deb string) {
	h.t.Helper()
	h.root("dpkg", "-i", "--no-triggers", deb)
	for _, name := range []string{"pitvisor.service", "pitvisor@.service"} {
		if h.Manager != nil {
			h.root("ln", "-s", "/usr/lib/systemd/system/"+name, "/run/system/"+name)
		}
		h.dropIn(name, "log", "StandardOutput=append:/run/said\nStandardError=append:/run/said\n")
	}
}

// dropIn is `systemctl edit`.
func (h host) dropIn(unit, name, text string) {
	h.t.Helper()
	write(h.t, "[Service]\n"+text, h.run, h.units, unit+".d", name+".conf")
	h.root("systemctl", "daemon-reload")
}

// revert takes a drop-in away.
func (h host) revert(unit, name string) {
	h.t.Helper()
	if err := os.Remove(filepath.Join(h.run, h.units, unit+".d", name+".conf")); err != nil {
		h.t.Fatal(err)
	}
	h.root("systemctl", "daemon-reload")
}

// configure writes a file into /etc/pitvisor.
func (h host) configure(name, text string) {
	h.t.Helper()
	write(h.t, text, h.run, "config")
	h.root("cp", "/run/config", "/etc/pitvisor/"+name)
}

// said is what services have said since it was asked last.
func (h host) said() string {
	h.t.Helper()
	path := filepath.Join(h.run, "said")
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o644); err != nil { // services append to it
		h.t.Fatal(err)
	}
	return string(data)
}

// try runs a command as root there.
func (h host) try(args ...string) (out string, code int) {
	h.t.Helper()
	c := linuxtest.Command{Args: append([]string{"/usr/bin/env"}, args...), Dir: "/"}
	if h.Manager != nil {
		c = h.CommandAs(h.t, 0, append([]string{"env"}, args...)...) // env finds what was installed there
	}
	path := filepath.Join(h.t.TempDir(), "out")
	f, err := os.Create(path)
	if err != nil {
		h.t.Fatal(err)
	}
	defer func() { _ = f.Close() }() // read by its name
	c.Stdout, c.Stderr = f, f
	status := c.Start(h.t).Wait(h.t, patience)
	return read(h.t, path), status.ExitStatus()
}

func (h host) root(args ...string) string {
	h.t.Helper()
	out, code := h.try(args...)
	if code != 0 {
		h.t.Fatalf("%s = %d: %s\n%s", strings.Join(args, " "), code, out, h.said())
	}
	return out
}

// property is one of `systemctl show`.
func (h host) property(unit, name string) string {
	h.t.Helper()
	return strings.TrimSpace(h.root("systemctl", "show", "--value", "-p", name, unit))
}

// cgroup is where a unit of system.slice is.
func (h host) cgroup(parts ...string) string {
	return filepath.Join(append([]string{h.top, "system.slice"}, parts...)...)
}

// runs are the runs in a cgroup.
func (h host) runs(dir string) []string {
	h.t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "run-*"))
	if err != nil {
		h.t.Fatal(err)
	}
	return found
}

// gone checks that nothing of a unit is left.
func (h host) gone(dir string) {
	h.t.Helper()
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		h.t.Errorf("%s is still there, with processes %v (%v)", dir, linuxtest.Members(dir), err)
	}
}
