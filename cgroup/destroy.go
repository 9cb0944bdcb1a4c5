package cgroup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"
)

// killAgain is how often Destroy repeats the kill: before Linux 6.14 a fork beside
// the kill can be missed, and a process can be moved in from elsewhere.
const killAgain = 100 * time.Millisecond

// maxBlockers bounds what a BlockedError lists.
const maxBlockers = 16

// Destroy ends the child cgroup of that name with everything in it: it kills all
// processes, waits until the kernel says that none is left, and removes the child
// and every cgroup below it. It returns nil only when the directory is gone, also
// if it never was there.
//
// id says which cgroup is meant; if another one has the name, nothing is touched
// and the error is [ErrGone]. id 0 takes whatever is there. If it holds the calling
// process or an ancestor of it, nothing is touched and the error is [ErrSelf]. If
// the context ends before the directory is gone, the error is a *[BlockedError]
// that names what is left; calling Destroy again goes on.
//
// An empty cgroup costs two system calls. A kill may block for as long as the
// kernel needs, also beyond the context: call it where that hurts nobody. Where the
// kernel has no cgroup.kill the child is frozen meanwhile: see [Dir.KillEach].
func (d *Dir) Destroy(ctx context.Context, name string, id uint64) error {
	err := d.RemoveChild(name, id)
	if !errors.Is(err, ErrPopulated) {
		return err
	}
	child, err := d.OpenChild(name)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrGone) {
		return nil
	}
	if err != nil {
		return err
	}
	defer closeFD(child.fd)
	if id != 0 && child.id != id {
		return fmt.Errorf("end cgroup %s: %w: its name now belongs to cgroup %d, not %d", child.Path(), ErrGone, child.id, id)
	}
	err = child.refuseSelf("kill processes")
	if errors.Is(err, ErrGone) {
		return nil // somebody else was faster
	}
	if err != nil {
		return err
	}
	defer child.tryThaw()
	for {
		gone, err := d.destroyRound(ctx, child)
		if gone || err != nil {
			return err
		}
		if ctx.Err() != nil {
			return child.blocked(context.Cause(ctx))
		}
	}
}

// destroyRound kills, waits a little, and removes what is empty. It says whether
// the child is gone.
func (d *Dir) destroyRound(ctx context.Context, child *Dir) (bool, error) {
	err := writeAt(child.fd, "cgroup.kill", "1")
	if err != nil && needsFallback(child.translate(err)) {
		err = child.killRound(ctx)
	}
	if err != nil && !isGone(err) {
		return false, child.wrap("kill processes", err)
	}
	round, cancel := context.WithTimeout(ctx, killAgain)
	defer cancel()
	err = child.WaitEmpty(round)
	if err != nil && errors.Is(err, context.Cause(round)) {
		return false, nil // not empty yet
	}
	if err != nil {
		return false, err
	}
	if _, err := removeBelow(child.fd); err != nil && !isGone(err) {
		return false, child.wrap("remove cgroups below", err)
	}
	err = d.RemoveChild(child.name, child.id)
	if errors.Is(err, ErrPopulated) {
		return false, nil // somebody moved in, or made a cgroup, after we looked
	}
	// Another cgroup of that name means that ours is gone, which is what was asked.
	if errors.Is(err, ErrGone) {
		err = nil
	}
	return err == nil, err
}

// blocked describes what is left of the cgroup.
func (d *Dir) blocked(cause error) error {
	pids, err := d.PIDsRecursive()
	if isGone(err) {
		return nil
	}
	blockers := make([]Blocker, 0, min(len(pids), maxBlockers))
	for _, pid := range pids[:min(len(pids), maxBlockers)] {
		blockers = append(blockers, describe(pid))
	}
	return &BlockedError{Path: d.Path(), Blockers: blockers, Total: len(pids), Err: cause}
}

// describe reads what /proc says about a process. It is only ever printed, so it
// does no harm if the number has changed hands.
func describe(pid int) Blocker {
	b := Blocker{PID: pid, Comm: "?", State: "?"}
	if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil {
		open, last := bytes.IndexByte(stat, '('), bytes.LastIndexByte(stat, ')')
		if open >= 0 && last > open && len(stat) > last+2 {
			b.Comm = string(stat[open+1 : last])
			b.State = string(stat[last+2])
		}
	}
	// "0" is what the kernel gives to whoever may not know.
	if wchan, err := os.ReadFile(fmt.Sprintf("/proc/%d/wchan", pid)); err == nil {
		b.Wchan = strings.TrimPrefix(strings.TrimSpace(string(wchan)), "0")
	}
	return b
}
