package probe

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// listener is one socket that listens for TCP connections.
type listener struct {
	addr   netip.Addr
	v6only bool // an IPv6 socket that takes no IPv4 connections
	device uint32
	uid    uint32
	inode  uint64
	cgroup uint64 // where it was made; 0 when not known
}

// From linux/inet_diag.h and linux/sock_diag.h.
const (
	sockDiagByFamily  = 20
	inetDiagV6only    = 11
	inetDiagCgroupID  = 21
	tcpListen         = 10
	sizeofDiagRequest = 56 // struct inet_diag_req_v2
	sizeofDiagMessage = 72 // struct inet_diag_msg
)

// diagListeners asks the kernel for the listeners on a port in the calling
// thread's network namespace. One answer is one pass over the table, with no
// privilege needed. Linux 3.3; the cgroup is told since 5.9.
func diagListeners(port int) ([]listener, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, fmt.Errorf("open a sock_diag socket: %w", err)
	}
	defer unix.Close(fd)
	var all []listener
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		if err := unix.Sendto(fd, diagRequest(family, port), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
			return nil, fmt.Errorf("ask for listening sockets: %w", err)
		}
		if all, err = readDiag(fd, all); err != nil {
			return nil, fmt.Errorf("read listening sockets: %w", err)
		}
	}
	return all, nil
}

// diagRequest is a netlink message: dump the listening sockets of one family on
// one port.
func diagRequest(family byte, port int) []byte {
	const size = unix.SizeofNlMsghdr + sizeofDiagRequest
	b := make([]byte, size)
	binary.NativeEndian.PutUint32(b[0:], size)
	binary.NativeEndian.PutUint16(b[4:], sockDiagByFamily)
	binary.NativeEndian.PutUint16(b[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	r := b[unix.SizeofNlMsghdr:]
	r[0], r[1] = family, unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(r[4:], 1<<tcpListen)
	binary.BigEndian.PutUint16(r[8:], uint16(port)) // id.idiag_sport
	return b
}

// readDiag appends the listeners of one dump.
func readDiag(fd int, all []listener) ([]listener, error) {
	buf := make([]byte, 32<<10)
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, err
		}
		for b := buf[:n]; len(b) >= unix.SizeofNlMsghdr; {
			size := int(binary.NativeEndian.Uint32(b))
			if size < unix.SizeofNlMsghdr || size > len(b) {
				return nil, fmt.Errorf("a message of %d bytes in an answer of %d", size, len(b))
			}
			body := b[unix.SizeofNlMsghdr:size]
			switch binary.NativeEndian.Uint16(b[4:]) {
			case unix.NLMSG_DONE:
				return all, nil
			case unix.NLMSG_ERROR:
				return nil, diagError(body)
			case sockDiagByFamily:
				if l, ok := parseDiag(body); ok {
					all = append(all, l)
				}
			}
			b = b[min(align4(size), len(b)):]
		}
	}
}

func diagError(body []byte) error {
	if len(body) < 4 {
		return unix.EIO
	}
	return unix.Errno(-int32(binary.NativeEndian.Uint32(body)))
}

// parseDiag reads struct inet_diag_msg and its attributes.
func parseDiag(b []byte) (listener, bool) {
	if len(b) < sizeofDiagMessage || b[1] != tcpListen {
		return listener{}, false
	}
	l := listener{
		device: binary.NativeEndian.Uint32(b[40:]),
		uid:    binary.NativeEndian.Uint32(b[64:]),
		inode:  uint64(binary.NativeEndian.Uint32(b[68:])),
	}
	if b[0] == unix.AF_INET {
		l.addr = netip.AddrFrom4([4]byte(b[8:12]))
	} else {
		l.addr = netip.AddrFrom16([16]byte(b[8:24]))
	}
	for b = b[sizeofDiagMessage:]; len(b) >= unix.SizeofRtAttr; {
		size := int(binary.NativeEndian.Uint16(b))
		if size < unix.SizeofRtAttr || size > len(b) {
			break
		}
		value := b[unix.SizeofRtAttr:size]
		switch binary.NativeEndian.Uint16(b[2:]) {
		case inetDiagV6only:
			l.v6only = !bytes.Equal(value, []byte{0})
		case inetDiagCgroupID:
			if len(value) >= 8 {
				l.cgroup = binary.NativeEndian.Uint64(value)
			}
		}
		b = b[min(align4(size), len(b)):]
	}
	return l, true
}

func align4(n int) int { return (n + 3) &^ 3 }
