package sockdiag

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// tables are the socket tables in some process's directory of /proc. They are no
// snapshot, tell no cgroup and do not say which IPv6 sockets take IPv4.
type tables struct {
	open func(name string) (fd int, err error)
}

// threadSelf opens a file of the calling thread.
func threadSelf(name string) (int, error) {
	path := "/proc/thread-self/" + name
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return fd, nil
}

func (t tables) all() ([]Socket, error) {
	all, err := t.tcp(nil)
	if err == nil {
		all, err = t.udp(all)
	}
	if err == nil {
		all, err = t.unix(all)
	}
	return all, err
}

// listeners returns the TCP sockets that listen on a port.
func (t tables) listeners(port uint16) ([]Socket, error) {
	all, err := t.tcp(nil)
	return slices.DeleteFunc(all, func(s Socket) bool { return s.Port != port }), err
}

func (t tables) tcp(all []Socket) ([]Socket, error) {
	return t.inet(all, TCP, "0A", "tcp", "tcp6")
}

func (t tables) udp(all []Socket) ([]Socket, error) {
	return t.inet(all, UDP, "07", "udp", "udp6")
}

// inet appends the sockets in one state.
func (t tables) inet(all []Socket, proto Proto, state string, names ...string) ([]Socket, error) {
	for _, name := range names {
		err := t.lines(name, func(lines *bufio.Scanner) error {
			return eachInet(lines, state, proto == TCP, func(s Socket) {
				s.Proto = proto
				all = append(all, s)
			})
		})
		if errors.Is(err, fs.ErrNotExist) && strings.HasSuffix(name, "6") {
			continue // no IPv6 here
		}
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

func (t tables) unix(all []Socket) ([]Socket, error) {
	err := t.lines("unix", func(lines *bufio.Scanner) error {
		return eachUnix(lines, func(s Socket) { all = append(all, s) })
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

// lines reads one table behind its heading.
func (t tables) lines(name string, read func(*bufio.Scanner) error) error {
	fd, err := t.open("net/" + name)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), "net/"+name)
	defer func() { _ = f.Close() }() // read-only; nothing to lose
	lines := bufio.NewScanner(f)
	lines.Scan()
	if err := read(lines); err != nil {
		return fmt.Errorf("read %s: %w", f.Name(), err)
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read %s: %w", f.Name(), err)
	}
	return nil
}

// eachInet reads the sockets of a table that are in one state. In a sorted table
// they stand before all others.
func eachInet(lines *bufio.Scanner, state string, sorted bool, f func(Socket)) error {
	for lines.Scan() {
		// sl local_address rem_address st queues timer retrnsmt uid timeout inode
		fields := strings.Fields(lines.Text())
		if len(fields) < 10 {
			return fmt.Errorf("unknown line %q", lines.Text())
		}
		if fields[3] != state {
			if sorted {
				return nil
			}
			continue
		}
		addr, port, err := parseAddr(fields[1])
		if err != nil {
			return err
		}
		uid, err := strconv.ParseUint(fields[7], 10, 32)
		if err != nil {
			return err
		}
		inode, err := strconv.ParseUint(fields[9], 10, 64)
		if err != nil {
			return err
		}
		f(Socket{Addr: addr, Port: port, UID: uint32(uid), Inode: inode})
	}
	return nil
}

// parseAddr reads "0100007F:1F90": 32-bit words as the CPU sees them.
func parseAddr(s string) (Addr, uint16, error) {
	host, port, _ := strings.Cut(s, ":")
	n, err := strconv.ParseUint(port, 16, 16)
	if err != nil || len(host) != 8 && len(host) != 32 {
		return Addr{}, 0, fmt.Errorf("unknown address %q", s)
	}
	var b []byte
	for ; host != ""; host = host[8:] {
		word, err := strconv.ParseUint(host[:8], 16, 32)
		if err != nil {
			return Addr{}, 0, fmt.Errorf("unknown address %q", s)
		}
		b = binary.NativeEndian.AppendUint32(b, uint32(word))
	}
	return AddrFrom(b), uint16(n), nil
}

// eachUnix reads the sockets that wait. A path may hold a line feed, and then what
// follows is no line of the table, or a forged one: the first that tells of an
// inode counts, and what makes no sense is passed over.
func eachUnix(lines *bufio.Scanner, f func(Socket)) error {
	seen := make(map[uint64]bool)
	for lines.Scan() {
		// Num RefCount Protocol Flags Type St Inode Path
		fields := strings.Fields(lines.Text())
		if len(fields) < 7 || len(fields[3]) != 8 {
			continue
		}
		flags, flagsErr := strconv.ParseUint(fields[3], 16, 32)
		kind, kindErr := strconv.ParseUint(fields[4], 16, 16)
		inode, inodeErr := strconv.ParseUint(fields[6], 10, 64)
		if flagsErr != nil || kindErr != nil || inodeErr != nil || seen[inode] {
			continue
		}
		seen[inode] = true
		s := Socket{Inode: inode}
		if len(fields) > 7 { // a path may hold spaces
			_, s.Path, _ = strings.Cut(lines.Text(), " "+fields[6]+" ")
		}
		const acceptCon = 1 << 16 // __SO_ACCEPTCON: it listens
		var ok bool
		if s.Proto, ok = unixProto(int(kind), flags&acceptCon != 0, s.Path != ""); ok {
			f(s)
		}
	}
	return nil
}
