package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// box is a cgroup of the benchmark's own. Everything that a contender does happens below one box, so that its CPU time
// is one number of the kernel (cpu.stat counts descendants, also those already removed) and its end is one
// cgroup.kill. The code is deliberately not package cgroup: the measure must not depend on what it measures.
type box struct {
	path string
	fd   int
}

// findCgroup2 returns the mount point of cgroup v2.
func findCgroup2() (string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		mount, kind, found := strings.Cut(lines.Text(), " - ")
		fields := strings.Fields(mount)
		if found && strings.HasPrefix(kind, "cgroup2 ") && len(fields) > 4 {
			return fields[4], nil
		}
	}
	if err := lines.Err(); err != nil {
		return "", err
	}
	return "", errors.New("find cgroup v2: it is not mounted (mount -t cgroup2 none /sys/fs/cgroup)")
}

// openRoot makes the cgroup of all boxes and takes its lock, so that two benchmarks never share it. Whatever a killed
// benchmark left there is killed and removed first.
func openRoot(ctx context.Context, path string) (*box, error) {
	if path == "" {
		mount, err := findCgroup2()
		if err != nil {
			return nil, err
		}
		path = filepath.Join(mount, "pitvisor-bench")
	}
	if err := os.Mkdir(path, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("%w (run as root, or give a delegated cgroup with -cgroup)", err)
	}
	root, err := openBox(path)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(root.fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = root.close() // nothing was made
		return nil, fmt.Errorf("lock %s: %w (another benchmark is running)", path, err)
	}
	children, err := root.children()
	if err != nil {
		return nil, err
	}
	for _, name := range children {
		if err := removeTree(ctx, filepath.Join(path, name)); err != nil {
			return nil, fmt.Errorf("remove what an earlier benchmark left: %w", err)
		}
	}
	return root, nil
}

func openBox(path string) (*box, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return &box{path: path, fd: fd}, nil
}

// make makes and opens a child.
func (b *box) make(name string) (*box, error) {
	if err := unix.Mkdirat(b.fd, name, 0o755); err != nil {
		return nil, fmt.Errorf("make %s/%s: %w", b.path, name, err)
	}
	return openBox(filepath.Join(b.path, name))
}

func (b *box) children() ([]string, error) {
	entries, err := os.ReadDir(b.path)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, entry := range entries {
		if entry.IsDir() {
			names = append(names, entry.Name())
		}
	}
	return names, nil
}

// read returns the content of one file, at most 1 MiB. Cgroup files are read with raw system calls, because the Go
// poller may park on them.
func (b *box) read(name string) (string, error) {
	fd, err := unix.Openat(b.fd, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("open %s/%s: %w", b.path, name, err)
	}
	defer unix.Close(fd)
	text, chunk := []byte(nil), make([]byte, 64<<10)
	for len(text) < 1<<20 {
		n, err := unix.Read(fd, chunk)
		if err != nil {
			return "", fmt.Errorf("read %s/%s: %w", b.path, name, err)
		}
		if n == 0 {
			break
		}
		text = append(text, chunk[:n]...)
	}
	return string(text), nil
}

func (b *box) write(name, value string) error {
	fd, err := unix.Openat(b.fd, name, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s/%s: %w", b.path, name, err)
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, []byte(value)); err != nil {
		return fmt.Errorf("write %q to %s/%s: %w", value, b.path, name, err)
	}
	return nil
}

// number returns one value of a flat keyed file such as cpu.stat.
func (b *box) number(file, key string) (int64, error) {
	text, err := b.read(file)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if name == key {
			return strconv.ParseInt(value, 10, 64)
		}
	}
	return 0, fmt.Errorf("find %s in %s/%s: no such key", key, b.path, file)
}

// cpu is the CPU time that everything in the box has used, the dead and the removed included.
func (b *box) cpu() (time.Duration, error) {
	usec, err := b.number("cpu.stat", "usage_usec")
	return time.Duration(usec) * time.Microsecond, err
}

// cgroups counts the cgroups below the box.
func (b *box) cgroups() (int, error) {
	n, err := b.number("cgroup.stat", "nr_descendants")
	return int(n), err
}

func (b *box) populated() (bool, error) {
	n, err := b.number("cgroup.events", "populated")
	return n != 0, err
}

// pids lists the processes in the box and below it.
func (b *box) pids() ([]int, error) {
	var pids []int
	err := filepath.WalkDir(b.path, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed while we looked
		}
		if err != nil || !entry.IsDir() {
			return err
		}
		here, err := pidsIn(path)
		pids = append(pids, here...)
		return err
	})
	return pids, err
}

func pidsIn(path string) ([]int, error) {
	dir, err := openBox(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer dir.close()
	text, err := dir.read("cgroup.procs")
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, field := range strings.Fields(text) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			return nil, err
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

// waitEmpty returns when no process is left in the box. The kernel tells so at most every 12 ms, hence the growing
// time-outs.
func (b *box) waitEmpty(ctx context.Context) error {
	fd, err := unix.Openat(b.fd, "cgroup.events", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s/cgroup.events: %w", b.path, err)
	}
	defer unix.Close(fd)
	text := make([]byte, 256)
	for wait := 200 * time.Microsecond; ; wait = min(2*wait, 50*time.Millisecond) {
		n, err := unix.Pread(fd, text, 0)
		if err != nil {
			return fmt.Errorf("read %s/cgroup.events: %w", b.path, err)
		}
		if strings.Contains(string(text[:n]), "populated 0") {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("wait until %s is empty: %w", b.path, context.Cause(ctx))
		}
		timeout := unix.NsecToTimespec(wait.Nanoseconds())
		_, _ = unix.Ppoll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLPRI}}, &timeout, nil) // re-read in any case
	}
}

// destroy kills everything in the box and removes it.
func (b *box) destroy(ctx context.Context) error {
	return errors.Join(removeTree(ctx, b.path), b.close())
}

func (b *box) close() error {
	return unix.Close(b.fd)
}

// removeTree kills what is in a cgroup and below it, and removes it bottom-up. It works to its end even when ctx is
// over, for 30 seconds: a benchmark that was interrupted must not leave anything.
func removeTree(ctx context.Context, path string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	b, err := openBox(path)
	if err != nil {
		return err
	}
	defer b.close()
	if err := b.write("cgroup.kill", "1"); err != nil {
		return err
	}
	if err := b.waitEmpty(ctx); err != nil {
		return err
	}
	return removeDirs(path)
}

func removeDirs(path string) error {
	entries, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if !entry.IsDir() {
			continue
		}
		if err := removeDirs(filepath.Join(path, entry.Name())); err != nil {
			return err
		}
	}
	return unix.Rmdir(path)
}
