package vm

import (
	"fmt"
	"io"
)

// archive writes a cpio archive in the form that the kernel unpacks as initramfs:
// Documentation/driver-api/early-userspace/buffer-format.rst.
type archive struct {
	w   io.Writer
	ino int
	err error // the first one; later calls do nothing
}

const (
	typeDir  = 0o040000
	typeFile = 0o100000
	typeChar = 0o020000
)

func (a *archive) dir(name string) { a.entry(name, typeDir|0o755, nil, 0, 0) }

func (a *archive) file(name string, mode int, data []byte) { a.entry(name, typeFile|mode, data, 0, 0) }

func (a *archive) device(name string, mode, major, minor int) {
	a.entry(name, typeChar|mode, nil, major, minor)
}

// end writes the entry that marks the end.
func (a *archive) end() error {
	a.ino = -1
	a.entry("TRAILER!!!", 0, nil, 0, 0)
	return a.err
}

func (a *archive) entry(name string, mode int, data []byte, major, minor int) {
	if a.err != nil {
		return
	}
	a.ino++
	// Magic, inode, mode, uid, gid, links, mtime, size, device, special device,
	// length of the name with its zero, no checksum.
	head := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		a.ino, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(name)+1, 0)
	for _, part := range [][]byte{pad(append([]byte(head+name), 0)), pad(data)} {
		if _, err := a.w.Write(part); err != nil {
			a.err = fmt.Errorf("write %s to the initramfs: %w", name, err)
			return
		}
	}
}

// pad fills up to a multiple of four bytes.
func pad(b []byte) []byte {
	if n := len(b) % 4; n != 0 {
		return append(b[:len(b):len(b)], make([]byte, 4-n)...)
	}
	return b
}
