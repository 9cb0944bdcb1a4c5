package probe

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/linuxtest"
	"golang.org/x/sys/unix"
)

const debianPython = "/usr/bin/python3"

// example is a worker of examples/pool with the rules of its pitvisor.toml.
type example struct {
	name  string
	argv  []string
	rules Rules
}

func example4(t *testing.T) []example {
	t.Helper()
	dir, err := filepath.Abs("../../examples/pool")
	if err != nil {
		t.Fatal(err)
	}
	return []example{
		{"web", []string{filepath.Join(dir, "web.py")}, Rules{
			Stdout: regexp.MustCompile(`listening on http://127\.0\.0\.1:(?P<port>\d+)`),
			HTTP:   "http://127.0.0.1:{port}/healthz",
		}},
		{"rpc", []string{filepath.Join(dir, "rpc.py")}, Rules{
			FileAuto: true, GRPC: "127.0.0.1:{port}", GRPCService: "example.Echo",
		}},
		{"go", []string{filepath.Join(t.TempDir(), "goworker")}, Rules{
			Notify: true,
			Stdout: regexp.MustCompile(`listening on 127\.0\.0\.1:(\d+)`),
			TCP:    "127.0.0.1:{port}",
		}},
		{"shell", []string{filepath.Join(dir, "worker.sh")}, Rules{FD: 3}},
	}
}

// need skips where the machine lacks what the worker is made of, and builds the
// one in Go.
func (e *example) need(t *testing.T) {
	t.Helper()
	switch e.name {
	case "web":
		linuxtest.NeedCommand(t, "python3")
	case "rpc":
		if exec.Command(debianPython, "-c", "import grpc").Run() != nil {
			linuxtest.Skip(t, "needs the Debian package python3-grpcio")
		}
	case "go":
		linuxtest.Build(t, "../../examples/pool/goworker", e.argv[0])
	}
}

// begin starts the example with what its rules need.
func (e *example) begin(t *testing.T) (*rig, *printed) {
	t.Helper()
	r, out := place(t), newPrinted(t)
	r.prepare(e.rules, Deps{RuntimeDir: t.TempDir(), Notify: serveNotify(t)}, out.output())
	r.spawned(false, out.write, e.argv...)
	return r, out
}

func TestExamplesBecomeReadyAndStop(t *testing.T) {
	for _, e := range example4(t) {
		t.Run(e.name, func(t *testing.T) {
			e.need(t)
			if e.name == "shell" {
				linuxtest.AllowLeak(t) // as below: it may be told to stop while it starts its first child
			} else {
				linuxtest.NoLeaks(t)
			}
			r, _ := e.begin(t)
			info := r.ready()
			if e.name != "shell" && info.Port == 0 {
				t.Errorf("%s told no port", e.name)
			}
			begin := time.Now()
			if err := r.main.Signal(unix.SIGTERM); err != nil {
				t.Fatal(err)
			}
			r.mustExit(20 * time.Second)
			t.Logf("%s stopped within %v", e.name, time.Since(begin).Round(time.Millisecond))
		})
	}
}

// a TERM during start-up, while modules are being imported, must not be
// swallowed.
func TestR08ExamplesStopDuringStartup(t *testing.T) {
	for _, e := range example4(t) {
		t.Run(e.name, func(t *testing.T) {
			e.need(t)
			linuxtest.AllowLeak(t) // a shell that dies between fork and exec of its child: the leaf's end is that one's
			for _, after := range []time.Duration{0, 20, 100, 400} {
				r, _ := e.begin(t)
				timer := time.AfterFunc(after*time.Millisecond, func() { _ = r.main.Signal(unix.SIGTERM) })
				r.mustExit(after*time.Millisecond + 20*time.Second)
				timer.Stop()
			}
		})
	}
}

// mustExit fails the test unless the main process ends within the time.
func (r *rig) mustExit(within time.Duration) {
	r.t.Helper()
	linuxtest.Wait(r.t, within, func() (bool, string) {
		exited, err := r.main.Exited()
		return err == nil && exited, "the main process still runs"
	})
}

// The rules above are those of the example's configuration.
func TestExamplesAreAsConfigured(t *testing.T) {
	data, err := os.ReadFile("../../examples/pool/pitvisor.toml")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range example4(t) {
		for _, want := range []string{
			"[pool." + e.name + ".ready]", filepath.Base(e.argv[0]), e.rules.HTTP, e.rules.GRPC, e.rules.GRPCService, e.rules.TCP,
		} {
			if !strings.Contains(string(data), want) {
				t.Errorf("the configuration has no %q", want)
			}
		}
		if e.rules.Stdout != nil && !strings.Contains(string(data), "stdout = '"+e.rules.Stdout.String()+"'") {
			t.Errorf("the configuration has no %q", e.rules.Stdout)
		}
	}
}
