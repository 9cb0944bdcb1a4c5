package linuxtest

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// findMount returns where cgroup2 is mounted.
func findMount() (string, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", fmt.Errorf("find the cgroup2 mount: %w", err)
	}
	var found string
	for line := range strings.Lines(string(data)) {
		left, right, ok := strings.Cut(line, " - ")
		fields := strings.Fields(left)
		if !ok || len(fields) < 5 || !strings.HasPrefix(right, "cgroup2 ") {
			continue
		}
		if found == "" || fields[4] == "/sys/fs/cgroup" {
			found = fields[4]
		}
	}
	if found == "" {
		return "", errors.New("no cgroup2 file system is mounted")
	}
	return found, nil
}

// selfPath returns the cgroup of the test process, below the mount.
func selfPath() (string, error) {
	path, ok := unifiedPath("self")
	if !ok {
		return "", errors.New("the test process is in no cgroup2 cgroup")
	}
	return path, nil
}

// unifiedPath reads the cgroup of a process, below the mount.
func unifiedPath(proc string) (string, bool) {
	data, err := os.ReadFile(filepath.Join("/proc", proc, "cgroup"))
	if err != nil {
		return "", false
	}
	for line := range strings.Lines(string(data)) {
		if path, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::"); ok {
			return path, true
		}
	}
	return "", false
}

// cgroupOf returns the directory of the cgroup that a process is or was in, also
// when that has been removed.
func cgroupOf(pid int) (string, bool) {
	path, ok := unifiedPath(strconv.Itoa(pid))
	mount, err := findMount()
	if !ok || err != nil {
		return "", false
	}
	return filepath.Join(mount, strings.TrimSuffix(path, " (deleted)")), true
}

// below says whether a path is strictly inside a directory.
func below(path, dir string) bool {
	return strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// writeGroupFile uses bare system calls: an os.File parks for ever where kernfs
// answers EAGAIN.
func writeGroupFile(dir, name, value string) error {
	path := filepath.Join(dir, name)
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer func() { _ = unix.Close(fd) }() // the write is what counts, and it is done
	if _, err := unix.Write(fd, []byte(value)); err != nil {
		return &fs.PathError{Op: "write " + value + " to", Path: path, Err: err}
	}
	return nil
}

func readGroupFile(dir, name string) (string, error) {
	path := filepath.Join(dir, name)
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer func() { _ = unix.Close(fd) }() // read-only; nothing to lose
	data, err := io.ReadAll(rawFile(fd))
	if err != nil {
		return "", &fs.PathError{Op: "read", Path: path, Err: err}
	}
	return string(data), nil
}

// rawFile reads a descriptor without the runtime's poller.
type rawFile int

func (f rawFile) Read(p []byte) (int, error) {
	n, err := unix.Read(int(f), p)
	if err != nil {
		return 0, err
	}
	if n == 0 && len(p) > 0 {
		return 0, io.EOF
	}
	return n, nil
}

// groupsBelow lists the cgroups below path, parents first. What vanishes
// meanwhile is left out.
func groupsBelow(path string) []string {
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil
	}
	var dirs []string
	for _, e := range entries {
		if e.IsDir() {
			dir := filepath.Join(path, e.Name())
			dirs = append(append(dirs, dir), groupsBelow(dir)...)
		}
	}
	return dirs
}

// membersBelow lists the processes in path and below it.
func membersBelow(path string) []Proc {
	var members []Proc
	for _, dir := range append([]string{path}, groupsBelow(path)...) {
		procs, err := readGroupFile(dir, "cgroup.procs")
		if err != nil {
			continue // gone, or threaded
		}
		for _, field := range strings.Fields(procs) {
			pid, err := strconv.Atoi(field)
			if err != nil {
				continue
			}
			p := readProc(pid)
			p.Cgroup = dir
			members = append(members, p)
		}
	}
	return members
}
