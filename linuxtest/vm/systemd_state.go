package vm

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// keptStates is how many saved machines of a suite stay in the cache.
const keptStates = 3

// state opens the saved machine that these programs go on from. If there is none it
// boots one and saves it.
func (s *system) state(ctx context.Context) (*os.File, error) {
	key, err := s.key(ctx)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(s.System.states, s.System.Suite+"-"+key)
	f, err := os.Open(path)
	if err == nil {
		now := time.Now()
		return f, errors.Join(os.Chtimes(path, now, now), s.forget())
	}
	// It has no name until it is whole.
	fd, err := unix.Open(s.System.states, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, fmt.Errorf("make a file in %s: %w", s.System.states, err)
	}
	f = os.NewFile(uintptr(fd), path)
	if err := s.save(ctx, f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	err = unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, path, unix.AT_SYMLINK_FOLLOW)
	if err != nil && !errors.Is(err, unix.EEXIST) { // another process was faster
		return nil, errors.Join(fmt.Errorf("name the saved machine: %w", err), f.Close())
	}
	return f, s.forget()
}

// key says what a saved machine depends on: QEMU, how it is called, and what is in
// the guest's memory. The names of the kernel and of the disk have their versions.
func (s *system) key(ctx context.Context) (string, error) {
	version, err := output(exec.CommandContext(ctx, emulator, "--version"))
	if err != nil {
		return "", fmt.Errorf("install the package qemu-system-x86: %w", err)
	}
	sum := sha256.New()
	fmt.Fprintf(sum, "%s\n%q\n", version, s.arguments(false))
	if s.accel == "kvm" {
		info, err := os.ReadFile("/proc/cpuinfo")
		if err != nil {
			return "", err
		}
		for line := range bytes.Lines(info) {
			if bytes.HasPrefix(line, []byte("model name")) || bytes.HasPrefix(line, []byte("flags")) {
				_, _ = sum.Write(line) // never fails
			}
		}
	}
	initramfs, err := s.initramfs(false)
	if err != nil {
		return "", err
	}
	defer func() { _ = initramfs.Close() }() // only read
	if _, err := initramfs.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	if _, err := io.Copy(sum, initramfs); err != nil {
		return "", err
	}
	return fmt.Sprintf("%x", sum.Sum(nil))[:16], nil
}

// forget removes saved machines that have not been used for longest.
func (s *system) forget() error {
	paths, err := filepath.Glob(filepath.Join(s.System.states, s.System.Suite+"-*"))
	if err != nil {
		return err
	}
	used := map[string]time.Time{}
	for _, path := range paths {
		if st, err := os.Stat(path); err == nil {
			used[path] = st.ModTime()
		}
	}
	slices.SortFunc(paths, func(a, b string) int { return cmp.Compare(used[b].UnixNano(), used[a].UnixNano()) })
	for _, path := range paths[min(len(paths), keptStates):] {
		if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	return nil
}

// save boots a machine, waits until the system is up and writes it to a file.
func (s *system) save(ctx context.Context, to *os.File) error {
	began := time.Now()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make a socket pair: %w", err)
	}
	theirs, ours := os.NewFile(uintptr(pair[1]), "monitor of QEMU"), os.NewFile(uintptr(pair[0]), "monitor")
	defer func() { _ = ours.Close() }() // QEMU is gone
	g, err := s.boot(false, []string{"-chardev", "socket,id=monitor,fd=7", "-mon", "chardev=monitor,mode=control"}, theirs)
	_ = theirs.Close() // QEMU has it
	if err != nil {
		return err
	}
	up := errors.New("up")
	err = s.follow(ctx, g, 2*s.patience(s.accel), listener{up: func() error { return up }})
	if errors.Is(err, up) {
		s.run.Boot = time.Since(began)
		stop := context.AfterFunc(ctx, func() { _ = unix.Shutdown(pair[0], unix.SHUT_RDWR) })
		err = (&monitor{socket: ours, in: bufio.NewReader(ours)}).migrate(to)
		stop()
		s.run.Save = time.Since(began) - s.run.Boot
	}
	return s.end(g, err)
}

// monitor speaks QEMU's machine protocol, QMP.
type monitor struct {
	socket *os.File
	in     *bufio.Reader
}

// reply is any line of QEMU.
type reply struct {
	Return json.RawMessage            `json:"return"`
	Error  *struct{ Desc string }     `json:"error"`
	Event  string                     `json:"event"`
	Data   struct{ Status string }    `json:"data"`
	QMP    map[string]json.RawMessage `json:"QMP"`
}

// migrate writes the running machine to a file. It is gone on with, later, as one
// that runs.
func (m *monitor) migrate(to *os.File) error {
	for _, c := range []struct{ name, arguments string }{
		{"qmp_capabilities", "{}"},
		{"migrate-set-capabilities", `{"capabilities": [{"capability": "events", "state": true}]}`},
		{"migrate-set-parameters", `{"max-bandwidth": 8000000000}`},
		{"getfd", `{"fdname": "state"}`},
		{"migrate", `{"uri": "fd:state"}`},
	} {
		if err := m.call(c.name, c.arguments, to); err != nil {
			return err
		}
	}
	for {
		r, err := m.read()
		switch {
		case err != nil:
			return err
		case r.Event == "MIGRATION" && r.Data.Status == "completed":
			return nil
		case r.Event == "MIGRATION" && (r.Data.Status == "failed" || r.Data.Status == "cancelled"):
			return fmt.Errorf("QEMU saves the machine: %s", r.Data.Status)
		}
	}
}

// call carries out one command. getfd takes the file along.
func (m *monitor) call(name, arguments string, file *os.File) error {
	var rights []byte
	if name == "getfd" {
		rights = unix.UnixRights(int(file.Fd()))
	}
	line := fmt.Sprintf("{\"execute\": %q, \"arguments\": %s}\n", name, arguments)
	if err := unix.Sendmsg(int(m.socket.Fd()), []byte(line), rights, nil, 0); err != nil {
		return fmt.Errorf("tell QEMU %s: %w", name, err)
	}
	for {
		r, err := m.read()
		switch {
		case err != nil:
			return fmt.Errorf("QEMU's answer to %s: %w", name, err)
		case r.Error != nil:
			return fmt.Errorf("QEMU refuses %s: %s", strings.TrimSpace(line), r.Error.Desc)
		case r.Return != nil:
			return nil
		}
	}
}

func (m *monitor) read() (*reply, error) {
	line, err := m.in.ReadBytes('\n')
	if err != nil {
		return nil, fmt.Errorf("read from QEMU's monitor: %w", err)
	}
	var r reply
	if err := json.Unmarshal(line, &r); err != nil {
		return nil, fmt.Errorf("read %q from QEMU's monitor: %w", line, err)
	}
	return &r, nil
}
