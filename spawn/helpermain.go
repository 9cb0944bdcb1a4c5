package spawn

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// HelperMain must be called first in main, and first in TestMain of tests that
// start something. In the helper that [Start] has made of this program it never
// returns. Else it does what [BecomeHelper] and [KeepInherited] do.
func HelperMain() {
	BecomeHelper()
	KeepInherited()
}

// BecomeHelper is HelperMain for a program that passes on to its children what it
// has inherited, as a wrapper of a command does.
//
// The helper knows itself by argv[0] and by an inherited file that nobody else has.
func BecomeHelper() {
	if len(os.Args) == 0 || os.Args[0] != helperName {
		helperReady.Store(true)
		return
	}
	// Credentials belong to the thread, and the one that executes decides.
	runtime.LockOSThread()
	if err := runHelper(os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v: this is started by pitvisor itself\n", helperName, err)
	}
	os.Exit(helperFailed)
}

// KeepInherited marks every descriptor above 2 close-on-exec, so that a process gets
// the files that it was meant to get and no others. It is for the begin of a program.
func KeepInherited() {
	if unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC) == nil {
		return
	}
	// Before Linux 5.11. Without /proc they go on to children.
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
}

// helperFailed is the exit code of a helper that could not become the program. It
// has said why in its report.
const helperFailed = 125

// runHelper returns only if this is no helper after all.
func runHelper(args []string) error {
	if len(args) != 1 {
		return errRequest
	}
	base, err := strconv.Atoi(args[0])
	if err != nil || base < 3 {
		return errRequest
	}
	if got, err := unix.FcntlInt(uintptr(base+fileRequest), unix.F_GET_SEALS, 0); err != nil || got&seals != seals {
		return errRequest
	}
	for fd := base; fd < base+controlFiles; fd++ {
		unix.CloseOnExec(fd)
	}
	h := helper{report: base + fileReport, procs: base + fileProcs}
	h.become(base + fileRequest)
	return nil
}

// helper is the process on its way to be the program.
type helper struct {
	report, procs int
	buf           [recordSize]byte
}

// become does not return if all goes well. From the resource limits on, it makes
// bare system calls with what was prepared: a limit may forbid the Go runtime to
// get memory or a thread, which would end it without a report.
func (h *helper) become(order int) {
	_ = os.WriteFile("/proc/self/comm", []byte(helperComm), 0) // no /proc: only the name is lost
	req, m, err := readRequest(order)
	if err != nil {
		h.fail(stageRequest, 0, err)
	}
	if req.OOMScoreAdj != nil {
		h.check(stageOOMScore, 0, setOOMScore(*req.OOMScoreAdj))
	}
	// The Go runtime has raised the soft limit of open files for itself, and gives
	// it back when it executes something. This cannot be executed.
	_ = syscall.Exec("", nil, nil)
	if !req.Weak {
		h.check(stageJoin, 0, h.join())
	}
	for i, l := range req.Rlimits {
		h.check(stageRlimit, i, setRlimit(l))
	}
	if req.Credential != nil {
		h.check(stageCredential, 0, req.Credential.assume())
	}
	if m.dir != nil {
		_, _, errno := unix.RawSyscall(unix.SYS_CHDIR, uintptr(unsafe.Pointer(m.dir)), 0, 0)
		h.check(stageDir, 0, asError(errno))
	}
	h.send(record{Stage: stageReady})
	_, _, errno := unix.RawSyscall(unix.SYS_EXECVE, uintptr(unsafe.Pointer(m.path)),
		uintptr(unsafe.Pointer(&m.argv[0])), uintptr(unsafe.Pointer(&m.env[0])))
	h.fail(stageExec, 0, errno)
}

func readRequest(fd int) (*request, image, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, image{}, err
	}
	data := make([]byte, st.Size)
	if n, err := unix.Pread(fd, data, 0); err != nil || n != len(data) {
		return nil, image{}, errors.Join(errRequest, err)
	}
	req, err := decode(data)
	if err != nil {
		return nil, image{}, err
	}
	m, err := req.image()
	return req, m, err
}

// join moves this process into the leaf and makes sure of it.
func (h *helper) join() error {
	if _, err := unix.Write(h.procs, []byte("0")); err != nil {
		return err
	}
	members := make([]byte, 4096) // a fresh leaf has one
	n, err := unix.Pread(h.procs, members, 0)
	if err != nil {
		return err
	}
	self := strconv.Itoa(os.Getpid())
	for line := range bytes.Lines(members[:n]) {
		if string(bytes.TrimSpace(line)) == self {
			return nil
		}
	}
	return unix.ESRCH
}

const oomScoreFile = "/proc/self/oom_score_adj"

func setOOMScore(n int) error {
	fd, err := unix.Open(oomScoreFile, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }() // the write tells all
	_, err = unix.Write(fd, []byte(strconv.Itoa(n)))
	return err
}

func setRlimit(l Rlimit) error {
	limit := unix.Rlimit{Cur: l.Soft, Max: l.Hard}
	_, _, errno := unix.RawSyscall6(unix.SYS_PRLIMIT64, 0, uintptr(l.Resource), uintptr(unsafe.Pointer(&limit)), 0, 0, 0)
	return asError(errno)
}

// assume changes the user of this thread, groups first: the right to do so goes
// with the user.
func (cr *Credential) assume() error {
	var groups *uint32
	if len(cr.Groups) > 0 {
		groups = &cr.Groups[0]
	}
	_, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(cr.Groups)), uintptr(unsafe.Pointer(groups)), 0)
	if errno == 0 {
		_, _, errno = unix.RawSyscall(unix.SYS_SETRESGID, uintptr(cr.GID), uintptr(cr.GID), uintptr(cr.GID))
	}
	if errno == 0 {
		_, _, errno = unix.RawSyscall(unix.SYS_SETRESUID, uintptr(cr.UID), uintptr(cr.UID), uintptr(cr.UID))
	}
	return asError(errno)
}

// asError keeps an Errno of 0 from becoming an error.
func asError(errno unix.Errno) error {
	if errno != 0 {
		return errno
	}
	return nil
}

func (h *helper) check(s stage, index int, err error) {
	if err != nil {
		h.fail(s, index, err)
	}
}

// fail reports what went wrong and exits.
func (h *helper) fail(s stage, index int, err error) {
	errno, ok := err.(unix.Errno)
	if !ok {
		errno = unix.EINVAL
	}
	h.send(record{Stage: s, Errno: uint32(errno), Index: uint32(index)})
	exitNow()
}

// send writes a record. Without a reader the caller is dead, and a program that it
// asked for is not wanted any more.
func (h *helper) send(r record) {
	h.buf = r.encode()
	n, _, _ := unix.RawSyscall(unix.SYS_WRITE, uintptr(h.report), uintptr(unsafe.Pointer(&h.buf[0])), recordSize)
	if n != recordSize {
		exitNow()
	}
}

// exitNow ends the process without a word to the Go runtime.
func exitNow() {
	for {
		unix.RawSyscall(unix.SYS_EXIT_GROUP, helperFailed, 0, 0)
	}
}
