package pidfd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Identity names one process for ever: it can be stored, and opened again by
// another program, and never means a second process, whatever happens to the PID.
// Identities are comparable.
type Identity struct {
	Boot  string `json:"boot"`            // the kernel's boot ID
	Inode uint64 `json:"inode,omitempty"` // of the pidfd; never used twice in a boot. 0 before Linux 6.9
	PID   int    `json:"pid"`
	Start uint64 `json:"start,omitempty"` // start time in clock ticks since boot; 0 where Inode is known
}

// Identity returns the identity of the process. It is worth the most on Linux 6.9
// and later. Before, it is PID and start time, and a process that got the same
// PID within the same hundredth of a second would be taken for it.
func (p *Process) Identity() (Identity, error) {
	id, err := p.identity()
	if err != nil {
		return Identity{}, fmt.Errorf("identify process %d: %w", p.pid, err)
	}
	return id, nil
}

func (p *Process) identity() (Identity, error) {
	inode, err := p.inode()
	if errors.Is(err, ErrNotSupported) {
		return p.identityByStart()
	}
	if err != nil {
		return Identity{}, err
	}
	boot, err := BootID()
	return Identity{Boot: boot, Inode: inode, PID: p.pid}, err
}

// identityByStart works wherever there are pidfds.
func (p *Process) identityByStart() (Identity, error) {
	start, err := p.start()
	if err != nil {
		return Identity{}, err
	}
	boot, err := BootID()
	return Identity{Boot: boot, PID: p.pid, Start: start}, err
}

// String returns pid:inode, or pid:start where there is no inode. It is for printing.
func (id Identity) String() string {
	mark := id.Inode
	if mark == 0 {
		mark = id.Start
	}
	return fmt.Sprintf("%d:%d", id.PID, mark)
}

// Open returns the very process that the identity names, also as a zombie; it
// fails with [ErrGone] when that one was reaped, whoever has its PID now. The
// caller needs no privilege, but must see the process in its PID namespace.
func (id Identity) Open() (*Process, error) {
	p, err := id.open()
	if err != nil {
		return nil, fmt.Errorf("open process %s: %w", id, err)
	}
	return p, nil
}

// Alive says whether the process still runs. A zombie is dead.
func (id Identity) Alive() (bool, error) {
	p, err := id.Open()
	if errors.Is(err, ErrGone) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer func() { _ = p.Close() }() // read-only; nothing to lose
	exited, err := p.Exited()
	return err == nil && !exited, err
}

func (id Identity) open() (*Process, error) {
	boot, err := BootID()
	if err != nil {
		return nil, err
	}
	switch {
	case id.Boot != boot:
		return nil, ErrGone
	case id.Inode == 0:
		return id.openByStart()
	}
	p, err := id.openByHandle()
	if errors.Is(err, ErrNotSupported) {
		return id.openByInode()
	}
	return p, err
}

// openByHandle asks pidfs for the inode. The PID plays no part. Linux 6.14.
func (id Identity) openByHandle() (*Process, error) {
	fd, err := openHandle(unix.FD_PIDFS_ROOT, id.Inode)
	if errors.Is(err, unix.EBADF) { // before 6.17 an open pidfd has to stand for the file system
		var self *Process
		if self, err = Self(); err != nil {
			return nil, err
		}
		defer func() { _ = self.Close() }() // read-only; nothing to lose
		fd, err = openHandle(self.fd, id.Inode)
	}
	switch {
	case errors.Is(err, unix.ESTALE) && handlesWork():
		return nil, ErrGone
	case err != nil: // no such handles, or a sandbox forbids them: there are other ways
		return nil, fmt.Errorf("open_by_handle_at: %w: %w", err, ErrNotSupported)
	}
	p := FromFD(fd, id.PID)
	return id.verify(p, func() (bool, error) {
		inode, err := p.inode()
		return inode == id.Inode, err
	})
}

// handlesWork says whether pidfs opens handles at all. From 6.9 to 6.13 it calls
// every handle stale, also those of the living, such as the calling process.
func handlesWork() bool {
	self, err := Self()
	if err != nil {
		return false
	}
	defer func() { _ = self.Close() }() // read-only; nothing to lose
	inode, err := self.inode()
	if err != nil {
		return false
	}
	fd, err := openHandle(self.fd, inode)
	if err != nil {
		return false
	}
	_ = unix.Close(fd) // nothing to lose
	return true
}

// openByInode opens by PID and compares the inode. Linux 6.9.
func (id Identity) openByInode() (*Process, error) {
	p, err := Open(id.PID)
	if err != nil {
		return nil, err
	}
	return id.verify(p, func() (bool, error) {
		inode, err := p.inode()
		return inode == id.Inode, err
	})
}

// openByStart opens by PID and compares the start time. Linux 5.3.
func (id Identity) openByStart() (*Process, error) {
	p, err := Open(id.PID)
	if err != nil {
		return nil, err
	}
	return id.verify(p, func() (bool, error) {
		start, err := p.start()
		return start == id.Start, err
	})
}

// verify returns p if it is the one, and closes it otherwise.
func (id Identity) verify(p *Process, same func() (bool, error)) (*Process, error) {
	ok, err := same()
	if err == nil && ok {
		return p, nil
	}
	_ = p.Close() // nothing to lose
	if err == nil {
		err = ErrGone
	}
	return nil, err
}

// pidfsMagic is PIDFS_SUPER_MAGIC of linux/magic.h.
const pidfsMagic = 0x50494446

// inode returns the number of the pidfd's inode, if it is unique: before
// Linux 6.9 all pidfds share one.
func (p *Process) inode() (uint64, error) {
	var fs unix.Statfs_t
	var st unix.Stat_t
	err := p.use(func(fd int) error {
		if err := ignoringEINTR(func() error { return unix.Fstatfs(fd, &fs) }); err != nil {
			return err
		}
		if fs.Type != pidfsMagic {
			return ErrNotSupported
		}
		return unix.Fstat(fd, &st)
	})
	return st.Ino, err
}

// start returns the start time of the process.
func (p *Process) start() (uint64, error) {
	stat, err := p.readProc("stat")
	if err != nil {
		return 0, err
	}
	return startTime(stat)
}

// handleType is the type of pidfs file handles: FILEID_KERNFS.
const handleType = 0xfe

// openHandle opens the pidfs file with this inode number. mount is any
// descriptor of pidfs.
func openHandle(mount int, inode uint64) (fd int, err error) {
	handle := unix.NewFileHandle(handleType, binary.NativeEndian.AppendUint64(nil, inode))
	err = ignoringEINTR(func() (err error) {
		fd, err = unix.OpenByHandleAt(mount, handle, unix.O_CLOEXEC)
		return err
	})
	return fd, err
}

// BootID returns the ID that the kernel made up at boot.
func BootID() (string, error) { return bootID() }

// bootID reads it once: it is the same as long as this process lives.
var bootID = sync.OnceValues(func() (string, error) {
	// os.ReadFile would start the runtime's poller for this.
	fd, err := openBootID()
	if err != nil {
		return "", fmt.Errorf("read the boot ID: %w", err)
	}
	defer func() { _ = unix.Close(fd) }() // was only read
	var buf [64]byte
	var n int
	err = ignoringEINTR(func() (err error) {
		n, err = unix.Read(fd, buf[:])
		return err
	})
	if err != nil {
		return "", fmt.Errorf("read the boot ID: %w", err)
	}
	return string(bytes.TrimSpace(buf[:n])), nil
})

func openBootID() (fd int, err error) {
	const path = "/proc/sys/kernel/random/boot_id"
	err = ignoringEINTR(func() (err error) {
		fd, err = unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return fd, nil
}
