package spawn

import (
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/pidfd"
)

// later is how much later it is in the time namespaces of these tests, in seconds.
const later = 1_000_000_000

// timeRoom is a besideRoom whose process runs unshare, in a time namespace of its own.
func timeRoom(t *testing.T, flags ...string) (b Beside, main *Process, inner *pidfd.Process) {
	t.Helper()
	linuxtest.NeedClone3(t)
	linuxtest.NeedCommand(t, "unshare")
	args := append([]string{"unshare", "-T", "--boottime", strconv.Itoa(later)}, flags...)
	path, err := LookPath("unshare", os.Environ(), "")
	if err != nil {
		t.Fatal(err)
	}
	try := start(t, &Cmd{Path: path, Args: append(args, "true"), Leaf: newLeaf(t, testRoot(t), "try")})
	if exit := wait(t, try); !exit.Success() {
		linuxtest.Skip(t, "needs time namespaces, the right to make one, and an unshare that can")
	}
	leaf, guest, main := besideRoom(t, append(args, "sleep", "600")...)
	return Beside{Cmd: Cmd{Leaf: guest}, Process: main.Handle()}, main, sleeper(t, leaf)
}

// sayTime asks in which time namespace a command beside is, and how late it is there.
func sayTime(t *testing.T, b Beside) (namespace string, uptime int) {
	t.Helper()
	out := sayBeside(t, b, `readlink /proc/self/ns/time; cut -d. -f1 /proc/uptime`)
	namespace, text, _ := strings.Cut(strings.TrimSuffix(out, "\n"), "\n")
	uptime, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("said %q", out)
	}
	return namespace, uptime
}

// TestBesideTimeNamespace: alone and with the others, of the process and of its children
// only, of root and of an ordinary user.
func TestBesideTimeNamespace(t *testing.T) {
	for name, flags := range map[string][]string{
		"alone": nil, "of children": {"-f"}, "with others": {"-nmui"}, "with PIDs": {"-pf", "--mount-proc"},
		"of an own user": {"-Ur"}, "of an own user with PIDs": {"-Urmpf"},
	} {
		t.Run(name, func(t *testing.T) {
			if name != "of an own user" && name != "of an own user with PIDs" {
				linuxtest.NeedAdmin(t, "to make namespaces")
			}
			b, _, inner := timeRoom(t, flags...)
			defer endInner(t, inner)
			want, err := os.Readlink("/proc/" + strconv.Itoa(inner.PID()) + "/ns/time_for_children") // before Linux 6.0 exec does not enter it
			if err != nil {
				t.Fatal(err)
			}
			own, err := os.Readlink("/proc/self/ns/time")
			if err != nil || own == want {
				t.Fatalf("the other is in %s, we are in %s, %v", want, own, err)
			}
			if namespace, uptime := sayTime(t, b); namespace != want || uptime < later {
				t.Errorf("it is in %s with uptime %d, want %s and %d at least", namespace, uptime, want, later)
			}
			if now, err := os.Readlink("/proc/self/ns/time"); err != nil || now != own {
				t.Errorf("we are in %s now, %v, want %s", now, err, own)
			}
		})
	}
}

// TestBesideTimeNamespaceFails: a process with memory of its own tells its errors as the
// others do, its descriptors keep the ways in, and nothing is left of it.
func TestBesideTimeNamespaceFails(t *testing.T) {
	linuxtest.NeedAdmin(t, "to make namespaces")
	for name, flags := range map[string][]string{"alone": nil, "with PIDs": {"-pf", "--mount-proc"}} {
		t.Run(name, func(t *testing.T) {
			b, main, inner := timeRoom(t, flags...)
			defer endInner(t, inner)
			b.Path, b.Search = "x", []string{"/nowhere/x", "/etc/passwd"}
			if _, err := StartBeside(&b); causeIs(err) != CauseNotExecutable {
				t.Errorf("no program: %v is %v", err, causeIs(err))
			}
			b.Path, b.Search, b.Dir = "/bin/true", nil, "/nowhere"
			if _, err := StartBeside(&b); causeIs(err) != CauseBadDir {
				t.Errorf("no directory: %v is %v", err, causeIs(err))
			}
			b.Path, b.Args, b.Dir = "/bin/sleep", []string{"sleep", "600"}, ""
			p, err := StartBeside(&b)
			if err != nil {
				t.Fatal(err)
			}
			if !p.Executed() {
				t.Error("it is said not to have executed")
			}
			if err := p.Signal(unix.SIGKILL); err != nil {
				t.Error(err)
			}
			if exit := wait(t, p); exit.Signal != unix.SIGKILL {
				t.Errorf("killed, it ended with %v", exit)
			}
			_ = p.Close()
			_ = main.Signal(unix.SIGKILL) // it lives
			wait(t, main)
			if children, err := ChildLeft(); children || err != nil {
				t.Errorf("children are left: %v, %v", children, err)
			}
		})
	}
}
