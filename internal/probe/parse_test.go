package probe

import (
	"bytes"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"github.com/pitvisor/pitvisor/internal/sockdiag"
	"github.com/pitvisor/pitvisor/registry"
	"github.com/pitvisor/pitvisor/supervise"
)

func TestValidateTellsWhatIsWrong(t *testing.T) {
	port := regexp.MustCompile(`(\d+)`)
	for _, c := range []struct {
		rules Rules
		want  string // "" is right
	}{
		{Rules{}, "no readiness rule is set"},
		{Rules{Notify: true}, ""},
		{Rules{FD: 3}, ""},
		{Rules{FD: 2}, "ready fd 2: must be 3 to 9"},
		{Rules{FD: 10}, "ready fd 10: must be 3 to 9"},
		{Rules{FileAuto: true}, ""},
		{Rules{FileAuto: true, File: "/a"}, "at the same time"},
		{Rules{File: "a"}, `ready file "a": the path must be absolute`},
		{Rules{File: "/run/"}, "names a directory"},
		{Rules{TCP: ":{port}"}, "{port} has no source"},
		{Rules{TCP: ":{port}", Port: 8000}, ""},
		{Rules{TCP: ":{port}", Stdout: port}, ""},
		{Rules{TCP: ":{port}", Stdout: regexp.MustCompile("ready")}, "{port} has no source"},
		{Rules{TCP: ":{port}", FileAuto: true}, ""},
		{Rules{Exec: []string{"check", "{port}"}}, "{port} has no source"},
		{Rules{Exec: []string{""}}, "no program"},
		{Rules{TCP: "example.org:80"}, `tcp "example.org:80": host "example.org": must be an IP address of this machine`},
		{Rules{TCP: "::1:80"}, "written in brackets"},
		{Rules{TCP: ":0"}, `port "0": must be 1 to 65535`},
		{Rules{TCP: ":http"}, `port "http"`},
		{Rules{HTTP: "https://localhost/"}, "https is not asked"},
		{Rules{HTTP: "POST /x"}, `method "POST": must be GET or HEAD`},
		{Rules{HTTP: "GET http://localhost:80/a b"}, "is not a path"},
		{Rules{HTTP: "http://localhost:80/a%zz"}, "is not a path"},
		{Rules{GRPCService: "x", TCP: ":80"}, "a gRPC service is named but no gRPC address"},
		{Rules{GRPC: "unix:/run/x"}, `grpc "unix:/run/x"`},
		{Rules{TCP: ":80", Interval: -1}, "interval"},
		{Rules{TCP: ":80", TryTimeout: -1}, "timeout of one try"},
		{Rules{TCP: ":80", Port: 70000}, "port 70000"},
		{Rules{TCP: "x", HTTP: "https:", FD: 1}, "(?s)tcp.*https.*fd 1"}, // everything at once
	} {
		err := c.rules.Validate()
		if c.want == "" {
			if err != nil {
				t.Errorf("Validate(%+v) = %v, want nil", c.rules, err)
			}
			continue
		}
		if err == nil || !regexp.MustCompile(c.want).MatchString(err.Error()) && !strings.Contains(err.Error(), c.want) {
			t.Errorf("Validate(%+v) = %v, want %q", c.rules, err, c.want)
		}
	}
}

func TestNewNeedsWhatTheRulesUse(t *testing.T) {
	_, err := New(Rules{Notify: true}, Deps{})
	mustMatch(t, err, "no notification server")
	_, err = New(Rules{FileAuto: true}, Deps{})
	mustMatch(t, err, "no runtime directory")
	rd, err := New(Rules{TCP: ":{port}", Port: 65535}, Deps{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = rd.Prepare(supervise.StartInfo{Worker: supervise.WorkerID{Slot: 1}}, supervise.Output{})
	mustMatch(t, err, "port 65535 [+] slot 1: past 65535")
}

func TestParseTargets(t *testing.T) {
	for _, c := range []struct{ rule, hosts, name string }{
		{"127.0.0.1:80", "[127.0.0.1]:80", "127.0.0.1"},
		{":80", "[127.0.0.1 ::1]:80", "127.0.0.1"},
		{"80", "[127.0.0.1 ::1]:80", "127.0.0.1"},
		{"{port}", "[127.0.0.1 ::1]:0", "127.0.0.1"},
		{"localhost:{port}", "[127.0.0.1 ::1]:0", "localhost"},
		{"0.0.0.0:80", "[127.0.0.1]:80", "0.0.0.0"},
		{"[::]:80", "[::1 127.0.0.1]:80", "[::]"},
		{"[::1]:80", "[::1]:80", "[::1]"},
		{"[::ffff:127.0.0.1]:80", "[127.0.0.1]:80", "[::ffff:127.0.0.1]"},
		{"10.1.2.3:65535", "[10.1.2.3]:65535", "10.1.2.3"},
	} {
		got, err := parseTarget(c.rule)
		if err != nil {
			t.Errorf("parseTarget(%q): %v", c.rule, err)
			continue
		}
		if hosts := fmt.Sprintf("%v:%d", got.hosts, got.port); hosts != c.hosts || got.name != c.name {
			t.Errorf("parseTarget(%q) = %s, %s, want %s, %s", c.rule, hosts, got.name, c.hosts, c.name)
		}
	}
}

func TestParseHTTP(t *testing.T) {
	for _, c := range []struct{ rule, want string }{
		{"/", "GET [127.0.0.1 ::1]:0 /"},
		{"/a?b=c", "GET [127.0.0.1 ::1]:0 /a?b=c"},
		{":80", "GET [127.0.0.1 ::1]:80 /"},
		{"80/x", "GET [127.0.0.1 ::1]:80 /x"},
		{"HEAD http://127.0.0.1/x", "HEAD [127.0.0.1]:80 /x"},
		{"http://127.0.0.1:{port}", "GET [127.0.0.1]:0 /"},
		{"http://127.0.0.1:8080?x", "GET [127.0.0.1]:8080 /?x"},
		{"http://[::1]/x", "GET [::1]:80 /x"},
		{"http://[::1]:8080/x", "GET [::1]:8080 /x"},
		{"http:///x", "GET [127.0.0.1 ::1]:0 /x"},
	} {
		got, err := parseHTTP(c.rule)
		if err != nil {
			t.Errorf("parseHTTP(%q): %v", c.rule, err)
			continue
		}
		if text := fmt.Sprintf("%s %v:%d %s", got.method, got.hosts, got.port, got.path); text != c.want {
			t.Errorf("parseHTTP(%q) = %s, want %s", c.rule, text, c.want)
		}
	}
}

func TestParseHTTPRefusesOtherSchemes(t *testing.T) {
	for _, rule := range []string{"ftp://x", "ws://127.0.0.1:80/a", "HEAD ftp://x:80"} {
		if _, err := parseHTTP(rule); err == nil || !strings.Contains(err.Error(), "must be http") {
			t.Errorf("parseHTTP(%q): %v, want that the scheme must be http", rule, err)
		}
	}
	if _, err := parseHTTP("/go?to=ftp://x"); err != nil {
		t.Errorf("a scheme in the path: %v", err)
	}
}

func TestExpand(t *testing.T) {
	id := registry.NewRunID()
	info := supervise.StartInfo{Run: id, Worker: supervise.WorkerID{Pool: "web", Slot: 3}, Start: 7}
	got := expand("{pool}-{slot} {worker} {start} {run} {port} {else}", info)
	if want := "web-3 web/3 7 " + id.String() + " {port} {else}"; got != want {
		t.Errorf("expand = %q, want %q", got, want)
	}
}

func TestOverlapOfListeners(t *testing.T) {
	at := func(s string) sockdiag.Socket {
		return sockdiag.Socket{Addr: sockdiag.AddrFrom(netip.MustParseAddr(s).AsSlice())}
	}
	only := func(s sockdiag.Socket) sockdiag.Socket { s.V6Only = true; return s }
	on := func(s sockdiag.Socket, device uint32) sockdiag.Socket { s.Device = device; return s }
	for _, c := range []struct {
		a, b sockdiag.Socket
		want bool
	}{
		{at("127.0.0.1"), at("127.0.0.1"), true},
		{at("127.0.0.1"), at("127.0.0.2"), false},
		{at("0.0.0.0"), at("127.0.0.1"), true},
		{at("0.0.0.0"), at("::1"), false},
		{at("::"), at("::1"), true},
		{at("::"), at("127.0.0.1"), true},
		{at("::"), at("0.0.0.0"), true},
		{only(at("::")), at("0.0.0.0"), false},
		{only(at("::")), at("127.0.0.1"), false},
		{only(at("::")), at("::1"), true},
		{at("::ffff:127.0.0.1"), at("127.0.0.1"), true},
		{on(at("0.0.0.0"), 1), on(at("0.0.0.0"), 2), false},
		{on(at("0.0.0.0"), 1), at("0.0.0.0"), true},
	} {
		if got := overlap(c.a, c.b); got != c.want {
			t.Errorf("%v overlaps %v = %v, want %v", c.a, c.b, got, c.want)
		}
		if got := overlap(c.b, c.a); got != c.want {
			t.Errorf("%v overlaps %v = %v, want %v", c.b, c.a, got, c.want)
		}
	}
}

// HealthCheckResponses as servers write them; the last ones as nobody should.
func healthSeeds() map[string]struct {
	frame  []byte
	status uint64
	bad    bool
} {
	type seed = struct {
		frame  []byte
		status uint64
		bad    bool
	}
	return map[string]seed{
		"serving":        {[]byte{0, 0, 0, 0, 2, 8, 1}, 1, false},
		"not serving":    {[]byte{0, 0, 0, 0, 2, 8, 2}, 2, false},
		"no field":       {[]byte{0, 0, 0, 0, 0}, 0, false},
		"another field":  {[]byte{0, 0, 0, 0, 6, 0x12, 2, 'h', 'i', 8, 1}, 1, false},
		"a number more":  {[]byte{0, 0, 0, 0, 4, 8, 1, 0x18, 9}, 1, false},
		"compressed":     {[]byte{1, 0, 0, 0, 2, 8, 1}, 0, true},
		"nothing":        {nil, 0, true},
		"wrong length":   {[]byte{0, 0, 0, 0, 9, 8, 1}, 0, true},
		"cut in a value": {[]byte{0, 0, 0, 0, 2, 8, 0x81}, 0, true},
		"past the end":   {[]byte{0, 0, 0, 0, 2, 0x12, 9}, 0, true},
		"fixed 32":       {[]byte{0, 0, 0, 0, 5, 0x1d, 1, 2, 3, 4}, 0, true},
	}
}

func TestDecodeHealth(t *testing.T) {
	for name, s := range healthSeeds() {
		status, err := decodeHealth(s.frame)
		if status != s.status && err == nil || (err != nil) != s.bad {
			t.Errorf("%s: decodeHealth = %d, %v, want %d, error %v", name, status, err, s.status, s.bad)
		}
	}
}

func TestEncodeHealth(t *testing.T) {
	if got, want := encodeHealth(""), []byte{0, 0, 0, 0, 0}; !bytes.Equal(got, want) {
		t.Errorf("encodeHealth of the server = %v, want %v", got, want)
	}
	if got, want := encodeHealth("ab"), []byte{0, 0, 0, 0, 4, 10, 2, 'a', 'b'}; !bytes.Equal(got, want) {
		t.Errorf("encodeHealth of ab = %v, want %v", got, want)
	}
}

func FuzzDecodeHealth(f *testing.F) {
	for _, s := range healthSeeds() {
		f.Add(s.frame)
	}
	f.Fuzz(func(t *testing.T, frame []byte) { _, _ = decodeHealth(frame) })
}

func FuzzParseTarget(f *testing.F) {
	for _, s := range []string{"127.0.0.1:80", ":{port}", "[::1]:80", "http://localhost:80/x?y", "HEAD /", "https://x", "[", ":", "]:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if got, err := parseTarget(s); err == nil && (len(got.hosts) == 0 || got.port < 0 || got.port > 65535) {
			t.Errorf("parseTarget(%q) = %+v", s, got)
		}
		if got, err := parseHTTP(s); err == nil && !strings.HasPrefix(got.path, "/") {
			t.Errorf("parseHTTP(%q) = %+v", s, got)
		}
	})
}

func FuzzParseReady(f *testing.F) {
	for _, s := range []string{"8080\n", "host:1", "port=2", "\x00", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if port, _ := parseReady(s); port < 0 || port > 65535 {
			t.Errorf("parseReady(%q) = %d", s, port)
		}
	})
}
