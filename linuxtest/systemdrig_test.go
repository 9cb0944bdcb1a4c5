package linuxtest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestUserManagerHasAJournal(t *testing.T) {
	NoLeaks(t)
	m := UserManager{NoBus: true, Journal: true}.Start(t)
	unit := "[Unit]\nDefaultDependencies=no\n[Service]\nType=oneshot\nExecStart=/bin/sh -c 'echo a word; exit 3'\n"
	if err := os.WriteFile(filepath.Join(m.Runtime, "../../system/told.service"), []byte(unit), 0o644); err != nil {
		t.Fatal(err)
	}
	m.CommandAs(t, 0, "systemctl", "daemon-reload").Output(t, 20*time.Second)
	m.CommandAs(t, 0, "sh", "-c", "! systemctl start told").Output(t, 20*time.Second)
	// The journal reads what units print when it comes to it, and now and then too late to
	// say of a process that is gone whose it was: then only the whole journal has it.
	Wait(t, 20*time.Second, func() (bool, string) {
		got := m.CommandAs(t, 0, "sh", "-c", "systemctl status --no-pager told; journalctl --no-pager || :").Output(t, 20*time.Second)
		for _, want := range []string{"sh[", "]: a word\n", "status=3", "Failed with result 'exit-code'"} {
			if !strings.Contains(got, want) {
				return false, fmt.Sprintf("status and journal say no %q:\n%s", want, got)
			}
		}
		return true, ""
	})
}

// What is written is there for all who live there, and nowhere else.
func TestUserManagerWithAMachineOfItsOwn(t *testing.T) {
	NoLeaks(t)
	m := UserManager{NoBus: true, Own: true}.Start(t)
	name := filepath.Base(t.TempDir())
	for _, dir := range []string{"/usr/", "/etc/", "/var/"} {
		path := dir + "linuxtest-" + fmt.Sprint(os.Getpid()) + name
		m.CommandAs(t, 0, "sh", "-c", "echo here >"+path).Output(t, 20*time.Second)
		if got := m.Command(t, "cat", path).Output(t, 20*time.Second); got != "here" {
			t.Errorf("%s has %q", path, got)
		}
		if pathExists(path) {
			t.Errorf("%s is on the machine itself", path)
		}
	}
	m = UserManager{NoBus: true}.Start(t)
	got := m.CommandAs(t, 0, "sh", "-c", "for d in / /usr /etc /var; do test -w $d && echo $d; done; :").Output(t, 20*time.Second)
	if got != "" {
		t.Errorf("without Own these can be written: %s", got)
	}
}
