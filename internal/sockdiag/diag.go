package sockdiag

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// From linux/inet_diag.h, linux/unix_diag.h, linux/sock_diag.h and net/tcp_states.h.
const (
	sockDiagByFamily  = 20
	inetDiagV6only    = 11
	inetDiagCgroupID  = 21
	unixDiagName      = 0
	udiagShowName     = 1
	stateEstablished  = 1
	stateClose        = 7 // not connected
	stateListen       = 10
	sizeofInetRequest = 56 // struct inet_diag_req_v2
	sizeofInetMessage = 72 // struct inet_diag_msg
	sizeofUnixRequest = 24 // struct unix_diag_req
	sizeofUnixMessage = 16 // struct unix_diag_msg
)

// diag sends each request and appends what is answered. Linux 3.3; the cgroup is
// told since 5.9.
func diag(requests [][]byte, all []Socket) ([]Socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, fmt.Errorf("open a sock_diag socket: %w", err)
	}
	defer func() { _ = unix.Close(fd) }() // nothing was changed
	for _, request := range requests {
		if err := unix.Sendto(fd, request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
			return nil, fmt.Errorf("ask for listening sockets: %w", err)
		}
		if all, err = readDiag(fd, all); err != nil {
			return nil, fmt.Errorf("read listening sockets: %w", err)
		}
	}
	return all, nil
}

func tcpRequests(port uint16) [][]byte {
	return [][]byte{
		inetRequest(unix.AF_INET, unix.IPPROTO_TCP, stateListen, port),
		inetRequest(unix.AF_INET6, unix.IPPROTO_TCP, stateListen, port),
	}
}

func udpRequests() [][]byte {
	return [][]byte{
		inetRequest(unix.AF_INET, unix.IPPROTO_UDP, stateClose, 0),
		inetRequest(unix.AF_INET6, unix.IPPROTO_UDP, stateClose, 0),
	}
}

// request is a netlink message with room for a body: dump the sockets of a family.
func request(body int) (message, r []byte) {
	message = make([]byte, unix.SizeofNlMsghdr+body)
	binary.NativeEndian.PutUint32(message[0:], uint32(len(message)))
	binary.NativeEndian.PutUint16(message[4:], sockDiagByFamily)
	binary.NativeEndian.PutUint16(message[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	return message, message[unix.SizeofNlMsghdr:]
}

// inetRequest asks for the sockets in one state, on one port unless that is 0.
func inetRequest(family, proto byte, state int, port uint16) []byte {
	message, r := request(sizeofInetRequest)
	r[0], r[1] = family, proto
	binary.NativeEndian.PutUint32(r[4:], 1<<state)
	binary.BigEndian.PutUint16(r[8:], port) // id.idiag_sport
	return message
}

func unixRequest() []byte {
	message, r := request(sizeofUnixRequest)
	r[0] = unix.AF_UNIX
	// For datagrams, established says that somebody was connected to the socket once.
	binary.NativeEndian.PutUint32(r[4:], 1<<stateListen|1<<stateClose|1<<stateEstablished)
	binary.NativeEndian.PutUint32(r[12:], udiagShowName)
	return message
}

// readDiag appends the sockets of one dump.
func readDiag(fd int, all []Socket) ([]Socket, error) {
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
				if s, ok := parseDiag(body); ok {
					all = append(all, s)
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

// parseDiag reads one socket of any family; false when it is not one that waits.
func parseDiag(b []byte) (Socket, bool) {
	if len(b) > 0 && b[0] == unix.AF_UNIX {
		return parseUnix(b)
	}
	return parseInet(b)
}

// parseInet reads struct inet_diag_msg and its attributes. The protocol is not in
// there: a TCP socket listens, and a UDP socket never does.
func parseInet(b []byte) (Socket, bool) {
	if len(b) < sizeofInetMessage || b[1] != stateListen && b[1] != stateClose {
		return Socket{}, false
	}
	s := Socket{
		Port:   binary.BigEndian.Uint16(b[4:]),
		Device: binary.NativeEndian.Uint32(b[40:]),
		UID:    binary.NativeEndian.Uint32(b[64:]),
		Inode:  uint64(binary.NativeEndian.Uint32(b[68:])),
	}
	if b[1] == stateClose {
		s.Proto = UDP
	}
	if b[0] == unix.AF_INET {
		s.Addr = AddrFrom(b[8:12])
	} else {
		s.Addr = AddrFrom(b[8:24])
	}
	eachAttribute(b[sizeofInetMessage:], func(kind uint16, value []byte) {
		switch kind {
		case inetDiagV6only:
			s.V6Only = !bytes.Equal(value, []byte{0})
		case inetDiagCgroupID:
			if len(value) >= 8 {
				s.Cgroup = binary.NativeEndian.Uint64(value)
			}
		}
	})
	return s, true
}

// parseUnix reads struct unix_diag_msg and its attributes.
func parseUnix(b []byte) (Socket, bool) {
	if len(b) < sizeofUnixMessage {
		return Socket{}, false
	}
	s := Socket{Inode: uint64(binary.NativeEndian.Uint32(b[4:]))}
	eachAttribute(b[sizeofUnixMessage:], func(kind uint16, value []byte) {
		if kind == unixDiagName && len(value) > 0 {
			s.Path = unixName(value)
		}
	})
	proto, ok := unixProto(int(b[1]), b[2] == stateListen, s.Path != "")
	s.Proto = proto
	return s, ok
}

// unixName makes an abstract name printable and cuts the zero off a path's end.
func unixName(name []byte) string {
	if name[0] == 0 {
		return "@" + string(name[1:])
	}
	return strings.TrimSuffix(string(name), "\x00")
}

// unixProto says which kind of Unix socket it is; false when it waits for nobody.
func unixProto(kind int, listens, named bool) (Proto, bool) {
	switch kind {
	case unix.SOCK_STREAM:
		return Unix, listens
	case unix.SOCK_SEQPACKET:
		return Unixpacket, listens
	}
	return Unixgram, kind == unix.SOCK_DGRAM && named
}

// eachAttribute calls f for each netlink attribute.
func eachAttribute(b []byte, f func(kind uint16, value []byte)) {
	for len(b) >= unix.SizeofRtAttr {
		size := int(binary.NativeEndian.Uint16(b))
		if size < unix.SizeofRtAttr || size > len(b) {
			return
		}
		f(binary.NativeEndian.Uint16(b[2:]), b[unix.SizeofRtAttr:size])
		b = b[min(align4(size), len(b)):]
	}
}

func align4(n int) int { return (n + 3) &^ 3 }
