package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/pitvisor/pitvisor/api"
	"github.com/pitvisor/pitvisor/supervise"
)

// mostWait bounds how long a call may wait for workers. Its caller can ask again.
const mostWait = time.Hour

// mostWorkers is how large a pool can be. The supervisor has a bound for all pools.
const mostWorkers = 10_000

func (s *Server) postStart(w http.ResponseWriter, c *call) error {
	a, err := readBody[api.Selected](c)
	if err != nil {
		return err
	}
	return s.command(w, c, "start", a, s.o.Supervisor.Start)
}

func (s *Server) postStop(w http.ResponseWriter, c *call) error {
	a, err := readBody[api.Stop](c)
	if err != nil {
		return err
	}
	if a.Now {
		return s.command(w, c, "stop at once", a.Selected, s.o.Supervisor.Kill)
	}
	return s.command(w, c, "stop", a.Selected, s.o.Supervisor.Stop)
}

// command asks the supervisor for something, and waits for its end if it shall.
func (s *Server) command(w http.ResponseWriter, c *call, what string, a api.Selected,
	do func(context.Context, supervise.Selector) ([]supervise.WorkerID, error),
) error {
	sel, err := s.selector(a.Select)
	if err = errors.Join(err, checkTimeout(a.Timeout)); err != nil {
		return err
	}
	ids, err := do(c.r.Context(), sel)
	if err != nil {
		return commandError(err)
	}
	s.audit(c, what, a.Select, len(ids))
	out := api.Changed{Workers: names(ids)}
	if a.Wait {
		err := s.wait(w, c, a.Timeout, func(ctx context.Context) error {
			err := s.o.Supervisor.Wait(ctx, sel)
			var failed *supervise.PoolError
			if what == "stop" && errors.As(err, &failed) {
				return nil // who was given up is down
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return answer(w, out)
}

func (s *Server) postRestart(w http.ResponseWriter, c *call) error {
	a, err := readBody[api.Selected](c)
	if err != nil {
		return err
	}
	sel, err := s.selector(a.Select)
	if err = errors.Join(err, checkTimeout(a.Timeout)); err != nil {
		return err
	}
	begun, err := s.o.Supervisor.Restart(c.r.Context(), sel)
	if err != nil {
		return commandError(err)
	}
	s.audit(c, "restart", a.Select, len(begun))
	return s.answerRollouts(w, c, a, &api.Changed{}, begun)
}

// answerRollouts says which rollouts were begun, and how they ended if that is to be
// waited for.
func (s *Server) answerRollouts(w http.ResponseWriter, c *call, a api.Selected, out *api.Changed, begun []*supervise.Progress) error {
	for _, p := range begun {
		out.Rollouts = append(out.Rollouts, api.Rollout{Pool: p.Pool, ID: p.Rollout})
	}
	if !a.Wait {
		return answer(w, out)
	}
	err := s.wait(w, c, a.Timeout, func(ctx context.Context) error {
		for i, p := range begun {
			err := p.Wait(ctx)
			if ctx.Err() != nil {
				return err
			}
			if err != nil {
				out.Rollouts[i].Error = err.Error()
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return answer(w, out)
}

func (s *Server) postScale(w http.ResponseWriter, c *call) error {
	a, err := readBody[api.Scale](c)
	if err != nil {
		return err
	}
	if a.Pool == "" || a.Size == nil {
		return badRequest(`send {"pool":"web","size":4}`, "pool or size is missing")
	}
	if *a.Size < 0 || *a.Size > mostWorkers {
		return badRequest("", "size of pool %.100q is %d, must be 0 to %d", a.Pool, *a.Size, mostWorkers)
	}
	sel, err := s.poolSelector(a.Pool)
	if err = errors.Join(err, checkTimeout(a.Timeout)); err != nil {
		return err
	}
	if err := s.o.Supervisor.Scale(c.r.Context(), a.Pool, *a.Size); err != nil {
		return commandError(err)
	}
	s.audit(c, fmt.Sprintf("scale to %d", *a.Size), []string{a.Pool}, *a.Size)
	if a.Wait {
		err := s.wait(w, c, a.Timeout, func(ctx context.Context) error {
			err := s.o.Supervisor.Wait(ctx, sel)
			if errors.Is(err, supervise.ErrNoMatch) {
				return nil // a pool of nobody is where it should be
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return answer(w, api.Changed{Scaled: []string{a.Pool}})
}

// Reloaded is what the supervisor did when its configuration was read again.
type Reloaded struct {
	supervise.Changes
	Sockets bool     // the listening sockets have changed
	Later   []string // settings that hold from its next start on
}

func (s *Server) postReload(w http.ResponseWriter, c *call) error {
	a, err := readBody[api.Reload](c)
	if err != nil {
		return err
	}
	if s.o.Reload == nil {
		return conflict("stop it and start it again", "this supervisor cannot be reloaded")
	}
	if err := checkTimeout(a.Timeout); err != nil {
		return err
	}
	changes, err := s.o.Reload(c.r.Context())
	if err != nil {
		return commandError(err)
	}
	s.audit(c, "reload", nil, len(changes.Rolling))
	out := &api.Changed{Added: changes.Added, Removed: changes.Removed, Scaled: changes.Scaled, Updated: changes.Updated, Run: changes.Run, Sockets: changes.Sockets, Later: changes.Later}
	return s.answerRollouts(w, c, api.Selected{Wait: a.Wait, Timeout: a.Timeout}, out, changes.Rolling)
}

// poolSelector selects the workers of one pool, which must be there.
func (s *Server) poolSelector(pool string) (supervise.Selector, error) {
	var names []string
	for _, p := range s.o.Supervisor.Pools() {
		if p.Removed {
			continue
		}
		if p.Name == pool {
			return supervise.ParseSelector(pool)
		}
		names = append(names, p.Name)
	}
	name, _, _ := strings.Cut(pool, "/")
	return supervise.Selector{}, notFound(whichThereAre(name, names), "there is no pool %.100q", pool)
}

// selector reads a selection for a command about workers, and checks that each of
// its patterns fits one. A start that is named must be the one that runs.
func (s *Server) selector(texts []string) (supervise.Selector, error) {
	if len(texts) == 0 {
		return supervise.Selector{}, badRequest(`name workers; "*" is all of them`, "select is empty")
	}
	selected, err := parseSelection(texts)
	if err != nil {
		return supervise.Selector{}, err
	}
	if _, err := selected.choose(s.o.Supervisor.Status(), s.labels()); err != nil {
		return supervise.Selector{}, err
	}
	plain := make([]string, len(texts))
	for i := range selected {
		if selected[i].pid != 0 {
			return supervise.Selector{}, badRequest("name the worker", "%s is a process; this is about workers", selected[i].text)
		}
		plain[i], _, _ = cutStart(texts[i])
	}
	return supervise.ParseSelector(plain...)
}

func checkTimeout(timeout time.Duration) error {
	if timeout < 0 || timeout > mostWait {
		return badRequest("", "timeout_ns is %v, must be 0 to %v", timeout, mostWait)
	}
	return nil
}

// wait waits for workers as long as the caller does, and its time-out allows.
func (s *Server) wait(w http.ResponseWriter, c *call, timeout time.Duration, until func(context.Context) error) error {
	if timeout == 0 {
		timeout = mostWait
	}
	rc := http.NewResponseController(w)
	if err := errors.Join(rc.SetReadDeadline(time.Time{}), rc.SetWriteDeadline(time.Time{})); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.r.Context(), timeout)
	defer cancel()
	err := until(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		return refuse(http.StatusGatewayTimeout, api.CodeTimeout, "it goes on; ask for the status", "not done within %v", timeout)
	}
	if err := errors.Join(rc.SetWriteDeadline(time.Now().Add(answerTime))); err != nil {
		return err
	}
	if err != nil {
		return commandError(err)
	}
	return nil
}

// commandError is what the supervisor said, as it travels.
func commandError(err error) error {
	var pools *supervise.PoolError
	switch {
	case errors.Is(err, supervise.ErrNoMatch):
		return notFound("`pitvisor status` shows what there is", "%v", err)
	case errors.Is(err, supervise.ErrEnding), errors.Is(err, supervise.ErrWaiting), errors.As(err, &pools):
		return conflict("", "%v", err)
	}
	return err
}

// who names the caller for people.
func (c *call) who() string {
	if c.caller.UID == overTCP {
		return "who has the token"
	}
	return fmt.Sprintf("uid %d", c.caller.UID)
}

// audit notes who has changed what.
func (s *Server) audit(c *call, what string, selected []string, n int) {
	s.o.Log.Info("api: "+what, "select", selected, "count", n, "by", fmt.Sprintf("%s uid %d pid %d", c.caller.Role, c.caller.UID, c.caller.PID))
}

func names(ids []supervise.WorkerID) []string {
	all := make([]string, len(ids))
	for i, id := range ids {
		all[i] = id.String()
	}
	return all
}
