package probe

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/spawn"
)

// destroyTimeout bounds the removal of a try's leaf; a process in D state may
// need longer than anybody wants to wait.
const destroyTimeout = 10 * time.Second

func (a *attempt) awaitExec(ctx context.Context) error {
	rule := "exec " + strings.Join(a.rules.Exec, " ")
	pool, err := a.poolDir()
	if err != nil {
		return &NotReadyError{Rule: rule, Last: err}
	}
	defer pool.Close()
	return a.repeat(ctx, rule, func(ctx context.Context, n int) error {
		return a.execOnce(ctx, pool, n)
	})
}

// poolDir opens the cgroup that holds the worker's leaf, and makes sure that it
// does: the path may be another's by now.
func (a *attempt) poolDir() (*cgroup.Dir, error) {
	pool, err := cgroup.Open(filepath.Dir(a.leaf.Path()))
	if err != nil {
		return nil, err
	}
	leaf, err := pool.OpenChild(a.leaf.Name())
	if err == nil {
		defer leaf.Close()
		if leaf.ID() == a.leaf.ID() {
			return pool, nil
		}
		err = cgroup.ErrGone
	}
	_ = pool.Close() // opened only to look
	return nil, fmt.Errorf("find the pool of %s: %w", a.leaf.Path(), err)
}

// execOnce runs the command in a fresh leaf and removes the leaf with whatever
// the command has left there.
func (a *attempt) execOnce(ctx context.Context, pool *cgroup.Dir, n int) (err error) {
	name := fmt.Sprintf("%s-%d.%d.%d", cmp.Or(a.kind, "probe"), a.info.Worker.Slot, a.info.Start, n)
	leaf, err := pool.Create(name)
	if err != nil {
		return err
	}
	defer func() {
		// Also when ctx is over: the leaf must go.
		dctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), destroyTimeout)
		defer cancel()
		if derr := pool.Destroy(dctx, name, leaf.ID()); derr != nil {
			err = final(errors.Join(err, derr))
		}
		_ = leaf.Close() // a directory
	}()
	out, err := newTail()
	if err != nil {
		return err
	}
	exit, err := a.runIn(ctx, leaf, out.write)
	// What the command left must not keep the pipe open.
	_ = leaf.Kill()
	said := out.finish()
	switch {
	case err != nil:
		return err
	case exit.Success():
		return nil
	case said != "":
		return fmt.Errorf("%v: %s", exit, said)
	}
	return errors.New(exit.String())
}

// runIn starts the command in the worker's network namespace and waits for it.
func (a *attempt) runIn(ctx context.Context, leaf *cgroup.Dir, out *os.File) (spawn.Exit, error) {
	cmd, err := a.execCmd()
	if err != nil {
		return spawn.Exit{}, final(err)
	}
	cmd.Leaf, cmd.Stdout, cmd.Stderr = leaf, out, out
	anchor, err := a.anchor()
	if err != nil {
		return spawn.Exit{}, err
	}
	defer anchor.Close()
	ns, err := netNS(anchor)
	if err != nil {
		return spawn.Exit{}, err
	}
	defer ns.Close()
	var p *spawn.Process
	err = ns.Do(func() (err error) {
		p, err = spawn.Start(cmd)
		return err
	})
	if err != nil {
		return spawn.Exit{}, err
	}
	defer p.Close()
	exit, err := p.Wait(ctx)
	if err == nil {
		return exit, nil
	}
	// It must not become a zombie of ours: end it and take its status.
	_ = leaf.Kill() // Destroy reports what is wrong with the leaf
	dctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), destroyTimeout)
	defer cancel()
	_, reapErr := p.Wait(dctx)
	return spawn.Exit{}, errors.Join(err, reapErr)
}

// execCmd is the command with its placeholders filled in.
func (a *attempt) execCmd() (*spawn.Cmd, error) {
	port := strconv.Itoa(a.port())
	args := make([]string, 0, len(a.rules.Exec))
	for _, arg := range a.rules.Exec {
		args = append(args, strings.ReplaceAll(expand(arg, a.info), "{port}", port))
	}
	var env []string
	for _, kv := range a.deps.ExecEnv {
		env = append(env, expand(kv, a.info))
	}
	env = append(env,
		"PITVISOR_RUN_ID="+a.info.Run.String(),
		"PITVISOR_POOL="+a.info.Worker.Pool,
		"PITVISOR_SLOT="+strconv.Itoa(a.info.Worker.Slot),
		"PITVISOR_WORKER="+a.info.Worker.String(),
		"PITVISOR_START="+strconv.FormatUint(a.info.Start, 10),
	)
	if a.port() != 0 {
		env = append(env, "PITVISOR_PORT="+port)
	}
	path, err := spawn.LookPath(args[0], env, a.deps.ExecDir)
	if err != nil {
		return nil, err
	}
	return &spawn.Cmd{Path: path, Args: args, Env: env, Dir: a.deps.ExecDir, Credential: a.deps.ExecCredential}, nil
}

// tail keeps the end of what a command says.
type tail struct {
	read, write *os.File
	done        sync.WaitGroup
	last        []byte // the reader's until done
}

func newTail() (*tail, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make a pipe: %w", err)
	}
	t := &tail{read: r, write: w}
	t.done.Go(t.drain)
	return t, nil
}

// drain reads so that a talkative command does not block, and keeps little.
func (t *tail) drain() {
	buf := make([]byte, 4096)
	for {
		n, err := t.read.Read(buf)
		t.last = append(t.last, buf[:n]...)
		t.last = t.last[max(0, len(t.last)-maxShown):]
		if err != nil {
			return
		}
	}
}

// finish returns the last line and ends the reader, also when somebody who
// escaped from the leaf keeps the pipe open.
func (t *tail) finish() string {
	_ = t.write.Close() // ours only
	_ = t.read.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	t.done.Wait()
	_ = t.read.Close() // read-only; nothing to lose
	lines := strings.Split(strings.TrimSpace(string(t.last)), "\n")
	return lines[len(lines)-1]
}
