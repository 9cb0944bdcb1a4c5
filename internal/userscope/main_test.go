package userscope

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/linuxtest"
)

func TestMain(m *testing.M) {
	linuxtest.Main(m, linuxtest.Modes{"enter": enterMode, "elsewhere": elsewhereMode})
}

// within is how long a test waits for what must happen.
const within = 20 * time.Second

// result is what enterMode has seen.
type result struct {
	Unit, Path string
	Root       cgroup.RootSource // what FindRoot says afterwards

	Err, Hint   string
	Cause       string
	Cgroup      string // of the error
	Is          string // a kernel error behind it
	Before, Now string // the own cgroup, as /proc says

	Descriptors bool   // a connection takes descriptors
	Left        string // goroutines and files that Enter has left
}

// enterMode enters a scope, tells what came of it, and lives until its standard
// input ends. Further arguments are directories to make below the scope; the last
// one it enters.
func enterMode(args []string) int {
	var o Options
	if err := json.Unmarshal([]byte(args[0]), &o); err != nil {
		return complain(err)
	}
	r := result{Before: ownCgroup()}
	before := holdings()
	s, err := Enter(context.Background(), o)
	r.Left = waitFor(before)
	r.Now = ownCgroup()
	var e *Error
	switch {
	case errors.As(err, &e):
		r.Err, r.Hint, r.Cause, r.Cgroup = e.Error(), e.Hint(), e.Cause.String(), e.Cgroup
	case err != nil:
		return complain(err)
	default:
		r.Unit, r.Path = s.Unit, s.Path
		if err := work(s, args[1:], &r); err != nil {
			return complain(err)
		}
	}
	if err := json.NewEncoder(os.Stdout).Encode(r); err != nil {
		return complain(err)
	}
	_, _ = io.Copy(io.Discard, os.Stdin) // its end is what is waited for
	return 0
}

// work does what a caller does in its scope.
func work(s *Scope, dirs []string, r *result) error {
	root, err := cgroup.FindRoot("")
	if err != nil {
		return err
	}
	r.Root = root.Source
	at := root.Dir
	for i, name := range dirs {
		if at, err = at.Create(name); err == nil && i == len(dirs)-1 {
			err = at.MoveSelf()
		}
		if err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	for _, e := range endpoints(false, os.Getenv, os.Geteuid()) {
		conn, err := e.dial(ctx)
		if err != nil {
			continue
		}
		r.Descriptors = r.Descriptors || conn.SupportsUnixFDs()
		_ = conn.Close()
	}
	return nil
}

func ownCgroup() string {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return err.Error()
	}
	_, path, _ := strings.Cut(string(text), "0::")
	return strings.TrimSpace(path)
}

// holdings are the files and the number of goroutines of this process.
func holdings() []string {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return []string{err.Error()}
	}
	list := []string{fmt.Sprint(runtime.NumGoroutine(), " goroutines")}
	for _, e := range entries {
		if target, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && strings.HasPrefix(target, "socket:") {
			list = append(list, target)
		}
	}
	return list
}

// waitFor waits until holdings are what they were, and says what they are if not.
func waitFor(before []string) string {
	for end := time.Now().Add(2 * time.Second); ; <-time.After(5 * time.Millisecond) {
		now := holdings()
		if slices.Equal(before, now) {
			return ""
		}
		if time.Now().After(end) {
			return fmt.Sprintf("%q, were %q", now, before)
		}
	}
}

func complain(err error) int {
	fmt.Fprintln(os.Stderr, err)
	return 125
}

// caller is an enterMode process.
type caller struct {
	*linuxtest.Process
	stdin *os.File
	got   result
}

// enter starts one as the manager's user.
func enter(t *testing.T, m *linuxtest.Manager, o Options, dirs ...string) *caller {
	t.Helper()
	return start(t, m.Command(t, command(t, o, dirs...)...))
}

// command is the command line of an enterMode process.
func command(t *testing.T, o Options, dirs ...string) []string {
	t.Helper()
	options, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	return linuxtest.Helper(t, "enter", append([]string{string(options)}, dirs...)...)
}

func start(t *testing.T, c linuxtest.Command) *caller {
	t.Helper()
	in, stdin, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = stdin.Close(), stdout.Close() })
	c.Stdin, c.Stdout, c.Stderr = in, out, os.Stderr
	p := &caller{Process: c.Start(t), stdin: stdin}
	_, _ = in.Close(), out.Close() // it has its own
	if err := json.NewDecoder(stdout).Decode(&p.got); err != nil {
		t.Fatalf("%q says no result: %v", c.Args, err)
	}
	if p.got.Left != "" {
		t.Errorf("left by Enter: %s", p.got.Left)
	}
	return p
}

// end lets it exit.
func (p *caller) end(t *testing.T) {
	t.Helper()
	if err := p.stdin.Close(); err != nil {
		t.Fatal(err)
	}
	linuxtest.ExitCause(t, p.Wait(t, within), 0)
}

// noUnits waits until systemd knows none of our units any more, a failed one included.
func noUnits(t *testing.T, m *linuxtest.Manager) {
	t.Helper()
	linuxtest.Wait(t, within, func() (bool, string) {
		left := m.Systemctl(t, "list-units", "--all", "pitvisor-*")
		return left == "", "units left: " + left
	})
}

// wantError fails the test unless Enter has failed like this.
func (p *caller) wantError(t *testing.T, cause Cause, hint string) {
	t.Helper()
	if p.got.Cause != cause.String() || !strings.Contains(p.got.Hint, hint) {
		t.Errorf("Enter: %s (cause %s, hint %q), want cause %s, hint %q", p.got.Err, p.got.Cause, p.got.Hint, cause, hint)
	}
}

// notMoved fails the test if the process is not where it was.
func (p *caller) notMoved(t *testing.T) {
	t.Helper()
	if p.got.Now != p.got.Before || p.got.Cgroup != "" {
		t.Errorf("it was moved from %s to %s; the error says %q", p.got.Before, p.got.Now, p.got.Cgroup)
	}
}

// rm removes a path that the rig has made.
func rm(t *testing.T, path string) {
	t.Helper()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
}
