package probe

import (
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/supervise"
	"golang.org/x/sys/unix"
)

// portRig is a start whose main process runs the mode and prints its port, which
// the rules may use as {port}.
func portRig(t *testing.T, rules Rules, mode string, args ...string) (*rig, *printed) {
	t.Helper()
	r, out := place(t), newPrinted(t)
	rules.Stdout = listening
	r.prepare(rules, Deps{}, out.output())
	r.start(out.write, linuxtest.Helper(t, mode, args...)...)
	if mode != "sit" && mode != "ready-die" {
		out.port(t) // from here on the clock runs
	}
	return r, out
}

// mustBeTaken checks that the error names the stranger.
func mustBeTaken(t *testing.T, err error, by *linuxtest.Process) {
	t.Helper()
	if !errors.Is(err, supervise.ErrPortTaken) {
		t.Errorf("Wait = %v, want ErrPortTaken in it", err)
	}
	if by != nil {
		mustMatch(t, err, fmt.Sprintf(`: %d:\S+ listens on `, by.PID()))
	}
}

func TestTCPOfTheLeafIsReady(t *testing.T) {
	linuxtest.NoLeaks(t)
	for _, address := range []string{"127.0.0.1:{port}", ":{port}", "localhost:{port}", "{port}"} {
		r, out := portRig(t, Rules{TCP: address}, "listen")
		if info := r.ready(); info.Port != out.port(t) {
			t.Errorf("tcp %s: Wait gave port %d, want %d", address, info.Port, out.port(t))
		}
	}
}

func TestTCPOnIPv6Only(t *testing.T) {
	for _, address := range []string{"[::1]:{port}", "localhost:{port}"} {
		r, _ := portRig(t, Rules{TCP: address}, "any", "tcp6", "[::1]:0")
		r.ready()
	}
	r, _ := portRig(t, Rules{TCP: "127.0.0.1:{port}"}, "any", "tcp6", "[::1]:0")
	r.notReady(700*time.Millisecond, "connection refused")
}

func TestTCPOnAllAddresses(t *testing.T) {
	r, _ := portRig(t, Rules{TCP: "0.0.0.0:{port}"}, "any", "tcp", ":0")
	r.ready()
}

// H-42: a line says listening, but nobody does.
func TestH42ReadyButNotListening(t *testing.T) {
	linuxtest.NoLeaks(t)
	r, _ := portRig(t, Rules{TCP: "127.0.0.1:{port}"}, "ready-not-listening", "1")
	err := r.notReady(time.Second, `^tcp 127\.0\.0\.1:1: connection refused after \d+ tries$`)
	var not *NotReadyError
	if !errors.As(err, &not) || not.Tries < 2 {
		t.Errorf("%d tries, want more", not.Tries)
	}
}

func TestReadyThenDiesIsNotReady(t *testing.T) {
	r, _ := portRig(t, Rules{TCP: "127.0.0.1:1"}, "ready-die", "200ms", "3")
	r.attempt.(*attempt).rules.Stdout = nil
	r.fails("tcp 127.0.0.1:1: the main process has exited after [0-9]+ tr")
}

func TestFixedPortPlusSlot(t *testing.T) {
	// A port that is free now may be taken when the worker starts, so the
	// worker is started first and the rules are made to fit.
	out := newPrinted(t)
	first := place(t)
	first.startIn(first.leaf.Path(), out.write, linuxtest.Helper(t, "listen")...)
	port := out.port(t)
	r := &rig{t: t, pool: first.pool, leaf: first.leaf, info: first.info}
	r.info.Worker.Slot = 3
	r.prepare(Rules{TCP: ":{port}", Port: port - 3}, Deps{}, supervise.Output{})
	if got, want := r.env("PITVISOR_PORT"), strconv.Itoa(port); got != want {
		t.Errorf("PITVISOR_PORT = %s, want %s", got, want)
	}
	r.start(nil, linuxtest.Helper(t, "sit")...)
	if info := r.ready(); info.Port != port {
		t.Errorf("Wait gave port %d, want %d", info.Port, port)
	}
}

func TestNoPortIsKnown(t *testing.T) {
	r := place(t)
	r.prepare(Rules{TCP: ":{port}", FileAuto: true}, Deps{RuntimeDir: t.TempDir()}, supervise.Output{})
	r.start(nil, linuxtest.Helper(t, "ready-file", r.env("PITVISOR_READY_FILE"), "good")...)
	r.fails("the worker has told no port")
}

// R-07, H-19: two processes share a port by SO_REUSEPORT. Both believe that it is
// theirs; connections go to either.
func TestR07SharedPortIsTaken(t *testing.T) {
	linuxtest.NoLeaks(t)
	stranger, other := place(t), newPrinted(t)
	thief := stranger.startIn(stranger.leaf.Path(), other.write, linuxtest.Helper(t, "port-thief")...)
	port := other.port(t)
	for name, rules := range map[string]Rules{
		"tcp":  {TCP: "127.0.0.1:{port}"},
		"http": {HTTP: "http://127.0.0.1:{port}/"},
		"grpc": {GRPC: "127.0.0.1:{port}"},
	} {
		t.Run(name, func(t *testing.T) {
			r, out := portRig(t, rules, "port-thief", strconv.Itoa(port))
			if got := out.port(t); got != port {
				t.Fatalf("the ports are %d and %d, want them shared", got, port)
			}
			mustBeTaken(t, r.fails("port is taken by a process outside the worker"), thief)
		})
	}
}

// Once the other has gone, as in a run that is being swept, the port is the
// worker's alone.
func TestSharedPortIsGivenUpInTime(t *testing.T) {
	stranger, other := place(t), newPrinted(t)
	thief := stranger.startIn(stranger.leaf.Path(), other.write, linuxtest.Helper(t, "port-thief")...)
	r, _ := portRig(t, Rules{TCP: "127.0.0.1:{port}"}, "port-thief", strconv.Itoa(other.port(t)))
	r.attempt.(*attempt).patience = 10 * time.Second
	done := make(chan error)
	time.AfterFunc(200*time.Millisecond, func() { done <- thief.Signal(unix.SIGTERM) })
	r.ready()
	if err := <-done; err != nil {
		t.Errorf("the port became the worker's before the thief ended: %v", err)
	}
}

// The port is a stranger's alone: the worker says it listens, and does not.
func TestStrangersPortIsTaken(t *testing.T) {
	stranger, other := place(t), newPrinted(t)
	thief := stranger.startIn(stranger.leaf.Path(), other.write, linuxtest.Helper(t, "http")...)
	port := strconv.Itoa(other.port(t))
	for _, rules := range []Rules{{TCP: ":{port}"}, {HTTP: "/"}} {
		r, _ := portRig(t, rules, "ready-not-listening", port)
		mustBeTaken(t, r.fails("port is taken"), thief)
	}
}

// A wildcard socket and one of the address asked share the port too: which of
// them gets a connection is not for the worker to say.
func TestOverlappingAddressIsTaken(t *testing.T) {
	for _, c := range []struct{ mine, theirs, ask string }{
		{"0.0.0.0", "127.0.0.1", "127.0.0.1:{port}"},
		{"127.0.0.1", "0.0.0.0", "127.0.0.1:{port}"},
		{"[::]", "0.0.0.0", "127.0.0.1:{port}"},
		{"0.0.0.0", "127.0.0.7", "127.0.0.1:{port}"}, // overlaps with the worker's
	} {
		stranger, other := place(t), newPrinted(t)
		thief := stranger.startIn(stranger.leaf.Path(), other.write, linuxtest.Helper(t, "any", "tcp", c.theirs+":0")...)
		r, _ := portRig(t, Rules{TCP: c.ask}, "any", "tcp", fmt.Sprintf("%s:%d", c.mine, other.port(t)))
		mustBeTaken(t, r.fails("port is taken"), thief)
	}
}

func TestOtherAddressIsNobodysBusiness(t *testing.T) {
	stranger, other := place(t), newPrinted(t)
	stranger.startIn(stranger.leaf.Path(), other.write, linuxtest.Helper(t, "any", "tcp", "127.0.0.7:0")...)
	r, _ := portRig(t, Rules{TCP: "127.0.0.1:{port}"}, "any", "tcp", fmt.Sprintf("127.0.0.1:%d", other.port(t)))
	r.ready()
}

// The worker's listener lives on in a process that has left the leaf.
func TestListenerInheritedByAStranger(t *testing.T) {
	linuxtest.NoLeaks(t)
	for _, kind := range []string{"close", "keep"} {
		linuxtest.AllowLeak(t) // the child that sits in the other cgroup
		stranger := place(t)
		r, _ := portRig(t, Rules{TCP: "127.0.0.1:{port}"}, "hand-over", stranger.leaf.Path(), kind)
		if kind == "keep" {
			r.ready() // the leaf listens too
			continue
		}
		err := r.fails("port is taken")
		pids, perr := stranger.leaf.PIDs()
		if perr != nil || len(pids) != 1 {
			t.Fatalf("the other cgroup holds %v (%v), want one process", pids, perr)
		}
		mustBeTaken(t, err, nil)
		mustMatch(t, err, fmt.Sprintf(": %d:", pids[0]))
	}
}

func TestHTTPAnswers(t *testing.T) {
	linuxtest.NoLeaks(t)
	for _, rule := range []string{"/200", "http://localhost:{port}/204", "GET /302", "/big", "HEAD /head", "HEAD http://127.0.0.1:{port}/200"} {
		r, _ := portRig(t, Rules{HTTP: rule}, "answer")
		if _, err := r.wait(20 * time.Second); err != nil {
			t.Errorf("http %s: %v", rule, err)
		}
	}
	for rule, want := range map[string]string{
		"/404":  `^http GET /404 of 127\.0\.0\.1:\d+: status 404 Not Found after \d+ tr`,
		"/500":  "status 500",
		"/head": "status 404",
	} {
		r, _ := portRig(t, Rules{HTTP: rule}, "answer")
		r.notReady(700*time.Millisecond, want)
	}
}

// H-42: a half-open worker accepts, in the kernel's backlog, and says nothing.
func TestH42HalfOpenWorkerIsNotReady(t *testing.T) {
	linuxtest.NoLeaks(t)
	for _, rules := range []Rules{{HTTP: "/"}, {GRPC: ":{port}"}} {
		rules.TryTimeout = 100 * time.Millisecond
		r, _ := portRig(t, rules, "mute")
		r.notReady(900*time.Millisecond, "no answer within 100ms after [1-9] tr")
	}
	r, _ := portRig(t, Rules{TCP: ":{port}"}, "mute")
	r.ready() // that is all a TCP rule asks
}

func TestHTTPAnswerCutShort(t *testing.T) {
	r, _ := portRig(t, Rules{HTTP: "/"}, "cut")
	r.notReady(700*time.Millisecond, "read the body of the answer: unexpected EOF")
	r, _ = portRig(t, Rules{HTTP: "/"}, "listen") // closes each connection
	r.notReady(700*time.Millisecond, "closed without an HTTP answer|connection reset|broken pipe")
}

func TestGRPCHealth(t *testing.T) {
	linuxtest.NoLeaks(t)
	for _, kind := range []string{"1", "later"} {
		r, out := portRig(t, Rules{GRPC: "127.0.0.1:{port}", GRPCService: "app.Service"}, "health", kind)
		if info := r.ready(); info.Port != out.port(t) {
			t.Errorf("%s: Wait gave port %d, want %d", kind, info.Port, out.port(t))
		}
	}
	for kind, want := range map[string]string{
		"2":             `^grpc 127\.0\.0\.1:\d+: health status NOT_SERVING after \d+ tr`,
		"0":             "health status UNKNOWN",
		"3":             "health status SERVICE_UNKNOWN",
		"unimplemented": "has no health service",
		"plain":         "no gRPC server",
	} {
		r, _ := portRig(t, Rules{GRPC: "127.0.0.1:{port}"}, "health", kind)
		r.notReady(700*time.Millisecond, want)
	}
	r, _ := portRig(t, Rules{GRPC: ":{port}"}, "answer") // HTTP/1 only
	// It answers and closes: which of the two is seen first is a matter of luck.
	r.notReady(700*time.Millisecond, "call the health service: |connection reset|broken pipe")
}
