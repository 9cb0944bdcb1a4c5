package vm

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// System is a disk with an installed Debian whose PID 1 is systemd: packages were
// configured, and dpkg and apt work in it.
type System struct {
	Suite    string
	Image    string
	Packages []string // that were asked for and what they depend on, with versions
	Systemd  string   // version of the package

	states string // directory of saved machines
}

// version is systemd's own number, such as 257.
func (s *System) version() string { return regexp.MustCompile(`^\d+`).FindString(s.Systemd) }

// systemSize is the size of the disk. What is not written takes no room.
const systemSize = 1 << 30

// systemBase are the packages that every system has besides the essential ones.
func systemBase() []string {
	return []string{
		"apt", "systemd", "systemd-sysv", "dbus", "dbus-user-session", "libpam-systemd", "passwd", "procps", "util-linux",
	}
}

// systemScript makes the disk, which is its descriptor 3, of the tree $1 that
// mmdebstrap has installed. /proc and others are mounted there, so it looks from a
// mount without them.
const systemScript = `set -eu
cd "$1"
rm -rf var/lib/apt/lists/* var/cache/apt/* usr/share/doc/* usr/share/man/* usr/share/locale/* usr/share/info/*
rm -f etc/apt/apt.conf.d/99mmdebstrap etc/dpkg/dpkg.cfg.d/99mmdebstrap etc/resolv.conf
echo 70697476697372766d746573746c616e >etc/machine-id
echo vm >etc/hostname
printf '127.0.0.1 localhost vm\n::1 localhost\n' >etc/hosts
mkdir -p src
mount --bind "$1" "$1/mnt"
PATH=$PATH:/usr/sbin:/sbin mkfs.ext4 -q -F -b 4096 -O ^has_journal -m 0 -d "$1/mnt" /proc/self/fd/3
umount "$1/mnt"
`

// install runs mmdebstrap in memory that goes with it. $1 is where, the rest is how.
const installScript = `set -eu
mount -t tmpfs -o mode=0755 tmpfs "$1"
export TMPDIR=$1
shift
exec mmdebstrap "$@"
`

// System makes a disk with systemd and more packages of a Debian suite. To install
// them takes root, once; with a young cache neither root nor the network is needed.
func (c Cache) System(ctx context.Context, suite string, packages ...string) (*System, error) {
	if !regexp.MustCompile(`^[a-z-]+$`).MatchString(suite) {
		return nil, fmt.Errorf("no suite %q: want one of Debian's, such as trixie", suite)
	}
	dir, err := c.dir()
	if err != nil {
		return nil, err
	}
	packages = append(systemBase(), packages...)
	slices.Sort(packages)
	packages = slices.Compact(packages)
	key := fmt.Sprintf("%x", sha256.Sum256([]byte(installScript+systemScript+strings.Join(packages, " "))))[:12]
	record := filepath.Join(dir, "system-"+suite+"-"+key+".json")
	s := &System{}
	err = c.once(dir, func() bool { return c.load(record, s) && exists(s.Image) }, func() error {
		if s, err = c.makeSystem(ctx, dir, suite, packages); err != nil {
			return fmt.Errorf("prepare a system of %s: %w", suite, err)
		}
		return save(record, s)
	})
	if err != nil {
		return nil, err
	}
	s.states = filepath.Join(dir, "state")
	return s, os.MkdirAll(s.states, 0o755)
}

func (c Cache) makeSystem(ctx context.Context, dir, suite string, packages []string) (*System, error) {
	c.log("system %s: looking", suite)
	apt, err := openSuite(ctx, filepath.Join(dir, "apt", suite), suite)
	if err != nil {
		return nil, err
	}
	all, err := apt.resolve(ctx, packages...)
	if err != nil {
		return nil, err
	}
	key := fmt.Sprintf("%x", sha256.Sum256([]byte(installScript+systemScript+strings.Join(all, " "))))[:12]
	s := &System{Suite: suite, Packages: all, Image: filepath.Join(dir, "system", suite+"-"+key+".ext4")}
	for _, p := range all {
		if version, ok := strings.CutPrefix(p, "systemd="); ok {
			s.Systemd = version
		}
	}
	if exists(s.Image) {
		return s, nil
	}
	c.log("system %s: installing %d packages and the essential ones", suite, len(all))
	tmp := filepath.Join(dir, "tmp", "system")
	if err := os.MkdirAll(filepath.Join(tmp, "memory"), 0o755); err != nil {
		return nil, err
	}
	image := filepath.Join(tmp, "image")
	if err := blank(image, systemSize); err != nil {
		return nil, err
	}
	if err := apt.install(ctx, tmp, image, packages); err != nil {
		return nil, err
	}
	if err := publish(image, s.Image); err != nil {
		return nil, err
	}
	return s, os.RemoveAll(tmp)
}

// install installs packages on a disk. It needs root, as dpkg does.
func (s *suite) install(ctx context.Context, tmp, image string, packages []string) error {
	if os.Geteuid() != 0 {
		return errors.New("installing packages needs root: run it once with sudo, and with -cache to keep the result for others")
	}
	if _, err := exec.LookPath("mmdebstrap"); err != nil {
		return fmt.Errorf("install the package mmdebstrap: %w", err)
	}
	disk, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { _ = disk.Close() }() // mkfs writes it
	source, err := os.ReadFile(s.path("sources.list"))
	if err != nil {
		return err
	}
	_, network, err := hostApt(ctx)
	if err != nil {
		return err
	}
	conf := filepath.Join(tmp, "network.conf")
	if err := os.WriteFile(conf, []byte(network), 0o644); err != nil {
		return err
	}
	hook := filepath.Join(tmp, "hook")
	if err := os.WriteFile(hook, []byte(systemScript), 0o755); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "unshare", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc",
		"sh", "-c", installScript, "sh", filepath.Join(tmp, "memory"),
		"--mode=root", "--variant=essential", "--format=null", "--include="+strings.Join(packages, ","),
		"--aptopt="+conf, `--aptopt=Apt::Install-Recommends "false"`,
		"--dpkgopt=force-unsafe-io", "--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/locale/*",
		"--customize-hook=sh "+hook+` "$1"`, s.name, "/dev/null", strings.TrimSpace(string(source)))
	cmd.ExtraFiles = []*os.File{disk}
	// It ends with us, however we end, and everything with it: it is PID 1 there.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: unix.SIGKILL}
	failed := make(chan error)
	go func() {
		runtime.LockOSThread() // the signal comes when the thread ends that has started it
		_, err := output(cmd)
		failed <- err
	}()
	return <-failed
}
