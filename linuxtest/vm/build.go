package vm

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// Payload is a disk with programs, to be mounted at /src.
type Payload struct {
	Programs []Program
	image    *os.File // has no name
}

// Image is a path of the disk image, good as long as the payload is open and only
// in this process and its children.
func (p *Payload) Image() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), p.image.Fd()) }

// Close gives the disk up.
func (p *Payload) Close() error { return p.image.Close() }

// goPackage is what go list says.
type goPackage struct {
	ImportPath   string
	Dir          string
	TestGoFiles  []string
	XTestGoFiles []string
	Module       *struct{ Dir string }
}

// TestSpec says which tests to build. Packages must be set.
type TestSpec struct {
	Packages []string      // patterns for the go command in the working directory
	Programs []string      // the same, of programs that the tests ask linuxtest.Build for
	Args     []string      // of each test binary
	Limit    time.Duration // of each; 0 is ten minutes

	arch string // "" is this machine's
}

// built is where the guest finds the ready-made programs.
const built = ".linuxtest/built"

// Tests builds test binaries and puts them on a disk together with the files of
// their module, so that tests find what lies beside them: each runs in its
// package's directory. Packages without tests are left out.
func (c Cache) Tests(ctx context.Context, spec TestSpec) (*Payload, error) {
	dir, done, err := c.payload("tests")
	if err != nil {
		return nil, err
	}
	defer done()
	tree := filepath.Join(dir, "tree")
	spec.arch = "amd64"
	c.log("building test binaries")
	p := Payload{}
	if p.Programs, err = spec.Tree(ctx, tree, "/src"); err != nil {
		return nil, err
	}
	return &p, p.seal(ctx, filepath.Dir(tree))
}

// Tree is [Cache.Tests] for those who run the programs elsewhere than in a [Machine]:
// it fills the directory dir, which they will see at the given place.
func (spec TestSpec) Tree(ctx context.Context, dir, at string) ([]Program, error) {
	listed, err := listPackages(ctx, spec.Packages)
	if err != nil {
		return nil, err
	}
	packages := slices.DeleteFunc(listed, func(p goPackage) bool { return len(p.TestGoFiles)+len(p.XTestGoFiles) == 0 })
	if len(packages) == 0 {
		return nil, fmt.Errorf("no package with tests in %q", spec.Packages)
	}
	root := packages[0].Module.Dir
	if err := copyTree(root, dir); err != nil {
		return nil, err
	}
	all := spec.programs(packages, root, at)
	for i, p := range all {
		all[i].Path = filepath.Join(dir, strings.TrimPrefix(p.Path, at)) // where it is now
	}
	if err := spec.buildTests(ctx, packages, dir, all); err != nil {
		return nil, err
	}
	if err := spec.buildPrograms(ctx, root, dir, at); err != nil {
		return nil, err
	}
	return spec.programs(packages, root, at), nil
}

// programs says how the test binaries are run.
func (spec TestSpec) programs(packages []goPackage, root, at string) []Program {
	limit := Program{Limit: spec.Limit}.limit()
	var all []Program
	for i, pkg := range packages {
		p := Program{
			Name:  pkg.ImportPath,
			Path:  fmt.Sprintf("%s/.linuxtest/%d/%s.test", at, i, filepath.Base(pkg.ImportPath)),
			Dir:   filepath.Join(at, strings.TrimPrefix(pkg.Dir, root)),
			Args:  append([]string{"-test.v=test2json", "-test.paniconexit0", "-test.timeout=" + (limit - 5*time.Second).String()}, spec.Args...),
			Limit: limit,
		}
		if len(spec.Programs) > 0 {
			p.Env = []string{"LINUXTEST_BUILT=" + filepath.Join(at, built)}
		}
		all = append(all, p)
	}
	return all
}

// buildPrograms builds programs for linuxtest.Build, by the directory that they
// will have.
func (spec TestSpec) buildPrograms(ctx context.Context, root, tree, at string) error {
	if len(spec.Programs) == 0 {
		return nil
	}
	packages, err := listPackages(ctx, spec.Programs)
	if err != nil {
		return err
	}
	for _, pkg := range packages {
		to := filepath.Join(tree, built, at, strings.TrimPrefix(pkg.Dir, root), "program")
		cmd := exec.CommandContext(ctx, "go", "build", "-ldflags=-s -w", "-o", to, pkg.ImportPath)
		cmd.Env = append(os.Environ(), spec.goEnv()...)
		if _, err := output(cmd); err != nil {
			return err
		}
	}
	return nil
}

// goEnv is what the go command must know to build what runs anywhere.
func (spec TestSpec) goEnv() []string {
	return []string{"CGO_ENABLED=0", "GOOS=linux", "GOARCH=" + cmp.Or(spec.arch, runtime.GOARCH)}
}

// Program puts one program on a disk. Where it is a Go test binary that was asked
// for -test.v, its output is made one that can be counted.
func (c Cache) Program(ctx context.Context, path string, args []string, limit time.Duration) (*Payload, error) {
	if _, err := os.Stat(path); err != nil {
		return nil, err
	}
	dir, done, err := c.payload("program")
	if err != nil {
		return nil, err
	}
	defer done()
	tree := filepath.Join(dir, "tree")
	if err := os.MkdirAll(tree, 0o755); err != nil {
		return nil, err
	}
	name := filepath.Base(path)
	if err := copyFile(path, filepath.Join(tree, name), 0o755); err != nil {
		return nil, err
	}
	isTest := strings.HasSuffix(name, ".test")
	for i, arg := range args {
		if isTest && (arg == "-test.v" || arg == "-test.v=true") {
			args[i] = "-test.v=test2json"
		}
	}
	p := &Payload{Programs: []Program{{Name: name, Path: "/src/" + name, Args: args, Dir: "/src", Limit: limit}}}
	return p, p.seal(ctx, filepath.Dir(tree))
}

// seal makes the disk of dir/tree, opens it and removes all names.
func (p *Payload) seal(ctx context.Context, dir string) error {
	image := filepath.Join(dir, "image")
	if err := makeDisk(ctx, filepath.Join(dir, "tree"), image, 256<<20); err != nil {
		return err
	}
	var err error
	if p.image, err = os.Open(image); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

func listPackages(ctx context.Context, patterns []string) ([]goPackage, error) {
	out, err := output(exec.CommandContext(ctx, "go", append([]string{"list", "-json=ImportPath,Dir,TestGoFiles,XTestGoFiles,Module"}, patterns...)...))
	if err != nil {
		return nil, err
	}
	var found []goPackage
	for d := json.NewDecoder(strings.NewReader(out)); ; {
		var p goPackage
		err := d.Decode(&p)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("read what go list says: %w", err)
		}
		if p.Module != nil { // not of the standard library
			found = append(found, p)
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("no package of a module in %q", patterns)
	}
	return found, nil
}

// buildTests builds all binaries, in as few calls as their names allow: loading
// packages takes longer than linking.
func (spec TestSpec) buildTests(ctx context.Context, packages []goPackage, tree string, programs []Program) error {
	built := map[int]bool{}
	for len(built) < len(packages) {
		dir := filepath.Join(tree, ".linuxtest", "bin")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		batch := map[string]int{}
		argv := []string{"test", "-c", "-vet=off", "-ldflags=-s -w", "-o", dir + "/"}
		for i, pkg := range packages {
			base := filepath.Base(programs[i].Path)
			if _, taken := batch[base]; !taken && !built[i] {
				batch[base] = i
				argv = append(argv, pkg.ImportPath)
			}
		}
		cmd := exec.CommandContext(ctx, "go", argv...)
		cmd.Env = append(os.Environ(), spec.goEnv()...)
		if _, err := output(cmd); err != nil {
			return err
		}
		for base, i := range batch {
			if err := publish(filepath.Join(dir, base), programs[i].Path); err != nil {
				return err
			}
			built[i] = true
		}
	}
	return nil
}

// mostCopied is the largest file that is taken along: larger ones are what was
// built, not what is tested with.
const mostCopied = 4 << 20

// copyTree copies a module without hidden directories and large files.
func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // an editor's file
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		st, err := e.Info()
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case e.IsDir() && rel != "." && strings.HasPrefix(e.Name(), "."):
			return filepath.SkipDir
		case e.IsDir():
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		case e.Type()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			return os.Symlink(target, filepath.Join(to, rel))
		case e.Type().IsRegular() && st.Size() <= mostCopied:
			return copyFile(path, filepath.Join(to, rel), st.Mode().Perm())
		}
		return nil
	})
}

func copyFile(from, to string, mode fs.FileMode) error {
	r, err := os.Open(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // an editor's file
	}
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }() // read-only; nothing to lose
	w, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, r)
	return errors.Join(err, w.Close())
}
