package pressure

import (
	"errors"
	"io/fs"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/linuxtest"
)

const waitTime = 2 * time.Minute

// testDir is a cgroup of the test's own, where the kernel keeps pressure.
func testDir(t *testing.T) *cgroup.Dir {
	t.Helper()
	d, err := cgroup.Open(linuxtest.Cgroup(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	if _, err := d.ReadFile("cpu.pressure"); err != nil {
		linuxtest.Skip(t, "needs the kernel's pressure stall information")
	}
	return d
}

// fires waits until the trigger fires.
func fires(t *testing.T, trigger *Trigger) {
	t.Helper()
	poll := []unix.PollFd{{Fd: int32(trigger.FD()), Events: unix.POLLPRI}}
	for end := time.Now().Add(waitTime); time.Now().Before(end); {
		n, err := unix.Poll(poll, 1000)
		if n == 1 && poll[0].Revents&unix.POLLPRI != 0 {
			return
		}
		if n == 1 || err != nil && !errors.Is(err, unix.EINTR) {
			t.Fatalf("poll = %d, %#x, %v", n, poll[0].Revents, err)
		}
	}
	t.Fatal("the trigger did not fire")
}

// Two programs that want one processor make pressure in their cgroup, and on the host.
func TestTriggerFires(t *testing.T) {
	d := testDir(t)
	rule := Rule{Above: 0.3, For: 2 * time.Second}
	var triggers []*Trigger
	for _, where := range []*cgroup.Dir{d, nil} {
		trigger, err := Open(where, Source{Resource: "cpu"}, rule)
		if where == nil && (errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EROFS)) {
			continue // a container, or an ordinary user before Linux 6.5
		}
		if err != nil {
			t.Fatal(err)
		}
		defer trigger.Close()
		triggers = append(triggers, trigger)
	}
	before, err := triggers[0].Total()
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		linuxtest.Command{Args: []string{"/bin/sh", "-c", "exec taskset 1 /bin/sh -c 'while :; do :; done'"}, Cgroup: d.Path()}.Start(t)
	}
	for _, trigger := range triggers {
		fires(t, trigger)
	}
	after, err := triggers[0].Total()
	if err != nil || after-before < 100*time.Millisecond {
		t.Errorf("Total went from %v to %v, %v", before, after, err)
	}
}

// Of a cgroup that is removed nothing can be read any more, and polling it says so.
func TestTriggerOfACgroupThatGoes(t *testing.T) {
	d := testDir(t)
	child, err := d.Create("goes")
	if err != nil {
		t.Fatal(err)
	}
	defer child.Close()
	trigger, err := Open(child, Source{Resource: "memory", Full: true}, Rule{Above: 0.1, For: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer trigger.Close()
	if err := d.RemoveChild("goes", child.ID()); err != nil {
		t.Fatal(err)
	}
	var failed *Error
	if total, err := trigger.Total(); !errors.As(err, &failed) || failed.Op != "read" {
		t.Errorf("Total = %v, %v, want an *Error", total, err)
	}
}

func TestOpenRefuses(t *testing.T) {
	d := testDir(t)
	_, err := Open(d, Source{Resource: "disk"}, rule())
	var failed *Error
	if !errors.As(err, &failed) || !errors.Is(err, unix.ENOENT) || !strings.Contains(failed.Hint(), "psi=1") ||
		!strings.Contains(err.Error(), "watch the disk some pressure: open "+d.Path()+"/disk.pressure") {
		t.Errorf("Open = %v (hint %q)", err, failed.Hint())
	}
}

func TestParse(t *testing.T) {
	const text = "some avg10=1.50 avg60=0.00 avg300=0.00 total=8623717075\nfull avg10=0.25 avg60=0.00 avg300=0.00 total=12\n"
	for _, test := range []struct {
		text string
		full bool
		want Line
		ok   bool
	}{
		{text, false, Line{1.5, 8623717075 * time.Microsecond}, true},
		{text, true, Line{0.25, 12 * time.Microsecond}, true},
		{"some avg10=1.50 total=1", true, Line{}, false},
		{"some avg10=x total=1", false, Line{}, false},
		{"", false, Line{}, false},
	} {
		if got, ok := Parse(test.text, test.full); ok != test.ok || ok && got != test.want {
			t.Errorf("Parse(%q, %v) = %v, %v", test.text, test.full, got, ok)
		}
	}
}
