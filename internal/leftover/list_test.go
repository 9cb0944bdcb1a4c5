package leftover

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/pidfd"
	"golang.org/x/sys/unix"
)

// program is what leave starts: quiet, and its end is the test's.
func program(t *testing.T) []string { return append([]string{"--"}, linuxtest.Helper(t, "run")...) }

func TestWays(t *testing.T) {
	for _, c := range []struct {
		words string
		want  []Way
	}{
		{"", []Way{Reparented}},
		{"setsid", []Way{Setsid, Reparented}},
		{"setpgid", []Way{Setpgid, Reparented}},
		{"env=", []Way{Reparented, Scrubbed}},
		{"env=A=B", []Way{Reparented, Scrubbed}},
		{"run=another", []Way{Reparented, Scrubbed}},
		{"uid=65534", []Way{Reparented, OtherUser}},
		{"uid=65534 setsid env=", []Way{Setsid, Reparented, Scrubbed, OtherUser}},
	} {
		t.Run(c.words, func(t *testing.T) {
			if strings.Contains(c.words, "uid") {
				linuxtest.NeedRoot(t, "to become another user")
				linuxtest.NeedCapability(t, unix.CAP_SYS_PTRACE, "CAP_SYS_PTRACE to look into what another user runs")
			}
			r := newRun(t)
			pid, command := r.left(append(strings.Fields(c.words), program(t)...)...)
			p := r.one(command, pid)
			if !slices.Equal(p.Left, c.want) {
				t.Errorf("Left = %v, want %v: %+v", p.Left, c.want, p)
			}
			if want := linuxtest.Helper(t, "run"); !slices.Equal(p.Args, want) || p.ArgsCut || len(p.Unknown) > 0 {
				t.Errorf("Args = %q, cut %v, unknown %v, want %q", p.Args, p.ArgsCut, p.Unknown, want)
			}
			if p.Comm != filepath.Base(os.Args[0])[:min(15, len(filepath.Base(os.Args[0])))] {
				t.Errorf("Comm = %q", p.Comm)
			}
			want := uint32(os.Getuid())
			if strings.Contains(c.words, "uid") {
				want = 65534
			}
			if p.UID != want {
				t.Errorf("UID = %d, want %d", p.UID, want)
			}
			if p.Cgroup != "job/0.1" || p.Run != "" || p.Age > 10*time.Second || time.Since(p.Started) > 10*time.Second || p.Started.After(time.Now()) {
				t.Errorf("cgroup %q, run %q, age %v, started %v", p.Cgroup, p.Run, p.Age, p.Started)
			}
		})
	}
}

func TestDaemonByDoubleFork(t *testing.T) {
	r := newRun(t)
	p, c, out := r.command("double-fork")
	out.word("ready")
	p.Wait(t, 10*time.Second)
	members := linuxtest.Members(r.dir.Path())
	if len(members) != 1 {
		t.Fatalf("members are %v, want the daemon", members)
	}
	daemon := r.one(c, members[0].PID)
	if want := []Way{DoubleFork, Setsid, Reparented}; !slices.Equal(daemon.Left, want) {
		t.Errorf("Left = %v, want %v: %+v", daemon.Left, want, daemon)
	}
}

// As long as the command lives it is no leftover, and its children are its children.
func TestChildrenOfALivingCommand(t *testing.T) {
	r := newRun(t)
	p, c, out := r.command("setsid-storm", "5")
	out.word("ready")
	// They leave for their sessions when they get to it.
	linuxtest.Wait(t, 10*time.Second, func() (bool, string) {
		found := r.list(c)
		ok := found.Total == 5 && len(found.Processes) == 5
		for _, child := range found.Processes {
			ok = ok && slices.Equal(child.Left, []Way{Setsid}) && child.PID != p.PID() && child.PPID == p.PID()
		}
		return ok, fmt.Sprintf("List = %+v", found)
	})
	p.Kill(t)
	found := r.list(c)
	if found.Total != 5 {
		t.Errorf("List counts %d, want 5", found.Total)
	}
	for _, child := range found.Processes {
		if want := []Way{Setsid, Reparented}; !slices.Equal(child.Left, want) {
			t.Errorf("child %+v left by %v, want %v", child, child.Left, want)
		}
	}
}

func TestZombiesDoNotCount(t *testing.T) {
	r := newRun(t)
	_, c, out := r.command("zombies", "3")
	out.word("ready")
	linuxtest.Wait(t, 10*time.Second, func() (bool, string) {
		found := r.list(c)
		return found.Total == 0 && len(found.Processes) == 0, fmt.Sprintf("List = %+v", found)
	})
}

func TestNothingLeft(t *testing.T) {
	r := newRun(t)
	p, c, _ := r.command("exit", "0")
	p.Wait(t, 10*time.Second)
	if found := r.list(c); found.Total != 0 || len(found.Processes) != 0 {
		t.Errorf("List = %+v, want nothing", found)
	}
}

func TestSubCgroups(t *testing.T) {
	for _, c := range []struct {
		path, words, run string
		want             []Way
	}{
		{"job/0.1/mine", "", "", []Way{Reparented, SubCgroup}},
		{"job/0.1/run-01NESTED/job/0.1", "run=01NESTED", "01NESTED", []Way{Reparented, SubCgroup}},
		{"job/0.1/run-01NESTED/job/0.1", "", "01NESTED", []Way{Reparented, SubCgroup}},
		{"job/0.1/run-01NESTED/job/0.1", "run=other", "01NESTED", []Way{Reparented, Scrubbed, SubCgroup}},
		{"job", "", "", []Way{Reparented, OtherCgroup}},
		{"job/0.12", "", "", []Way{Reparented, OtherCgroup}},
	} {
		t.Run(c.path+" "+c.words, func(t *testing.T) {
			r := newRun(t)
			at := r.make(strings.Split(c.path, "/")...)
			words := append(strings.Fields(c.words), "cgroup="+at.Path())
			pid, command := r.left(append(words, program(t)...)...)
			p := r.one(command, pid)
			if !slices.Equal(p.Left, c.want) || p.Cgroup != c.path || p.Run != c.run {
				t.Errorf("left by %v, in %q, run %q, want %v, %q, %q", p.Left, p.Cgroup, p.Run, c.want, c.path, c.run)
			}
		})
	}
}

// A process that moves while the tree is read can be seen in two cgroups.
func TestMembersAreCountedOnce(t *testing.T) {
	m := &members{most: 100, paths: map[uint64]string{}}
	m.add(cgroup.Group{Path: "job/0.1", ID: 1, PIDs: []int{30, 10, 0, 20}})
	m.add(cgroup.Group{Path: "job/0.1/new", ID: 2, PIDs: []int{10, 0, 5}})
	m.sort()
	if want := []int{5, 10, 20, 30}; !slices.Equal(m.pids, want) || m.hidden != 2 {
		t.Errorf("numbers are %v and %d hidden, want %v and 2", m.pids, m.hidden, want)
	}
	want := []candidate{{30, "job/0.1"}, {10, "job/0.1"}, {20, "job/0.1"}, {5, "job/0.1/new"}}
	if !slices.Equal(m.first, want) {
		t.Errorf("candidates are %v, want %v", m.first, want)
	}
	for pid := range 40 {
		if got, want := m.contains(pid), pid == 5 || pid == 10 || pid == 20 || pid == 30; got != want {
			t.Errorf("contains(%d) = %v, want %v", pid, got, want)
		}
	}
}

// The command was number 10, leader of group 10 in session 7, and its run has the
// processes 20 to 29.
func TestLineage(t *testing.T) {
	l := &lister{
		command: Command{Session: 7, Group: 10},
		inRun:   func(pid int) bool { return pid >= 20 && pid < 30 },
	}
	for _, c := range []struct {
		name string
		p    Process
		want []Way
	}{
		{"child of a child", Process{PID: 21, PPID: 20, Session: 7, Group: 10}, nil},
		{"background job", Process{PID: 21, PPID: 1, Session: 7, Group: 10}, []Way{Reparented}},
		{"outside our PID namespace", Process{PID: 21, PPID: 0, Session: 7, Group: 10}, []Way{Reparented}},
		{"job of a job shell", Process{PID: 21, PPID: 20, Session: 7, Group: 21}, []Way{Setpgid}},
		{"its second process", Process{PID: 22, PPID: 20, Session: 7, Group: 21}, []Way{Setpgid}},
		{"the same, with the shell gone", Process{PID: 22, PPID: 1, Session: 7, Group: 21}, []Way{Setpgid, Reparented}},
		{"and with the first one gone", Process{PID: 22, PPID: 1, Session: 7, Group: 11}, []Way{DoubleFork, Setpgid, Reparented}},
		{"setsid", Process{PID: 21, PPID: 20, Session: 21, Group: 21}, []Way{Setsid}},
		{"daemon that forks once", Process{PID: 21, PPID: 1, Session: 21, Group: 21}, []Way{Setsid, Reparented}},
		{"daemon that forks twice", Process{PID: 21, PPID: 1, Session: 11, Group: 11}, []Way{DoubleFork, Setsid, Reparented}},
		{"child of the daemon", Process{PID: 22, PPID: 21, Session: 11, Group: 11}, []Way{Setsid}},
		{"session of an outsider", Process{PID: 21, PPID: 1, Session: 0, Group: 0}, []Way{Setsid, Reparented}},
		{"the command's number again", Process{PID: 10, PPID: 20, Session: 7, Group: 10}, []Way{Setpgid}},
		{"the session's number again", Process{PID: 7, PPID: 20, Session: 7, Group: 7}, []Way{Setsid}},
	} {
		if got := l.lineage(&c.p); !slices.Equal(got, c.want) {
			t.Errorf("%s: lineage = %v, want %v", c.name, got, c.want)
		}
	}
	// As under an init or a docker exec that made no session in this PID namespace.
	l.command = Command{}
	for _, c := range []struct {
		name string
		p    Process
		want []Way
	}{
		{"still in the session of an outsider", Process{PID: 21, PPID: 20}, nil},
		{"job in it", Process{PID: 21, PPID: 20, Group: 21}, []Way{Setpgid}},
		{"daemon that left it", Process{PID: 21, PPID: 1, Session: 21, Group: 21}, []Way{Setsid, Reparented}},
	} {
		if got := l.lineage(&c.p); !slices.Equal(got, c.want) {
			t.Errorf("%s: lineage = %v, want %v", c.name, got, c.want)
		}
	}
	l.command = Command{Session: -1, Group: -1}
	p := Process{PID: 21, PPID: 1, Session: 11, Group: 11}
	if got := l.lineage(&p); !slices.Equal(got, []Way{Reparented}) {
		t.Errorf("lineage of a command of which nothing is known = %v, want only %s", got, Reparented)
	}
}

// Between the listing and the reading a number may be given to a stranger.
func TestR01StrangerWithAListedNumber(t *testing.T) {
	r := newRun(t)
	first, c, _ := r.ready()
	m := &members{run: r.dir, most: MaxProcesses}
	if err := m.read(); err != nil {
		t.Fatal(err)
	}
	if len(m.first) != 1 {
		t.Fatalf("members are %v, want one", m.first)
	}
	first.Kill(t)
	stranger := linuxtest.Command{Args: linuxtest.Helper(t, "run"), PID: first.PID()}.Start(t)
	if found := newLister(c, m.contains).list(m); found.Total != 0 || len(found.Processes) != 0 {
		t.Errorf("List = %+v, want nothing: %d is a stranger", found, stranger.PID())
	}
	if path, ok := m.find(stranger.PID()); ok {
		t.Errorf("the stranger is listed in %s, as kernels before 6.13 are asked", path)
	}
}

// What changes while a process is read.
func TestChangesWhileReading(t *testing.T) {
	for _, c := range []struct {
		name  string
		total int
		cause func(*testing.T, *run, *linuxtest.Process)
	}{
		{"exits", 0, func(t *testing.T, _ *run, p *linuxtest.Process) { p.Kill(t) }},
		{"becomes a zombie", 0, func(t *testing.T, _ *run, p *linuxtest.Process) {
			if err := p.Signal(unix.SIGKILL); err != nil {
				t.Error(err)
			}
			linuxtest.Wait(t, 10*time.Second, func() (bool, string) { return !p.Alive(), "alive" })
		}},
		{"leaves the run", 0, func(t *testing.T, r *run, p *linuxtest.Process) {
			move(t, filepath.Dir(r.dir.Path())+"/main", p.PID())
		}},
		{"moves to a new cgroup", 1, func(t *testing.T, r *run, p *linuxtest.Process) {
			move(t, r.make("job", "0.1", "new").Path(), p.PID())
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRun(t)
			p, command, _ := r.ready()
			command.Leader = pidfd.Identity{}
			m := &members{run: r.dir, most: MaxProcesses}
			if err := m.read(); err != nil {
				t.Fatal(err)
			}
			l := newLister(command, m.contains)
			read := l.memory.read
			l.memory.read = func(pr *procfsProcess) memoryFacts {
				facts := read(pr)
				c.cause(t, r, p)
				return facts
			}
			l.memory.patience = time.Minute
			found := l.list(m)
			if found.Total != c.total || len(found.Processes) != c.total {
				t.Fatalf("list = %+v, want %d", found, c.total)
			}
			if c.total == 0 {
				return
			}
			if found.Processes[0].Cgroup != "job/0.1/new" {
				t.Errorf("in cgroup %q, want the new one", found.Processes[0].Cgroup)
			}
			if path, ok := m.find(p.PID()); path != "job/0.1/new" || !ok {
				t.Errorf("listed in %q, %v, as kernels before 6.13 are asked, want the new one", path, ok)
			}
		})
	}
}

func move(t *testing.T, dir string, pid int) {
	t.Helper()
	if err := os.WriteFile(dir+"/cgroup.procs", fmt.Append(nil, pid), 0); err != nil {
		t.Error(err)
	}
}

func TestManyProcesses(t *testing.T) {
	r := newRun(t)
	const n, most = 50, 20 // more than are even looked at
	_, c, out := r.command("setsid-storm", strconv.Itoa(n))
	out.word("ready")
	m := &members{run: r.dir, most: most}
	if err := m.read(); err != nil {
		t.Fatal(err)
	}
	l := newLister(c, m.contains)
	l.memory.patience, l.memory.left = time.Minute, time.Minute
	found := l.list(m)
	if found.Total != n || len(found.Processes) != most {
		t.Fatalf("List counts %d and lists %d, want %d and %d", found.Total, len(found.Processes), n, most)
	}
	seen := map[int]bool{}
	for i, p := range found.Processes {
		if seen[p.PID] || len(p.Unknown) > 0 || i > 0 && p.start < found.Processes[i-1].start {
			t.Errorf("process %d of the list is %+v", i, p)
		}
		seen[p.PID] = true
	}
}

// A frozen run can be read, which is how its owner reads it.
func TestFrozenRun(t *testing.T) {
	r := newRun(t)
	pid, c := r.left(program(t)...)
	if err := r.dir.Freeze(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := r.dir.Thaw(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	}()
	if p := r.one(c, pid); !slices.Equal(p.Left, []Way{Reparented}) || len(p.Unknown) > 0 {
		t.Errorf("List = %+v", p)
	}
}

// The first thread of a process may end before the others. It is no zombie then.
func TestProcessWithoutItsFirstThread(t *testing.T) {
	r := newRun(t)
	p, c, out := r.command("dead-leader")
	out.word("ready")
	c.Leader = pidfd.Identity{}
	linuxtest.Wait(t, 10*time.Second, func() (bool, string) {
		found := r.list(c)
		if found.Total != 1 || len(found.Processes) != 1 {
			return false, fmt.Sprintf("List = %+v", found)
		}
		one := found.Processes[0]
		return one.State == "Z" && one.PID == p.PID() && one.Comm != "", fmt.Sprintf("List = %+v", one)
	})
}

func TestListOfARemovedRun(t *testing.T) {
	r := newRun(t)
	gone := r.make("gone")
	if err := r.dir.RemoveChild("gone", 0); err != nil {
		t.Fatal(err)
	}
	if _, err := List(gone, Command{}); err == nil || !strings.HasPrefix(err.Error(), "list what is left: read processes of ") {
		t.Errorf("List of a removed run = %v", err)
	}
}

// Without a cgroup the caller knows whom it means.
func TestListHeld(t *testing.T) {
	r := newRun(t)
	leader, c, _ := r.ready()
	child, _, _ := r.ready()
	dead, _, _ := r.ready()
	var all []*pidfd.Process
	for _, p := range []*linuxtest.Process{leader, child, dead} {
		held, err := pidfd.Open(p.PID())
		if err != nil {
			t.Fatal(err)
		}
		defer held.Close()
		all = append(all, held)
	}
	dead.Kill(t)
	found := ListHeld(all, c)
	if found.Total != 1 || len(found.Processes) != 1 || found.Processes[0].PID != child.PID() {
		t.Fatalf("ListHeld = %+v, want %d alone", found, child.PID())
	}
	if want := []Way{Setsid, Reparented}; !slices.Equal(found.Processes[0].Left, want) {
		t.Errorf("Left = %v, want %v", found.Processes[0].Left, want)
	}
}

// modeList starts a program in a cgroup and prints what List says of it there.
func modeList(args []string) int {
	r, err := cgroup.Open(args[0])
	if err != nil {
		fmt.Println(err)
		return 1
	}
	cmd := exec.Command(args[1], args[2:]...)
	if err := linuxtest.StartCommand(cmd, r.FD()); err != nil {
		fmt.Println(err)
		return 1
	}
	found, err := List(r, Command{})
	fmt.Println("found", found.Total, err)
	for _, p := range found.Processes {
		fmt.Printf("%d: comm %q args %q uid %d unknown %v\n", p.PID-cmd.Process.Pid, p.Comm, p.Args, p.UID, p.Unknown)
	}
	return 0
}

// Processes outside our PID namespace have no number, but they are there. Where /proc
// is not of our namespace its numbers mean others, and nothing is taken from there.
func TestInAPIDNamespaceOfOurOwn(t *testing.T) {
	linuxtest.NeedAdmin(t, "to make a PID namespace")
	r := newRun(t)
	linuxtest.Command{Args: linuxtest.Helper(t, "run"), Cgroup: r.dir.Path()}.Start(t)
	argv := linuxtest.Helper(t, "list", append([]string{r.dir.Path()}, linuxtest.Helper(t, "run")...)...)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID}
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	unknown := "uid state args environment listening"
	if pidfd.Probe().Info { // the pidfd itself tells the user
		unknown = "state args environment listening"
	}
	want := "found 2 <nil>\n" + `0: comm "" args [] uid 0 unknown [` + unknown + "]\n"
	if string(out) != want {
		t.Errorf("it printed %q, want %q", out, want)
	}
}
