package vm

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// probeName is argv[0] of the process that features are tried on.
const probeName = "linuxtest-vm-probe"

// probeMain waits until its stdin ends.
func probeMain() {
	_, _ = os.Stdin.Read(make([]byte, 1)) // the end is all it waits for
	os.Exit(7)
}

// Inspect finds out what the kernel of this process can do in a cgroup, by doing
// it in a new one below it; "" is the cgroup of this process. What cannot be done
// there, for whatever reason, counts as not there. The binary's main must begin
// with [Main].
func Inspect(cgroup string) (*Guest, error) {
	if cgroup == "" {
		var err error
		if cgroup, err = ownCgroup(); err != nil {
			return nil, err
		}
	}
	release, err := kernelRelease()
	if err != nil {
		return nil, err
	}
	have, err := controllers(cgroup)
	if err != nil {
		return nil, err
	}
	g := &Guest{Release: release, Controllers: have, Features: map[string]bool{}, Uptime: uptime()}
	dir := filepath.Join(cgroup, fmt.Sprintf("linuxtest-probe-%d", os.Getpid()))
	if err := g.probe(dir); err != nil {
		return nil, fmt.Errorf("try the kernel's features: %w", err)
	}
	// A cgroup whose processes are in it hands no controller down, but has its own.
	for _, file := range groupFiles() {
		g.Features[file] = g.Features[file] || exists(filepath.Join(cgroup, file))
	}
	g.Tier = g.tier()
	return g, nil
}

// ownCgroup is the directory of this process's cgroup.
func ownCgroup() (string, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	groups, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(groups)) {
		own, ok := strings.CutPrefix(strings.TrimSpace(line), "0::")
		if !ok {
			continue
		}
		for line := range strings.Lines(string(mounts)) {
			fields, kind, _ := strings.Cut(line, " - ")
			if f := strings.Fields(fields); strings.HasPrefix(kind, "cgroup2 ") && len(f) > 4 {
				return filepath.Join(f[4], own), nil
			}
		}
	}
	return "", errors.New("no cgroup2 is mounted here")
}

func kernelRelease() (string, error) {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return "", fmt.Errorf("uname: %w", err)
	}
	return unix.ByteSliceToString(uts.Release[:]), nil
}

// probe tries everything on one process in one cgroup.
func (g *Guest) probe(dir string) error {
	group := -1
	if os.Mkdir(dir, 0o755) == nil { // or cgroups are not for us
		defer func() { _ = unix.Rmdir(dir) }() // empty; asked again below
		for _, file := range groupFiles() {
			g.Features[file] = exists(filepath.Join(dir, file))
		}
		g.Features["PSI trigger"] = writeFile(filepath.Join(dir, "memory.pressure"), "some 500000 2000000\x00") == nil
		fd, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open %s: %w", dir, err)
		}
		defer func() { _ = unix.Close(fd) }() // only named a place
		group = fd
	}
	if err := g.probeProcess(group); err != nil {
		return err
	}
	if group < 0 {
		return nil
	}
	if err := g.probeKilled(dir, group); err != nil {
		return err
	}
	return unix.Rmdir(dir)
}

// probeKilled kills the empty cgroup and starts a process in it.
func (g *Guest) probeKilled(dir string, group int) error {
	if !g.Features["cgroup.kill"] || !g.Features["clone into cgroup"] {
		return nil
	}
	if err := writeFile(filepath.Join(dir, "cgroup.kill"), "1"); err != nil {
		return err
	}
	p, err := startProbe(group)
	if err != nil {
		return err
	}
	status, err := p.end()
	if err != nil {
		return err
	}
	g.Features["killed cgroup usable"] = !status.Signaled()
	return unix.Close(p.pidfd)
}

// groupFiles are files of a cgroup that stand for a feature.
func groupFiles() []string {
	return []string{
		"cgroup.freeze", "cgroup.kill", "cgroup.pressure", "cpu.max", "cpu.pressure", "cpu.weight", "cpuset.cpus",
		"io.max", "io.pressure", "io.stat", "memory.high", "memory.max", "memory.oom.group", "memory.peak",
		"memory.pressure", "memory.reclaim", "memory.swap.max", "pids.events", "pids.max", "pids.peak",
	}
}

// pidfsMagic is PIDFS_SUPER_MAGIC of linux/magic.h.
const pidfsMagic = 0x50494446

func (g *Guest) probeProcess(group int) error {
	p, err := startProbe(group)
	g.Features["clone into cgroup"] = group >= 0 && err == nil
	if err != nil {
		p, err = startProbe(-1)
	}
	if err != nil {
		return err
	}
	got, err := unix.PidfdGetfd(p.pidfd, 0, 0)
	g.Features["pidfd_getfd"] = err == nil
	if err == nil {
		_ = unix.Close(got) // a copy
	}
	var st unix.Statfs_t
	g.Features["pidfs"] = unix.Fstatfs(p.pidfd, &st) == nil && st.Type == pidfsMagic
	info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_PID}
	g.Features["PIDFD_GET_INFO"] = unix.IoctlPidfdInfo(p.pidfd, &info) == nil
	_, _, err = unix.NameToHandleAt(p.pidfd, "", unix.AT_EMPTY_PATH)
	g.Features["pidfd file handle"] = err == nil
	g.Features["CLONE_PIDFD_AUTOKILL"] = autokillKnown()
	if _, err := p.end(); err != nil {
		return err
	}
	info = unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
	g.Features["PIDFD_INFO_EXIT"] = unix.IoctlPidfdInfo(p.pidfd, &info) == nil && info.Mask&unix.PIDFD_INFO_EXIT != 0
	return unix.Close(p.pidfd)
}

// autokillKnown says whether clone3 knows CLONE_PIDFD_AUTOKILL, by a call that never
// makes a process: the flags are looked at before the cgroup, which there is not.
func autokillKnown() bool {
	const autokill = unix.CLONE_PIDFD_AUTOKILL | unix.CLONE_AUTOREAP // together only, and without an exit signal
	var pidfd int32
	args := struct{ flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize, cgroup uint64 }{
		flags:  autokill | unix.CLONE_PIDFD | unix.CLONE_INTO_CGROUP,
		pidfd:  uint64(uintptr(unsafe.Pointer(&pidfd))),
		cgroup: 1<<31 - 1,
	}
	_, _, errno := unix.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&args)), unsafe.Sizeof(args), 0)
	return errno == unix.EBADF
}

// probed is a running probeMain.
type probed struct {
	pid, pidfd int
	stdin      *os.File
}

// startProbe starts it in a cgroup, or with a negative number where we are.
func startProbe(group int) (*probed, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	p := &probed{stdin: w, pidfd: -1}
	p.pid, _, err = syscall.StartProcess("/proc/self/exe", []string{probeName}, &syscall.ProcAttr{
		Files: []uintptr{r.Fd(), 1, 2},
		Sys:   &syscall.SysProcAttr{PidFD: &p.pidfd, UseCgroupFD: group >= 0, CgroupFD: group},
	})
	_ = r.Close() // the child has it
	if err != nil {
		_ = w.Close() // nothing was written
		return nil, fmt.Errorf("start a process: %w", err)
	}
	return p, nil
}

// end lets the process exit, and reaps it.
func (p *probed) end() (unix.WaitStatus, error) {
	_ = p.stdin.Close() // nothing was written
	var status unix.WaitStatus
	for {
		_, err := unix.Wait4(p.pid, &status, 0, nil)
		if err != unix.EINTR {
			return status, err
		}
	}
}

// tier is what a supervisor of processes can promise on this kernel, A being the
// most: see the table in docs/testing.md.
func (g *Guest) tier() string {
	f := g.Features
	switch {
	case !f["clone into cgroup"]:
		return "E"
	case !f["cgroup.kill"]:
		return "D"
	case !f["pidfs"]:
		return "C"
	case !f["pidfd file handle"] || !f["PIDFD_INFO_EXIT"]:
		return "B"
	}
	return "A"
}

// since says which kernel brought a feature. A guest that is new enough and does
// not have it is broken, or was built in a way that makes its results worthless.
func since() map[string]version {
	return map[string]version{
		"clone into cgroup": {5, 7}, "cgroup.freeze": {5, 2}, "pidfd_getfd": {5, 6}, "PSI trigger": {5, 2},
		"cpu.max": {4, 15}, "cpu.weight": {4, 15}, "cpuset.cpus": {5, 0}, "io.max": {4, 5}, "io.stat": {4, 5},
		"memory.high": {4, 5}, "memory.max": {4, 5}, "memory.oom.group": {4, 19}, "pids.max": {4, 5}, "pids.events": {4, 11},
		"cpu.pressure": {5, 2}, "io.pressure": {5, 2}, "memory.pressure": {5, 2},
		"cgroup.kill": {5, 14}, "memory.peak": {5, 19}, "memory.reclaim": {5, 19}, "cgroup.pressure": {6, 1},
		"pids.peak": {6, 1}, "pidfs": {6, 9}, "PIDFD_GET_INFO": {6, 13}, "pidfd file handle": {6, 14}, "PIDFD_INFO_EXIT": {6, 15},
		"CLONE_PIDFD_AUTOKILL": {7, 1},
	}
}

// version is a kernel's.
type version struct{ major, minor int }

func (v version) String() string { return fmt.Sprintf("%d.%d", v.major, v.minor) }

func (v version) before(w version) bool {
	return v.major < w.major || v.major == w.major && v.minor < w.minor
}

func (v version) compare(w version) int {
	return cmp.Or(cmp.Compare(v.major, w.major), cmp.Compare(v.minor, w.minor))
}

// parseVersion reads "6.12.117+deb13-cloud-amd64" as 6.12.
func parseVersion(release string) (version, error) {
	var v version
	if _, err := fmt.Sscanf(release, "%d.%d", &v.major, &v.minor); err != nil {
		return version{}, fmt.Errorf("read the kernel version %q: %w", release, err)
	}
	return v, nil
}
