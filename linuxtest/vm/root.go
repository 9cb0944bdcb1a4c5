package vm

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// rootSuite is the Debian whose programs the guest's tests run, on any kernel.
const rootSuite = "trixie"

// Root is a disk image with a small Debian.
type Root struct {
	Image    string
	Packages []string // with versions
}

// base are the packages that every root has.
func base() []string {
	return []string{"dash", "coreutils", "findutils", "grep", "libc-bin", "mawk", "mount", "procps", "sed", "util-linux"}
}

// Root makes a root file system of [base packages] and more, with all that they
// depend on. They are unpacked, not installed: no maintainer's script runs, which
// takes seconds instead of a minute and is enough for programs.
func (c Cache) Root(ctx context.Context, packages ...string) (*Root, error) {
	dir, err := c.dir()
	if err != nil {
		return nil, err
	}
	packages = append(base(), packages...)
	slices.Sort(packages)
	packages = slices.Compact(packages)
	key := fmt.Sprintf("%x", sha256.Sum256([]byte(rootSuite+rootScript+strings.Join(packages, " "))))[:12]
	record := filepath.Join(dir, "root-"+key+".json")
	r := &Root{}
	err = c.once(dir, func() bool { return c.load(record, r) && exists(r.Image) }, func() error {
		if r, err = c.makeRoot(ctx, dir, packages); err != nil {
			return fmt.Errorf("prepare the root file system: %w", err)
		}
		return save(record, r)
	})
	return r, err
}

func (c Cache) makeRoot(ctx context.Context, dir string, packages []string) (*Root, error) {
	c.log("root: looking in %s", rootSuite)
	apt, err := openSuite(ctx, filepath.Join(dir, "apt", rootSuite), rootSuite)
	if err != nil {
		return nil, err
	}
	all, err := apt.resolve(ctx, packages...)
	if err != nil {
		return nil, err
	}
	key := fmt.Sprintf("%x", sha256.Sum256([]byte(rootScript+strings.Join(all, " "))))[:12]
	r := &Root{Image: filepath.Join(dir, "root", rootSuite+"-"+key+".ext4"), Packages: all}
	if exists(r.Image) {
		return r, nil
	}
	c.log("root: downloading %d packages", len(all))
	tmp := filepath.Join(dir, "tmp", "root")
	tree, image := filepath.Join(tmp, "tree"), filepath.Join(tmp, "image")
	if err := furnish(tree, rootScript); err != nil {
		return nil, err
	}
	if err := apt.unpack(ctx, tree, all...); err != nil {
		return nil, err
	}
	if err := trim(tree); err != nil {
		return nil, err
	}
	if err := makeDisk(ctx, tree, image, 64<<20); err != nil {
		return nil, err
	}
	if err := publish(image, r.Image); err != nil {
		return nil, err
	}
	return r, os.RemoveAll(tmp)
}

// rootScript are the directories, links and files that maintainers' scripts would
// make: a path alone is a directory, "path -> target" a link, else a file.
const rootScript = `usr/bin
usr/sbin
usr/lib
usr/lib64
bin -> usr/bin
sbin -> usr/sbin
lib -> usr/lib
lib64 -> usr/lib64
usr/bin/awk -> mawk
dev
home
media
mnt
opt
proc
srv
sys
run
src
scratch
tmp
root
etc
var/tmp
var/lib
var/log
var/run -> ../run
etc/mtab -> ../proc/self/mounts
etc/passwd = root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n
etc/group = root:x:0:\ndaemon:x:1:\ntty:x:5:\nnogroup:x:65534:\n
etc/hosts = 127.0.0.1 localhost vm\n::1 localhost\n
etc/hostname = vm\n
etc/nsswitch.conf = passwd: files\ngroup: files\nhosts: files dns\n
etc/machine-id = 70697476697372766d746573746c616e\n
`

// furnish makes what a script says, below tree.
func furnish(tree, script string) error {
	for line := range strings.Lines(script) {
		line = strings.TrimSpace(line)
		if name, target, ok := strings.Cut(line, " -> "); ok {
			if err := os.Symlink(target, filepath.Join(tree, name)); err != nil {
				return err
			}
			continue
		}
		if name, text, ok := strings.Cut(line, " = "); ok {
			if err := os.WriteFile(filepath.Join(tree, name), []byte(strings.ReplaceAll(text, `\n`, "\n")), 0o644); err != nil {
				return err
			}
			continue
		}
		if err := os.MkdirAll(filepath.Join(tree, line), 0o755); err != nil {
			return err
		}
	}
	return nil
}

// trim removes what nobody reads in there.
func trim(tree string) error {
	for _, name := range []string{"usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "usr/share/lintian"} {
		if err := os.RemoveAll(filepath.Join(tree, name)); err != nil {
			return err
		}
	}
	return nil
}

// makeDisk makes an ext4 image of a directory, with room for more.
func makeDisk(ctx context.Context, tree, image string, room int64) error {
	size := room + 8<<20
	err := filepath.WalkDir(tree, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st, err := e.Info()
		// Blocks, an inode, and their share of the tables.
		size += st.Size() + st.Size()/8 + 8192
		return err
	})
	if err != nil {
		return err
	}
	if err := blank(image, size); err != nil {
		return err
	}
	mkfs := "mkfs.ext4"
	if path, err := exec.LookPath("/usr/sbin/" + mkfs); err == nil {
		mkfs = path // an ordinary user's PATH has no sbin
	}
	_, err = output(exec.CommandContext(ctx, mkfs, "-q", "-F", "-b", "4096", "-O", "^has_journal", "-m", "0", "-E", "root_owner=0:0", "-d", tree, image))
	return err
}

// blank makes a file of a size that takes no space.
func blank(name string, size int64) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(size), f.Close())
}
