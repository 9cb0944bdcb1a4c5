package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/api"
	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/pidfd"
)

// The roles of callers.
const (
	roleOwner    = "owner"    // root, or the supervisor's own user: everything
	roleReader   = "reader"   // in the group that reads
	roleWorker   = "worker"   // a process of this very run: reads, too
	roleToken    = "token"    // on TCP, with the token: everything
	roleStranger = "stranger" // nothing but to learn that
)

// overTCP is the user of who calls over TCP.
const overTCP = -1

// peer is who has made a connection, as the kernel noted it at that moment.
type peer struct {
	conn   *net.UnixConn // nil on TCP
	cred   unix.Ucred
	groups []uint32

	once   sync.Once // for caller
	caller api.Caller
}

func (p *peer) uid() int {
	if p.conn == nil {
		return overTCP
	}
	return int(p.cred.Uid)
}

// newPeer asks the kernel who has connected.
func newPeer(conn net.Conn) (*peer, error) {
	c, ok := conn.(*net.UnixConn)
	if !ok {
		return &peer{}, nil
	}
	p := &peer{conn: c}
	err := p.ask(func(fd int) error {
		cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err != nil {
			return err
		}
		p.cred = *cred
		p.groups, err = peerGroups(fd)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("ask the kernel who calls: %w", err)
	}
	return p, nil
}

// ask runs f with the descriptor of the connection.
func (p *peer) ask(f func(fd int) error) error {
	raw, err := p.conn.SyscallConn()
	if err != nil {
		return err
	}
	ctlErr := raw.Control(func(fd uintptr) { err = f(int(fd)) })
	return errors.Join(ctlErr, err)
}

// peerGroups returns the supplementary groups of the peer. Linux 4.13.
func peerGroups(fd int) ([]uint32, error) {
	groups := make([]uint32, 64)
	for {
		size := uint32(len(groups) * 4)
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&groups[0])), uintptr(unsafe.Pointer(&size)), 0)
		switch errno {
		case 0:
			return groups[:size/4], nil
		case unix.ERANGE: // size has been set to what it takes
			groups = make([]uint32, size/4)
		default:
			return nil, errno
		}
	}
}

// identify says whom the caller is taken for. It is asked once in a connection.
func (s *Server) identify(p *peer) *api.Caller {
	p.once.Do(func() {
		p.caller = api.Caller{UID: int(p.cred.Uid), PID: int(p.cred.Pid)}
		switch own := os.Geteuid(); {
		case p.cred.Uid == 0:
			p.caller.Role, p.caller.Why = roleOwner, "root"
		case int(p.cred.Uid) == own:
			p.caller.Role, p.caller.Why = roleOwner, "the user of the supervisor"
		case s.o.ReaderGID != 0 && (p.cred.Gid == s.o.ReaderGID || slices.Contains(p.groups, s.o.ReaderGID)):
			p.caller.Role, p.caller.Why = roleReader, fmt.Sprintf("in group %d, which may read", s.o.ReaderGID)
		default:
			s.identifyWorker(p)
		}
	})
	return &p.caller
}

// identifyWorker looks for the leaf in which the caller is.
func (s *Server) identifyWorker(p *peer) {
	worker, err := s.workerOf(p)
	if err != nil {
		p.caller.Role, p.caller.Why = roleStranger, err.Error()
		return
	}
	p.caller.Role, p.caller.Worker, p.caller.Why = roleWorker, worker, "a process of this run"
}

var (
	errNotInRun  = errors.New("neither root, nor the supervisor's user, nor in the group that reads, nor a process of this run")
	errNoPeerFD  = errors.New("this kernel has no SO_PEERPIDFD (Linux 6.5): workers are not told from others")
	errPeerEnded = errors.New("the process that connected has ended")
)

// workerOf names the worker that the caller belongs to. The process is held by the
// pidfd that the kernel took when it connected, so its number cannot be another's.
func (s *Server) workerOf(p *peer) (string, error) {
	var fd int
	err := p.ask(func(conn int) (err error) {
		fd, err = unix.GetsockoptInt(conn, unix.SOL_SOCKET, unix.SO_PEERPIDFD)
		return err
	})
	switch {
	case errors.Is(err, unix.ENOPROTOOPT):
		return "", errNoPeerFD
	case err != nil:
		return "", errPeerEnded
	}
	unix.CloseOnExec(fd)
	held := pidfd.FromFD(fd, int(p.cred.Pid))
	defer func() { _ = held.Close() }() // was only looked at
	path, err := held.CgroupPath()
	if errors.Is(err, pidfd.ErrGone) {
		return "", errPeerEnded
	}
	if err != nil {
		return "", errNotInRun // not to be seen from here, so not in a leaf of ours
	}
	pool, leaf, ok := s.leafName(path)
	if !ok {
		return "", errNotInRun
	}
	dir, err := s.openLeaf(pool, leaf)
	if err != nil {
		return "", errNotInRun
	}
	defer func() { _ = dir.Close() }() // was only looked at
	if in, err := contains(dir, held); err != nil || !in {
		return "", errNotInRun
	}
	slot, _, _ := strings.Cut(leaf, ".")
	return pool + "/" + slot, nil
}

// leafName finds the names of pool and leaf in what /proc calls a cgroup.
func (s *Server) leafName(path string) (pool, leaf string, ok bool) {
	parts := strings.Split(path, "/")
	i := slices.Index(parts, s.o.Run.Dir().Name())
	if i < 0 || len(parts) < i+3 {
		return "", "", false
	}
	return parts[i+1], parts[i+2], true
}

// openLeaf opens a leaf by way of the run's own directory: a cgroup of the same name
// elsewhere is not met.
func (s *Server) openLeaf(pool, leaf string) (*cgroup.Dir, error) {
	dir, err := s.o.Run.Dir().OpenChild(pool)
	if err != nil {
		return nil, err
	}
	defer func() { _ = dir.Close() }() // was only a way to the leaf
	return dir.OpenChild(leaf)
}

// contains says whether a process that is held is in a cgroup or below it.
func contains(dir *cgroup.Dir, p *pidfd.Process) (bool, error) {
	info, err := p.Info()
	if err != nil {
		return false, err
	}
	if info.CgroupID != 0 {
		if info.CgroupID == dir.ID() {
			return true, nil
		}
		return dir.Contains(info.CgroupID)
	}
	// Before Linux 6.13 the cgroup has to be asked. The number counts if the
	// process was not reaped afterwards.
	pids, err := dir.PIDsRecursive()
	if err != nil || !slices.Contains(pids, p.PID()) {
		return false, err
	}
	_, err = p.Info()
	return err == nil, err
}

type peerKey struct{}

// withPeer carries the peer of a connection to its requests.
func withPeer(ctx context.Context, c net.Conn) context.Context {
	if conn, ok := c.(*conn); ok {
		return context.WithValue(ctx, peerKey{}, conn.peer)
	}
	return ctx
}
