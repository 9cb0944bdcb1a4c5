package vm

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// SystemTests says which tests are for a [System].
type SystemTests struct {
	TestSpec
	Cold  *regexp.Regexp // names of tests that boot a system for themselves and may reboot it; nil is none
	Files []string       // that the tests find in the directory $LINUXTEST_FILES
}

// SystemTests is [Cache.Tests] with one program for each test function, so that each
// has a system of its own.
func (c Cache) SystemTests(ctx context.Context, spec SystemTests) (*Payload, error) {
	dir, done, err := c.payload("tests")
	if err != nil {
		return nil, err
	}
	defer done()
	tree := filepath.Join(dir, "tree")
	spec.arch = "amd64"
	c.log("building test binaries")
	binaries, err := spec.Tree(ctx, tree, "/src")
	if err != nil {
		return nil, err
	}
	p := &Payload{}
	for _, binary := range binaries {
		tests, err := spec.split(ctx, tree, binary)
		if err != nil {
			return nil, err
		}
		p.Programs = append(p.Programs, tests...)
	}
	if len(p.Programs) == 0 {
		return nil, fmt.Errorf("no test in %q matches -test.run", spec.Packages)
	}
	const files = ".linuxtest/files"
	if err := os.MkdirAll(filepath.Join(tree, files), 0o755); err != nil {
		return nil, err
	}
	for _, f := range spec.Files {
		st, err := os.Stat(f) // copyFile lets pass what is not there
		if err != nil {
			return nil, err
		}
		if err := copyFile(f, filepath.Join(tree, files, filepath.Base(f)), st.Mode().Perm()); err != nil {
			return nil, err
		}
	}
	for i := range p.Programs {
		p.Programs[i].Env = append(slices.Clone(p.Programs[i].Env), "LINUXTEST_FILES=/src/"+files)
	}
	return p, p.seal(ctx, filepath.Dir(tree))
}

// split makes a program of each test that a binary names.
func (spec *SystemTests) split(ctx context.Context, tree string, binary Program) ([]Program, error) {
	pattern, args := ".", []string{}
	for _, arg := range binary.Args {
		if p, ok := strings.CutPrefix(strings.TrimLeft(arg, "-"), "test.run="); ok {
			pattern = p
		} else {
			args = append(args, arg)
		}
	}
	cmd := exec.CommandContext(ctx, filepath.Join(tree, strings.TrimPrefix(binary.Path, "/src/")), "-test.list="+pattern)
	cmd.Dir = filepath.Join(tree, strings.TrimPrefix(binary.Dir, "/src"))
	cmd.WaitDelay = time.Second
	names, err := output(cmd)
	if err != nil {
		return nil, err
	}
	var tests []Program
	for name := range strings.Lines(names) {
		name = strings.TrimSpace(name)
		if !strings.HasPrefix(name, "Test") {
			continue // an example, or what the command says of itself
		}
		p := binary
		p.Name += "." + name
		p.Args = append(slices.Clone(args), "-test.run=^"+name+"$")
		p.Cold = spec.Cold != nil && spec.Cold.MatchString(name)
		tests = append(tests, p)
	}
	return tests, nil
}

// KernelOf is the name of the kernel that comes with a suite, for [Cache.Kernel].
func KernelOf(suite string) string {
	for _, s := range sources() {
		if s.suite == suite {
			return s.name
		}
	}
	return "suite:" + suite
}

// median is the one in the middle, 0 of none.
func median(all []time.Duration) time.Duration {
	if len(all) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(all))
	return sorted[len(sorted)/2]
}
