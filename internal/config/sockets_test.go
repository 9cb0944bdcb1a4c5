package config

import (
	"reflect"
	"testing"

	"github.com/pitvisor/pitvisor/internal/sockets"
)

func TestSockets(t *testing.T) {
	c := good(t, `
[socket.web]
listen = ["127.0.0.1:8080", "[::1]:8080", ":8081", "9000"]
backlog = 128
reuse_port = true
[socket.log]
listen = "/run/shop.sock"
type = "dgram"
mode = "660"
user = 12
group = "root"
[socket.passed]
fd = "http"
[pool.web]
command = ["/bin/true"]
sockets = ["log", "web"]
fd_store = 3
[pool.other]
command = ["/bin/true"]
sockets = ["passed"]
notify = true
ready.fd = 4
`)
	want := []sockets.Spec{
		{Name: "web", Listen: []string{"127.0.0.1:8080", "[::1]:8080", ":8081", "9000"}, Backlog: 128, ReusePort: true, UID: -1, GID: -1},
		{Name: "log", Listen: []string{"/run/shop.sock"}, Kind: sockets.Datagram, Mode: 0o660, UID: 12, GID: 0},
		{Name: "passed", FD: "http", UID: -1, GID: -1},
	}
	if !reflect.DeepEqual(c.Sockets, want) {
		t.Errorf("sockets\n%+v, want\n%+v", c.Sockets, want)
	}
	if p := c.Pools[0]; !reflect.DeepEqual(p.Sockets, []string{"log", "web"}) || p.Store != 3 || p.Notify {
		t.Errorf("pool web has %q, %d and %v; want log and web, 3, false", p.Sockets, p.Store, p.Notify)
	}
	if p := c.Pools[1]; !reflect.DeepEqual(p.Sockets, []string{"passed"}) || !p.Notify {
		t.Errorf("pool other has %q, %v; want passed, true", p.Sockets, p.Notify)
	}
}

func TestBadSockets(t *testing.T) {
	const pool = "[pool.web]\ncommand = [\"/bin/true\"]\n"
	for name, test := range map[string]struct{ text, want string }{
		"nowhere":         {"[socket.web]\nbacklog = 1\n" + pool, `1:9: socket "web" listens nowhere: add listen = "127.0.0.1:8080"`},
		"both":            {"[socket.web]\nlisten = \":80\"\nfd = \"x\"\n" + pool, `3:1: [socket.web] has an address, and is to be passed on to pitvisor as well: leave one of them out`},
		"name":            {"[socket.Web]\nlisten = \":80\"\n" + pool, `1:9: socket name "Web" has a capital letter: write "web"`},
		"host":            {"[socket.web]\nlisten = \"example.com:80\"\n" + pool, `2:10: listen is "example.com:80": "example.com" is no address of this machine; names are not looked up`},
		"port":            {"[socket.web]\nlisten = \":0\"\n" + pool, `2:10: listen is ":0": the port must be 1 to 65535`},
		"relative":        {"[socket.web]\nlisten = \"run/x.sock\"\n" + pool, `2:10: listen is "run/x.sock": no address: write "127.0.0.1:8080", "[::1]:8080", ":8080", "/run/x.sock" or "@name"`},
		"seqpacket":       {"[socket.web]\nlisten = \":80\"\ntype = \"seqpacket\"\n" + pool, `2:10: listen is ":80": seqpacket is for unix sockets: write a path`},
		"twice":           {"[socket.web]\nlisten = \":80\"\n[socket.w]\nlisten = \":80\"\n" + pool, `4:10: ":80" is an address of [socket.web] as well: give one of them another address`},
		"mode without":    {"[socket.web]\nlisten = \":80\"\nmode = \"600\"\n" + pool, `3:1: mode is for unix sockets with a path: leave it out`},
		"mode":            {"[socket.web]\nlisten = \"/x\"\nmode = \"888\"\n" + pool, `3:8: mode is "888", must be "001" to "777": write octal digits, such as "660"`},
		"unknown":         {"[socket.web]\nlisten = \"/x\"\n" + pool + "sockets = [\"wbe\"]\n", `5:12: pool "web" has socket "wbe", which there is not: did you mean "web"?`},
		"no list":         {"[socket.web]\nlisten = \"/x\"\n" + pool + "sockets = \"web\"\n", `5:11: sockets must be a list of strings, but this is the string "web": write it as a list: ["web"]`},
		"named twice":     {"[socket.web]\nlisten = \"/x\"\n" + pool + "sockets = [\"web\", \"web\"]\n", `5:19: sockets has "web" twice: leave one of them out`},
		"descriptor":      {"[socket.web]\nlisten = [\"/x\", \"/y\"]\n" + pool + "sockets = [\"web\"]\nready.fd = 4\n", `6:1: fd of [pool.web.ready] is 4, and the worker has its sockets from 3 to 4: set fd = 5 or more`},
		"descriptor, too": {pool + "fd_store = 1\nready.fd = 4\n", `4:1: fd of [pool.web.ready] does not go together with fd_store: how many descriptors a worker has from 3 on depends on what it has stored: use another rule, such as notify`},
	} {
		t.Run(name, func(t *testing.T) { wantErrors(t, test.text, test.want) })
	}
}
