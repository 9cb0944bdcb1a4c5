package spawn

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// interpreterFault says what is wrong with the interpreter of a script or the
// loader of a program, or with the interpreter's own, and "" if nothing is.
func (c *Cmd) interpreterFault(path string) string {
	const deepest = 5 // as many as the kernel follows
	for range deepest {
		next, err := interpreter(path)
		if err != nil || next == "" {
			return ""
		}
		where := c.absolute(next)
		info, err := os.Stat(where)
		switch {
		case err != nil:
			return fmt.Sprintf("interpreter %s, named in %s, does not exist", printable(next), path)
		case info.IsDir() || info.Mode()&0o111 == 0:
			return fmt.Sprintf("interpreter %s, named in %s, is not executable", printable(next), path)
		}
		path = where
	}
	return fmt.Sprintf("interpreter %s is a script, and so is its interpreter, and so on", path)
}

// printable shows a carriage return, which an editor of another system left at the
// end of the line, and which no terminal would show.
func printable(name string) string {
	if strings.ContainsFunc(name, func(r rune) bool { return r < ' ' }) {
		return fmt.Sprintf("%q", name)
	}
	return name
}

// interpreter returns what a file names in its #! line or its ELF header, or "".
func interpreter(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }() // read-only; nothing to lose
	head := make([]byte, 256)        // what the kernel looks at
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return "", err
	}
	head = head[:n]
	if line, ok := bytes.CutPrefix(head, []byte("#!")); ok {
		line, _, _ = bytes.Cut(line, []byte("\n"))
		line = bytes.TrimLeft(line, " \t")
		if end := bytes.IndexAny(line, " \t\x00"); end >= 0 {
			line = line[:end]
		}
		return string(line), nil
	}
	return elfInterpreter(f, head)
}

// elfInterpreter returns the loader that a dynamic program asks for. It reads the
// headers by hand: package debug/elf brings in DWARF and decompression.
func elfInterpreter(f io.ReaderAt, head []byte) (string, error) {
	if len(head) < 64 || !bytes.HasPrefix(head, []byte("\x7fELF")) {
		return "", nil
	}
	var order binary.ByteOrder = binary.LittleEndian
	if head[5] == 2 {
		order = binary.BigEndian
	}
	long := head[4] == 2 // a program of 64 bits
	table, entry, count := int64(order.Uint32(head[28:])), order.Uint16(head[42:]), order.Uint16(head[44:])
	if long {
		table, entry, count = int64(order.Uint64(head[32:])), order.Uint16(head[54:]), order.Uint16(head[56:])
	}
	if entry < 56 && long || entry < 32 {
		return "", nil
	}
	h := make([]byte, entry)
	for i := range int64(count) {
		if _, err := f.ReadAt(h, table+i*int64(entry)); err != nil {
			return "", err
		}
		const interp = 3 // PT_INTERP
		if order.Uint32(h) != interp {
			continue
		}
		offset, size := int64(order.Uint32(h[4:])), uint64(order.Uint32(h[16:]))
		if long {
			offset, size = int64(order.Uint64(h[8:])), order.Uint64(h[32:])
		}
		const longest = 4096 // PATH_MAX
		name := make([]byte, min(size, longest))
		if _, err := f.ReadAt(name, offset); err != nil {
			return "", err
		}
		name, _, _ = bytes.Cut(name, []byte{0})
		return string(name), nil
	}
	return "", nil
}
