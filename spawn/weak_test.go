package spawn

import (
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/pitvisor/pitvisor/linuxtest"
	"golang.org/x/sys/unix"
)

// weakWays runs a test without any leaf, once with clone and once with the helper.
func weakWays(t *testing.T, f func(t *testing.T, c Cmd)) {
	t.Helper()
	ways(t, func(t *testing.T, c Cmd) {
		c.Leaf, c.Weak = nil, true
		f(t, c)
	})
}

func TestWeakStartsInTheCgroupOfTheCaller(t *testing.T) {
	weakWays(t, func(t *testing.T, c Cmd) {
		var got report
		if err := json.Unmarshal([]byte(output(t, command(t, c, "report"))), &got); err != nil {
			t.Fatal(err)
		}
		own, err := os.ReadFile("/proc/self/cgroup")
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(own), "0::"+got.Cgroup+"\n") {
			t.Errorf("started in %s, want the caller's: %s", got.Cgroup, own)
		}
	})
}

func TestWeakStartThatFailsNamesNoCgroup(t *testing.T) {
	weakWays(t, func(t *testing.T, c Cmd) {
		for want, path := range map[Cause]string{
			CauseNotFound: "/no/such/program", CauseNotExecutable: "/etc/passwd", CauseBadDir: "/bin/sh",
		} {
			c := c
			c.Path = path
			if want == CauseBadDir {
				c.Dir = "/no/such/directory"
			}
			_, err := Start(&c)
			var e *Error
			if !errors.As(err, &e) || e.Cause != want || e.Leaf != "" || strings.Contains(err.Error(), "cgroup") {
				t.Errorf("%v, want cause %v and no cgroup", err, want)
			}
		}
	})
}

func TestChildLeftCountsTheDead(t *testing.T) {
	linuxtest.NoLeaks(t)
	check := func(when string, want bool) {
		t.Helper()
		if left, err := ChildLeft(); left != want || err != nil {
			t.Errorf("%s: ChildLeft() = %v, %v, want %v", when, left, err, want)
		}
	}
	check("without a child", false)
	p, err := Start(&Cmd{Path: "/bin/sh", Args: []string{"sh", "-c", "read x"}, Stdin: blockingStdin(t), Weak: true})
	if err != nil {
		t.Fatal(err)
	}
	check("while a child runs", true)
	if err := p.Signal(unix.SIGKILL); err != nil {
		t.Error(err)
	}
	if err := p.Handle().Wait(t.Context()); err != nil {
		t.Error(err)
	}
	check("while it is a zombie", true)
	wait(t, p)
	check("after it was reaped", false)
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

// blockingStdin is a file that nobody ever writes to, until the end of the test.
func blockingStdin(t *testing.T) *os.File {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = r.Close(), w.Close() })
	return r
}
