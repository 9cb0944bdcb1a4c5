package vm

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// Tree is a directory with the root file system of a small Debian.
type Tree struct {
	Dir      string
	Suite    string
	Packages []string // with versions
}

// Version is that of one of its packages, "" if it has none of that name.
func (t *Tree) Version(name string) string {
	for _, p := range t.Packages {
		if version, ok := strings.CutPrefix(p, name+"="); ok {
			return version
		}
	}
	return ""
}

// treeScript is what a tree has beside rootScript, so that users can be made and
// packages installed in it.
const treeScript = `var/lib/dpkg/info
var/lib/dpkg/updates
var/lib/dpkg/triggers
var/lib/dpkg/status = \n
var/lib/dpkg/available = \n
etc/shadow = root:*:20000:0:99999:7:::\n
etc/gshadow = root:*::\n
`

// Tree makes a directory with [base packages] and more of a suite, such as "trixie",
// with all that they depend on. Like [Cache.Root] it is unpacked and not installed.
// Only root can make one, because its files belong to root. It stays in the cache and
// is not to be changed: lay an overlay over it, as linuxtest.UserManager does.
func (c Cache) Tree(ctx context.Context, suite string, packages ...string) (*Tree, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("the files of a root file system belong to root: run this as root")
	}
	dir, err := c.dir()
	if err != nil {
		return nil, err
	}
	packages = append(append(base(), "base-passwd", "diffutils", "dpkg", "gzip", "tar"), packages...)
	slices.Sort(packages)
	packages = slices.Compact(packages)
	record := filepath.Join(dir, "tree-"+treeKey(suite, packages)+".json")
	t := &Tree{}
	err = c.once(dir, func() bool { return c.load(record, t) && exists(t.Dir) }, func() error {
		if t, err = c.makeTree(ctx, dir, suite, packages); err != nil {
			return fmt.Errorf("prepare the root file system of %s: %w", suite, err)
		}
		return save(record, t)
	})
	return t, err
}

func treeKey(suite string, packages []string) string {
	return fmt.Sprintf("%x", sha256.Sum256([]byte("2"+suite+rootScript+treeScript+strings.Join(packages, " "))))[:12]
}

func (c Cache) makeTree(ctx context.Context, dir, suite string, packages []string) (*Tree, error) {
	c.log("tree: looking in %s", suite)
	apt, err := openSuite(ctx, filepath.Join(dir, "apt", suite), suite)
	if err != nil {
		return nil, err
	}
	all, err := apt.resolve(ctx, packages...)
	if err != nil {
		return nil, err
	}
	t := &Tree{Dir: filepath.Join(dir, "tree", suite+"-"+treeKey(suite, all)), Suite: suite, Packages: all}
	if exists(t.Dir) {
		return t, nil
	}
	c.log("tree: downloading %d packages", len(all))
	tree := filepath.Join(dir, "tmp", "tree")
	if err := errors.Join(furnish(tree, rootScript), furnish(tree, treeScript)); err != nil {
		return nil, err
	}
	if err := apt.unpack(ctx, tree, all...); err != nil {
		return nil, err
	}
	if err := finishTree(ctx, tree); err != nil {
		return nil, err
	}
	return t, publish(tree, t.Dir)
}

// finishTree does what the installation of base-passwd and usrmerge would, and removes
// what nobody reads.
func finishTree(ctx context.Context, tree string) error {
	for _, name := range []string{"passwd", "group"} {
		text, err := os.ReadFile(filepath.Join(tree, "usr/share/base-passwd", name+".master"))
		if err == nil {
			err = os.WriteFile(filepath.Join(tree, "etc", name), text, 0o644)
		}
		if err != nil {
			return err
		}
	}
	// Packages before trixie have files in /bin and replace the link by a directory.
	for _, name := range []string{"bin", "sbin", "lib", "lib64"} {
		old := filepath.Join(tree, name)
		if st, err := os.Lstat(old); err != nil || st.Mode()&os.ModeSymlink != 0 {
			if err != nil {
				return err
			}
			continue
		}
		merged := filepath.Join(tree, "usr", name)
		if _, err := output(exec.CommandContext(ctx, "cp", "-a", "--remove-destination", old+"/.", merged)); err != nil {
			return err
		}
		if err := errors.Join(os.RemoveAll(old), os.Symlink("usr/"+name, old)); err != nil {
			return err
		}
	}
	return trim(tree)
}
