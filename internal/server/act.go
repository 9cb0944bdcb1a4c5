package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/api"
	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/internal/units"
	"github.com/pitvisor/pitvisor/registry"
	"github.com/pitvisor/pitvisor/supervise"
)

const (
	// actTime bounds one call: a freeze waits for the kernel.
	actTime = 20 * time.Second
	// hands is how many workers are acted upon at the same time.
	hands = 8
)

// deed is what is done to the leaf of one start. It returns how many processes it
// was done to.
type deed func(ctx context.Context, leaf *cgroup.Dir, w *supervise.WorkerStatus) (int, error)

func (s *Server) postSignal(w http.ResponseWriter, c *call) error {
	a, err := readBody[api.Action](c)
	if err != nil {
		return err
	}
	sig, ok := units.Signal(a.Signal)
	if !ok {
		return badRequest("write a name such as HUP, or a number, 1 to 64", "there is no signal %.40q", a.Signal)
	}
	text := fmt.Sprintf("signal %s", units.SignalName(sig))
	return s.act(w, c, text, a.Select, func(ctx context.Context, leaf *cgroup.Dir, w *supervise.WorkerStatus) (int, error) {
		if err := s.o.Supervisor.Strike(ctx, w.Worker, w.Start, sig, false, c.who()); err != nil {
			return 0, err
		}
		if a.All {
			return leaf.Signal(sig)
		}
		return 1, signalMain(leaf, w, sig)
	})
}

func (s *Server) postFreeze(w http.ResponseWriter, c *call) error {
	a, err := plainAction(c)
	if err != nil {
		return err
	}
	return s.act(w, c, "freeze", a.Select, s.freeze)
}

func (s *Server) postThaw(w http.ResponseWriter, c *call) error {
	a, err := plainAction(c)
	if err != nil {
		return err
	}
	return s.act(w, c, "thaw", a.Select, s.thaw)
}

func (s *Server) postKill(w http.ResponseWriter, c *call) error {
	a, err := plainAction(c)
	if err != nil {
		return err
	}
	return s.act(w, c, "kill", a.Select, func(ctx context.Context, leaf *cgroup.Dir, w *supervise.WorkerStatus) (int, error) {
		if err := s.o.Supervisor.Strike(ctx, w.Worker, w.Start, unix.SIGKILL, true, c.who()); err != nil {
			return 0, err
		}
		return kill(leaf)
	})
}

// plainAction reads an action that takes no signal.
func plainAction(c *call) (api.Action, error) {
	a, err := readBody[api.Action](c)
	if err == nil && (a.Signal != "" || a.All) {
		err = badRequest("use /v1/signal", "signal and all have no meaning for %s", c.route.path)
	}
	return a, err
}

// act does something to each of the selected workers, and answers with what became
// of it.
func (s *Server) act(w http.ResponseWriter, c *call, what string, texts []string, do deed) error {
	if len(texts) == 0 {
		return badRequest(`name workers; "*" is all of them`, "select is empty")
	}
	selected, err := parseSelection(texts)
	if err != nil {
		return err
	}
	l := s.labels()
	workers, err := selected.choose(s.o.Supervisor.Status(), l)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.r.Context(), actTime)
	defer cancel()
	out := api.Done{Workers: make([]api.Outcome, len(workers))}
	todo := make(chan int)
	var group sync.WaitGroup
	for range min(hands, len(workers)) {
		group.Go(func() {
			for i := range todo {
				out.Workers[i] = s.actOn(ctx, &workers[i], selected, l, do)
			}
		})
	}
	for i := range workers {
		todo <- i
	}
	close(todo)
	group.Wait()
	s.audit(c, what, texts, len(workers))
	return answer(w, out)
}

// actOn does something to one worker.
func (s *Server) actOn(ctx context.Context, w *supervise.WorkerStatus, selected selection, l labels, do deed) api.Outcome {
	out := api.Outcome{Worker: w.Worker.String(), Start: w.Start}
	n, err := s.try(ctx, w, selected, l, do)
	out.Processes = n
	if err != nil {
		out.Processes, out.Error = 0, err.Error()
	}
	return out
}

func (s *Server) try(ctx context.Context, w *supervise.WorkerStatus, selected selection, l labels, do deed) (int, error) {
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	if w.State != supervise.StateUp && w.State != supervise.StateStopping {
		return 0, fmt.Errorf("is %s: there is no process", w.State)
	}
	leaf, err := s.openLeaf(w.Worker.Pool, leafOf(w))
	if err != nil {
		return 0, fmt.Errorf("start %d has ended meanwhile: %w", w.Start, err)
	}
	defer func() { _ = leaf.Close() }() // a directory; nothing to lose
	if err := selected.sameProcess(leaf, w, l); err != nil {
		return 0, err
	}
	return do(ctx, leaf, w)
}

// sameProcesses compares the inodes of those workers that were selected by their process.
func (s *Server) sameProcesses(selected selection, workers []supervise.WorkerStatus, l labels) error {
	for i := range workers {
		w := &workers[i]
		if !slices.ContainsFunc(selected, func(one selector) bool { return one.pid != 0 && one.pid == w.PID }) {
			continue
		}
		leaf, err := s.openLeaf(w.Worker.Pool, leafOf(w))
		if err != nil {
			return conflict("", "start %d of %s has ended meanwhile", w.Start, w.Worker)
		}
		err = selected.sameProcess(leaf, w, l)
		_ = leaf.Close() // was only looked at
		if err != nil {
			return conflict("see `pitvisor ps`", "%s: %v", w.Worker, err)
		}
	}
	return nil
}

// sameProcess compares the inode of a worker that was selected by its process.
func (all selection) sameProcess(leaf *cgroup.Dir, w *supervise.WorkerStatus, l labels) error {
	for i := range all {
		s := &all[i]
		if s.pid == 0 && s.fits(w, l) {
			return nil // selected by its name as well
		}
	}
	for i := range all {
		s := &all[i]
		if s.pid == 0 || s.pid != w.PID {
			continue
		}
		if view, ok := registry.ViewLeaf(w.Worker.Pool, leaf); !ok || view.Process.Inode != s.inode || view.Process.PID != s.pid {
			return fmt.Errorf("its process is not %s any more", s.text)
		}
	}
	return nil
}

var errTooYoung = errors.New("has only just started: its process is not on record yet, ask again")

// signalMain signals the main process of a leaf, by the identity that is on record,
// and only if it is in the leaf.
func signalMain(leaf *cgroup.Dir, w *supervise.WorkerStatus, sig unix.Signal) error {
	view, ok := registry.ViewLeaf(w.Worker.Pool, leaf)
	if !ok || view.Process.PID == 0 {
		return errTooYoung
	}
	p, err := view.Process.Open()
	if err != nil {
		return err
	}
	defer func() { _ = p.Close() }() // the signal was sent or not
	in, err := contains(leaf, p)
	if err != nil {
		return err
	}
	if !in {
		return fmt.Errorf("process %s is not in its leaf", view.Process)
	}
	return p.Signal(sig)
}

func (s *Server) freeze(ctx context.Context, leaf *cgroup.Dir, w *supervise.WorkerStatus) (int, error) {
	s.sessions.freeze.RLock()
	err := leaf.Freeze(ctx)
	s.sessions.freeze.RUnlock()
	if err != nil {
		_ = leaf.Thaw(context.WithoutCancel(ctx)) // half frozen is worse than not
		return 0, err
	}
	s.frost.note(w, true)
	return count(leaf)
}

func (s *Server) thaw(ctx context.Context, leaf *cgroup.Dir, w *supervise.WorkerStatus) (int, error) {
	if err := leaf.Thaw(ctx); err != nil {
		return 0, err
	}
	s.frost.note(w, false)
	s.o.Supervisor.Spare(w.Worker, w.Start) // who thaws it by hand wants it to run
	return count(leaf)
}

func kill(leaf *cgroup.Dir) (int, error) {
	n, err := count(leaf)
	if err != nil {
		return 0, err
	}
	return n, leaf.Kill()
}

func count(leaf *cgroup.Dir) (int, error) {
	pids, err := leaf.PIDsRecursive()
	return len(pids), err
}
