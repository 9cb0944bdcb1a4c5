package probe

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// target is an address of this machine that a network rule asks.
type target struct {
	hosts []netip.Addr // tried in this order
	name  string       // the host as written, for messages and headers
	port  int          // 0 means the {port} of the start
}

// httpTarget is a target with a request.
type httpTarget struct {
	target
	method, path string
}

// at returns the addresses to try when {port} is port.
func (t *target) at(port int) []netip.AddrPort {
	addrs := make([]netip.AddrPort, 0, len(t.hosts))
	for _, h := range t.hosts {
		addrs = append(addrs, netip.AddrPortFrom(h, uint16(t.portOr(port))))
	}
	return addrs
}

func (t *target) portOr(port int) int {
	if t.port != 0 {
		return t.port
	}
	return port
}

// parseTarget reads host:port, :port or port, where port may be {port}.
func parseTarget(s string) (*target, error) {
	host, port := "", s
	if i := strings.LastIndexByte(s, ':'); i >= 0 {
		host, port = s[:i], s[i+1:]
	}
	t := &target{name: "127.0.0.1"}
	var err error
	if t.port, err = parsePort(port); err != nil {
		return nil, err
	}
	if t.hosts, err = parseHost(host); err != nil {
		return nil, err
	}
	if host != "" {
		t.name = host
	}
	return t, nil
}

func parsePort(s string) (int, error) {
	if s == "{port}" {
		return 0, nil
	}
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("port %q: must be 1 to 65535 or {port}", s)
	}
	return int(n), nil
}

// parseHost returns the addresses that host means. A listener on all addresses
// is asked through the loopback.
func parseHost(host string) ([]netip.Addr, error) {
	v4, v6 := netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()
	if host == "" || host == "localhost" {
		return []netip.Addr{v4, v6}, nil
	}
	addr, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(host, "["), "]"))
	if err != nil {
		return nil, fmt.Errorf("host %q: must be an IP address of this machine or localhost, because the listening socket must be the worker's", host)
	}
	if addr.Is6() && !strings.HasPrefix(host, "[") {
		return nil, fmt.Errorf("host %q: an IPv6 address is written in brackets", host)
	}
	switch addr = addr.Unmap(); {
	case addr.IsUnspecified() && addr.Is4():
		return []netip.Addr{v4}, nil
	case addr.IsUnspecified():
		return []netip.Addr{v6, v4}, nil
	}
	return []netip.Addr{addr}, nil
}

// parseHTTP reads [METHOD ][http://][host][:port][/path]. Without a port it is
// 80 when a host is written and {port} when none is.
func parseHTTP(s string) (*httpTarget, error) {
	h := &httpTarget{method: "GET"}
	if method, rest, ok := strings.Cut(s, " "); ok {
		h.method, s = method, strings.TrimSpace(rest)
	}
	if h.method != "GET" && h.method != "HEAD" {
		return nil, fmt.Errorf("method %q: must be GET or HEAD", h.method)
	}
	if strings.HasPrefix(s, "https:") {
		return nil, errors.New("https is not asked: use a tcp rule, or an exec rule with a client that knows the certificate")
	}
	s = strings.TrimPrefix(s, "http://")
	if scheme, _, ok := strings.Cut(s, "://"); ok && !strings.ContainsAny(scheme, "/?") {
		return nil, fmt.Errorf("scheme %q: must be http", scheme)
	}
	host, path := s, ""
	if i := strings.IndexAny(s, "/?"); i >= 0 {
		host, path = s[:i], s[i:]
	}
	if h.path = path; !strings.HasPrefix(path, "/") {
		h.path = "/" + path
	}
	if _, err := url.ParseRequestURI(h.path); err != nil || strings.ContainsAny(h.path, " \t\r\n#") {
		return nil, fmt.Errorf("path %q is not a path of a URL", h.path)
	}
	t, err := parseTarget(withPort(host))
	if err != nil {
		return nil, err
	}
	h.target = *t
	return h, nil
}

// withPort adds the port that is meant when an HTTP rule names none.
func withPort(host string) string {
	switch {
	case host == "":
		return ":{port}"
	case strings.HasSuffix(host, "]") || !strings.Contains(host, ":") && !isPort(host):
		return host + ":80"
	}
	return host
}

func isPort(s string) bool {
	_, err := parsePort(s)
	return err == nil
}
