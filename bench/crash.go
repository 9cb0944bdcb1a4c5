package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// reuse tells the story of row 16: the supervisor is killed, one worker dies, a stranger gets its pid, and the
// supervisor is started again.
func (b *bench) reuse(ctx context.Context) error {
	who, err := b.needProduct()
	if err != nil {
		return err
	}
	if b.tools.forkpid == "" {
		return fmt.Errorf("forkpid.c: %w", errAbsent)
	}
	b.say.step("the pid of a dead worker goes to a stranger")
	const workers = 20
	return b.inCell(ctx, 2*time.Minute, func(ctx context.Context, c *cell) error {
		j := job{workers: workers, command: []string{b.tools.pause}, ignoreTerm: true}
		if err := c.launch(who, j); err != nil {
			return err
		}
		if _, err := c.running(ctx, workers); err != nil {
			return err
		}
		if err := c.crash(ctx); err != nil {
			return err
		}
		stranger, err := b.replace(ctx, c, c.counter.all()[0])
		if err != nil {
			return err
		}
		defer unix.Close(stranger)
		old, err := handles(c.counter.all()[1:workers])
		defer closeAll(old)
		if err != nil {
			return err
		}
		return b.afterReuse(ctx, c, who, j, stranger, old)
	})
}

// afterReuse starts the supervisor again and looks who lives.
func (b *bench) afterReuse(ctx context.Context, c *cell, who contender, j job, stranger int, old []int) error {
	before := c.counter.count()
	if err := c.launch(who, j); err != nil {
		return err
	}
	started, err := c.running(ctx, before+j.workers)
	if err != nil {
		return err
	}
	gone, err := c.allGone(ctx, old)
	if err != nil {
		return err
	}
	lives := alive(stranger)
	if _, err := c.stop(ctx, who.stop); err != nil {
		return err
	}
	lives = lives && alive(stranger)
	b.addRow(row{
		ID: "16", Measure: "a worker dies and its PID goes to a stranger while the supervisor is down",
		Pitvisor: fmt.Sprintf("stranger alive: %s; %d new workers after %.0f ms; stale run gone after %.0f ms",
			yesNo(lives), j.workers, milliseconds(started), milliseconds(gone)),
		Target: "no stranger signalled, no refusal to start", Exact: true, Verdict: exactly(lives),
	})
	return nil
}

// allGone waits until every process behind the pidfds has ended and returns the time since the launch.
func (c *cell) allGone(ctx context.Context, pidfds []int) (time.Duration, error) {
	for _, fd := range pidfds {
		if err := waitPidfd(ctx, fd, unix.POLLIN); err != nil {
			return 0, err
		}
	}
	return time.Since(c.started), nil
}

// replace ends the process with this pid, waits until somebody reaped it, and gives its number to a stranger outside of
// the supervisor's cgroup. It returns the stranger's pidfd.
func (b *bench) replace(ctx context.Context, c *cell, pid int) (int, error) {
	victim, err := handle(pid)
	if err != nil {
		return -1, err
	}
	defer unix.Close(victim)
	if err := unix.PidfdSendSignal(victim, unix.SIGKILL, nil, 0); err != nil {
		return -1, fmt.Errorf("kill worker %d: %w", pid, err)
	}
	if err := waitPidfd(ctx, victim, unix.POLLHUP); err != nil {
		return -1, fmt.Errorf("wait until worker %d is reaped: %w", pid, err)
	}
	before := c.counter.count()
	if err := b.forkAs(ctx, c, pid); err != nil {
		return -1, err
	}
	if _, err := c.counter.wait(ctx, before+1); err != nil {
		return -1, err
	}
	return handle(pid)
}

// forkAs starts a process with a chosen pid. A pidfd reports the end of a process a moment before
// the kernel lets go of its number, and others start processes too: it tries while the number is taken.
func (b *bench) forkAs(ctx context.Context, c *cell, pid int) error {
	for {
		fork, err := startIn(c.sup, []string{b.tools.forkpid, strconv.Itoa(pid), b.tools.pause}, c.env(job{}),
			filepath.Join(c.dir, "forkpid.log"))
		if err != nil {
			return err
		}
		err = fork.wait(ctx)
		fork.close()
		switch {
		case err != nil:
			return err
		case fork.state == nil:
			return fmt.Errorf("force pid %d: forkpid's end is unknown", pid)
		case fork.state.Success():
			return nil
		case fork.state.ExitCode() != forkpidTaken || ctx.Err() != nil:
			return fmt.Errorf("force pid %d: %v: %s", pid, fork.state, fork.tail())
		}
	}
}

// forkpidTaken is forkpid's exit code for a pid that somebody has.
const forkpidTaken = 1

func handles(pids []int) ([]int, error) {
	var fds []int
	for _, pid := range pids {
		fd, err := handle(pid)
		if err != nil {
			return fds, err
		}
		fds = append(fds, fd)
	}
	return fds, nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd) // pidfds: nothing to lose
	}
}

// poisoned measures row 17: a supervisor in a cgroup that once was killed, and workers whose leaf is killed by others.
func (b *bench) poisoned(ctx context.Context) error {
	who, err := b.needProduct()
	if err != nil {
		return err
	}
	b.say.step("a supervisor in a killed cgroup")
	const workers = 5
	return b.inCell(ctx, time.Minute, func(ctx context.Context, c *cell) error {
		killed, err := c.box.make("killed")
		if err != nil {
			return err
		}
		defer killed.close()
		if err := killed.write("cgroup.kill", "1"); err != nil {
			return err
		}
		inside := who
		inside.argv = func(c *cell, j job) ([]string, error) {
			argv, err := who.argv(c, j)
			script := `echo 0 > "$1/cgroup.procs" && shift && exec "$@"`
			return append([]string{"/bin/sh", "-c", script, "sh", killed.path}, argv...), err
		}
		if err := c.launch(inside, job{workers: workers, command: []string{b.tools.pause}, ignoreTerm: true}); err != nil {
			return err
		}
		started, err := c.running(ctx, workers)
		b.judgePoisoned(started, err)
		if err != nil {
			return err
		}
		return b.killLeaf(ctx, c, who)
	})
}

// killLeaf kills one worker's own cgroup from outside; the worker must come back in another.
func (b *bench) killLeaf(ctx context.Context, c *cell, who contender) error {
	before := c.counter.count()
	text, err := os.ReadFile("/proc/" + strconv.Itoa(c.counter.all()[0]) + "/cgroup")
	if err != nil {
		return err
	}
	_, leaf, found := strings.Cut(string(text), "0::")
	if !found {
		return errors.New("find the cgroup of a worker: no v2 line")
	}
	mount, err := findCgroup2()
	if err != nil {
		return err
	}
	path := filepath.Join(mount, strings.TrimSpace(leaf))
	if !strings.HasPrefix(path, c.root.path+"/") {
		return fmt.Errorf("a worker is outside of its supervisor's cgroup: %s", path)
	}
	dir, err := openBox(path)
	if err != nil {
		return err
	}
	defer dir.close()
	killed := time.Now()
	if err := dir.write("cgroup.kill", "1"); err != nil {
		return err
	}
	at, err := c.counter.wait(ctx, before+1)
	r := row{ID: "17", Measure: "somebody else writes cgroup.kill of a worker's leaf", Target: "restarted, or a clear error, within 1 s"}
	if err != nil {
		r.Pitvisor, r.Exact, r.Verdict = err.Error(), true, verdictMissed
	} else {
		r.Pitvisor = fmt.Sprintf("worker back after %.0f ms", milliseconds(at.Sub(killed)))
		r.Exact, r.Verdict = true, exactly(at.Sub(killed) <= time.Second)
	}
	b.addRow(r)
	_, stop := c.stop(ctx, who.stop)
	return errors.Join(err, stop)
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "NO"
}
