package leftover

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/internal/procfs"
	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/pidfd"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	// With -race every helper would wait for a second at its exit.
	os.Setenv("GORACE", "atexit_sleep_ms=0 "+os.Getenv("GORACE"))
	linuxtest.Main(m, linuxtest.Modes{
		"leave":        modeLeave,
		"sockets":      modeSockets,
		"many-sockets": modeManySockets,
		"title":        modeTitle,
		"stuck":        modeStuck,
		"exec-again":   modeExecAgain,
		"silent":       modeSilent,
		"dead-leader":  modeDeadLeader,
		"list":         modeList,
	})
}

// modeLeave starts a program in some way, prints its number and exits, or lives
// with "stay". Its arguments are words for the way, then "--" and the program.
func modeLeave(args []string) int {
	i := slices.Index(args, "--")
	cmd := exec.Command(args[i+1], args[i+2:]...)
	cmd.Stdout = os.Stdout
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	start, stay := cmd.Start, false
	for _, word := range args[:i] {
		key, value, _ := strings.Cut(word, "=")
		switch key {
		case "setsid":
			cmd.SysProcAttr.Setsid = true
		case "setpgid":
			cmd.SysProcAttr.Setpgid = true
		case "netns":
			cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWNET
		case "uid":
			id, _ := strconv.Atoi(value)
			cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(id), Gid: uint32(id)}
		case "env":
			cmd.Env = []string{value}
			if value == "" {
				cmd.Env = []string{}
			}
		case "run":
			cmd.Env = append(os.Environ(), "PITVISOR_RUN_ID="+value)
		case "cgroup":
			fd, err := unix.Open(value, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			if err != nil {
				fmt.Println(err)
				return 1
			}
			start = func() error { return linuxtest.StartCommand(cmd, fd) }
		case "stay":
			stay = true
		}
	}
	if err := start(); err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("left", cmd.Process.Pid)
	if stay {
		_ = cmd.Wait()
	}
	return 0
}

// modeSockets opens one socket of each kind, prints ready, and lives.
func modeSockets(args []string) int {
	for _, network := range []string{"tcp4", "tcp6", "udp4", "unix", "unixgram"} {
		address := map[string]string{"tcp4": "0.0.0.0:0", "tcp6": "[::]:0", "udp4": "0.0.0.0:0"}[network]
		if address == "" {
			address = args[0] + "." + network
		}
		var err error
		var where net.Addr
		if network == "udp4" || network == "unixgram" {
			var c net.PacketConn
			if c, err = net.ListenPacket(network, address); err == nil {
				defer c.Close()
				where = c.LocalAddr()
			}
		} else {
			var l net.Listener
			if l, err = net.Listen(network, address); err == nil {
				defer l.Close()
				where = l.Addr()
			}
		}
		if err != nil {
			fmt.Println(err)
			return 1
		}
		fmt.Println("at", network, where)
	}
	fmt.Println("ready")
	return rest()
}

// modeManySockets listens so many times.
func modeManySockets(args []string) int {
	n, err := strconv.Atoi(args[0])
	if err != nil {
		fmt.Println(err)
		return 1
	}
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			fmt.Println(err)
			return 1
		}
		defer l.Close()
		again, err := l.(*net.TCPListener).File() // one socket may have several descriptors
		if err != nil {
			fmt.Println(err)
			return 1
		}
		defer again.Close()
	}
	fmt.Println("ready")
	return rest()
}

// rest lives until somebody ends it, or until a test is over anyway.
func rest() int {
	timer := time.NewTimer(linuxtest.HelperLife)
	defer timer.Stop()
	<-timer.C
	return 0
}

// modeDeadLeader ends its main thread: the process lives on in the others.
func modeDeadLeader([]string) int {
	for range 100 {
		go func() {
			runtime.LockOSThread()
			if unix.Gettid() == os.Getpid() {
				fmt.Println("ready")
				_, _, _ = unix.Syscall(unix.SYS_EXIT, 0, 0, 0)
			}
			rest()
		}()
	}
	return rest()
}

// run is a run as pitvisor makes it.
type run struct {
	t    testing.TB
	dir  *cgroup.Dir
	leaf *cgroup.Dir
	id   string
}

func newRun(t testing.TB) *run {
	t.Helper()
	linuxtest.NoLeaks(t)
	dir, err := cgroup.Open(linuxtest.Cgroup(t))
	if err != nil {
		t.Fatal(err)
	}
	linuxtest.AllowLeak(t) // leftovers are the subject
	t.Cleanup(func() { dir.Close() })
	r := &run{t: t, dir: dir, id: "01ARZ3NDEKTSV4RRFFQ69G5FAV"}
	r.leaf = r.make("job", "0.1")
	return r
}

// make makes a cgroup below the run.
func (r *run) make(names ...string) *cgroup.Dir {
	r.t.Helper()
	at := r.dir
	for _, name := range names {
		next, err := at.OpenChild(name)
		if err != nil {
			next, err = at.Create(name)
		}
		if err != nil {
			r.t.Fatal(err)
		}
		r.t.Cleanup(func() { next.Close() })
		at = next
	}
	return at
}

// command starts the run's command, and gives it back with its output.
func (r *run) command(mode string, args ...string) (*linuxtest.Process, Command, *output) {
	r.t.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { read.Close() })
	p := linuxtest.Command{
		Args:   append([]string{"/usr/bin/setsid"}, linuxtest.Helper(r.t, mode, args...)...),
		Env:    append(os.Environ(), "PITVISOR_RUN_ID="+r.id),
		Cgroup: r.leaf.Path(),
		Stdout: write,
	}.Start(r.t)
	write.Close()
	held, err := pidfd.Open(p.PID())
	if err != nil {
		r.t.Fatal(err)
	}
	defer held.Close()
	id, err := held.Identity()
	if err != nil {
		r.t.Fatal(err)
	}
	c := Command{Leader: id, Session: p.PID(), Group: p.PID(), UID: uint32(os.Geteuid()), RunID: r.id, Leaf: "job/0.1"}
	return p, c, &output{t: r.t, lines: bufio.NewScanner(read)}
}

// ready starts a command that does nothing, and waits until it is itself.
func (r *run) ready() (*linuxtest.Process, Command, *output) {
	r.t.Helper()
	p, c, out := r.command("ready")
	out.word("ready")
	return p, c, out
}

// left runs a command to its end and returns the number of what it left.
func (r *run) left(words ...string) (int, Command) {
	r.t.Helper()
	p, c, out := r.command("leave", words...)
	pid, err := strconv.Atoi(out.word("left"))
	if err != nil {
		r.t.Fatal(err)
	}
	p.Wait(r.t, 10*time.Second)
	awaitExec(r.t, pid)
	return pid, c
}

// awaitExec waits until a process has its arguments, and not those of who left it any more.
// Whoever started it knows that the exec succeeds a little earlier.
func awaitExec(t testing.TB, pid int) {
	t.Helper()
	linuxtest.Wait(t, 10*time.Second, func() (bool, string) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		return len(b) > 0 && !bytes.Contains(b, []byte("linuxtest-helper:leave\x00")), fmt.Sprintf("process %d has arguments %q yet, %v", pid, b, err)
	})
}

// list is List of everything, with patience for the slowest machine.
func (r *run) list(c Command) Found {
	r.t.Helper()
	m := &members{run: r.dir, most: MaxProcesses}
	if err := m.read(); err != nil {
		r.t.Fatal(err)
	}
	l := newLister(c, m.contains)
	l.memory.patience, l.memory.left = time.Minute, time.Minute
	return l.list(m)
}

// one is List of one process, which must be the one with this number.
func (r *run) one(c Command, pid int) Process {
	r.t.Helper()
	id, ok := linuxtest.Identify(pid)
	if !ok {
		r.t.Fatalf("process %d has exited", pid)
	}
	found := r.list(c)
	if found.Total != 1 || len(found.Processes) != 1 || found.Processes[0].PID != pid || found.Processes[0].Inode != id.Inode {
		r.t.Fatalf("List = %+v, want process %d:%d alone", found, pid, id.Inode)
	}
	return found.Processes[0]
}

// output is what a helper prints.
type output struct {
	t     testing.TB
	lines *bufio.Scanner
}

// word waits for a line that begins with a word and returns what is behind it.
func (o *output) word(first string) string {
	o.t.Helper()
	for o.lines.Scan() {
		if rest, ok := strings.CutPrefix(o.lines.Text(), first); ok {
			return strings.TrimSpace(rest)
		}
		o.t.Logf("it printed %q", o.lines.Text())
	}
	o.t.Fatalf("it ended without %q", first)
	return ""
}

// procfsProcess is what a reader of memory gets.
type procfsProcess = procfs.Process

func self(t *testing.T) *procfsProcess {
	t.Helper()
	p, err := procfs.Open(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}
