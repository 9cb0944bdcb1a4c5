// Package sockets holds the listening sockets that a supervisor owns and its workers
// inherit: opens them, keeps them over restarts, rollouts and reloads, and removes what
// they leave in the file system.
//
// It is not for accepting connections, and it sees none: that is what workers do.
package sockets

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Kind says how a socket speaks.
type Kind uint8

// The kinds, in systemd's words ListenStream=, ListenDatagram= and
// ListenSequentialPacket=.
const (
	Stream    Kind = iota // TCP, or a unix stream
	Datagram              // UDP, or unix datagrams
	SeqPacket             // unix only
)

// String returns the kind as a configuration has it.
func (k Kind) String() string { return [...]string{"stream", "dgram", "seqpacket"}[k] }

// Spec says what the sockets of one name are to be.
type Spec struct {
	Name   string
	Listen []string // addresses, each of one socket; none with FD
	FD     string   // the name under which whoever started us has passed them; "" is none

	Kind      Kind
	Backlog   int         // connections that wait to be accepted; 0 means DefaultBacklog
	ReusePort bool        // others may listen on the same address and port
	Mode      fs.FileMode // of a unix socket's file; 0 means 0666
	UID, GID  int         // of it; -1 leaves them
}

// DefaultBacklog is systemd's; the kernel takes net.core.somaxconn for more.
const DefaultBacklog = 4096

// maxSunPath is how long the path of a unix socket may be for the kernel.
const maxSunPath = 107

// address is where a socket listens.
type address struct {
	text string // in one form for equal addresses
	kind Kind
	ip   netip.AddrPort // zone included; invalid for a unix socket
	any  bool           // no host was written: IPv6 and IPv4
	path string         // of a unix socket; "@" begins an abstract name
}

// CheckAddress reports what is wrong with an address.
func CheckAddress(text string, kind Kind) error {
	_, err := parse(text, kind)
	return err
}

// parse reads "/path", "@name", "host:port", ":port" or "port".
func parse(text string, kind Kind) (address, error) {
	a := address{kind: kind}
	if strings.HasPrefix(text, "/") || strings.HasPrefix(text, "@") {
		if len(text) > maxSunPath || text == "@" {
			return a, fmt.Errorf("a path of a unix socket has 1 to %d bytes", maxSunPath)
		}
		a.path, a.text = text, text
		return a, nil
	}
	if kind == SeqPacket {
		return a, errors.New("seqpacket is for unix sockets: write a path")
	}
	if _, err := strconv.ParseUint(text, 10, 16); err == nil {
		text = ":" + text
	}
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		return a, errors.New(`no address: write "127.0.0.1:8080", "[::1]:8080", ":8080", "/run/x.sock" or "@name"`)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return a, errors.New("the port must be 1 to 65535")
	}
	switch host {
	case "", "*":
		a.ip, a.any = netip.AddrPortFrom(netip.IPv6Unspecified(), uint16(n)), true
		a.text = fmt.Sprintf(":%d", n)
		return a, nil
	case "localhost":
		host = "127.0.0.1"
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return a, fmt.Errorf("%q is no address of this machine; names are not looked up", host)
	}
	a.ip = netip.AddrPortFrom(ip.Unmap(), uint16(n))
	a.text = a.ip.String()
	return a, nil
}

// String names the address with its protocol, "tcp 127.0.0.1:80".
func (a *address) String() string {
	words := [...]string{"tcp ", "udp ", ""}
	if a.path != "" {
		words = [...]string{"unix ", "unixgram ", "unixpacket "}
	}
	return words[a.kind] + a.text
}

func (a *address) socketType() int {
	return [...]int{unix.SOCK_STREAM, unix.SOCK_DGRAM, unix.SOCK_SEQPACKET}[a.kind]
}

// domain is the family of the socket.
func (a *address) domain() int {
	switch {
	case a.path != "":
		return unix.AF_UNIX
	case a.ip.Addr().Is4():
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// sockaddr is the address as the kernel takes it.
func (a *address) sockaddr() (unix.Sockaddr, error) {
	if a.path != "" {
		return &unix.SockaddrUnix{Name: a.path}, nil // of an "@" it makes the zero
	}
	port := int(a.ip.Port())
	if a.ip.Addr().Is4() {
		return &unix.SockaddrInet4{Port: port, Addr: a.ip.Addr().As4()}, nil
	}
	to := &unix.SockaddrInet6{Port: port, Addr: a.ip.Addr().As16()}
	if zone := a.ip.Addr().Zone(); zone != "" {
		device, err := net.InterfaceByName(zone)
		if err != nil {
			return nil, fmt.Errorf("find network device %s: %w", zone, err)
		}
		to.ZoneId = uint32(device.Index)
	}
	return to, nil
}
