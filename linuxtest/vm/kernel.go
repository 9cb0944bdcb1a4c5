package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Kernel is one of Debian's kernels, ready to be booted.
type Kernel struct {
	Name    string   // as asked for: "6.12", "newest"
	Suite   string   // where it is from
	Package string   // and in which package
	Version string   // of the package
	Release string   // what uname says
	Image   string   // uncompressed
	Modules []string // files, each after those it depends on
}

// source says which suite has a kernel of a name.
type source struct{ name, suite string }

// sources are the kernels that can be asked for by name, oldest first.
func sources() []source {
	return []source{
		{"5.10", "bullseye"},
		{"6.1", "bookworm"},
		{"6.12", "trixie"},
		{"newest", "trixie-backports"},
	}
}

// Names are the kernels that [Cache.Kernel] knows by name, oldest first. Besides
// them "suite:NAME" is the kernel of any Debian suite.
func Names() []string {
	var names []string
	for _, s := range sources() {
		names = append(names, s.name)
	}
	return names
}

// Known says what is wrong with the name of a kernel.
func Known(name string) error {
	_, err := suiteOf(name)
	return err
}

// suiteOf finds the suite for a name.
func suiteOf(name string) (string, error) {
	if suite, ok := strings.CutPrefix(name, "suite:"); ok && regexp.MustCompile(`^[a-z-]+$`).MatchString(suite) {
		return suite, nil
	}
	i := slices.IndexFunc(sources(), func(s source) bool { return s.name == name })
	if i < 0 {
		return "", fmt.Errorf("no kernel %q: there are %s and suite:NAME", name, strings.Join(Names(), ", "))
	}
	return sources()[i].suite, nil
}

// wanted are the modules that the guest needs or that tests ask for: disks and
// the console, FUSE, overlayfs, the diagnosis of sockets. What a kernel has built
// in, or not at all, is left out.
func wanted() []string {
	return []string{
		"virtio_pci", "virtio_blk", "virtio_console",
		"fuse", "overlay", "loop", "inet_diag", "tcp_diag", "udp_diag", "unix_diag", "veth", "dummy",
	}
}

// Kernel finds the newest kernel of a name, downloads it and makes it bootable.
// With a young cache it uses neither network nor apt.
func (c Cache) Kernel(ctx context.Context, name string) (*Kernel, error) {
	suite, err := suiteOf(name)
	if err != nil {
		return nil, err
	}
	dir, err := c.dir()
	if err != nil {
		return nil, err
	}
	record := filepath.Join(dir, "kernel-"+suite+".json")
	k := &Kernel{}
	err = c.once(dir, func() bool { return c.load(record, k) && exists(k.Image) }, func() error {
		if k, err = c.makeKernel(ctx, dir, name, suite); err != nil {
			return fmt.Errorf("prepare the kernel %s: %w", name, err)
		}
		return save(record, k)
	})
	if err != nil {
		return nil, err
	}
	k.Name = name
	return k, nil
}

func (c Cache) makeKernel(ctx context.Context, dir, name, suite string) (*Kernel, error) {
	c.log("kernel %s: looking in %s", name, suite)
	apt, err := openSuite(ctx, filepath.Join(dir, "apt", suite), suite)
	if err != nil {
		return nil, err
	}
	packages, err := kernelPackages(ctx, apt)
	if err != nil {
		return nil, err
	}
	k := &Kernel{Name: name, Suite: suite, Package: packages[0]}
	if k.Version, err = apt.version(ctx, k.Package); err != nil {
		return nil, err
	}
	k.Release = strings.TrimPrefix(k.Package, "linux-image-")
	home := filepath.Join(dir, "kernel", k.Package+"_"+k.Version)
	if exists(home) {
		return k, k.find(home)
	}
	c.log("kernel %s: downloading %s %s", name, k.Package, k.Version)
	tmp := filepath.Join(dir, "tmp", "kernel")
	tree, made := filepath.Join(tmp, "tree"), filepath.Join(tmp, "made")
	if err := os.MkdirAll(made, 0o755); err != nil {
		return nil, err
	}
	if err := apt.unpack(ctx, tree, packages...); err != nil {
		return nil, err
	}
	if err := buildKernel(ctx, tree, made, k.Release); err != nil {
		return nil, err
	}
	if err := publish(made, home); err != nil {
		return nil, err
	}
	return k, errors.Join(k.find(home), os.RemoveAll(tmp))
}

// kernelPackages names the package with the kernel, and those with the rest of it
// where Debian splits them.
func kernelPackages(ctx context.Context, apt *suite) ([]string, error) {
	deps, err := apt.depends(ctx, "linux-image-cloud-amd64")
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(deps, func(d string) bool { return regexp.MustCompile(`^linux-image-\d`).MatchString(d) })
	if i < 0 {
		return nil, fmt.Errorf("linux-image-cloud-amd64 of %s depends on no kernel but on %q", apt.name, deps)
	}
	packages := []string{deps[i]}
	release := strings.TrimPrefix(deps[i], "linux-image-")
	if deps, err = apt.depends(ctx, deps[i]); err != nil {
		return nil, err
	}
	for _, d := range deps {
		if d == "linux-binary-"+release || d == "linux-modules-"+release {
			packages = append(packages, d)
		}
	}
	return packages, nil
}

// find fills in the files of a kernel that buildKernel made.
func (k *Kernel) find(home string) error {
	k.Image = filepath.Join(home, "vmlinux")
	order, err := os.ReadFile(filepath.Join(home, "modules.order"))
	if err != nil {
		return err
	}
	k.Modules = nil
	for name := range strings.FieldsSeq(string(order)) {
		k.Modules = append(k.Modules, filepath.Join(home, name))
	}
	return nil
}
