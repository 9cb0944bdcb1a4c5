package linuxtest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// OwnsPort fails the test if the TCP port is not listened on by a process of the
// cgroup, or also by a process outside it: with SO_REUSEPORT both can have it.
// It needs to see the descriptors of the processes: root, or the same user. Ports
// are those of the test's network namespace.
func OwnsPort(tb testing.TB, dir string, port int) {
	tb.Helper()
	inside := false
	for _, l := range listeners(tb, port) {
		for _, p := range l.holders {
			if p.Cgroup == dir || below(p.Cgroup, dir) {
				inside = true
			} else {
				tb.Errorf("port %d: also listened on from outside %s: process %s", port, dir, p)
			}
		}
		if len(l.holders) == 0 {
			tb.Errorf("port %d: a socket of uid %d that no visible process holds", port, l.uid)
		}
	}
	if !inside {
		tb.Errorf("port %d: no process in %s listens on it", port, dir)
	}
}

// NotSharedPort fails the test if several sockets listen on the port.
func NotSharedPort(tb testing.TB, port int) {
	tb.Helper()
	found := listeners(tb, port)
	if len(found) < 2 {
		return
	}
	for _, l := range found {
		tb.Errorf("port %d is shared by socket %d of %v", port, l.inode, l.holders)
	}
}

// PortFree fails the test if anybody listens on the port.
func PortFree(tb testing.TB, port int) {
	tb.Helper()
	for _, l := range listeners(tb, port) {
		tb.Errorf("port %d is not free: socket %d of %v", port, l.inode, l.holders)
	}
}

// listener is one listening TCP socket.
type listener struct {
	inode   uint64
	uid     int
	holders []Proc
}

// listeners finds the sockets that listen on a port, and who has them open. One
// socket may show up in several processes.
func listeners(tb testing.TB, port int) []listener {
	tb.Helper()
	var found []listener
	for _, file := range []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"} {
		data, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a kernel without IPv6
		}
		if err != nil {
			tb.Fatal(err)
		}
		found = append(found, parseListeners(string(data), port)...)
	}
	for i := range found {
		found[i].holders = holders(found[i].inode)
	}
	return found
}

// parseListeners reads lines like
//
//	0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000  0 12345 1 …
//
// where 0A is the state LISTEN.
func parseListeners(table string, port int) []listener {
	suffix := fmt.Sprintf(":%04X", port)
	var found []listener
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) < 10 || f[3] != "0A" || !strings.HasSuffix(f[1], suffix) {
			continue
		}
		uid, errUID := strconv.Atoi(f[7])
		inode, errInode := strconv.ParseUint(f[9], 10, 64)
		if errUID == nil && errInode == nil {
			found = append(found, listener{inode: inode, uid: uid})
		}
	}
	return found
}

// holders lists the processes that have a socket open.
func holders(inode uint64) []Proc {
	want := fmt.Sprintf("socket:[%d]", inode)
	var found []Proc
	for _, pid := range allPIDs() {
		dir := filepath.Join("/proc", strconv.Itoa(pid), "fd")
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue // gone, or not ours to see
		}
		for _, e := range entries {
			if target, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil && target == want {
				p := readProc(pid)
				p.Cgroup, _ = cgroupOf(pid)
				found = append(found, p)
				break
			}
		}
	}
	return found
}
