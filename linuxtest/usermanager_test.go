package linuxtest

import (
	"strings"
	"testing"
	"time"
)

func TestUserManagerRunsUnitsOfItsUser(t *testing.T) {
	for name, c := range map[string]UserManager{"bus": {}, "no bus": {NoBus: true}} {
		t.Run(name, func(t *testing.T) {
			NoLeaks(t)
			m := c.Start(t)
			got := m.Command(t, "systemd-run", "--user", "--scope", "-q", "-p", "Delegate=yes", "--unit=seen.scope",
				"sh", "-c", "id -u; cat /proc/self/cgroup").Output(t, 20*time.Second)
			if !strings.HasPrefix(got, "65534\n") || !strings.HasSuffix(got, "0::/user.slice/user-65534.slice/user@65534.service/app.slice/seen.scope") {
				t.Errorf("a scope of the user says %q", got)
			}
			Wait(t, 20*time.Second, func() (bool, string) {
				left := m.Systemctl(t, "list-units", "--all", "seen.scope")
				return left == "", "left of the scope: " + left
			})
		})
	}
}

func TestUserManagerSeesWhatIsLeftInAUnit(t *testing.T) {
	NeedCommand(t, systemdPath)
	NeedAdmin(t, "to start a systemd")
	NoLeaks(t)
	leave := func(tb testing.TB) {
		m := UserManager{NoBus: true}.Start(tb)
		m.Command(tb, "systemd-run", "--user", "--scope", "-q", "--unit=left.scope", "sh", "-c", "setsid sleep 100 & :").Output(tb, 20*time.Second)
	}
	wantFailure(t, leave, "left with the user's systemd: process", "left.scope")
	wantPass(t, func(tb testing.TB) { AllowLeak(tb); leave(tb) })
}
