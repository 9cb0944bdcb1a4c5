package pidfd

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/linuxtest"
)

func TestCgroupPath(t *testing.T) {
	linuxtest.NeedCgroup2(t)
	self, err := Self()
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	got, err := self.CgroupPath()
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile("/proc/self/cgroup")
	if err != nil || !strings.Contains("\n"+string(data), "\n0::"+got+"\n") {
		t.Errorf("CgroupPath() = %q, %v, want what stands in\n%s", got, err, data)
	}
	child := linuxtest.Start(t, linuxtest.Helper(t, "run")...)
	p, err := Open(child.PID())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if got, err := p.CgroupPath(); err != nil || !strings.HasPrefix(got, "/") {
		t.Errorf("CgroupPath() of a child = %q, %v", got, err)
	}
	child.Kill(t)
	child.Wait(t, 30*time.Second)
	if _, err := p.CgroupPath(); !errors.Is(err, ErrGone) {
		t.Errorf("CgroupPath() of one that was reaped = %v, want %v", err, ErrGone)
	}
}
