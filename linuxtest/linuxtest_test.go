package linuxtest

import (
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	Main(m, Modes{"make-dirs": modeMakeDirs, "naive-kill": modeNaiveKill})
}

func TestForkPIDHasTheNumber(t *testing.T) {
	NeedRoot(t)
	first := Start(t, Helper(t, "exit", "3")...)
	if got := first.Wait(t, 10*time.Second); got.ExitStatus() != 3 {
		t.Fatalf("wait status = %#x, want exit 3", uint32(got))
	}
	second := ReusePID(t, first.PID(), Helper(t, "run")...)
	if second.PID() != first.PID() || !second.Alive() {
		t.Errorf("PID %d alive %v, want %d alive", second.PID(), second.Alive(), first.PID())
	}
}

func TestCgroupIsEmpty(t *testing.T) {
	dir := Cgroup(t)
	p := Command{Args: Helper(t, "run"), Cgroup: dir}.Start(t)
	members := membersBelow(dir)
	if len(members) != 1 || members[0].PID != p.PID() {
		t.Errorf("members of %s = %v, want process %d", dir, members, p.PID())
	}
}
