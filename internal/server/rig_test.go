package server

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/api"
	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/registry"
	"github.com/pitvisor/pitvisor/spawn"
	"github.com/pitvisor/pitvisor/supervise"
)

func TestMain(m *testing.M) {
	spawn.HelperMain()
	linuxtest.Main(m, linuxtest.Modes{"ask": modeAsk})
}

// patience bounds waits for things that take milliseconds.
const patience = 30 * time.Second

// stranger is a user that is neither root nor anybody of the test's.
const stranger = 65533

// rig is a supervisor of real workers with a server on a socket.
type rig struct {
	testing.TB
	*api.Client
	server *Server
	sup    *supervise.Supervisor
	run    *registry.Run
	socket string
}

// asked is what one call of modeAsk came to.
type asked struct {
	Status int
	Body   string
}

// modeAsk makes calls "METHOD PATH [BODY]" on a socket as whoever it is, writes the
// answers to a file, and stays for a while if it is told to.
func modeAsk(args []string) int {
	socket, file, stay, calls := args[0], args[1], args[2], args[3:]
	c := api.NewClient(socket)
	defer c.Close()
	var all []asked
	for _, text := range calls {
		all = append(all, askOnce(socket, text))
	}
	data, _ := json.Marshal(all)
	if os.WriteFile(file+".new", data, 0o644) != nil || os.Rename(file+".new", file) != nil {
		return 1
	}
	if stay == "stay" {
		<-time.After(linuxtest.HelperLife)
	}
	return 0
}

func askOnce(socket, text string) asked {
	parts := strings.SplitN(text, " ", 3)
	var body io.Reader
	if len(parts) == 3 {
		body = strings.NewReader(parts[2])
	}
	req, err := http.NewRequest(parts[0], "http://pitvisor"+parts[1], body)
	if err != nil {
		return asked{Body: err.Error()}
	}
	req.Header.Set("Content-Type", "application/json")
	transport := unixTransport(socket)
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return asked{Body: err.Error()}
	}
	defer resp.Body.Close()
	data, _ := io.ReadAll(resp.Body)
	return asked{resp.StatusCode, string(data)}
}

// publicDir is a directory that every user may pass and write to.
func publicDir(tb testing.TB) string {
	tb.Helper()
	dir := tb.TempDir()
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o777); err != nil {
			tb.Fatal(err)
		}
	}
	return dir
}

// begin runs a supervisor of the pools with a server.
func begin(tb testing.TB, change func(*Options), pools ...supervise.PoolSpec) *rig {
	tb.Helper()
	return beginAt(tb, filepath.Join(publicDir(tb), "api.sock"), change, pools...)
}

func beginAt(tb testing.TB, socket string, change func(*Options), pools ...supervise.PoolSpec) *rig {
	tb.Helper()
	root, err := cgroup.Open(linuxtest.Cgroup(tb))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = root.Close() })
	r := &rig{TB: tb, socket: socket}
	if r.run, err = registry.New(root).Create(registry.Spec{Kind: "up", Name: "test", Version: "0"}); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := r.run.Close(ctx); err != nil {
			tb.Error(err)
		}
	})
	if r.sup, err = supervise.New(supervise.Options{Run: r.run, Pools: pools}); err != nil {
		tb.Fatal(err)
	}
	r.serve(change)
	r.supervise()
	return r
}

// serve starts the server.
func (r *rig) serve(change func(*Options)) {
	o := Options{
		Run: r.run, Supervisor: r.sup, Log: slog.New(slog.DiscardHandler), Config: "/etc/test.toml", Tier: "A",
		Command: func(pool string) (api.Command, bool) {
			return api.Command{Path: "/bin/" + pool, Args: []string{pool}}, true
		},
		History: func(int) ([]api.Record, error) { return nil, nil },
	}
	if change != nil {
		change(&o)
	}
	l, err := Listen(context.Background(), r.socket)
	if err != nil {
		r.Fatal(err)
	}
	r.server = New(o)
	served := make(chan error, 1)
	go func() { served <- r.server.Serve(l) }()
	r.Client = api.NewClient(r.socket)
	r.Cleanup(func() {
		r.Client.Close()
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		r.server.Shutdown(ctx)
		if err := <-served; err != nil {
			r.Error(err)
		}
		if err := l.Close(); err != nil {
			r.Error(err)
		}
	})
}

// supervise lets the workers run until the end of the test.
func (r *rig) supervise() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = r.sup.Run(ctx) // what became of workers is looked at by the tests
	}()
	r.Cleanup(func() {
		r.sup.KillNow()
		cancel()
		<-done
	})
}

// sleepers is a pool of workers that do nothing.
func sleepers(tb testing.TB, name string, n int) supervise.PoolSpec {
	argv := linuxtest.Helper(tb, "run")
	return supervise.PoolSpec{Name: name, Size: n, Command: supervise.Command{Path: argv[0], Args: argv}}
}

// ctx is bounded.
func (r *rig) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	r.Cleanup(cancel)
	return ctx
}

// ready waits until all workers are.
func (r *rig) ready(selected ...string) *api.Status {
	r.Helper()
	status, err := r.WaitFor(r.ctx(), func(s *api.Status) bool {
		for _, w := range s.Workers {
			if !w.Ready {
				return false
			}
		}
		return true
	}, selected...)
	if err != nil {
		r.Fatalf("wait for ready: %v", err)
	}
	return status
}

// as makes calls as another user, with supplementary groups.
func (r *rig) as(uid uint32, groups []uint32, calls ...string) []asked {
	r.Helper()
	file := filepath.Join(publicDir(r.TB), "answers")
	argv := linuxtest.Helper(r.TB, "ask", append([]string{r.socket, file, "go"}, calls...)...)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid, Groups: groups}}
	if out, err := cmd.CombinedOutput(); err != nil {
		r.Fatalf("ask as uid %d: %v\n%s", uid, err, out)
	}
	return readAsked(r.TB, file)
}

func readAsked(tb testing.TB, file string) []asked {
	tb.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		tb.Fatal(err)
	}
	var all []asked
	if err := json.Unmarshal(data, &all); err != nil {
		tb.Fatal(err)
	}
	return all
}

// call makes one call as the test itself.
func (r *rig) call(text string) asked { return askOnce(r.socket, text) }

// refused fails the test unless the answer is an error of that status and code, with
// a cause.
func refused(tb testing.TB, got asked, status int, code string) *api.Error {
	tb.Helper()
	e := &api.Error{}
	if err := json.Unmarshal([]byte(got.Body), e); err != nil || got.Status != status || e.Code != code || e.Cause == "" || e.Status != status {
		tb.Errorf("answered %d %s, want %d with code %s", got.Status, strings.TrimSpace(got.Body), status, code)
	}
	return e
}

// unixTransport makes one connection a call.
func unixTransport(socket string) *http.Transport {
	var d net.Dialer
	return &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return d.DialContext(ctx, "unix", socket)
		},
	}
}

func listenTCP(tb testing.TB) net.Listener {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	return l
}
