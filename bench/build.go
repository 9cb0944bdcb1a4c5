package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// tools are the programs that the benchmark builds for itself. An empty path means that it could not be built; why is
// among the bench's omissions.
type tools struct {
	pause, bare, daemonise, bomb, forkpid string
	writer                                string
	limitC, limitGo                       string
	oneshot, emptyGo                      string
	pitvisor                              string // the front, which has the program with all verbs beside it
}

// shellPause stands in for pause.c where there is no C compiler.
const shellPause = `#!/bin/sh
[ -n "$BENCH_IGNORE_TERM" ] && trap '' TERM
echo $$ > "$BENCH_FIFO"
exec sleep infinity
`

// build makes the tools in a directory. Only a missing Go tool is an error: what needs the C compiler is left out.
func (b *bench) build(ctx context.Context, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	b.tools.limitGo, b.tools.emptyGo = filepath.Join(dir, "limitgo"), filepath.Join(dir, "emptygo")
	if err := errors.Join(goBuild(ctx, b.tools.limitGo, "./bench/limitgo"), goBuild(ctx, b.tools.emptyGo, "./bench/emptygo")); err != nil {
		return err
	}
	if err := b.buildProduct(ctx); err != nil {
		b.omit("pitvisor", err)
	}
	for name, path := range map[string]*string{
		"pause": &b.tools.pause, "true": &b.tools.bare, "daemonise": &b.tools.daemonise, "bomb": &b.tools.bomb,
		"forkpid": &b.tools.forkpid, "writer": &b.tools.writer, "limit": &b.tools.limitC, "oneshot": &b.tools.oneshot,
	} {
		out := filepath.Join(dir, name)
		source := filepath.Join("bench", "c", name+".c")
		err := run(ctx, "gcc", "-std=gnu17", "-static", "-O2", "-Wall", "-Wextra", "-o", out, source)
		if err != nil {
			b.omit(source, err)
			continue
		}
		*path = out
	}
	if b.tools.pause != "" {
		return nil
	}
	b.tools.pause = filepath.Join(dir, "pause.sh")
	return os.WriteFile(b.tools.pause, []byte(shellPause), 0o755)
}

// buildProduct builds the two programs of pitvisor where they are not there.
func (b *bench) buildProduct(ctx context.Context) error {
	path, err := filepath.Abs(b.opts.pitvisor)
	if err != nil {
		return err
	}
	for program, source := range map[string]string{path: "./cmd/front", allVerbs(path): "./cmd/pitvisor"} {
		if _, err := os.Stat(program); err == nil {
			continue
		}
		if err := goBuild(ctx, program, source); err != nil {
			return err
		}
	}
	b.tools.pitvisor = path
	return nil
}

// allVerbs is where the front looks for the program with all verbs.
func allVerbs(front string) string {
	return filepath.Join(filepath.Dir(front), "..", "libexec", "pitvisor", "pitvisor")
}

// goBuild builds as a release is built.
func goBuild(ctx context.Context, out, source string) error {
	return run(ctx, "env", "CGO_ENABLED=0", "go", "build", "-trimpath", "-o", out, source)
}

// run runs a program to its end; what it said is part of the error.
func run(ctx context.Context, name string, args ...string) error {
	return runIn(ctx, "", name, args...)
}

func runIn(ctx context.Context, dir, name string, args ...string) error {
	path, err := exec.LookPath(name)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("run %s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// contenders lists everything that can be measured here. What cannot be is named as an omission.
func (b *bench) contenders(ctx context.Context) []contender {
	var all []contender
	if b.tools.pitvisor != "" {
		all = append(all, pitvisor(b.tools.pitvisor))
	}
	if b.tools.limitC != "" {
		all = append(all, floorC("limit-c", b.tools.limitC, "cgroup"))
		if !b.opts.gate {
			all = append(all, floorC("limit-c-journal", b.tools.limitC, "journal"), floorC("limit-c-nocg", b.tools.limitC, "nocg"))
		}
	}
	all = append(all, floorGo(b.tools.limitGo))
	if b.opts.gate || !b.opts.peers {
		return all
	}
	for _, peer := range []struct {
		name string
		find func(context.Context) (contender, error)
	}{{"s6", b.findS6}, {"runit", b.findRunit}, {"supervisor", b.findSupervisor}} {
		found, err := peer.find(ctx)
		if err != nil {
			b.omit(peer.name, err)
			continue
		}
		all = append(all, found)
	}
	b.omit("process-compose", fmt.Errorf("%w: Debian has no package of it", errAbsent))
	return all
}

// findS6 needs the package installed: s6-svscan looks for s6-supervise in /usr/bin.
func (b *bench) findS6(ctx context.Context) (contender, error) {
	path, err := b.installed(ctx, "s6-svscan", "s6")
	return s6(path), err
}

// installed finds a program, or installs the package that has it. It is for packages that start nothing.
func (b *bench) installed(ctx context.Context, program, source string) (string, error) {
	path, err := exec.LookPath(program)
	if err == nil {
		return path, nil
	}
	if os.Geteuid() != 0 || !b.opts.install {
		return "", fmt.Errorf("%w (apt-get install %s)", err, source)
	}
	if err := run(ctx, "apt-get", "install", "-y", "-q", "--no-install-recommends", source); err != nil {
		return "", err
	}
	return exec.LookPath(program)
}

func (b *bench) findRunit(ctx context.Context) (contender, error) {
	if path, err := exec.LookPath("runsvdir"); err == nil {
		return runit(path), nil
	}
	root, err := b.unpack(ctx, "runit")
	if err != nil {
		return contender{}, err
	}
	path := filepath.Join(root, "usr", "bin", "runsvdir")
	return runit(path), unix.Access(path, unix.X_OK)
}

func (b *bench) findSupervisor(ctx context.Context) (contender, error) {
	if path, err := exec.LookPath("supervisord"); err == nil {
		return supervisord([]string{path}, nil), nil
	}
	root, err := b.unpack(ctx, "supervisor", "python3-pkg-resources")
	if err != nil {
		return contender{}, err
	}
	const python = "/usr/bin/python3"
	argv := []string{python, "-c", "from supervisor.supervisord import main; main()"}
	env := []string{"PYTHONPATH=" + filepath.Join(root, "usr", "lib", "python3", "dist-packages")}
	return supervisord(argv, env), unix.Access(python, unix.X_OK)
}

// unpack fetches Debian packages and unpacks them without installing: their installation would start services.
func (b *bench) unpack(ctx context.Context, packages ...string) (string, error) {
	if !b.opts.install {
		return "", fmt.Errorf("%w (apt-get install %s)", exec.ErrNotFound, packages[0])
	}
	dir := filepath.Join(b.work, "peers", packages[0])
	root := filepath.Join(dir, "root")
	if _, err := os.Stat(root); err == nil {
		return root, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	if err := runIn(ctx, dir, "apt-get", append([]string{"download", "-q"}, packages...)...); err != nil {
		return "", err
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil || len(files) < len(packages) {
		return "", errors.Join(err, fmt.Errorf("download %v: got %d files", packages, len(files)))
	}
	for _, file := range files {
		if err := run(ctx, "dpkg", "-x", file, root); err != nil {
			return "", errors.Join(err, os.RemoveAll(root))
		}
	}
	return root, nil
}
