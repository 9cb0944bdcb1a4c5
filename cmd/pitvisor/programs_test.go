package main

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/api"
	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/pidfd"
)

// Real programs, from Debian's packages, as pools.

// file writes a file of the world.
func (w *world) file(name, text string) string {
	w.tb.Helper()
	path := filepath.Join(w.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		w.tb.Fatal(err)
	}
	return path
}

// ends stops the supervisor, and requires that nothing is left.
func (u *upProc) ends(w *world) {
	u.tb.Helper()
	u.send(unix.SIGTERM)
	if code := u.wait(); code != exitOK {
		u.tb.Errorf("exit code of the supervisor = %d, want %d", code, exitOK)
	}
	w.assertEmpty()
}

// endsClean is ends, and requires that nothing was said above info.
func (u *upProc) endsClean(w *world) {
	u.tb.Helper()
	u.ends(w)
	if loud := u.loud(); len(loud) > 0 {
		u.tb.Errorf("the log has %q, want nothing above info", loud)
	}
}

// TestNginx: masters and workers are one worker of ours; HUP reloads, QUIT ends gracefully.
func TestNginx(t *testing.T) {
	linuxtest.NeedCommand(t, "nginx")
	w := newWorld(t)
	address := freePort(t)
	_, port, _ := strings.Cut(address, ":")
	conf := w.file("nginx.conf", "daemon off;"+nginxConf(w.dir, address))
	u := w.up(w.config(fmt.Sprintf("[pool.nginx]\ncommand = [\"nginx\", \"-e\", \"stderr\", \"-c\", %q]\nstop_signal = \"QUIT\"\nready.http = \"http://127.0.0.1:%s/\"\n", conf, port)))
	u.ready("nginx/0")
	l := askAll(t, "tcp", address, 4)
	l.more(t, 50)
	if _, stderr, code := w.tool("signal", "HUP", "nginx"); code != exitOK {
		t.Fatalf("signal = %d\n%s", code, stderr)
	}
	l.more(t, 200)
	if answers := l.end(t); answers["nginx"] == 0 {
		t.Errorf("answers %v", answers)
	}
	if v := w.workers("running")["nginx/0"]; len(v.Processes) < 3 {
		t.Errorf("processes %v, want a master and two workers", v.Processes)
	}
	u.endsClean(w)
}

// TestNginxUpgrade: with track = "leaf" a daemon may put another master in its place.
func TestNginxUpgrade(t *testing.T) {
	linuxtest.NeedCommand(t, "nginx")
	nginx, err := exec.LookPath("nginx") // it executes itself again, by this path
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	address := freePort(t)
	conf := w.file("nginx.conf", "daemon on;"+nginxConf(w.dir, address))
	u := w.up(w.config(fmt.Sprintf("[pool.nginx]\ncommand = [%q, \"-e\", \"stderr\", \"-c\", %q]\nstop_signal = \"QUIT\"\ntrack = \"leaf\"\nready.tcp = %q\n", nginx, conf, address)))
	u.ready("nginx/0")
	l := askAll(t, "tcp", address, 4)
	l.more(t, 50) // a signal is lost on a master that has not begun
	old := w.master("pid")
	defer old.Close()
	if err := old.Signal(unix.SIGUSR2); err != nil {
		t.Fatal(err)
	}
	linuxtest.Wait(t, patience, func() (bool, string) {
		_, err := os.Stat(w.dir + "/pid.oldbin")
		return err == nil, "the new master is not there"
	})
	now := w.master("pid")
	defer now.Close()
	l.more(t, 100)
	if err := old.Signal(unix.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	if err := old.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.more(t, 100)
	l.end(t)
	if got := w.worker("nginx/0"); got.State != api.StateUp || got.Start != 1 {
		t.Errorf("worker %+v, want up in its first start", got)
	}
	if exited, err := now.Exited(); err != nil || exited {
		t.Errorf("the new master has exited: %v, %v", exited, err)
	}
	u.endsClean(w)
}

// master opens the process that a file names.
func (w *world) master(name string) *pidfd.Process {
	w.tb.Helper()
	pid := 0
	linuxtest.Wait(w.tb, patience, func() (bool, string) {
		text, _ := os.ReadFile(filepath.Join(w.dir, name))
		n, err := fmt.Sscan(string(text), &pid)
		return n == 1 && err == nil, "there is no number in " + name
	})
	p, err := pidfd.Open(pid)
	if err != nil {
		w.tb.Fatal(err)
	}
	return p
}

func nginxConf(dir, address string) string {
	return fmt.Sprintf(`
		worker_processes 2; pid %[1]s/pid; error_log stderr notice; events {}
		http {
			access_log off; client_body_temp_path %[1]s/t; proxy_temp_path %[1]s/t; fastcgi_temp_path %[1]s/t;
			uwsgi_temp_path %[1]s/t; scgi_temp_path %[1]s/t;
			server { listen %[2]s; location / { return 200 "nginx"; } }
		}`, dir, address)
}

// TestRedis says by sd_notify when it is ready and that it stops.
func TestRedis(t *testing.T) {
	linuxtest.NeedCommand(t, "redis-server")
	w := newWorld(t)
	command := quoteAll([]string{"redis-server", "--port", "0", "--unixsocket", w.dir + "/s", "--dir", w.dir, "--save", "", "--supervised", "systemd"})
	u := w.up(w.config("[pool.redis]\ncommand = [" + command + "]\nready.notify = true\n"))
	u.ready("redis/0")
	linuxtest.Wait(t, patience, func() (bool, string) {
		now := w.worker("redis/0")
		return now.Status == "Ready to accept connections", fmt.Sprintf("its status is %q", now.Status)
	})
	if _, stderr, code := w.tool("restart", "redis"); code != exitOK {
		t.Fatalf("restart = %d\n%s", code, stderr)
	}
	u.endsClean(w)
}

// TestPostgreSQL is a cluster of processes as another user, ready by sd_notify.
func TestPostgreSQL(t *testing.T) {
	linuxtest.NeedRoot(t, "to become user postgres")
	linuxtest.NeedCommand(t, "initdb", "postgres")
	account, err := user.Lookup("postgres")
	if err != nil {
		linuxtest.Skip(t, "needs the user postgres: "+err.Error())
	}
	w := newWorld(t)
	if err := os.Chmod(w.dir, 0o711); err != nil { // it is to reach NOTIFY_SOCKET
		t.Fatal(err)
	}
	data := postgresData(t, w, account)
	command := quoteAll([]string{"postgres", "-D", data, "-c", "listen_addresses=", "-c", "unix_socket_directories=" + data, "-c", "fsync=off", "-c", "shared_buffers=1MB", "-c", "max_connections=5"})
	u := w.up(w.config("[pool.db]\ncommand = [" + command + "]\nuser = \"postgres\"\ndirectory = \"/\"\nstop_signal = \"INT\"\nready.notify = true\nrollout = { max_surge = 0, max_unavailable = 1 }\n"))
	u.ready("db/0")
	if v := w.workers("running")["db/0"]; len(v.Processes) < 3 {
		t.Errorf("processes %v, want postgres and its own", v.Processes)
	}
	if _, stderr, code := w.tool("restart", "db"); code != exitOK {
		t.Fatalf("restart = %d\n%s", code, stderr)
	}
	u.endsClean(w)
}

// postgresData makes a data directory, as a pool that completes.
func postgresData(t *testing.T, w *world, account *user.User) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pitvisor-pg-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	var uid, gid int
	_, _ = fmt.Sscan(account.Uid, &uid)
	_, _ = fmt.Sscan(account.Gid, &gid)
	if err := os.Chown(dir, uid, gid); err != nil {
		t.Fatal(err)
	}
	command := quoteAll([]string{"initdb", "-D", dir + "/data", "-A", "trust", "-N", "--no-locale"})
	u := w.up(w.config("[pool.init]\ncommand = [" + command + "]\ndirectory = \"/\"\nuser = \"postgres\"\nrestart = \"on-failure\"\n"))
	if code := u.wait(); code != exitOK {
		t.Fatalf("initdb ended with %d", code)
	}
	return dir + "/data"
}

// TestGunicorn takes our socket and says when it is ready; rolling restarts drop nothing.
func TestGunicorn(t *testing.T) {
	linuxtest.NeedCommand(t, "gunicorn")
	w := newWorld(t)
	w.file("shop.py", "import os\ndef app(environ, start):\n    start('200 OK', [('Content-Type', 'text/plain')])\n    return [os.environ['VERSION'].encode()]\n")
	// Its READY=1 comes before it has a worker, and one that has just begun misses a TERM.
	w.file("hooks.py", "import sys\ndef post_worker_init(worker):\n    print('it serves', file=sys.stderr, flush=True)\n")
	address := freePort(t)
	config := func(version string) string {
		return fmt.Sprintf("[socket.http]\nlisten = %q\n[pool.web]\ncommand = [\"gunicorn\", \"-c\", \"hooks.py\", \"--worker-tmp-dir\", \"/dev/shm\", \"shop:app\"]\nsize = 2\nsockets = [\"http\"]\nready.notify = true\nready.stderr = \"it serves\"\nenv = { VERSION = %q }\n", address, version)
	}
	u := w.up(w.config(config("one")))
	u.ready("web/0", "web/1")
	l := askAll(t, "tcp", address, 4)
	l.more(t, 100)
	if _, stderr, code := w.tool("restart", "web"); code != exitOK {
		t.Fatalf("restart = %d\n%s", code, stderr)
	}
	w.config(config("two"))
	if _, stderr, code := w.tool("reload"); code != exitOK {
		t.Fatalf("reload = %d\n%s", code, stderr)
	}
	l.more(t, 100)
	if answers := l.end(t); answers["one"] == 0 || answers["two"] == 0 || len(answers) != 2 {
		t.Errorf("answers %v, want some of each version and no other", answers)
	}
	u.endsClean(w)
}

// TestUvicorn takes our socket by its number.
func TestUvicorn(t *testing.T) {
	const python = "/usr/bin/python3"
	if _, err := os.Stat("/usr/lib/python3/dist-packages/uvicorn"); err != nil {
		linuxtest.Skip(t, "needs the command uvicorn")
	}
	w := newWorld(t)
	w.file("shop.py", "async def app(scope, receive, send):\n    if scope['type'] != 'http':\n        return\n    await send({'type': 'http.response.start', 'status': 200, 'headers': []})\n    await send({'type': 'http.response.body', 'body': b'uvicorn'})\n")
	address := freePort(t)
	u := w.up(w.config(fmt.Sprintf("[socket.http]\nlisten = %q\n[pool.web]\ncommand = [%q, \"-m\", \"uvicorn\", \"--fd\", \"3\", \"shop:app\"]\nsockets = [\"http\"]\nready.stderr = \"Uvicorn running\"\n", address, python)))
	u.ready("web/0")
	if got := askOnce(t, address); got != "uvicorn" {
		t.Errorf("it answers %q", got)
	}
	if _, stderr, code := w.tool("restart", "web"); code != exitOK {
		t.Fatalf("restart = %d\n%s", code, stderr)
	}
	if got := askOnce(t, address); got != "uvicorn" {
		t.Errorf("after a restart it answers %q", got)
	}
	u.endsClean(w)
}
