// Package confined is what the tests of pitvisor-linuxtest run in containers and as an
// ordinary user.
package confined

import (
	"os"
	"os/exec"
	"testing"
)

func TestWhere(t *testing.T) {
	text, err := os.ReadFile("beside.txt")
	if err != nil || string(text) != "beside the test\n" {
		t.Errorf("beside.txt = %q, %v", text, err)
	}
	wd, err := os.Getwd()
	t.Logf("user %d in %s, %v", os.Getuid(), wd, err)
	if os.Getenv("A") != "b c" {
		t.Errorf("A = %q", os.Getenv("A"))
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
