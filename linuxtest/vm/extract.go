package vm

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// buildKernel takes from an unpacked kernel package what is needed to boot it: the
// uncompressed kernel, which QEMU starts a second faster, and modules.
func buildKernel(ctx context.Context, tree, made, release string) error {
	images, err := findFiles(tree, func(name string) bool { return strings.HasPrefix(name, "vmlinuz") })
	if err != nil {
		return err
	}
	if len(images) != 1 {
		return fmt.Errorf("the packages hold %d kernels, want 1", len(images))
	}
	packed, err := os.ReadFile(images[0])
	if err != nil {
		return err
	}
	image, err := extractKernel(ctx, packed)
	if err != nil {
		return fmt.Errorf("extract %s: %w", filepath.Base(images[0]), err)
	}
	if err := os.WriteFile(filepath.Join(made, "vmlinux"), image, 0o644); err != nil {
		return err
	}
	files, err := findFiles(tree, func(name string) bool { return strings.Contains(name, ".ko") })
	if err != nil {
		return err
	}
	m := modules{files: map[string]string{}, made: made}
	for _, f := range files {
		m.files[moduleName(f)] = f
	}
	for _, name := range wanted() {
		if err := m.add(ctx, name); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(made, "modules.order"), []byte(strings.Join(m.order, "\n")+"\n"), 0o644)
}

func findFiles(tree string, want func(name string) bool) ([]string, error) {
	var found []string
	err := filepath.WalkDir(tree, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() && want(e.Name()) {
			found = append(found, path)
		}
		return err
	})
	return found, err
}

// moduleName is the name by which a module is known to others: they spell dashes
// as underscores.
func moduleName(file string) string {
	name, _, _ := strings.Cut(filepath.Base(file), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// modules collects modules in the order in which they must be loaded.
type modules struct {
	files map[string]string // of the package, by the module's name
	made  string
	order []string
}

// add adds a module after those it depends on. One that the package does not have
// is built in, or nothing that this kernel knows.
func (m *modules) add(ctx context.Context, name string) error {
	file, ok := m.files[name]
	if !ok || slices.Contains(m.order, name+".ko") {
		return nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if strings.HasSuffix(file, ".ko.xz") || strings.HasSuffix(file, ".ko.zst") {
		if data, err = decompress(ctx, data); err != nil {
			return fmt.Errorf("module %s: %w", name, err)
		}
	}
	deps, err := dependencies(data)
	if err != nil {
		return fmt.Errorf("module %s: %w", name, err)
	}
	for _, dep := range deps {
		if err := m.add(ctx, strings.ReplaceAll(dep, "-", "_")); err != nil {
			return err
		}
	}
	m.order = append(m.order, name+".ko")
	return os.WriteFile(filepath.Join(m.made, name+".ko"), data, 0o644)
}

// dependencies reads the names of modules that a module says it needs.
func dependencies(module []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(module))
	if err != nil {
		return nil, err
	}
	section := f.Section(".modinfo")
	if section == nil {
		return nil, errors.New("no .modinfo")
	}
	info, err := section.Data()
	if err != nil {
		return nil, err
	}
	for line := range bytes.SplitSeq(info, []byte{0}) {
		if list, ok := bytes.CutPrefix(line, []byte("depends=")); ok && len(list) > 0 {
			return strings.Split(string(list), ","), nil
		}
	}
	return nil, nil
}

// extractKernel takes the kernel's ELF image out of a bzImage. The header says
// where it lies: Documentation/arch/x86/boot.rst.
func extractKernel(ctx context.Context, image []byte) ([]byte, error) {
	if len(image) < 0x250 || string(image[0x202:0x206]) != "HdrS" {
		return nil, errors.New("not a bzImage")
	}
	sectors := int(image[0x1f1])
	if sectors == 0 {
		sectors = 4
	}
	start := (sectors+1)*512 + int(binary.LittleEndian.Uint32(image[0x248:]))
	end := start + int(binary.LittleEndian.Uint32(image[0x24c:]))
	if start < 0 || end > len(image) || end-start < 8 {
		return nil, fmt.Errorf("payload at %d to %d of %d bytes", start, end, len(image))
	}
	// The last four bytes are its size when unpacked.
	size := int(binary.LittleEndian.Uint32(image[end-4:]))
	kernel, err := decompress(ctx, image[start:end-4])
	if err != nil {
		return nil, err
	}
	if len(kernel) != size || !bytes.HasPrefix(kernel, []byte(elf.ELFMAG)) {
		return nil, fmt.Errorf("got %d bytes starting with %q, want %d of ELF", len(kernel), kernel[:min(4, len(kernel))], size)
	}
	return kernel, nil
}

// decompress unpacks by the program that the first bytes ask for.
func decompress(ctx context.Context, data []byte) ([]byte, error) {
	for magic, program := range map[string]string{
		"\x02\x21\x4c\x18": "lz4", "\x28\xb5\x2f\xfd": "zstd", "\xfd7zXZ": "xz", "\x1f\x8b": "gzip",
	} {
		if bytes.HasPrefix(data, []byte(magic)) {
			cmd := exec.CommandContext(ctx, program, "-dc")
			cmd.Stdin = bytes.NewReader(data)
			out, err := output(cmd)
			return []byte(out), err
		}
	}
	return nil, fmt.Errorf("compressed in an unknown way: % x", data[:min(8, len(data))])
}
