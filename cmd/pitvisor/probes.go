package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/internal/exit"
	"github.com/pitvisor/pitvisor/internal/pressure"
	"github.com/pitvisor/pitvisor/pidfd"
	"github.com/pitvisor/pitvisor/registry"
	"github.com/pitvisor/pitvisor/spawn"
)

// diagnose tries everything once and leaves nothing behind.
func (a *app) diagnose() diagnosis {
	var d diagnosis
	features := pidfd.Probe()
	d.add(pidfdFindings(features)...)
	root, err := cgroup.FindRoot(a.cgroupRoot)
	if err != nil {
		d.add(finding{Name: "cgroup root", Need: true, Detail: err.Error(), Cure: exit.Hint(err)})
		d.settle(features, false, false)
		return d
	}
	defer root.Dir.Close()
	d.Root = root.Dir.Path()
	d.add(finding{Name: "cgroup root", OK: true, Need: true, Detail: rootText(root)})
	kill := d.tryScratch(root)
	d.add(tryController(root, "memory", "cpu", "pids", "io")...)
	d.add(a.tryDirs()...)
	d.settle(features, true, kill)
	return d
}

func (d *diagnosis) add(f ...finding) { d.Findings = append(d.Findings, f...) }

func rootText(r cgroup.Root) string {
	text := fmt.Sprintf("%s (%s)", r.Dir.Path(), r.Source)
	if r.Mount.Hybrid {
		text += ", hybrid host: controllers belong to cgroup v1"
	}
	return text
}

const sandboxCure = "a sandbox (seccomp) that allows open_by_handle_at, see docs/containers.md; this kernel has it"

func pidfdFindings(f pidfd.Features) []finding {
	newer := func(ok bool, version string) string {
		if ok {
			return ""
		}
		return "a kernel with it (first in Linux " + version + ")"
	}
	handles := newer(f.Handles, "6.14")
	if f.Refused {
		handles = sandboxCure
	}
	return []finding{
		{Name: "pidfd", OK: f.Open, Need: true, Detail: "hold and signal a process by descriptor", Cure: newer(f.Open, "5.4")},
		{Name: "pidfs", OK: f.Pidfs, Detail: "an inode names a process for the whole boot", Cure: newer(f.Pidfs, "6.9")},
		{Name: "pidfd info", OK: f.Info, Detail: "ask a pidfd for its process's cgroup", Cure: newer(f.Info, "6.13")},
		{Name: "pidfs handles", OK: f.Handles, Detail: "reopen a process after a restart, proof against PID reuse", Cure: handles},
		{Name: "exit of non-children", OK: f.ExitInfo, Detail: "the exit status of processes that others reap", Cure: newer(f.ExitInfo, "6.15")},
	}
}

// tryScratch does in a scratch run what every run needs, and reports whether
// cgroup.kill works.
func (d *diagnosis) tryScratch(root cgroup.Root) (kill bool) {
	name := "run-" + registry.NewRunID().String()
	dir, err := root.Dir.Create(name)
	if err != nil {
		d.add(finding{Name: "make a cgroup", Need: true, Detail: err.Error(), Cure: exit.Hint(err)})
		return false
	}
	defer dir.Close()
	try := func(name, detail string, need bool, f func() error) bool {
		out := finding{Name: name, OK: true, Need: need, Detail: detail}
		if err := f(); err != nil {
			out.OK, out.Detail, out.Cure = false, detail+": "+strings.ReplaceAll(err.Error(), "\n", "; "), exit.Hint(err)
		}
		d.add(out)
		return out.OK
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	try("lock", "a lock on a cgroup proves that its owner lives", true, dir.Lock)
	try("xattr", "the cgroup tree itself is the registry", true, func() error {
		return dir.SetXattr("user.pitvisor.doctor", []byte("1"))
	})
	way := "clone3 into a leaf"
	if spawn.Clone3Refused() {
		way = "a helper that joins the leaf before exec, since a sandbox (seccomp), or a kernel before 5.7, refuses clone3: some milliseconds more"
	}
	try("start inside a cgroup", way, true, func() error { return tryStart(root.Dir, dir) })
	try("guardian", "a run ends when its pitvisor is killed", true, func() error { return tryGuardian(root.Dir, dir) })
	try("freeze", "stop a whole cgroup to look at it", false, func() error { return freezeThaw(ctx, dir) })
	try("pressure of a run", "tell when its programs wait for memory, processors or disks", false, func() error { return tryPressure(dir) })
	try("pressure of the host", "the same of all programs", false, func() error { return tryPressure(nil) })
	kill = try("cgroup.kill", "kill a whole cgroup with one write", false, func() error {
		if _, err := os.Stat(filepath.Join(dir.Path(), "cgroup.kill")); err != nil {
			return fmt.Errorf("%w: pitvisor freezes and signals every member instead", err)
		}
		return dir.Kill()
	})
	try("remove", "done is said only when the cgroup is gone", true, func() error {
		return root.Dir.Destroy(ctx, name, dir.ID())
	})
	return kill
}

// tryPressure sets a trigger; nil means the host.
func tryPressure(dir *cgroup.Dir) error {
	t, err := pressure.Open(dir, pressure.Source{Resource: "memory"}, pressure.Rule{Above: 0.5})
	if err != nil {
		return err
	}
	return t.Close()
}

func freezeThaw(ctx context.Context, dir *cgroup.Dir) error {
	if err := dir.Freeze(ctx); err != nil {
		return err
	}
	return dir.Thaw(ctx)
}

// tryController says which limits can be set below the root.
func tryController(root cgroup.Root, names ...string) []finding {
	have, err := root.Dir.Controllers()
	var out []finding
	for _, name := range names {
		f := finding{Name: "limits: " + name, OK: slices.Contains(have, name), Detail: "the " + name + " controller is available at the root"}
		switch {
		case err != nil:
			f.Detail = err.Error()
		case !f.OK:
			why := root.Dir.Missing(name, "")
			f.Detail, f.Cure = why.Error(), exit.Hint(why)
			// Also in a container that is not shown the host's hierarchies of v1.
			if missing, ok := errors.AsType[*cgroup.ControllerError](why); ok && missing.Hybrid {
				f.Detail = "cgroup v1 owns the controller"
			} else if ok {
				f.Detail = "not handed down to " + root.Dir.Path()
			}
		}
		out = append(out, f)
	}
	return out
}

// tryDirs checks the places on disk by making a file there.
func (a *app) tryDirs() []finding {
	state, err := a.stateRoot()
	out := []finding{tryDir("state directory", state, err)}
	runtime, rerr := a.runtimeRoot(state)
	return append(out, tryDir("runtime directory", runtime, errors.Join(err, rerr)))
}

func tryDir(name, path string, err error) finding {
	f := finding{Name: name, OK: true, Need: true, Detail: path}
	if err == nil {
		err = os.MkdirAll(path, 0o755)
	}
	if err == nil {
		var file *os.File
		if file, err = os.CreateTemp(path, ".doctor-*"); err == nil {
			_, err = file.WriteString("x")
			err = errors.Join(err, file.Close(), os.Remove(file.Name()))
		}
	}
	if err != nil {
		f.OK, f.Detail, f.Cure = false, err.Error(), exit.Hint(err)
	}
	return f
}

// settle derives the tier from what was found.
func (d *diagnosis) settle(f pidfd.Features, root, kill bool) {
	d.Works = true
	for _, one := range d.Findings {
		if one.Need && !one.OK {
			d.Works = false
		}
	}
	switch {
	case !root || !f.Open:
		d.Tier, d.Raise = "E", "a writable cgroup v2 directory, see the cures above"
	case !kill:
		d.Tier, d.Raise = "D", "a kernel with cgroup.kill (first in Linux 5.14)"
	case !f.Pidfs:
		d.Tier, d.Raise = "C", "a kernel with pidfs (first in Linux 6.9)"
	case f.Refused && f.ExitInfo && f.Info:
		d.Tier, d.Raise = "B", sandboxCure
	case !f.Handles || !f.ExitInfo || !f.Info:
		d.Tier, d.Raise = "B", "a kernel with pidfs handles and exit information (Linux 6.15 or later): "+missing(f)
	default:
		d.Tier = "A"
	}
}

func missing(f pidfd.Features) string {
	var names []string
	for _, one := range pidfdFindings(f) {
		if !one.OK {
			names = append(names, one.Name)
		}
	}
	return strings.Join(names, ", ")
}
