package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// wrapper is a program that runs one command and ends with the command's exit code.
type wrapper struct {
	name   string
	kind   kind
	env    []string
	argv   func(*cell, []string) ([]string, error) // writes what files it needs into the cell
	stage  stageKind
	remote bool // the command runs elsewhere, and its CPU time is not seen
	closed bool // the command sees another root than the other wrappers' do
	idle   bool // it runs no command at all
}

// stageKind is what a wrapper must see to work.
type stageKind uint8

const (
	stagePlain   stageKind = iota // the host as it is
	stageUnified                  // cgroup v2 at its usual place
)

// The names of the wrappers that targets are about.
const (
	recorded     = "pitvisor --record"
	oneshotC     = "limit-c"
	oneshotGo    = "limit-go"
	recordC      = "limit-c with record"
	recordGo     = "limit-go with record"
	bubblewrap   = "bwrap"
	crunRun      = "crun run"
	runcRun      = "runc run"
	systemdRun   = "systemd-run"
	emptyProgram = "empty Go program"
	bareCommand  = "bare"
)

// pitvisorRun is `pitvisor run`, guardian included. It is given no cgroup by name but finds the cell's box, as it finds
// what systemd has delegated: the box is marked in the same way, and the wrapper sits in a leaf "supervisor" of it.
func pitvisorRun(name, binary string) wrapper {
	return wrapper{name: name, kind: kindProduct, argv: func(c *cell, command []string) ([]string, error) {
		if err := unix.Fsetxattr(c.box.fd, "user.delegate", []byte("1"), 0); err != nil {
			return nil, fmt.Errorf("mark %s as delegated: %w", c.box.path, err)
		}
		argv := []string{binary, "run"}
		if name == recorded {
			argv = append(argv, "--record", c.recordFile())
		}
		return append(append(argv, "--"), command...), nil
	}}
}

func (c *cell) recordFile() string {
	return filepath.Join(c.dir, "record")
}

// floorOneshot is oneshot.c or its twin in Go.
func floorOneshot(name string, record bool, start ...string) wrapper {
	return wrapper{name: name, kind: kindFloor, argv: func(c *cell, command []string) ([]string, error) {
		file := "-"
		if record {
			file = c.recordFile()
		}
		return append(append(append([]string(nil), start...), c.root.path, file), command...), nil
	}}
}

// prefixed is a wrapper that needs nothing but words before the command.
func prefixed(name string, kind kind, words ...string) wrapper {
	return wrapper{name: name, kind: kind, argv: func(_ *cell, command []string) ([]string, error) {
		return append(append([]string(nil), words...), command...), nil
	}}
}

func emptyGo(binary string) wrapper {
	return wrapper{name: emptyProgram, kind: kindFloor, idle: true, argv: func(*cell, []string) ([]string, error) {
		return []string{binary}, nil
	}}
}

// userService is systemd-run. A manager runs the command, so only the time is seen. It finds the manager by the two
// variables.
func userService(binary string) wrapper {
	w := prefixed(systemdRun, kindPeer, binary, "--user", "--wait", "--pipe", "--quiet", "--collect")
	w.remote = true
	for _, name := range []string{"XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS"} {
		if value, found := os.LookupEnv(name); found {
			w.env = append(w.env, name+"="+value)
		}
	}
	return w
}

// wrappers lists everything that can run one command here. What cannot is named as an omission.
func (b *bench) wrappers(ctx context.Context) []wrapper {
	var all []wrapper
	if b.tools.pitvisor != "" {
		all = append(all, pitvisorRun(product, b.tools.pitvisor), pitvisorRun(recorded, b.tools.pitvisor))
	}
	if b.tools.oneshot != "" {
		all = append(all, floorOneshot(oneshotC, false, b.tools.oneshot), floorOneshot(recordC, true, b.tools.oneshot))
	}
	all = append(all,
		floorOneshot(oneshotGo, false, b.tools.limitGo, "oneshot"), floorOneshot(recordGo, true, b.tools.limitGo, "oneshot"),
		prefixed(bareCommand, kindFloor), emptyGo(b.tools.emptyGo))
	if !b.opts.peers {
		return all
	}
	for _, p := range b.wrapperPeers() {
		if b.opts.gate && !p.gate {
			continue
		}
		found, err := b.findWrapper(ctx, p)
		if err != nil {
			b.omit(p.program, err)
			continue
		}
		all = append(all, found)
	}
	return all
}

// wrapperPeer is a program of Debian's that runs one command.
type wrapperPeer struct {
	program, debian string // debian is the package that has it
	gate            bool
	make            func(ctx context.Context, path string) (wrapper, error)
}

func (b *bench) wrapperPeers() []wrapperPeer {
	words := func(name string, before ...string) func(context.Context, string) (wrapper, error) {
		return func(_ context.Context, path string) (wrapper, error) {
			return prefixed(name, kindPeer, append([]string{path}, before...)...), nil
		}
	}
	oci := func(name string) func(context.Context, string) (wrapper, error) {
		return func(ctx context.Context, path string) (wrapper, error) {
			mount, err := findCgroup2()
			if err != nil {
				return wrapper{}, err
			}
			spec, err := newOCISpec(ctx, path, filepath.Join(b.work, "spec-"+filepath.Base(path)))
			return container(name, path, spec, mount), err
		}
	}
	return []wrapperPeer{
		{"bwrap", "bubblewrap", true, words(bubblewrap, "--dev-bind", "/", "/")},
		{"crun", "crun", true, oci(crunRun)},
		{"runc", "runc", false, oci(runcRun)},
		{"systemd-run", "systemd", false, func(_ context.Context, path string) (wrapper, error) { return userService(path), nil }},
		{"catatonit", "catatonit", false, words("catatonit", "--")},
		{"tini", "tini", false, words("tini", "-s", "--")},
		{"timeout", "coreutils", false, words("timeout", "9")},
	}
}

func (b *bench) findWrapper(ctx context.Context, p wrapperPeer) (wrapper, error) {
	find := exec.LookPath
	if p.debian != "systemd" { // that one is there, or the host is no such host
		find = func(string) (string, error) { return b.installed(ctx, p.program, p.debian) }
	}
	path, err := find(p.program)
	if err != nil {
		return wrapper{}, err
	}
	return p.make(ctx, path)
}
