package leftover

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/pitvisor/pitvisor/internal/procfs"
	"github.com/pitvisor/pitvisor/internal/sockdiag"
	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/pidfd"
	"golang.org/x/sys/unix"
)

// leftListening reads which process was left, and what it says of its sockets, in
// List's words. The two print at the same time.
func leftListening(t *testing.T, out *output) (pid int, want []string) {
	t.Helper()
	ready := false
	for (pid == 0 || !ready) && out.lines.Scan() {
		word, rest, _ := strings.Cut(out.lines.Text(), " ")
		switch word {
		case "left":
			n, err := strconv.Atoi(rest)
			if err != nil {
				t.Fatal(err)
			}
			pid = n
		case "at":
			network, address, _ := strings.Cut(rest, " ")
			want = append(want, strings.TrimRight(network, "46")+" "+address)
		case "ready":
			ready = true
		case "no":
			linuxtest.Skip(t, "needs "+strings.Fields(rest)[0])
		default:
			t.Fatalf("it printed %q", out.lines.Text())
		}
	}
	return pid, want
}

func words(sockets []sockdiag.Socket) []string {
	var words []string
	for _, s := range sockets {
		words = append(words, s.Proto.String()+" "+s.String())
	}
	return words
}

// mustListen compares what a process listens on with what it said.
func mustListen(t *testing.T, p Process, want []string) {
	t.Helper()
	got := words(p.Listening)
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) || len(want) != 5 || p.ListeningLeftOut != 0 || len(p.Unknown) > 0 {
		t.Errorf("Listening = %q and %d more, unknown %v, want %q", got, p.ListeningLeftOut, p.Unknown, want)
	}
}

func TestListening(t *testing.T) {
	linuxtest.NeedAdmin(t, "to make a network namespace")
	for _, words := range []string{"", "netns", "setsid uid=65534 env="} {
		t.Run(words, func(t *testing.T) {
			r := newRun(t)
			dir := t.TempDir()
			openFor(t, dir)
			command, c, out := r.command("leave", append(strings.Fields(words),
				append([]string{"--"}, linuxtest.Helper(t, "sockets", filepath.Join(dir, "s"))...)...)...)
			pid, want := leftListening(t, out)
			command.Wait(t, 10*time.Second)
			mustListen(t, r.one(c, pid), want)
		})
	}
}

// openFor lets anybody make files in a directory of the test.
func openFor(t *testing.T, dir string) {
	t.Helper()
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o777); err != nil {
			t.Fatal(err)
		}
	}
}

// Processes in several network namespaces each have their own sockets.
func TestListeningInTwoNamespaces(t *testing.T) {
	linuxtest.NeedAdmin(t, "to make a network namespace")
	r := newRun(t)
	want := map[int][]string{}
	var c Command
	for _, words := range []string{"netns", "netns", "setsid"} {
		var out *output
		_, c, out = r.command("leave", append([]string{words, "stay", "--"}, linuxtest.Helper(t, "sockets", filepath.Join(t.TempDir(), "s"))...)...)
		pid, sockets := leftListening(t, out)
		want[pid] = sockets
	}
	found := r.list(c)
	for _, p := range found.Processes {
		if w, ok := want[p.PID]; ok {
			mustListen(t, p, w)
			delete(want, p.PID)
		} else if len(p.Listening) > 0 {
			t.Errorf("process %d listens on %v", p.PID, p.Listening)
		}
	}
	if len(want) > 0 {
		t.Errorf("not listed: %v", want)
	}
}

// A process may have more sockets than anybody wants to read of.
func TestManySockets(t *testing.T) {
	r := newRun(t)
	_, c, out := r.command("many-sockets", "100")
	out.word("ready")
	c.Leader = pidfd.Identity{} // so that it is listed
	found := r.list(c)
	if found.Total != 1 {
		t.Fatalf("List = %+v, want one", found)
	}
	if p := found.Processes[0]; len(p.Listening) != MaxListening || p.ListeningLeftOut != 100-MaxListening {
		t.Errorf("%d sockets and %d more, want %d and %d", len(p.Listening), p.ListeningLeftOut, MaxListening, 100-MaxListening)
	}
	// A table that cannot be had, and descriptors that cannot be read, are not none.
	name, err := self(t).Link("ns/net")
	if err != nil {
		t.Fatal(err)
	}
	unknown := ports{left: 1000, tables: map[string]table{name: nil}}
	if _, _, ok := unknown.of(self(t)); ok {
		t.Error("no table, and nothing is said to be unknown")
	}
	held := ports{left: 10, tables: map[string]table{}}
	if _, _, ok := held.of(self(t)); ok {
		t.Error("more descriptors than are looked at, and nothing is said to be unknown")
	}
}

func TestLongAndHostileArguments(t *testing.T) {
	long := strings.Repeat("x", 100<<10)
	for _, c := range []struct {
		args []string
		cut  bool
	}{
		{[]string{"a b", "\n\x1b[31m", "\xff\xfe", "ü"}, false},
		{[]string{long, "never seen"}, true},
	} {
		r := newRun(t)
		words := append(program(t), c.args...)
		pid, command := r.left(words...)
		p := r.one(command, pid)
		want := words[1:]
		if c.cut {
			whole := strings.Join(want, "\x00")
			want = strings.Split(whole[:MaxArgs], "\x00")
		}
		if !slices.Equal(p.Args, want) || p.ArgsCut != c.cut {
			t.Errorf("Args = %.300q, cut %v, want %.300q, %v", p.Args, p.ArgsCut, want, c.cut)
		}
	}
}

// memoryAt returns where the kernel keeps the arguments and the environment of this
// process.
func memoryAt() (args, env []byte, err error) {
	text, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return nil, nil, err
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	var at [4]uintptr
	for i := range at {
		n, err := strconv.ParseUint(fields[48-3+i], 10, 64)
		if err != nil {
			return nil, nil, err
		}
		at[i] = uintptr(n)
	}
	slice := func(from, to uintptr) []byte {
		return unsafe.Slice((*byte)(*(*unsafe.Pointer)(unsafe.Pointer(&from))), to-from)
	}
	return slice(at[0], at[1]), slice(at[2], at[3]), nil
}

// modeTitle overwrites its environment, as programs do that set their title.
func modeTitle(args []string) int {
	_, env, err := memoryAt()
	if err != nil {
		fmt.Println(err)
		return 1
	}
	clear(env)
	copy(env, args[0])
	fmt.Println("ready")
	return rest()
}

func TestOverwrittenEnvironmentIsUnknown(t *testing.T) {
	for _, title := range []string{"", "worker process", strings.Repeat("x", 50)} {
		r := newRun(t)
		_, c, out := r.command("title", title)
		out.word("ready")
		c.Leader = pidfd.Identity{} // so that it is listed
		p := r.list(c).Processes[0]
		if slices.Contains(p.Left, Scrubbed) || !slices.Equal(p.Unknown, []Fact{FactEnvironment}) {
			t.Errorf("title %q: left by %v, unknown %v, want the environment unknown", title, p.Left, p.Unknown)
		}
	}
}

// modeExecAgain executes itself so many times.
func modeExecAgain(args []string) int {
	n, err := strconv.Atoi(args[0])
	if err != nil || n == 0 {
		return rest()
	}
	argv := append(slices.Clone(os.Args[:2]), strconv.Itoa(n-1))
	fmt.Println(syscall.Exec(argv[0], argv, os.Environ()))
	return 1
}

// A process that is about to execute a program has neither arguments nor environment
// for a moment. That is no reason to call it scrubbed.
func TestExecMeanwhile(t *testing.T) {
	r := newRun(t)
	p, c, _ := r.command("exec-again", "1000000")
	c.Leader = pidfd.Identity{}
	linuxtest.Wait(t, 10*time.Second, func() (bool, string) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.PID()))
		return strings.Contains(string(b), "\x00linuxtest-helper:exec-again\x00999"), fmt.Sprintf("at %q, %v", b, err)
	})
	caught := 0
	for range linuxtest.Times(1000, 150) {
		found := r.list(c)
		if len(found.Processes) != 1 {
			t.Fatalf("List = %+v, want one", found)
		}
		one := found.Processes[0]
		if slices.Contains(one.Left, Scrubbed) || len(one.Args) == 0 && !slices.Contains(one.Unknown, FactArgs) {
			t.Fatalf("List = %+v", one)
		}
		if len(one.Unknown) > 0 {
			caught++
		}
	}
	t.Logf("%d of 1000 looks met an exec", caught)
}

// A process without memory is not one without arguments and environment.
func TestNoMemoryIsNotEmpty(t *testing.T) {
	p := linuxtest.Start(t, linuxtest.Helper(t, "exit", "0")...)
	linuxtest.Wait(t, 10*time.Second, func() (bool, string) { return !p.Alive(), "alive" })
	proc, err := procfs.Open(p.PID())
	if err != nil {
		t.Fatal(err)
	}
	defer proc.Close()
	if facts := readFacts(proc, "x"); facts.argsOK || facts.env.kind != envUnknown {
		t.Errorf("facts of a zombie are %+v, want unknown ones", facts)
	}
}

// Whoever asks for no run's name needs no environment.
func TestNoRunID(t *testing.T) {
	r := newRun(t)
	pid, c := r.left(append([]string{"env="}, program(t)...)...)
	c.RunID = ""
	if p := r.one(c, pid); slices.Contains(p.Left, Scrubbed) || len(p.Unknown) > 0 {
		t.Errorf("left by %v, unknown %v", p.Left, p.Unknown)
	}
}

// A process can keep whoever reads its memory waiting until it dies. That must not
// be us, and the others are still named in full.
func TestStuckReader(t *testing.T) {
	linuxtest.NeedAdmin(t, "to mount a file system")
	// The one who gets stuck waits for the lock on a memory map behind a writer, who waits
	// behind a reader. Until 5.10 the kernel's rwsem lets a reader spin, and then take such
	// a lock from a writer who sleeps ("reader optimistic spinning", removed in 5.11).
	linuxtest.NeedKernel(t, 5, 11, "readers of a memory map that wait behind a writer")
	r := newRun(t)
	words := append([]string{filepath.Join(t.TempDir(), "file")}, linuxtest.Helper(t, "stuck")...)
	server, c, out := r.command("silent", words...)
	stuck, _ := leftListening(t, out)
	defer server.Kill(t) // before anything else can: the stuck one cannot die until then
	var p Process
	linuxtest.Wait(t, time.Minute, func() (bool, string) {
		began := time.Now()
		found, err := List(r.dir, c)
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > budget+patience+time.Second {
			t.Errorf("List took %v", took)
		}
		if found.Total != 1 || found.Processes[0].PID != stuck {
			return false, fmt.Sprintf("List = %+v", found)
		}
		p = found.Processes[0]
		return slices.Contains(p.Unknown, FactArgs), fmt.Sprintf("List = %+v", found)
	})
	if want := []Fact{FactArgs, FactEnvironment}; !slices.Equal(p.Unknown, want) || p.Comm == "" || p.PPID != server.PID() {
		t.Errorf("unknown %v, want %v: %+v", p.Unknown, want, p)
	}
	other, _, _ := r.ready()
	found, err := List(r.dir, c)
	if err != nil {
		t.Fatal(err)
	}
	if found.Total != 2 || len(found.Processes) != 2 {
		t.Fatalf("List = %+v, want two", found)
	}
	if last := found.Processes[1]; last.PID != other.PID() || len(last.Unknown) > 0 {
		t.Errorf("List = %+v, want process %d with everything known", last, other.PID())
	}
}

// The time that is spent on processes that do not answer is bounded for all of them.
func TestPatienceIsBounded(t *testing.T) {
	r := newRun(t)
	_, c, out := r.command("setsid-storm", "50")
	out.word("ready")
	m := &members{run: r.dir, most: MaxProcesses}
	if err := m.read(); err != nil {
		t.Fatal(err)
	}
	l := newLister(c, m.contains)
	l.memory.patience, l.memory.left = time.Millisecond, 10*time.Millisecond
	ctx, end := context.WithCancel(t.Context())
	defer end()
	asked := make(chan bool, 100)
	l.memory.read = func(*procfsProcess) memoryFacts {
		asked <- true
		<-ctx.Done()
		return memoryFacts{}
	}
	found := l.list(m)
	if found.Total != 50 || len(found.Processes) != 50 || len(asked) > 11 {
		t.Errorf("%d listed of %d after %d who did not answer, want 50 and at most 11", len(found.Processes), found.Total, len(asked))
	}
	for _, p := range found.Processes {
		if !slices.Equal(p.Unknown, []Fact{FactArgs, FactEnvironment}) {
			t.Errorf("unknown of %d is %v", p.PID, p.Unknown)
		}
	}
}

// Without the right to look into processes of others, what is hidden is unknown.
func TestHiddenFacts(t *testing.T) {
	linuxtest.NeedRoot(t, "to become another user")
	r := newRun(t)
	pid, c := r.left(append([]string{"uid=65534"}, program(t)...)...)
	m := &members{run: r.dir, most: MaxProcesses}
	if err := m.read(); err != nil {
		t.Fatal(err)
	}
	l := newLister(c, m.contains)
	read := l.memory.read
	l.memory.read = func(p *procfsProcess) memoryFacts {
		var facts memoryFacts
		withoutCapabilities(t, func() { facts = read(p) })
		return facts
	}
	l.memory.patience = time.Minute
	var found Found
	withoutCapabilities(t, func() { found = l.list(m) })
	if found.Total != 1 || found.Processes[0].PID != pid {
		t.Fatalf("List = %+v, want %d", found, pid)
	}
	p := found.Processes[0]
	if want := []Fact{FactEnvironment, FactListening}; !slices.Equal(p.Unknown, want) {
		t.Errorf("unknown is %v, want %v", p.Unknown, want)
	}
	if want := []Way{Reparented, OtherUser}; !slices.Equal(p.Left, want) || len(p.Args) == 0 {
		t.Errorf("left by %v, args %q, want %v", p.Left, p.Args, want)
	}
}

// withoutCapabilities runs f on a thread that may not look into other processes.
func withoutCapabilities(t *testing.T, f func()) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with its lack of rights
		hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		err := unix.Capget(&hdr, &data[0])
		data[0].Effective, data[1].Effective = 0, 0
		if err == nil {
			err = unix.Capset(&hdr, &data[0])
		}
		if err == nil {
			f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestReadEnvironment(t *testing.T) {
	big := "BIG=" + strings.Repeat("x", 100<<10)
	for _, c := range []struct {
		text string
		want environment
	}{
		{"", environment{kind: envEmpty}},
		{"A=B\x00", environment{kind: envWithout}},
		{"A=B", environment{kind: envWithout}},
		{"A=B\x00PITVISOR_RUN_ID=7\x00", environment{envWith, "7"}},
		{"PITVISOR_RUN_ID=7", environment{envWith, "7"}},
		{"PITVISOR_RUN_ID=\x00", environment{envWith, ""}},
		{"PITVISOR_RUN_ID=1\x00PITVISOR_RUN_ID=2\x00", environment{envWith, "1"}},
		{"XPITVISOR_RUN_ID=7\x00", environment{kind: envWithout}},
		{big + "\x00PITVISOR_RUN_ID=7\x00", environment{envWith, "7"}},
		{big + "PITVISOR_RUN_ID=7\x00A=B\x00", environment{kind: envWithout}},
		// The buffer has 64 bytes: the name stands at the beginning of its second one.
		{"X=" + strings.Repeat("x", 62) + "PITVISOR_RUN_ID=7\x00", environment{kind: envWithout}},
		{"\x00\x00\x00", environment{}},
		{"nginx: worker process\x00\x00\x00", environment{}},
		{"=x\x00", environment{}},
	} {
		if got := readEnvironment(bufio.NewReaderSize(strings.NewReader(c.text), 64)); got != c.want {
			t.Errorf("readEnvironment(%.60q) = %+v, want %+v", c.text, got, c.want)
		}
	}
}

func FuzzReadEnvironment(f *testing.F) {
	f.Add([]byte("A=B\x00PITVISOR_RUN_ID=7\x00"))
	f.Add(binary.NativeEndian.AppendUint64(nil, 0))
	f.Fuzz(func(_ *testing.T, b []byte) {
		_ = readEnvironment(bufio.NewReaderSize(strings.NewReader(string(b)), 16))
		_ = splitArgs(b)
	})
}

func TestNested(t *testing.T) {
	for _, c := range []struct{ path, leaf, want string }{
		{"job/0.1", "job/0.1", ""},
		{"job/0.1/run-a/job/0.1", "job/0.1", "a"},
		{"job/0.1/run-a/job/0.1/run-b/job/0.1", "job/0.1", "b"},
		{"job/0.12/run-a", "job/0.1", ""},
		{"run-a/x", "", "a"},
		{"", "", ""},
		{"", "job/0.1", ""},
	} {
		if got := nested(c.path, c.leaf); got != c.want {
			t.Errorf("nested(%q, %q) = %q, want %q", c.path, c.leaf, got, c.want)
		}
	}
}
