package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/pitvisor/pitvisor/internal/units"
	"golang.org/x/sys/unix"
)

// fallbackTime bounds Kill where the kernel cannot do it in one call.
const fallbackTime = 10 * time.Second

// Kill sends SIGKILL to every process of the cgroup and below it and returns when
// they have it, not when they are gone: see [Dir.WaitEmpty] and [Dir.Destroy]. It
// refuses with [ErrSelf] to kill the caller or an ancestor of it.
//
// With thousands of processes the call takes seconds, and holds up others that make
// or remove cgroups. A killed cgroup must not be used again: kernels 6.14 to 7.2
// kill whatever is cloned into it later. Where there is no cgroup.kill (before
// Linux 5.14), or it may not be written, [Dir.KillEach] does it.
func (d *Dir) Kill() error {
	if err := d.refuseSelf("kill processes"); err != nil {
		return err
	}
	err := writeAt(d.fd, "cgroup.kill", "1")
	if err != nil {
		err = d.wrap("write cgroup.kill", err)
	}
	if !needsFallback(err) {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), fallbackTime)
	defer cancel()
	return d.killEach(ctx)
}

// KillsAtOnce says whether [Dir.Kill] is one call here. If not, it freezes the cgroup, and
// the caller must not start a process into it meanwhile, as with [Dir.KillEach].
func (d *Dir) KillsAtOnce() bool {
	if unix.Faccessat(d.fd, "cgroup.kill", unix.W_OK, unix.AT_EACCESS) != nil {
		return false
	}
	kind, err := d.ReadFile("cgroup.type") // a threaded one refuses
	return err == nil && strings.TrimSpace(string(kind)) == "domain"
}

// needsFallback says whether the members have to be killed one by one: no file in
// old kernels, EOPNOTSUPP in a threaded cgroup, EACCES in the top cgroup of a
// delegated tree.
func needsFallback(err error) bool {
	return errors.Is(err, ErrNotSupported) || errors.Is(err, fs.ErrPermission)
}

// KillEach does what [Dir.Kill] does without cgroup.kill, and waits until nothing
// is left: it freezes the cgroup so that nothing can fork, takes a pidfd of each
// member, looks again whether that number is still listed, sends SIGKILL through
// the pidfd, and repeats until the cgroup is empty. It thaws the cgroup at the end.
// Linux 5.3.
//
// The caller must not start a process into the cgroup meanwhile: see [Dir.Freeze].
func (d *Dir) KillEach(ctx context.Context) error {
	if err := d.refuseSelf("kill processes"); err != nil {
		return err
	}
	return d.killEach(ctx)
}

func (d *Dir) killEach(ctx context.Context) error {
	defer d.tryThaw()
	for {
		if err := d.killRound(ctx); err != nil {
			if isGone(err) {
				return nil
			}
			return d.wrap("kill each process", err)
		}
		round, cancel := context.WithTimeout(ctx, killAgain)
		err := d.WaitEmpty(round)
		cancel()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return d.wrap("kill each process", context.Cause(ctx))
		}
		if !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
		// Linux 5.10 sometimes leaves a process that was traced asleep with the
		// signal pending. It dies on waking. Not earlier: a cgroup that is thawed
		// among many deaths says for ever that it is frozen on 7.3.
		d.tryThaw()
	}
}

// freezeTime is how long killRound waits for frozen 1. A process in uninterruptible
// sleep may never freeze; further rounds cope with what forks beside it.
const freezeTime = time.Second

// killRound freezes the cgroup and kills whoever is in it. Frozen processes do die
// of SIGKILL. It stays frozen, so that nobody forks beside the dying. Without the
// right to freeze it kills all the same.
func (d *Dir) killRound(ctx context.Context) error {
	if err := writeAt(d.fd, "cgroup.freeze", "1"); err == nil {
		freeze, cancel := context.WithTimeout(ctx, freezeTime)
		_ = d.waitEvents(freeze, func(e Events) bool { return e.Frozen }) // see freezeTime
		cancel()
	}
	_, err := d.signalTree(unix.SIGKILL)
	return err
}

// tryThaw thaws what killRound froze, if it is still there.
func (d *Dir) tryThaw() {
	_ = writeAt(d.fd, "cgroup.freeze", "0") // gone, or not frozen for want of the right
}

// Signal sends sig to every process of the cgroup and below it through a pidfd, and
// returns how many got it. A process that is forked meanwhile may be missed:
// freeze first if that matters. It refuses with [ErrSelf] to signal the caller or
// an ancestor of it. Processes that may not be signalled are skipped, and the first
// such error is returned at the end.
func (d *Dir) Signal(sig unix.Signal) (int, error) {
	if err := d.refuseSelf("signal processes"); err != nil {
		return 0, err
	}
	n, err := d.signalTree(sig)
	if err != nil {
		return n, d.wrap(fmt.Sprintf("send %s to processes", units.SignalName(sig)), err)
	}
	return n, nil
}

func (d *Dir) signalTree(sig unix.Signal) (int, error) {
	total := 0
	var first error
	err := d.walk(func(dirfd int) error {
		n, err := signalAt(dirfd, sig)
		total += n
		if err != nil && first == nil && !isGone(err) {
			first = err
		}
		return nil
	})
	return total, errors.Join(err, first)
}

// batch is how many pidfds are open at once.
const batch = 128

func signalAt(dirfd int, sig unix.Signal) (int, error) {
	pids, err := pidsAt(dirfd, nil)
	if err != nil {
		return 0, err
	}
	total := 0
	var first error
	for some := range slices.Chunk(pids, batch) {
		n, err := signalBatch(dirfd, some, sig)
		total += n
		if first == nil {
			first = err
		}
	}
	return total, first
}

type held struct{ pid, fd int }

// signalBatch takes hold of each process first and only then looks whether the
// number is still a member: what is held and listed cannot be a stranger.
func signalBatch(dirfd int, pids []int, sig unix.Signal) (int, error) {
	var first error
	handles := make([]held, 0, len(pids))
	for _, pid := range pids {
		if pid == 0 {
			continue // outside our PID namespace: only cgroup.kill reaches it
		}
		fd, err := unix.PidfdOpen(pid, 0)
		switch {
		case err == nil:
			handles = append(handles, held{pid, fd})
		case err == unix.ESRCH, err == unix.EINVAL: // reaped before, or during, the call
		case first == nil:
			first = err
		}
	}
	members, err := pidsAt(dirfd, nil)
	slices.Sort(members)
	total := 0
	for _, h := range handles {
		if _, member := slices.BinarySearch(members, h.pid); member && err == nil {
			err := unix.PidfdSendSignal(h.fd, sig, nil, 0)
			switch {
			case err == nil:
				total++
			case err != unix.ESRCH && first == nil:
				first = err
			}
		}
		closeFD(h.fd)
	}
	return total, errors.Join(err, first)
}
