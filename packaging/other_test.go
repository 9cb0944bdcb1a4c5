package packaging

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pitvisor/pitvisor/linuxtest"
)

// testRPMHost is the life of the .rpm on a machine, with its scripts, and workers that
// run at every step of it.
func testRPMHost(t *testing.T, rpm string) {
	linuxtest.NoLeaks(t)
	h := boot(t)
	if _, code := h.try("rpm", "--version"); code != 0 {
		linuxtest.Skip(t, "needs the command rpm")
	}
	// Nothing is installed by rpm there that it could depend on.
	rpmArgs := []string{"rpm", "--dbpath=/var/lib/rpm", "--nodeps", "-v"}
	if _, code := h.try("rpm", "--force-debian", "--version"); code == 0 { // Debian's before trixie wants it
		rpmArgs = append(rpmArgs, "--force-debian")
	}
	manage := func(args ...string) string {
		t.Helper()
		return h.root(slices.Concat(rpmArgs, args)...)
	}
	manage("-i", rpm)
	h.root("id", "pitvisor")
	manage("-V", "pitvisor")
	h.show()
	h.configure("pitvisor.toml", workers)
	h.root("systemctl", "start", unit)
	h.up(unit, h.cgroup(unit))
	before := linuxtest.Identities(h.cgroup(unit))
	if out := manage("-U", "--force", rpm); !strings.Contains(out, "systemctl restart pitvisor") {
		t.Errorf("the upgrade does not say that the old version runs on:\n%s", out)
	}
	if after := linuxtest.Identities(h.cgroup(unit)); !slices.Equal(after, before) {
		t.Errorf("processes after the upgrade: %v, before: %v", after, before)
	}
	h.root("grep", "-q", "pool.web", "/etc/pitvisor/pitvisor.toml") // it was changed, so it stays
	h.root("systemctl", "restart", unit)
	h.up(unit, h.cgroup(unit))
	manage("-e", "pitvisor")
	h.gone(h.cgroup(unit))
	h.root("grep", "-q", "pool.web", "/etc/pitvisor/pitvisor.toml.rpmsave")
	h.root("ls", "-d", "/var/lib/pitvisor") // there is no purge
	for _, path := range []string{"/usr/bin/pitvisor", "/usr/libexec/pitvisor", "/usr/share/pitvisor", "/usr/share/doc/pitvisor", "/usr/share/licenses/pitvisor"} {
		if out, code := h.try("ls", "-d", path); code == 0 {
			t.Errorf("left after the removal: %s", out)
		}
	}
}

// show lets systemd see the units of a package: it looks nowhere but in /run there.
func (h host) show() {
	h.t.Helper()
	if h.Manager == nil {
		return
	}
	h.root("ln", "-s", "/usr/lib/systemd/system/pitvisor.service", "/run/system/pitvisor.service")
	h.root("systemctl", "daemon-reload")
}

// testTarballHost does what docs/install.md says where there is no package.
func testTarballHost(t *testing.T, tarball string) {
	linuxtest.NoLeaks(t)
	h := boot(t)
	h.root("cp", tarball, "/run/pitvisor-0-linux-amd64.tar.gz")
	page := read(t, "../docs/install.md")
	_, page, _ = strings.Cut(page, "## Everywhere else\n")
	page, _, _ = strings.Cut(page, "\n##")
	var script strings.Builder
	for line := range strings.Lines(page) {
		if command, ok := strings.CutPrefix(line, "# "); ok {
			script.WriteString(command)
		}
	}
	if n := strings.Count(script.String(), "\n"); n != 3 {
		t.Fatalf("docs/install.md has %d commands, want 3:\n%s", n, script.String())
	}
	h.root("sh", "-ec", "cd /run; mkdir -p /usr/local\n"+script.String())
	if h.Manager != nil { // see show
		h.root("ln", "-s", "/usr/local/lib/systemd/system/pitvisor.service", "/run/system/pitvisor.service")
		h.root("systemctl", "daemon-reload")
	}
	h.root("/usr/local/bin/pitvisor", "version")
	h.root("grep", "-q", "/usr/local/share/pitvisor/ci/gitlab/sweep.sh", "/usr/local/share/pitvisor/ci/gitlab/config.toml")
	h.configure("pitvisor.toml", strings.Replace(workers, "size", "user = \"pitvisor\"\nsize", 1))
	h.root("systemctl", "start", unit)
	h.up(unit, h.cgroup(unit))
	h.inItsLeaf()
	h.root("systemctl", "stop", unit)
	h.gone(h.cgroup(unit))
}

// inItsLeaf checks who has put the supervisor into a cgroup of its own: systemd, where it
// knows DelegateSubgroup=, else the supervisor itself.
func (h host) inItsLeaf() {
	h.t.Helper()
	out := h.root("systemctl", "--version")
	var version int
	if _, err := fmt.Sscanf(out, "systemd %d", &version); err != nil {
		h.t.Fatalf("systemctl --version says %q", out)
	}
	leaf := filepath.Join(h.cgroup(unit), "supervisor")
	if members := linuxtest.Members(leaf); version >= 254 && len(members) != 1 {
		h.t.Errorf("systemd %d: in %s are %v, want the supervisor", version, leaf, members)
	} else if _, err := os.Stat(leaf); version < 254 && !errors.Is(err, fs.ErrNotExist) {
		h.t.Errorf("systemd %d knows no DelegateSubgroup=, and there is %s (%v)", version, leaf, err)
	}
	h.t.Logf("systemd %d", version)
}
