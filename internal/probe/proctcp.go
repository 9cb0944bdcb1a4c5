package probe

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// listeners returns the sockets that listen on a port in the calling thread's
// network namespace. Where the kernel has no sock_diag, or a sandbox hides it,
// the tables of /proc answer: these are no snapshot, tell no cgroup and do not
// say which IPv6 sockets take IPv4 connections.
func listeners(port int) ([]listener, error) {
	all, err := diagListeners(port)
	if err == nil {
		return all, nil
	}
	all, procErr := procListeners(port)
	if procErr != nil {
		return nil, errors.Join(err, procErr)
	}
	return all, nil
}

func procListeners(port int) ([]listener, error) {
	var all []listener
	for _, name := range []string{"tcp", "tcp6"} {
		f, err := os.Open("/proc/thread-self/net/" + name)
		if errors.Is(err, fs.ErrNotExist) && name == "tcp6" {
			continue // no IPv6 here
		}
		if err != nil {
			return nil, fmt.Errorf("read listening sockets: %w", err)
		}
		err = eachListener(bufio.NewScanner(f), func(l listener, p int) {
			if p == port {
				all = append(all, l)
			}
		})
		_ = f.Close() // read-only; nothing to lose
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", f.Name(), err)
		}
	}
	return all, nil
}

// eachListener reads the table's listening sockets. They stand before all others.
func eachListener(lines *bufio.Scanner, f func(l listener, port int)) error {
	lines.Scan() // the heading
	for lines.Scan() {
		// sl local_address rem_address st queues timer retrnsmt uid timeout inode
		fields := strings.Fields(lines.Text())
		if len(fields) < 10 {
			return fmt.Errorf("unknown line %q", lines.Text())
		}
		if fields[3] != "0A" {
			return nil
		}
		addr, port, err := parseProcAddr(fields[1])
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
		f(listener{addr: addr, uid: uint32(uid), inode: inode}, port)
	}
	return lines.Err()
}

// parseProcAddr reads "0100007F:1F90": 32-bit words as the CPU sees them.
func parseProcAddr(s string) (netip.Addr, int, error) {
	host, port, _ := strings.Cut(s, ":")
	n, err := strconv.ParseUint(port, 16, 16)
	if err != nil || len(host) != 8 && len(host) != 32 {
		return netip.Addr{}, 0, fmt.Errorf("unknown address %q", s)
	}
	var b []byte
	for ; host != ""; host = host[8:] {
		word, err := strconv.ParseUint(host[:8], 16, 32)
		if err != nil {
			return netip.Addr{}, 0, fmt.Errorf("unknown address %q", s)
		}
		b = binary.NativeEndian.AppendUint32(b, uint32(word))
	}
	addr, _ := netip.AddrFromSlice(b)
	return addr, int(n), nil
}
