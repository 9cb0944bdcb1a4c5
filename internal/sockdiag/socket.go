// Package sockdiag tells which sockets of a network namespace wait for others:
// TCP sockets that listen, UDP sockets that are bound, Unix sockets that listen or
// are bound to a name. The kernel's sock_diag answers; where it does not, the
// tables of /proc do, which are no snapshot and say less.
//
// It does not say who has a socket open: that is in the descriptors of the
// processes, see procfs. It is not for connections.
package sockdiag

import (
	"errors"
	"strconv"

	"github.com/pitvisor/pitvisor/internal/procfs"
	"golang.org/x/sys/unix"
)

// Proto is the kind of a socket, in the words of package net.
type Proto uint8

// The kinds.
const (
	TCP        Proto = iota
	UDP              // bound and not connected
	Unix             // a stream that listens
	Unixpacket       // likewise, with messages kept apart
	Unixgram         // datagrams, bound to a name
)

// String returns the word of package net.
func (p Proto) String() string {
	return [...]string{"tcp", "udp", "unix", "unixpacket", "unixgram"}[p]
}

// Socket is one socket that others can reach.
type Socket struct {
	Proto  Proto
	Addr   Addr   // of TCP and UDP
	Port   uint16 // likewise
	Path   string // of a Unix socket: any bytes; "@" stands for the zero that begins an abstract name
	V6Only bool   // an IPv6 socket that takes no IPv4 connections; false where only tables tell
	Device uint32 // the one network device it is bound to; 0 is all
	UID    uint32 // of TCP and UDP: who made it
	Inode  uint64 // what the descriptors of a process show
	Cgroup uint64 // of TCP and UDP: where it was made; 0 when not known
}

// String returns "127.0.0.1:80", "[::]:80" or the path, which may hold any bytes.
func (s Socket) String() string {
	if s.Proto != TCP && s.Proto != UDP {
		return s.Path
	}
	port := ":" + strconv.Itoa(int(s.Port))
	if s.Addr.v4 {
		return s.Addr.String() + port
	}
	return "[" + s.Addr.String() + "]" + port
}

// Listeners returns the TCP sockets that listen on a port in the calling thread's
// network namespace. One answer is one pass over the table, with no privilege
// needed.
func Listeners(port uint16) ([]Socket, error) {
	all, err := diag(tcpRequests(port), nil)
	if err == nil {
		return all, nil
	}
	all, tableErr := tables{threadSelf}.listeners(port)
	if tableErr != nil {
		return nil, errors.Join(err, tableErr)
	}
	return all, nil
}

// All returns the sockets of the calling thread's network namespace.
func All() ([]Socket, error) {
	own := tables{threadSelf}
	var all []Socket
	for _, kind := range []struct {
		requests [][]byte
		table    func([]Socket) ([]Socket, error)
	}{
		{tcpRequests(0), own.tcp},
		{udpRequests(), own.udp},
		{[][]byte{unixRequest()}, own.unix},
	} {
		more, err := diag(kind.requests, all)
		if err != nil { // a kernel can lack the module of one kind
			var tableErr error
			if more, tableErr = kind.table(all); tableErr != nil {
				return nil, errors.Join(err, tableErr)
			}
		}
		all = more
	}
	return all, nil
}

// Of returns the sockets of the network namespace of a process. To ask the kernel
// in a namespace of another it enters it, on a thread that is then thrown away;
// without the right to do that the tables in the process's /proc directory answer,
// which anybody may read that sees the process.
func Of(p *procfs.Process) ([]Socket, error) {
	ns, err := NSOf(p)
	if err != nil && !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.EPERM) {
		return nil, err
	}
	var all []Socket
	if err == nil {
		defer ns.Close()
		err = ns.Do(func() (err error) {
			all, err = All()
			return err
		})
	}
	if err == nil {
		return all, nil
	}
	all, tableErr := tables{p.Open}.all()
	if tableErr != nil {
		return nil, errors.Join(err, tableErr)
	}
	return all, nil
}
