package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/registry"
)

// modeWeb is an HTTP server on what it inherits, as go-systemd finds it: LISTEN_PID must be
// its own number. It answers with $VERSION, and with TERM it answers all that it has accepted.
func modeWeb([]string) int {
	files := activation.Files(true)
	if len(files) == 0 {
		fmt.Fprintln(os.Stderr, "nothing was passed on")
		return 1
	}
	l, err := net.FileListener(files[0])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	var conns sync.WaitGroup
	state := func(_ net.Conn, s http.ConnState) {
		switch s {
		case http.StateNew:
			conns.Add(1)
		case http.StateClosed, http.StateHijacked:
			conns.Done()
		default:
		}
	}
	server := &http.Server{ReadHeaderTimeout: time.Minute, ConnState: state, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			timer := time.NewTimer(50 * time.Millisecond)
			<-timer.C
		}
		fmt.Fprintln(w, os.Getenv("VERSION"), files[0].Name())
	})}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, unix.SIGTERM)
	_, _ = daemon.SdNotify(false, daemon.SdNotifyReady)
	<-stop
	_, _ = daemon.SdNotify(false, daemon.SdNotifyStopping)
	// Not Shutdown, which drops requests that it has just read: no further connections,
	// then an answer to each that is there.
	server.SetKeepAlivesEnabled(false)
	_ = l.Close()
	<-ended
	conns.Wait()
	return 0
}

// load asks a server as fast as it may until it is stopped.
type load struct {
	stop   context.CancelFunc
	group  sync.WaitGroup
	asked  atomic.Int64
	mu     sync.Mutex // guards what follows
	errs   []error
	answer map[string]int
}

// askAll begins: half of the clients keep their connections.
func askAll(t *testing.T, network, address string, clients int) *load {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{stop: cancel, answer: map[string]int{}}
	for i := range clients {
		client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{
			DisableKeepAlives: i%2 == 0,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, network, address)
			},
		}}
		path := map[bool]string{true: "/slow", false: "/"}[i%4 < 2]
		l.group.Go(func() {
			defer client.CloseIdleConnections()
			for ctx.Err() == nil {
				l.note(client.Get("http://pool" + path))
			}
		})
	}
	t.Cleanup(func() { cancel(); l.group.Wait() })
	return l
}

func (l *load) note(r *http.Response, err error) {
	l.asked.Add(1)
	var body []byte
	if err == nil {
		body, err = io.ReadAll(r.Body)
		_ = r.Body.Close()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.errs = append(l.errs, err)
	}
	l.answer[strings.TrimSpace(string(body))]++
}

// more waits until that many more questions were asked.
func (l *load) more(t *testing.T, n int64) {
	t.Helper()
	want := l.asked.Load() + n
	linuxtest.Wait(t, patience, func() (bool, string) { return l.asked.Load() >= want, "the questions are not answered" })
}

// end stops asking, and requires that nothing was dropped.
func (l *load) end(t *testing.T) map[string]int {
	t.Helper()
	l.stop()
	l.group.Wait()
	if len(l.errs) > 0 {
		t.Errorf("%d of %d requests were dropped: %v", len(l.errs), l.asked.Load(), l.errs[0])
	}
	t.Logf("%d requests, %d dropped: %v", l.asked.Load(), len(l.errs), l.answer)
	return l.answer
}

// webConfig is a pool of HTTP servers on one socket.
func webConfig(t *testing.T, listen, version string, size int, more string) string {
	return fmt.Sprintf("[socket.http]\nlisten = %q\n[pool.web]\ncommand = [%s]\nsize = %d\nsockets = [\"http\"]\nenv = { VERSION = %q }\nready.notify = true\n%s",
		listen, quoteAll(linuxtest.Helper(t, "web")), size, version, more)
}

func quoteAll(argv []string) string {
	var quoted []string
	for _, a := range argv {
		quoted = append(quoted, fmt.Sprintf("%q", a))
	}
	return strings.Join(quoted, ", ")
}

// freePort is a port that nobody has at the moment.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// TestRollingDropsNothing, under load, with new connections and kept ones.
func TestRollingDropsNothing(t *testing.T) {
	w := newWorld(t)
	address := freePort(t)
	u := w.up(w.config(webConfig(t, address, "one", 2, "")))
	u.ready("web/0", "web/1")
	before := w.pids()
	l := askAll(t, "tcp", address, 8)
	l.more(t, 200)
	if _, stderr, code := w.tool("restart", "web"); code != exitOK {
		t.Fatalf("restart = %d\n%s", code, stderr)
	}
	for name, pid := range w.pids() {
		if before[name] == pid {
			t.Errorf("%s is process %d before and after the restart", name, pid)
		}
	}
	l.more(t, 200)
	w.config(webConfig(t, address, "two", 2, ""))
	if _, stderr, code := w.tool("reload"); code != exitOK {
		t.Fatalf("reload = %d\n%s", code, stderr)
	}
	l.more(t, 200)
	answers := l.end(t)
	if answers["one http"] == 0 || answers["two http"] == 0 || len(answers) != 2 {
		t.Errorf("answers %v, want some of each version and no other", answers)
	}
	u.send(unix.SIGTERM)
	if code := u.wait(); code != exitOK {
		t.Errorf("exit code = %d, want %d", code, exitOK)
	}
	w.assertEmpty()
}

// TestConnectionsWait of the only worker: the socket is the supervisor's.
func TestConnectionsWait(t *testing.T) {
	w := newWorld(t)
	path := filepath.Join(w.dir, "web.sock")
	u := w.up(w.config(webConfig(t, path, "one", 1, "rollout = { max_surge = 0, max_unavailable = 1 }\n")))
	u.ready("web/0")
	l := askAll(t, "unix", path, 4)
	l.more(t, 50)
	for range 3 {
		if _, stderr, code := w.tool("restart", "web"); code != exitOK {
			t.Fatalf("restart = %d\n%s", code, stderr)
		}
	}
	l.more(t, 50)
	l.end(t)
	if _, _, code := w.tool("stop", "web"); code != exitOK {
		t.Fatalf("stop = %d", code)
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("the socket is gone with its workers: %v", err)
	}
	u.send(unix.SIGTERM)
	u.wait()
	if _, err := os.Lstat(path); err == nil {
		t.Error("the file of the socket is there after the end")
	}
}

// listenSeen takes a port, and sees to it that others can find out who has it: since a test
// has changed users on a thread of this process its descriptors are root's with
// CAP_SYS_PTRACE only, which a container does not have.
func listenSeen(t *testing.T) net.Listener {
	t.Helper()
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// TestCrashWithSockets: the workers of a supervisor that was killed still have its sockets.
// The next one sweeps them first, and then listens.
func TestCrashWithSockets(t *testing.T) {
	w := newWorld(t)
	address := freePort(t)
	config := w.config(webConfig(t, address, "a", 2, ""))
	u := w.up(config)
	u.ready("web/0", "web/1")
	old := w.workers(registry.RunRunning)
	u.kill()
	for name, v := range old {
		mustBe(t, true, name+" after the crash", v.Process)
	}
	next := w.up(config)
	next.ready("web/0", "web/1")
	for name, v := range old {
		mustBe(t, false, name+" of the run before", v.Process)
	}
	if got := askOnce(t, address); got != "a http" {
		t.Errorf("it answers %q", got)
	}
	next.endsClean(w)
}

// TestReloadKeepsSockets that have not changed.
func TestReloadKeepsSockets(t *testing.T) {
	w := newWorld(t)
	one, two := freePort(t), freePort(t)
	more := strings.Replace(webConfig(t, two, "b", 1, ""), "socket.http", "socket.second", 1)
	more = strings.NewReplacer("pool.web", "pool.second", `["http"]`, `["second"]`).Replace(more)
	u := w.up(w.config(webConfig(t, one, "a", 1, "") + more))
	u.ready("web/0", "second/0")
	before := w.pids()
	third := freePort(t)
	w.config(webConfig(t, one, "a", 1, "") + strings.Replace(more, two, third, 1))
	if _, stderr, code := w.tool("reload"); code != exitOK {
		t.Fatalf("reload = %d\n%s", code, stderr)
	}
	now := w.pids()
	if now["web/0"] != before["web/0"] || now["second/0"] == before["second/0"] {
		t.Errorf("processes %v, were %v: want another second/0 only", now, before)
	}
	answers := askOnce(t, third)
	if answers != "b second" {
		t.Errorf("the new address answers %q", answers)
	}
	linuxtest.Wait(t, patience, func() (bool, string) {
		c, err := net.Dial("tcp", two)
		if err == nil {
			_ = c.Close()
		}
		return err != nil, "the old address still takes connections"
	})
	// An address that somebody has leaves everything as it is.
	taken := listenSeen(t)
	w.config(webConfig(t, taken.Addr().String(), "a", 1, ""))
	_, stderr, code := w.tool("reload")
	if want := "open socket http: listen on tcp " + taken.Addr().String() + ": process "; code == exitOK || !strings.Contains(stderr, want) {
		t.Errorf("reload = %d\n%s\nwant %q", code, stderr, want)
	}
	if got := askOnce(t, one); got != "a http" {
		t.Errorf("after a reload that was refused the old address answers %q", got)
	}
	u.send(unix.SIGTERM)
	u.wait()
}

func askOnce(t *testing.T, address string) string {
	t.Helper()
	client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true}}
	r, err := client.Get("http://" + address)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(body))
}

// TestPortThatIsTaken: at the start and at check, with who has it.
func TestPortThatIsTaken(t *testing.T) {
	w := newWorld(t)
	l := listenSeen(t)
	config := w.config(webConfig(t, l.Addr().String(), "one", 1, ""))
	want := fmt.Sprintf("open socket http: listen on tcp %s: process %d:", l.Addr(), os.Getpid())
	out, stderr, code := w.tool("check", "-f", config)
	if code != exitOK || !strings.Contains(stderr, "note: "+want) || !strings.Contains(out, "good") {
		t.Errorf("check = %d\n%s%s\nwant a note: %s", code, out, stderr, want)
	}
	u := w.up(config)
	if code := u.wait(); code != exitSelf {
		t.Errorf("exit code %d, want %d", code, exitSelf)
	}
	if log := strings.Join(u.logText(), "\n"); !strings.Contains(log, want) {
		t.Errorf("the log is\n%s\nwant %q", log, want)
	}
	w.assertEmpty()
}

// TestSocketThatIsPassedOn: pitvisor itself was started by a socket unit, and its own
// restart drops no connection.
func TestSocketThatIsPassedOn(t *testing.T) {
	w := newWorld(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	file, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	config := w.config(strings.Replace(webConfig(t, "x", "one", 1, ""), `listen = "x"`, `fd = "front"`, 1))
	if _, stderr, _ := w.tool("up", "-f", config); !strings.Contains(stderr, `no descriptor called \"front\" was passed on, nor any other`) &&
		!strings.Contains(stderr, `no descriptor called "front" was passed on, nor any other`) {
		t.Errorf("without it: %s", stderr)
	}
	load := askAll(t, "tcp", l.Addr().String(), 4)
	for range 2 {
		u := startPassed(t, w, config, file)
		u.ready("web/0")
		load.more(t, 50)
		u.send(unix.SIGTERM)
		if code := u.wait(); code != exitOK {
			t.Errorf("exit code = %d, want %d", code, exitOK)
		}
	}
	u := startPassed(t, w, config, file)
	u.ready("web/0")
	load.more(t, 50)
	load.end(t)
	u.send(unix.SIGTERM)
	u.wait()
}

// startPassed starts a supervisor as systemd does it: with LISTEN_PID of its own.
func startPassed(t *testing.T, w *world, config string, file *os.File) *upProc {
	t.Helper()
	argv := w.argv("up", "-f", config, "--log-format", "json")
	script := `LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=front exec "$@"`
	return startUpWith(t, append([]string{"/bin/sh", "-c", script, "sh"}, argv...), file)
}
