package sockets

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/internal/sockdiag"
)

// TakenError says that somebody else has an address.
type TakenError struct {
	Name    string // of the socket in the configuration
	Address string // with its protocol
	Holder  string // a process, "" when none can be seen
	Err     error
}

// Error names the address and who has it.
func (e *TakenError) Error() string {
	who := "somebody else"
	if e.Holder != "" {
		who = "process " + e.Holder
	}
	return fmt.Sprintf("open socket %s: listen on %s: %s does: %v", e.Name, e.Address, who, e.Err)
}

// Unwrap returns what the kernel said.
func (e *TakenError) Unwrap() error { return e.Err }

// Hint says what can be done.
func (e *TakenError) Hint() string {
	return "stop it, or give the socket another address; reuse_port = true shares a port with who has set it, too"
}

// listener is one open socket. Its descriptor is a bare number: the runtime must not
// watch it, since connections are none of our business.
type listener struct {
	address
	reusePort bool
	fd        int
	file      *fileID // of a unix socket's path
	passed    bool    // by who has started us: not ours to configure, nor to remove
}

// fileID tells one file from another.
type fileID struct{ dev, ino uint64 }

// open makes a socket and listens.
func open(s *Spec, a address) (_ *listener, err error) {
	l := &listener{address: a, reusePort: s.ReusePort}
	if err := l.clearPath(); err != nil {
		return nil, l.explain(s, err)
	}
	if l.fd, err = l.socket(s); err != nil {
		return nil, l.explain(s, err)
	}
	if err = l.bind(s); err == nil {
		err = l.configure(s)
	}
	if err != nil {
		_ = l.close() // nobody was let in
		return nil, l.explain(s, err)
	}
	return l, nil
}

// socket makes it with its options. It is in blocking mode, as systemd passes sockets on,
// and stays as workers make it, who share it.
func (l *listener) socket(s *Spec) (int, error) {
	fd, err := unix.Socket(l.domain(), l.socketType()|unix.SOCK_CLOEXEC, 0)
	if err == unix.EAFNOSUPPORT && l.any { // no IPv6 here
		l.ip = v4(l.ip)
		fd, err = unix.Socket(l.domain(), l.socketType()|unix.SOCK_CLOEXEC, 0)
	}
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	var errs []error
	set := func(level, option, value int) { errs = append(errs, unix.SetsockoptInt(fd, level, option, value)) }
	switch l.domain() {
	case unix.AF_UNIX:
		// What bind makes has this mode from the beginning, less the umask.
		errs = append(errs, unix.Fchmod(fd, uint32(fileMode(s))))
	case unix.AF_INET6:
		set(unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0)
	}
	if l.domain() != unix.AF_UNIX {
		if l.kind == Stream {
			set(unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
		}
		if l.reusePort {
			set(unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
		}
	}
	if err := errors.Join(errs...); err != nil {
		_ = unix.Close(fd) // not bound yet
		return -1, os.NewSyscallError("setsockopt", err)
	}
	return fd, nil
}

func fileMode(s *Spec) fs.FileMode { return cmp.Or(s.Mode.Perm(), 0o666) }

func (l *listener) bind(s *Spec) error {
	to, err := l.sockaddr()
	if err != nil {
		return err
	}
	if err := unix.Bind(l.fd, to); err != nil {
		return os.NewSyscallError("bind", err)
	}
	if !l.inFiles() {
		return nil
	}
	id, err := fileAt(l.path)
	l.file = id
	return err
}

// configure sets what can be changed while the socket is in use.
func (l *listener) configure(s *Spec) error {
	if l.passed {
		return nil
	}
	if l.kind != Datagram {
		if err := unix.Listen(l.fd, cmp.Or(s.Backlog, DefaultBacklog)); err != nil {
			return os.NewSyscallError("listen", err)
		}
	}
	if l.file == nil {
		return nil
	}
	if s.UID >= 0 || s.GID >= 0 {
		if err := os.Lchown(l.path, s.UID, s.GID); err != nil {
			return err
		}
	}
	return os.Chmod(l.path, fileMode(s))
}

// inFiles says whether the socket has a file.
func (l *listener) inFiles() bool { return l.path != "" && l.path[0] == '/' }

func fileAt(path string) (*fileID, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return nil, &fs.PathError{Op: "lstat", Path: path, Err: err}
	}
	return &fileID{st.Dev, st.Ino}, nil
}

// clearPath removes a socket that nobody listens on any more, which a crash has left.
func (l *listener) clearPath() error {
	if !l.inFiles() {
		return nil
	}
	there, err := os.Lstat(l.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case there.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("there is a file that is no socket: %w", fs.ErrExist)
	}
	lives, err := l.answers()
	if err != nil {
		return err
	}
	if lives {
		return unix.EADDRINUSE
	}
	return os.Remove(l.path)
}

// answers says whether somebody has the socket at the path.
func (l *listener) answers() (bool, error) {
	fd, err := unix.Socket(unix.AF_UNIX, l.socketType()|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return false, os.NewSyscallError("socket", err)
	}
	defer func() { _ = unix.Close(fd) }() // was only to see whether it answers
	switch err := unix.Connect(fd, &unix.SockaddrUnix{Name: l.path}); err {
	case unix.ECONNREFUSED:
		return false, nil
	case nil, unix.EAGAIN, unix.EPROTOTYPE: // its backlog is full; it is of another kind
		return true, nil
	default:
		return false, os.NewSyscallError("connect", err)
	}
}

// close closes the socket, and removes its file if it is still the one that it made.
func (l *listener) close() error {
	if l.file != nil {
		if now, err := fileAt(l.path); err == nil && *now == *l.file {
			_ = os.Remove(l.path) // before the close: nobody finds one that refuses
		}
	}
	fd := l.fd
	l.fd = -1
	return unix.Close(fd)
}

// explain says what went wrong with which socket, and who has its address.
func (l *listener) explain(s *Spec, err error) error {
	if errors.Is(err, unix.EADDRINUSE) {
		return &TakenError{Name: s.Name, Address: l.String(), Holder: l.holder(), Err: unix.EADDRINUSE}
	}
	return fmt.Errorf("open socket %s: listen on %s: %w", s.Name, l, err)
}

// holder names who has the address, "" when that cannot be seen.
func (l *listener) holder() string {
	all, err := sockdiag.All()
	if err != nil {
		return ""
	}
	for _, s := range all {
		if l.meets(&s) {
			if who := sockdiag.Holder(s.Inode); who != "" {
				return who
			}
		}
	}
	return ""
}
