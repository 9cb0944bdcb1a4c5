package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/linuxtest"
)

// daemon is a program that gets away from whoever starts it.
type daemon struct {
	name    string
	needs   []string // commands
	private bool     // it gets mounts of its own, and a /run: its paths cannot be chosen
	netns   bool     // likewise for its port
	looks   bool     // what it is and has is seen with CAP_SYS_PTRACE only
	script  string   // starts it, in a directory of its own
	serves  string   // its socket: a file in the directory, or a port on loopback
	leaves  []string // the beginning of the command line of each process that must be left
	ways    string   // how the first of them got away
}

// daemons are real ones. Nothing of them is outside their directory, their memory is
// small, and what they run ends by itself one day.
func daemons() []daemon {
	return []daemon{
		{name: "nginx", needs: []string{"nginx"}, serves: "s", script: `
			cat >conf <<-end
			daemon on; worker_processes 2; pid pid; error_log log; events {}
			http {
				access_log off; client_body_temp_path t; proxy_temp_path t; fastcgi_temp_path t; uwsgi_temp_path t; scgi_temp_path t;
				server { listen unix:$PWD/s; }
			}
			end
			nginx -p "$PWD" -c conf -e log
			`, leaves: []string{"nginx: master process", "nginx: worker process"}, ways: "setsid reparented"},
		{name: "redis", needs: []string{"redis-server"}, serves: "s", script: `
			redis-server --daemonize yes --port 0 --unixsocket "$PWD/s" --dir "$PWD" --save "" --logfile log
			`, leaves: []string{"redis-server"}, ways: "setsid reparented"},
		{name: "postgresql", needs: []string{"pg_ctl", "setpriv"}, looks: true, serves: ".s.PGSQL.5432", script: `
			chown postgres .
			exec setpriv --reuid postgres --regid postgres --clear-groups sh -ec '
				initdb -D data -A trust -N --no-locale >log
				pg_ctl -D data -w -l log -o "-c listen_addresses= -c unix_socket_directories=$PWD -c fsync=off \
					-c shared_buffers=1MB -c max_connections=5 -c autovacuum=off" start
				echo started
				read -r end || exit 0'
			`, leaves: []string{"/usr/lib/postgresql/", "postgres: checkpointer", "postgres: walwriter"}, ways: "setsid reparented other-user"},
		{name: "ssh-agent", needs: []string{"ssh-agent"}, looks: true, serves: "s", script: `
			ssh-agent -a s
			`, leaves: []string{"ssh-agent"}, ways: "setsid reparented"},
		{name: "tmux", needs: []string{"tmux"}, serves: "s", script: `
			tmux -S s -f /dev/null new-session -d 'exec sleep 1000'
			`, leaves: []string{"tmux", "sleep 1000"}, ways: "setsid reparented"},
		{name: "screen", needs: []string{"screen"}, script: `
			mkdir -m 700 d
			SCREENDIR=$PWD/d screen -c /dev/null -dmS test sleep 1000
			`, leaves: []string{"SCREEN", "sleep 1000"}, ways: "setsid reparented"},
		{name: "dbus-daemon", needs: []string{"dbus-daemon"}, serves: "s", script: `
			dbus-daemon --session --nopidfile --fork --address "unix:path=$PWD/s"
			`, leaves: []string{"dbus-daemon"}, ways: "setsid reparented"},
		{name: "stress-ng", needs: []string{"stress-ng"}, script: `
			stress-ng --quiet --temp-path "$PWD" --cpu 1 --cpu-load 3 --sleep 1 --sleep-max 4 --timeout 100 &
			`, leaves: []string{"stress-ng --quiet", "stress-ng-cpu", "stress-ng-sleep"}, ways: "reparented"},
		{name: "gpg-agent", needs: []string{"gpg-agent"}, private: true, serves: "S.gpg-agent", script: `
			gpg-agent --homedir "$PWD" --daemon
			`, leaves: []string{"gpg-agent"}, ways: "setsid reparented"},
		{name: "cron", needs: []string{"cron"}, private: true, script: `
			mount -t tmpfs none /var/spool/cron
			mkdir none /var/spool/cron/crontabs
			mount --bind none /etc/cron.d
			echo '@reboot root sleep 1000' >crontab
			mount --bind crontab /etc/crontab
			cron
			`, leaves: []string{"cron", "CRON", "sleep 1000"}, ways: "setsid reparented"},
		{name: "Xvfb", needs: []string{"Xvfb"}, netns: true, serves: "6007", script: `
			setsid -f nohup Xvfb :7 -nolock -nolisten unix -nolisten local -listen tcp -screen 0 8x8x8 >log 2>&1
			`, leaves: []string{"Xvfb"}, ways: "setsid reparented"},
		{name: "memcached", needs: []string{"memcached"}, serves: "s", script: `
			memcached -d -u root -m 8 -t 1 -s "$PWD/s"
			`, leaves: []string{"memcached"}, ways: "setsid reparented"},
		{name: "rsyslogd", needs: []string{"rsyslogd"}, serves: "s", script: `
			cat >conf <<-end
			module(load="imuxsock" SysSock.Use="off")
			input(type="imuxsock" Socket="$PWD/s")
			action(type="omfile" file="$PWD/log")
			end
			rsyslogd -f conf -i "$PWD/pid"
			`, leaves: []string{"rsyslogd"}, ways: "setsid reparented"},
		{name: "dnsmasq", needs: []string{"dnsmasq"}, netns: true, serves: "53", script: `
			dnsmasq --conf-file=/dev/null --no-resolv --no-hosts --listen-address=127.0.0.1 --bind-interfaces --user=root --pid-file="$PWD/pid"
			`, leaves: []string{"dnsmasq"}, ways: "double-fork setsid reparented"},
		{name: "atd", needs: []string{"atd"}, private: true, script: `
			mount -t tmpfs none /var/spool/cron
			mkdir /var/spool/cron/atjobs /var/spool/cron/atspool
			chown daemon:daemon /var/spool/cron/at*
			atd
			`, leaves: []string{"atd"}, ways: "setsid reparented other-user"},
		{name: "haproxy", needs: []string{"haproxy"}, serves: "s", script: `
			cat >conf <<-end
			defaults
				mode http
				timeout client 9s
				timeout connect 9s
				timeout server 9s
			listen test
				bind unix@$PWD/s
			end
			haproxy -W -D -f conf
			`, leaves: []string{"haproxy", "haproxy"}, ways: "setsid reparented"},
		{name: "lighttpd", needs: []string{"lighttpd"}, serves: "s", script: `
			cat >conf <<-end
			server.document-root = "$PWD"
			server.bind = "$PWD/s"
			end
			lighttpd -f conf
			`, leaves: []string{"lighttpd"}, ways: "double-fork setsid reparented"},
		{name: "inetd", needs: []string{"inetd", "bash"}, private: true, netns: true, serves: "7007", script: `
			echo '127.0.0.1:7007 stream tcp nowait root /bin/sleep sleep 1000' >conf
			inetd "$PWD/conf"
			until bash -c ': <>/dev/tcp/127.0.0.1/7007' 2>/dev/null; do sleep 0.01; done
			`, leaves: []string{"inetd", "sleep 1000"}, ways: "setsid reparented"},
		{name: "mosquitto", needs: []string{"mosquitto"}, netns: true, serves: "1883", script: `
			printf '%s\n' 'listener 1883 127.0.0.1' 'user root' >conf
			mosquitto -d -c conf
			`, leaves: []string{"mosquitto"}, ways: "setsid reparented"},
		{name: "sshd", needs: []string{"sshd", "ssh-keygen"}, private: true, netns: true, serves: "2222", script: `
			mkdir /run/sshd
			ssh-keygen -q -t ed25519 -N '' -f key
			printf '%s\n' 'ListenAddress 127.0.0.1:2222' "HostKey $PWD/key" 'PidFile none' >conf
			"$(command -v sshd)" -f "$PWD/conf"
			`, leaves: []string{"sshd"}, ways: "setsid reparented"},
		{name: "daemon", needs: []string{"daemon"}, script: `
			daemon --name test --pidfiles "$PWD" --respawn -- sleep 1000
			`, leaves: []string{"daemon", "test: sleep 1000"}, ways: "double-fork setsid reparented"},
		{name: "start-stop-daemon", needs: []string{"start-stop-daemon"}, script: `
			start-stop-daemon --start --background --make-pidfile --pidfile "$PWD/pid" --startas /bin/sleep -- 1000
			`, leaves: []string{"/bin/sleep 1000"}, ways: "double-fork setsid reparented"},
		{name: "nohup setsid env -i", needs: []string{"setsid", "nohup"}, script: `
			nohup setsid -f env -i sleep 1000 >/dev/null 2>&1
			`, leaves: []string{"sleep 1000"}, ways: "setsid reparented environment-scrubbed"},
		{name: "socat", needs: []string{"socat"}, serves: "s", script: `
			setsid -f socat UNIX-LISTEN:s,fork EXEC:'sleep 1000',setsid
			`, leaves: []string{"socat", "sleep 1000"}, ways: "setsid reparented"},
	}
}

// escape is a run whose command has started a daemon and waits.
type escape struct {
	*linuxtest.Process
	daemon
	yard
	dir, run string
	hold     *os.File // the command ends when it is closed
	client   net.Conn // of the daemon, as soon as it serves
	held     map[int]linuxtest.Identity
	members  []linuxtest.Proc
}

// TestRealDaemons: each daemon that was started under pitvisor run is dead when that
// ends, its cgroup is removed, and each of its processes is named.
func TestRealDaemons(t *testing.T) {
	y := newYard(t)
	for _, d := range daemons() {
		t.Run(d.name, func(t *testing.T) {
			linuxtest.NoLeaks(t)
			t.Setenv("PATH", searchPath())
			linuxtest.NeedCommand(t, d.needs...)
			if d.private || d.netns {
				linuxtest.NeedAdmin(t, "to make a mount or network namespace")
			}
			if d.looks {
				linuxtest.NeedCapability(t, unix.CAP_SYS_PTRACE, "CAP_SYS_PTRACE to look into what another user runs")
			}
			e := startDaemon(t, y, d)
			e.settle(t)
			if err := e.hold.Close(); err != nil {
				t.Fatal(err)
			}
			linuxtest.ExitCause(t, e.Wait(t, patience), 0)
			for _, id := range e.held {
				if now, alive := linuxtest.Identify(id.PID); alive && now == id {
					t.Errorf("survived: %+v", id)
				}
			}
			linuxtest.CgroupGone(t, e.run, 0)
			e.check(t)
		})
	}
}

// searchPath finds administrators' programs, and PostgreSQL's where Debian has them.
func searchPath() string {
	path := "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	if dirs, _ := filepath.Glob("/usr/lib/postgresql/*/bin"); len(dirs) > 0 { // the pattern is a good one
		path += ":" + dirs[len(dirs)-1]
	}
	return path
}

// startDaemon starts pitvisor run with a command that starts a daemon.
func startDaemon(t *testing.T, y yard, d daemon) *escape {
	t.Helper()
	e := &escape{daemon: d, yard: y, dir: t.TempDir()}
	openUp(t, e.dir)
	argv := []string{filepath.Join(y.bin, "pitvisor"), "run", "--report", e.file("report.json"), "--chdir", e.dir}
	if d.netns {
		argv = append(argv, "--netns")
	}
	argv = append(argv, "--")
	script := d.script
	if d.private {
		argv = append(argv, "unshare", "--mount", "--")
		script = "mount -t tmpfs none /run\n" + script
	}
	argv = append(argv, "sh", "-ec", script+"\necho started\nread -r end || exit 0")
	output, err := os.Create(e.file("output"))
	if err != nil {
		t.Fatal(err)
	}
	defer output.Close()
	stdin, hold, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	e.hold = hold
	t.Cleanup(func() {
		_ = hold.Close() // closed already, unless the test failed
		if e.client != nil {
			_ = e.client.Close() // the other side is dead
		}
	})
	e.Process = linuxtest.Command{
		Args: argv, Stdin: stdin, Stdout: output, Stderr: output,
		Env: []string{
			"PATH=" + searchPath(), "HOME=" + e.dir, "LC_ALL=C", "USER=root", "SHELL=/bin/sh",
			"PITVISOR_CGROUP_ROOT=" + y.root, "PITVISOR_STATE_DIR=" + e.file("state"),
		},
	}.Start(t)
	return e
}

func (e *escape) file(name string) string { return filepath.Join(e.dir, name) }

// said is what everybody has written to stdout and stderr.
func (e *escape) said(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(e.file("output"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// settle waits until everything that is to be left is there, serves, and nothing
// changes any more.
func (e *escape) settle(t *testing.T) {
	t.Helper()
	var before []linuxtest.Identity
	var words string
	linuxtest.Wait(t, patience, func() (bool, string) {
		if !e.Alive() {
			t.Fatalf("pitvisor has ended; it said:\n%s", e.said(t))
		}
		runs := e.runs(t)
		if len(runs) != 1 {
			return false, "no run yet"
		}
		e.run, e.members = runs[0], linuxtest.Members(runs[0])
		if !strings.Contains(e.said(t), "started\n") {
			return false, "the command is still starting it"
		}
		if why := e.deaf(); why != "" {
			return false, why
		}
		if lacking := e.lacking(); lacking != "" {
			return false, fmt.Sprintf("no %q among %v; it said:\n%s", lacking, e.members, e.said(t))
		}
		now, nowWords := linuxtest.Identities(e.run), ""
		for _, p := range e.members {
			nowWords += p.Comm + " " + line(p.Args) + "\n" // daemons give themselves other names
		}
		still := slices.Equal(now, before) && nowWords == words
		before, words = now, nowWords
		return still, "it keeps changing"
	})
	e.held = map[int]linuxtest.Identity{}
	for _, id := range before {
		e.held[id.PID] = id
	}
}

// line is a command line, without the blanks that a title is padded with.
func line(args []string) string { return strings.TrimRight(strings.Join(args, " "), " ") }

// lacking returns what is to be left and is not there, "" for nothing.
func (e *escape) lacking() string {
	members := slices.Clone(e.members)
	for _, begin := range e.leaves {
		i := slices.IndexFunc(members, func(p linuxtest.Proc) bool {
			return p.PPID != e.PID() && strings.HasPrefix(line(p.Args), begin)
		})
		if i < 0 {
			return begin
		}
		members = slices.Delete(members, i, i+1)
	}
	return ""
}

// deaf says why nothing serves at the daemon's socket, if so.
func (e *escape) deaf() string {
	if e.serves == "" || e.client != nil {
		return ""
	}
	if port, err := strconv.Atoi(e.serves); err == nil {
		// In the network namespace of the run.
		if len(e.members) == 0 {
			return "no process yet"
		}
		table, _ := os.ReadFile(fmt.Sprintf("/proc/%d/net/tcp", e.members[0].PID)) // gone: nothing yet
		if strings.Contains(string(table), fmt.Sprintf("0100007F:%04X 00000000:0000 0A", port)) ||
			strings.Contains(string(table), fmt.Sprintf("00000000:%04X 00000000:0000 0A", port)) {
			return ""
		}
		return "nothing listens on port " + e.serves
	}
	var errs []error
	for _, network := range []string{"unix", "unixgram"} {
		var err error
		if e.client, err = net.Dial(network, e.file(e.serves)); err == nil {
			return ""
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...).Error()
}

// named is a process that the report names.
type named struct {
	PID       int
	Inode     uint64
	Comm      string
	Args      []string
	Left      []string
	Listening []struct {
		Path string
		Port int
	}
}

// check holds the report against what was seen before the end.
func (e *escape) check(t *testing.T) {
	t.Helper()
	var report struct {
		Removed bool `json:"cgroup_removed"`
		Leaks   struct{ Processes []named }
	}
	data, err := os.ReadFile(e.file("report.json"))
	if err == nil {
		err = json.Unmarshal(data, &report)
	}
	if err != nil {
		t.Fatal(err)
	}
	// All that were there but the command itself.
	if got, want := len(report.Leaks.Processes), len(e.held)-1; got != want || !report.Removed {
		t.Errorf("%d are named, removed %v, want %d", got, report.Removed, want)
	}
	for _, p := range e.members {
		if p.PPID != e.PID() {
			e.checkNamed(t, p, report.Leaks.Processes)
		}
	}
	first := slices.IndexFunc(report.Leaks.Processes, func(n named) bool { return strings.HasPrefix(line(n.Args), e.leaves[0]) })
	if first < 0 || strings.Join(report.Leaks.Processes[first].Left, " ") != e.ways {
		t.Errorf("%s has not left as %s", e.leaves[0], e.ways)
	}
	serves := e.serves == ""
	for _, n := range report.Leaks.Processes {
		t.Logf("%d:%d %s %q %v %v", n.PID, n.Inode, n.Comm, n.Args, n.Left, n.Listening)
		for _, socket := range n.Listening {
			// A path is as it was bound: relative, or temporary.
			serves = serves || strings.HasPrefix(filepath.Base(socket.Path), e.serves) || strconv.Itoa(socket.Port) == e.serves
		}
	}
	if !serves {
		t.Errorf("nobody is said to listen at %s", e.serves)
	}
}

// checkNamed wants a process to be in the report and on stderr, with its identity and
// its command line.
func (e *escape) checkNamed(t *testing.T, p linuxtest.Proc, all []named) {
	t.Helper()
	id := e.held[p.PID]
	i := slices.IndexFunc(all, func(n named) bool { return n.PID == p.PID && n.Inode == id.Inode })
	if i < 0 {
		t.Errorf("not named: %s", p)
		return
	}
	if got, want := line(all[i].Args), line(p.Args); got != want || all[i].Comm != p.Comm {
		t.Errorf("named as %s %q, want %s %q", all[i].Comm, got, p.Comm, want)
	}
	who := strings.TrimSuffix(fmt.Sprintf("%d:%d", p.PID, id.Inode), ":0") // before pidfs there is no inode
	said := regexp.MustCompile(fmt.Sprintf(`(?m)^  %s "?%s`, who, regexp.QuoteMeta(p.Args[0])))
	if !said.MatchString(e.said(t)) {
		t.Errorf("not named on stderr: %s; it says:\n%s", p, e.said(t))
	}
}
