package spawn

import (
	"errors"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/internal/steps"
	"github.com/pitvisor/pitvisor/pidfd"
	"golang.org/x/sys/unix"
)

// Start starts a process inside its leaf. The caller reaps it ([Process.Reap],
// [Process.Wait]) and closes it. Files of c stay open and belong to the caller.
//
// It returns an [*Error]. Nothing is left of a start that failed, no zombie
// either; the leaf is the caller's to remove. When the kernel has no process to
// give (EAGAIN, [CauseForkLimit]) it is not tried again here: a caller that wants
// to waits first, as it would after any failed start.
//
// It refuses a frozen leaf, as the thread that starts a process there would hang
// until the leaf is thawed, and the Go runtime with it at its next stop. A leaf
// that somebody freezes at the same moment cannot be seen: whoever freezes a run
// keeps starts away from it.
func Start(c *Cmd) (*Process, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	if err := c.checkLeaf(); err != nil {
		return nil, err
	}
	files, null, err := c.files()
	if null >= 0 {
		defer func() { _ = unix.Close(null) }() // nothing was written
	}
	if err != nil {
		return nil, err
	}
	var p *Process
	if c.needsThread() {
		err = onThread(func() (err error) {
			if err = c.prepareThread(); err == nil {
				p, err = c.start(files)
			}
			return err
		})
	} else {
		p, err = c.start(files)
	}
	// The descriptors in files are bare numbers: their owners must live until here.
	runtime.KeepAlive(c)
	return p, err
}

// checkLeaf refuses a leaf that is frozen, or about to be: an empty cgroup below
// one that is being frozen counts as frozen at once.
func (c *Cmd) checkLeaf() error {
	if c.Thawed || c.Weak {
		return nil
	}
	events, err := c.Leaf.Events()
	switch {
	case errors.Is(err, cgroup.ErrGone):
		return c.fail(CauseCgroupGone, "cgroup "+c.Leaf.Path()+" is gone", unix.ENOENT)
	case errors.Is(err, unix.EBADF):
		return c.fail(CauseInvalid, "cgroup "+c.Leaf.Path()+" is not open", unix.EBADF)
	case err != nil:
		return c.fail(causeOf(err), "", err)
	case events.Frozen:
		return c.fail(CauseCgroupFrozen, "cgroup "+c.Leaf.Path()+" is frozen", unix.EBUSY)
	}
	return nil
}

// noFile is the descriptor of no file: Fd gives it, and StartProcess leaves such a
// one closed in the child.
const noFile = ^uintptr(0)

// files returns the descriptors that become 0, 1, 2 and so on, and the one of
// /dev/null if it was needed, else -1.
func (c *Cmd) files() (files []uintptr, null int, err error) {
	files = make([]uintptr, 3, 3+len(c.ExtraFiles)+controlFiles)
	null = -1
	for i, f := range [3]*os.File{c.Stdin, c.Stdout, c.Stderr} {
		if f != nil {
			files[i] = f.Fd()
			if files[i] == noFile {
				return nil, null, c.invalid("standard file " + f.Name() + " is closed")
			}
			continue
		}
		if null < 0 {
			null, err = openNull()
			if err != nil {
				return nil, null, c.fail(causeOf(err), "open "+os.DevNull, err)
			}
		}
		files[i] = uintptr(null)
	}
	for _, f := range c.ExtraFiles {
		fd := f.Fd()
		if fd == noFile && f != nil {
			return nil, null, c.invalid("extra file " + f.Name() + " is closed")
		}
		files = append(files, fd)
	}
	return files, null, nil
}

func openNull() (fd int, err error) {
	for {
		fd, err = unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// start starts the process by itself or with the helper.
func (c *Cmd) start(files []uintptr) (*Process, error) {
	switch {
	case c.ForceHelper:
		return c.startHelper(files)
	case c.Autokill && autokillKnown():
		return c.startAutokill(files)
	case c.needsSteps():
		return c.startSteps(files)
	}
	p, err := c.startDirect(files)
	if !c.Weak && refusesClone3(err) && Clone3Refused() {
		return c.startHelper(files)
	}
	if err != nil {
		return nil, c.diagnose(err)
	}
	return p, nil
}

// needsSteps says whether c has settings that only the child can make, and that
// syscall.StartProcess does not know.
func (c *Cmd) needsSteps() bool {
	return c.OwnPID != "" || len(c.Rlimits) > 0 || c.OOMScoreAdj != nil
}

// startDirect starts the process with clone3 into the leaf, or with clone. The error is the bare
// errno of whatever failed, in the kernel or in the child.
func (c *Cmd) startDirect(files []uintptr) (*Process, error) {
	var pidfd int
	sys := c.sysProcAttr(&pidfd)
	if !c.Weak {
		sys.UseCgroupFD = true
		sys.CgroupFD = c.Leaf.FD()
	}
	if c.Credential != nil {
		sys.Credential = &syscall.Credential{
			Uid: c.Credential.UID, Gid: c.Credential.GID, Groups: c.Credential.Groups,
		}
	}
	attr := syscall.ProcAttr{Dir: c.Dir, Env: c.Env, Files: files, Sys: sys}
	return startTracked(c.Path, c.args(), &attr)
}

// startTracked is syscall.StartProcess, known to [ReapOrphans].
func startTracked(path string, args []string, attr *syscall.ProcAttr) (*Process, error) {
	ticket := tracked.begin()
	pid, _, err := syscall.StartProcess(path, args, attr)
	if err != nil {
		// StartProcess has reaped the child by its number before it returned.
		tracked.end(ticket, nil)
		return nil, err
	}
	p := &Process{handle: pidfd.FromFD(*attr.Sys.PidFD, pid)}
	tracked.end(ticket, p)
	return p, nil
}

// Clone3Refused says whether clone3 into a cgroup is kept from us, by a sandbox or by a
// kernel before Linux 5.7, so that starts go through the helper. It asks for a cgroup that
// there cannot be, which never makes a process; the kernel itself answers with EBADF.
func Clone3Refused() bool {
	args := steps.CloneArgs{
		Flags:  unix.CLONE_INTO_CGROUP | unix.CLONE_VM, // else all page tables were copied first
		Cgroup: 1<<31 - 1,
	}
	_, _, errno := unix.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&args)), unsafe.Sizeof(args), 0)
	return refusesClone3(errno)
}

// refusesClone3 says whether an error of clone3, or one that may be, is such a refusal.
// A sandbox says the first two, an old kernel the others.
func refusesClone3(err error) bool {
	switch err {
	case unix.ENOSYS, unix.EPERM, unix.EINVAL, unix.E2BIG:
		return true
	}
	return false
}
