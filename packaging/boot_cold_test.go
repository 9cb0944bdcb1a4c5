package packaging

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/linuxtest"
)

// across are files of this test that outlive a reboot.
const across = "/var/lib/across"

// TestColdReboot loses its machine twice: by a cut of the power, which leaves all that
// the daemon has on the disk, and by an orderly reboot.
func TestColdReboot(t *testing.T) {
	h := booted(t)
	switch os.Getenv("LINUXTEST_BOOT") {
	case "1":
		h.root("dpkg", "-i", "--no-triggers", brought(t))
		h.configure("pitvisor.toml", workers)
		// Where even what belongs into /run is on the disk.
		write(t, "[Service]\nEnvironment=PITVISOR_RUNTIME_DIR="+across+"/run\n", "/etc/systemd/system/pitvisor.service.d/run.conf")
		h.root("systemctl", "daemon-reload")
		h.root("systemctl", "enable", "--now", unit)
		h.remember()
		unix.Sync()
		write(t, "b", "/proc/sysrq-trigger")
	case "2":
		h.newRun(read(t, across, "name"))
		h.remember()
		h.root("systemctl", "reboot")
	default:
		h.newRun(read(t, across, "name"))
		return
	}
	linuxtest.Wait(t, patience, func() (bool, string) { return false, "no reboot" })
}

// remember writes down which run it is, and what the daemon has on the disk.
func (h host) remember() {
	h.t.Helper()
	run := filepath.Base(h.up(unit, h.cgroup(unit)))
	write(h.t, run, across, "name")
	write(h.t, h.runtimeDir(), across, "stale")
}

// runtimeDir is the one directory of a run there.
func (h host) runtimeDir() string {
	h.t.Helper()
	entries, err := os.ReadDir(filepath.Join(across, "run"))
	entries = slices.DeleteFunc(entries, func(e os.DirEntry) bool { return !e.IsDir() }) // sockets
	if err != nil || len(entries) != 1 {
		h.t.Fatalf("directories of runs: %v, %v, want one", entries, err)
	}
	return entries[0].Name()
}

// newRun checks that the unit has been started at boot, that the old run is no longer
// there in any way, and that nothing was taken for its processes.
func (h host) newRun(old string) {
	h.t.Helper()
	linuxtest.Wait(h.t, patience, func() (bool, string) {
		state := h.property(unit, "ActiveState")
		return state == "active", state
	})
	if run := filepath.Base(h.up(unit, h.cgroup(unit))); run == old {
		h.t.Errorf("it is still the run %s", old)
	}
	if out := h.root("pitvisor", "ps"); strings.Contains(out, old) || strings.Count(out, "run-") != 1 || !strings.Contains(out, "2/2") {
		h.t.Errorf("pitvisor ps:\n%s", out)
	}
	if h.runtimeDir() == read(h.t, across, "stale") {
		h.t.Errorf("it still has the directory %s", h.runtimeDir())
	}
	said := h.root("journalctl", "-b", "-u", unit, "-o", "cat")
	if strings.Contains(said, "swept what earlier owners left") {
		h.t.Errorf("it has swept something that is long gone:\n%s", said)
	}
	if got := h.property(unit, "NRestarts"); got != "0" {
		h.t.Errorf("it needed %s restarts", got)
	}
}
