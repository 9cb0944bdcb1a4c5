package spawn

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// The helper is this very program, executed again, which becomes the program that
// was asked for. It is used when a sandbox or an old kernel refuses clone3, and on
// processors for which package steps has no assembly, for what syscall.StartProcess
// cannot set: resource limits, the OOM score, and a variable with the number.
//
// It is born in the cgroup of the caller, does all that it can there, joins the
// leaf by itself, and only then turns into the program; so the program is never
// outside, and the helper's own threads and memory do not count against the limits
// of the leaf. It gets its orders through a sealed memfd, the leaf's cgroup.procs
// as an open file, and reports through a pipe. If the caller dies meanwhile the
// report fails and the helper exits instead of going on alone.

const (
	helperName = "pitvisor-spawn-helper" // argv[0] of the helper, with which it knows itself
	helperComm = "pitvisor-spawn"        // its name in the process list, until exec
)

// Behind the files of the program the helper has three of its own.
const (
	fileRequest = iota
	fileReport
	fileProcs
	controlFiles
)

// helperReady says that HelperMain was called, so that executing this program again
// gives a helper and not a second copy of the program. It is a fact about the
// process: there is one main.
var helperReady atomic.Bool

// startHelper starts c with the helper and returns when the program runs.
func (c *Cmd) startHelper(files []uintptr) (*Process, error) {
	if !helperReady.Load() {
		return nil, c.fail(CauseHelper, "the helper is needed, but this program has not called spawn.HelperMain", unix.ENOSYS)
	}
	if err := c.checkStrings(); err != nil {
		return nil, err
	}
	order, err := c.requestFile()
	if err != nil {
		return nil, c.fail(causeOf(err), "write the request for the helper", err)
	}
	defer func() { _ = order.Close() }() // the helper has its own
	procs, err := c.openProcs()
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(procs) }() // nothing was written
	r, w, err := os.Pipe()
	if err != nil {
		return nil, c.fail(causeOf(err), "make a pipe", err)
	}
	defer func() { _ = r.Close() }() // read-only; nothing to lose
	p, err := c.execHelper(files, order, w, procs)
	_ = w.Close() // the helper has its own
	if err != nil {
		return nil, c.fail(causeOf(err), "start the helper", err)
	}
	p.byHelper = true
	report, err := io.ReadAll(r) // until exec closes the other end, or death
	if err == nil {
		err = c.readReport(report)
	}
	if err != nil {
		return nil, c.lost(p, err)
	}
	return p, nil
}

// openProcs opens what the helper joins the leaf with; -1 if there is no leaf.
func (c *Cmd) openProcs() (int, error) {
	if c.Weak {
		return -1, nil
	}
	procs, err := unix.Openat(c.Leaf.FD(), "cgroup.procs", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err == nil {
		return procs, nil
	}
	if e := c.diagnoseLeaf(err); e != nil {
		return -1, e
	}
	return -1, c.fail(causeOf(err), "open cgroup.procs of "+c.Leaf.Path(), err)
}

// requestFile puts the request into memory that cannot be changed any more.
func (c *Cmd) requestFile() (*os.File, error) {
	req := request{
		Path: c.Path, Args: c.args(), Env: c.Env, Dir: c.Dir, Weak: c.Weak,
		Credential: c.Credential, Rlimits: c.Rlimits, OOMScoreAdj: c.OOMScoreAdj, OwnPID: c.OwnPID,
	}
	fd, err := unix.MemfdCreate(helperName, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), helperName)
	if _, err = f.Write(req.encode()); err == nil {
		_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals)
	}
	if err != nil {
		_ = f.Close() // nothing to lose
		return nil, err
	}
	return f, nil
}

// seals are what a request has and hardly anything else that a stranger might pass.
const seals = unix.F_SEAL_WRITE | unix.F_SEAL_GROW | unix.F_SEAL_SHRINK | unix.F_SEAL_SEAL

func (c *Cmd) execHelper(files []uintptr, order, report *os.File, procs int) (*Process, error) {
	var pidfd int
	files = withInherited(files)
	base := strconv.Itoa(len(files))
	var own [controlFiles]uintptr
	own[fileRequest], own[fileReport], own[fileProcs] = order.Fd(), report.Fd(), uintptr(procs)
	attr := syscall.ProcAttr{
		// For its own runtime: few threads, and no garbage collection.
		Env:   []string{"GOMAXPROCS=1", "GOGC=off"},
		Files: append(files, own[:]...),
		Sys:   c.sysProcAttr(&pidfd),
	}
	return startTracked("/proc/self/exe", []string{helperName, base}, &attr)
}

// withInherited adds the descriptors that this program passes on to whatever it
// executes (see [BecomeHelper]), so that the helper's own come behind them.
func withInherited(files []uintptr) []uintptr {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return files // without /proc the first few of them are lost
	}
	highest := -1
	kept := map[int]bool{}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil || fd < len(files) {
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			kept[fd] = true
			highest = max(highest, fd)
		}
	}
	for fd := len(files); fd <= highest; fd++ {
		if kept[fd] {
			files = append(files, uintptr(fd))
		} else {
			files = append(files, noFile)
		}
	}
	return files
}

// stage is how far the helper came, in its report, or the steps of a birth.
type stage uint32

const (
	stageRequest stage = iota + 1
	stageOOMScore
	stageJoin
	stageRlimit
	stageCredential
	stageDir
	stageReady // everything is done, exec comes next: not an error
	stageExec
)

// record is one report of the helper. A pipe takes it whole or not at all.
type record struct {
	Stage stage
	Errno uint32
	Index uint32 // of the resource limit
}

const recordSize = 12

func (r record) encode() (b [recordSize]byte) {
	binary.NativeEndian.PutUint32(b[0:], uint32(r.Stage))
	binary.NativeEndian.PutUint32(b[4:], r.Errno)
	binary.NativeEndian.PutUint32(b[8:], r.Index)
	return b
}

// readReport returns nil if the program runs.
func (c *Cmd) readReport(report []byte) error {
	ready := false
	for ; len(report) >= recordSize; report = report[recordSize:] {
		r := record{
			Stage: stage(binary.NativeEndian.Uint32(report[0:])),
			Errno: binary.NativeEndian.Uint32(report[4:]),
			Index: binary.NativeEndian.Uint32(report[8:]),
		}
		if r.Stage != stageReady {
			return c.explain(r)
		}
		ready = true
	}
	if !ready {
		return c.fail(CauseKilledBeforeExec, "", nil) // completed by lost
	}
	return nil
}

// explain makes an error of a record. Unlike after startDirect it is known what failed.
func (c *Cmd) explain(r record) error {
	err := unix.Errno(r.Errno)
	switch r.Stage {
	case stageOOMScore:
		return c.fail(CauseSetting, fmt.Sprintf("set oom_score_adj %d", *c.OOMScoreAdj), err)
	case stageRlimit:
		l := c.Rlimits[r.Index]
		return c.fail(CauseSetting, fmt.Sprintf("set resource limit %d to %d:%d", l.Resource, l.Soft, l.Hard), err)
	case stageJoin:
		if e := c.diagnoseLeaf(err); e != nil {
			return e
		}
		return c.fail(causeOf(err), "join cgroup "+c.Leaf.Path(), err)
	case stageCredential:
		return c.fail(CauseCredential, c.Credential.String(), err)
	case stageDir:
		if e := c.diagnoseDir(err); e != nil {
			return e
		}
		return c.fail(CauseBadDir, "enter directory "+c.Dir, err)
	case stageExec:
		if err == unix.EAGAIN {
			return c.fail(CauseForkLimit, c.user()+" has too many processes", err)
		}
		return c.diagnoseExec(err)
	case stageRequest, stageReady:
	}
	return c.fail(CauseHelper, "the helper did not understand", err)
}

// lost reaps the helper of a start that failed.
func (c *Cmd) lost(p *Process, err error) error {
	exit, waitErr := p.Wait(context.Background())
	_ = p.Close() // nothing to lose
	if e, ok := err.(*Error); ok && e.Cause == CauseKilledBeforeExec {
		e.Detail = "the helper ended before exec: " + exit.String()
		e.Err = waitErr
	}
	return err
}
