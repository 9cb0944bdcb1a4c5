// Package guest is what the tests of pitvisor-linuxtest run in a guest.
package guest

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

func TestPasses(t *testing.T) {
	if os.Getpid() == 1 || os.Getuid() != 0 {
		t.Errorf("process %d of user %d, want not 1 of user 0", os.Getpid(), os.Getuid())
	}
	text, err := os.ReadFile("beside.txt")
	if err != nil || string(text) != "beside the test\n" {
		t.Errorf("beside.txt = %q, %v", text, err)
	}
	controllers, err := os.ReadFile("/sys/fs/cgroup/cgroup.subtree_control")
	if err != nil || !strings.Contains(string(controllers), "memory") {
		t.Errorf("controllers = %q, %v", controllers, err)
	}
}

func TestFails(t *testing.T) { t.Error("as it should") }

func TestSkips(t *testing.T) {
	t.Run("allowed", func(t *testing.T) { t.Skip("needs something") })
	t.Run("forbidden", func(t *testing.T) { t.Skip("is lazy") })
}

func TestLeavesADaemon(t *testing.T) {
	if err := exec.Command("/bin/sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 &").Run(); err != nil {
		t.Error(err)
	}
}
