package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/api"
	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/registry"
)

// loopback is an address of this test process's own, so that ports are free.
func loopback() string {
	pid := os.Getpid()
	return fmt.Sprintf("127.%d.%d.%d", 1+pid>>16&127, pid>>8&255, 1+pid&127)
}

// socket is where the supervisor of the only run can be asked.
func (w *world) socket() string {
	w.tb.Helper()
	for _, r := range w.runs() {
		if r.State == registry.RunRunning && r.Socket != "" {
			return r.Socket
		}
	}
	w.tb.Fatal("no run has a socket")
	return ""
}

// client asks the supervisor of the only run.
func (w *world) client() *api.Client {
	w.tb.Helper()
	c := api.NewClient(w.socket())
	w.tb.Cleanup(c.Close)
	return c
}

func bounded(tb testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	tb.Cleanup(cancel)
	return ctx
}

const sleepPool = "[pool.web]\ncommand = [\"sleep\", \"600\"]\nsize = 2\n"

// TestMetricsAndToken: TCP for who has the token, metrics for everybody.
func TestMetricsAndToken(t *testing.T) {
	w := newWorld(t)
	token := filepath.Join(w.dir, "token")
	if err := os.WriteFile(token, []byte("0123456789abcdef\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	address := loopback()
	config := w.config(fmt.Sprintf("[api]\ntcp = %q\ntoken_file = \"token\"\nmetrics = %q\n", address+":9330", address+":9331") + sleepPool)
	u := w.up(config)
	u.ready("web/0", "web/1")

	c := api.NewClient("http://" + address + ":9330")
	defer c.Close()
	if _, err := c.Status(bounded(t)); !errors.Is(err, &api.Error{Code: api.CodeToken}) {
		t.Errorf("without the token: %v", err)
	}
	stdout, stderr, code := w.tool("status", "--socket", c.Address(), "--token-file", token)
	if code != 0 || !strings.Contains(stdout, "web/1") {
		t.Errorf("status with the token = %d\n%s%s", code, stdout, stderr)
	}
	want := []string{
		`pitvisor_build_info{`, `pitvisor_pool_ready{pool="web"} 2`, `pitvisor_cgroup_cpu_seconds_total{mode="user",pool="web",worker="web/0"}`,
		`pitvisor_worker_ready_seconds_count{pool="web"} 2`,
	}
	var onSocket bytes.Buffer
	if err := w.client().Metrics(bounded(t), &onSocket); err != nil {
		t.Fatal(err)
	}
	scraped := get(t, "http://"+address+":9331/metrics", 200)
	for _, line := range want {
		if !strings.Contains(scraped, line) || !strings.Contains(onSocket.String(), line) {
			t.Errorf("no %s in\n%s", line, scraped)
		}
	}
	get(t, "http://"+address+":9331/v1/status", 404)
	for scheme, want := range map[string]int{"Bearer": 200, "bearer": 200, "Basic": 401} { // RFC 9110: of any case
		code, challenge := withToken(t, c.Address()+"/v1/whoami", scheme+" 0123456789abcdef")
		if code != want || (challenge == "Bearer") != (want == 401) {
			t.Errorf("Authorization: %s = %d, WWW-Authenticate %q, want %d", scheme, code, challenge, want)
		}
	}
	u.send(unix.SIGTERM)
	if code := u.wait(); code != 0 {
		t.Errorf("exit code = %d", code)
	}
	if err := os.Chmod(token, 0o644); err != nil {
		t.Fatal(err)
	}
	_, stderr, code = w.tool("up", "-f", config, "--log-format", "text")
	if code != exitSelf || !strings.Contains(stderr, "others may read") || !strings.Contains(stderr, "hint: chmod 600") {
		t.Errorf("with a token for everybody = %d\n%s", code, stderr)
	}
}

// withToken asks with a header Authorization, and returns the status and the challenge.
func withToken(t *testing.T, url, authorization string) (status int, challenge string) {
	t.Helper()
	req, err := http.NewRequestWithContext(bounded(t), http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", authorization)
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	return resp.StatusCode, resp.Header.Get("WWW-Authenticate")
}

func get(t *testing.T, url string, status int) string {
	t.Helper()
	transport := &http.Transport{DisableKeepAlives: true}
	resp, err := (&http.Client{Transport: transport}).Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != status {
		t.Errorf("GET %s = %d, %v, want %d", url, resp.StatusCode, err, status)
	}
	return string(data)
}

// TestSocketOfTheDeadIsReplaced: after a crash the next start has the same socket, and
// while one lives no other gets it.
func TestSocketOfTheDeadIsReplaced(t *testing.T) {
	w := newWorld(t)
	path := filepath.Join(w.dir, "fixed.sock")
	text := fmt.Sprintf("[api]\nsocket = %q\n", path) + sleepPool
	config := w.config(text)
	u := w.up(config)
	u.ready("web/0")
	if got := w.socket(); got != path {
		t.Errorf("socket = %s, want %s", got, path)
	}
	u.kill()
	if _, err := os.Lstat(path); err != nil {
		t.Fatal("the crash left no socket behind: ", err)
	}
	stdout, _, code := w.tool("status", "--socket", path)
	if code != exitNotRunning {
		t.Errorf("status of a dead one = %d, %s", code, stdout)
	}
	u = w.up(config)
	u.ready("web/0", "web/1")
	if _, _, code = w.tool("status", "--socket", path); code != 0 {
		t.Errorf("status = %d", code)
	}
	other := filepath.Join(w.dir, "other.toml")
	if err := os.WriteFile(other, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	_, stderr, code := w.tool("up", "-f", other, "--log-format", "text")
	if code != exitSelf || !strings.Contains(stderr, "another supervisor does, process") || !strings.Contains(stderr, "hint:") {
		t.Errorf("a second one on the same socket = %d\n%s", code, stderr)
	}
	u.send(unix.SIGTERM)
	if code := u.wait(); code != 0 {
		t.Errorf("exit code = %d", code)
	}
	if _, err := os.Lstat(path); err == nil {
		t.Error("the socket was left behind")
	}
}

// TestNoSocket: none is made where none is wanted.
func TestNoSocket(t *testing.T) {
	w := newWorld(t)
	u := w.up(w.config("[api]\nsocket = \"none\"\n" + sleepPool))
	u.ready("web/0")
	for _, r := range w.runs() {
		if r.Socket != "" {
			t.Errorf("socket = %s", r.Socket)
		}
	}
	_, stderr, code := w.tool("status", "--run", "pitvisor")
	if code != exitUnknown || !strings.Contains(stderr, "cannot be asked") {
		t.Errorf("status = %d\n%s", code, stderr)
	}
	u.send(unix.SIGTERM)
	u.wait()
}

// TestWorkerAsks: a worker of another user finds the socket in its environment, and may
// read about its own run, and no more.
func TestWorkerAsks(t *testing.T) {
	linuxtest.NeedKernel(t, 6, 5, "SO_PEERPIDFD")
	linuxtest.NeedRoot(t, "to become another user")
	w := newWorld(t)
	public(t, w.dir)
	out := filepath.Join(w.dir, "out")
	if err := os.Mkdir(out, 0o777); err != nil || os.Chmod(out, 0o777) != nil {
		t.Fatal(err)
	}
	argv := linuxtest.Helper(t, "pitvisor")
	script := strings.NewReplacer("STATUS", strings.Join(argv, " ")).Replace(
		fmt.Sprintf("STATUS status --json > %[1]s/status; STATUS stop '*' 2> %[1]s/stop; echo $? > %[1]s/code; mv %[1]s/code %[1]s/done; exec sleep 600", out))
	command, err := json.Marshal([]string{"/bin/sh", "-c", script})
	if err != nil {
		t.Fatal(err)
	}
	u := w.up(w.config(fmt.Sprintf("[pool.own]\ncommand = %s\nuser = \"65533\"\ngroup = \"65533\"\n", command)))
	u.ready("own/0")
	linuxtest.Wait(t, patience, func() (bool, string) {
		_, err := os.Stat(filepath.Join(out, "done"))
		return err == nil, "the worker has not asked yet"
	})
	var s api.Status
	data, err := os.ReadFile(filepath.Join(out, "status"))
	if err != nil || json.Unmarshal(data, &s) != nil || len(s.Workers) != 1 || s.Workers[0].Worker != "own/0" {
		t.Errorf("the worker sees %s, %v", data, err)
	}
	code, _ := os.ReadFile(filepath.Join(out, "done"))
	stop, _ := os.ReadFile(filepath.Join(out, "stop"))
	if strings.TrimSpace(string(code)) != "4" || !strings.Contains(string(stop), "uid 65533 (worker) may not use POST /v1/stop") {
		t.Errorf("the worker's stop = %s%s", code, stop)
	}
	u.send(unix.SIGTERM)
	u.wait()
}

// public lets every user pass the directories of a test.
func public(t *testing.T, dir string) {
	t.Helper()
	for ; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}
