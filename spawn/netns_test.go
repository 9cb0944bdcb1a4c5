package spawn

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"testing"

	"github.com/pitvisor/pitvisor/linuxtest"
	"golang.org/x/sys/unix"
)

// netReport is what a process sees of its network.
type netReport struct {
	NS         string
	Interfaces []string
	Answers    map[string]string // by address: what came back, or the error
}

// netMode talks to itself.
func netMode([]string) int {
	got := netReport{Answers: map[string]string{}}
	got.NS, _ = os.Readlink("/proc/self/ns/net")
	interfaces, err := net.Interfaces()
	if err != nil {
		return complain(err)
	}
	for _, i := range interfaces {
		if i.Flags&net.FlagUp != 0 {
			got.Interfaces = append(got.Interfaces, i.Name)
		}
	}
	for _, address := range []string{"127.0.0.1:80", "[::1]:80"} {
		got.Answers[address] = echo(address)
	}
	return printResult(got)
}

func echo(address string) string {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err.Error()
	}
	defer func() { _ = l.Close() }()
	go func() {
		c, err := l.Accept()
		if err == nil {
			_, _ = c.Write([]byte("hello"))
			_ = c.Close()
		}
	}()
	c, err := net.Dial("tcp", address)
	if err != nil {
		return err.Error()
	}
	defer func() { _ = c.Close() }()
	data, err := io.ReadAll(c)
	return fmt.Sprint(string(data), err)
}

func TestNetNSHasAWorkingLoopback(t *testing.T) {
	linuxtest.NeedAdmin(t, "to make a network namespace")
	ways(t, func(t *testing.T, c Cmd) {
		c.NetNS = true
		ours := threadNS(t, "thread-self")
		for range 3 { // each on port 80: they do not meet
			var got netReport
			out := output(t, command(t, c, "net"))
			if err := json.Unmarshal([]byte(out), &got); err != nil {
				t.Fatalf("%q: %v", out, err)
			}
			if len(got.Interfaces) != 1 || got.Interfaces[0] != "lo" {
				t.Errorf("interfaces up: %q, want lo", got.Interfaces)
			}
			for address, answer := range got.Answers {
				if answer != "hello<nil>" {
					t.Errorf("%s: %s", address, answer)
				}
			}
			if got.NS == ours || got.NS == "" {
				t.Errorf("namespace %q, ours is %q", got.NS, ours)
			}
		}
	})
}

func threadNS(t *testing.T, thread string) string {
	t.Helper()
	ns, err := os.Readlink("/proc/" + thread + "/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	return ns
}

// The threads that were put into namespaces are gone; none that stays is in one,
// above all not the main thread, which Go cannot end.
func TestNetNSLeavesNoThreadBehind(t *testing.T) {
	linuxtest.NeedAdmin(t, "to make a network namespace")
	ours := threadNS(t, "thread-self")
	root := testRoot(t)
	c := Cmd{Path: tinyProgram(t), NetNS: true, Umask: number(0o77), NoNewPrivs: true, Nice: number(3)}
	for i := range linuxtest.Times(100, 10) {
		c.Leaf = newLeaf(t, root, fmt.Sprint(i))
		wait(t, start(t, &c))
	}
	if got := threadNS(t, "self"); got != ours {
		t.Errorf("the main thread is in %s, want %s", got, ours)
	}
	linuxtest.Wait(t, within, func() (bool, string) {
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return false, err.Error()
		}
		for _, task := range tasks {
			path := "/proc/self/task/" + task.Name()
			if ns, err := os.Readlink(path + "/ns/net"); err == nil && ns != ours {
				return false, fmt.Sprintf("thread %s is in %s", task.Name(), ns)
			}
			if status := table(path+"/status", ":"); status["NoNewPrivs"] == "1" || status["Umask"] == "0077" {
				return false, fmt.Sprintf("thread %s has no_new_privs %s and umask %s", task.Name(), status["NoNewPrivs"], status["Umask"])
			}
		}
		return true, ""
	})
}

func TestOnThreadAvoidsTheMainThread(t *testing.T) {
	seen := map[int]bool{}
	for range 500 {
		err := onThread(func() error {
			if unix.Gettid() == unix.Getpid() {
				return fmt.Errorf("on the main thread")
			}
			seen[unix.Gettid()] = true
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		runtime.Gosched()
	}
	if len(seen) < 400 {
		t.Errorf("%d threads for 500 calls: they are not thrown away", len(seen))
	}
}
