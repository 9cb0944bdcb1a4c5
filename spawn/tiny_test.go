package spawn

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"runtime"
)

// elfHeader is the beginning of a static program of one segment whose code follows.
func elfHeader() string {
	const base, size = 0x400000, 64 + 56
	machine := elf.EM_X86_64
	if runtime.GOARCH == "arm64" {
		machine = elf.EM_AARCH64
	}
	header := elf.Header64{
		Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_EXEC), Machine: uint16(machine), Version: uint32(elf.EV_CURRENT),
		Entry: base + size, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1,
	}
	segment := elf.Prog64{
		Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Vaddr: base, Paddr: base,
		Filesz: size + 64, Memsz: size + 64, Align: 4096,
	}
	var b bytes.Buffer
	_ = binary.Write(&b, binary.LittleEndian, header) // a Buffer takes everything
	_ = binary.Write(&b, binary.LittleEndian, segment)
	return b.String()
}
