package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/supervise"
)

// errSignalled is why a supervisor stops on request.
type errSignalled struct{ sig os.Signal }

func (e errSignalled) Error() string { return "got " + unix.SignalName(e.sig.(unix.Signal)) }

// supervise runs the pools until they are stopped, and says how it went.
func (s *session) supervise(ctx context.Context, sup *supervise.Supervisor) error {
	runCtx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	s.group.Go(func() { s.handleSignals(ctx, stop, sup) })
	s.group.Go(func() { s.talkToSystemd(ctx, sup) })

	s.log.Info("started", "run", s.run.ID().String(), "name", s.cfg.Name, "workers", s.events.workers,
		"cgroup", s.run.Dir().Path())
	err := sup.Run(runCtx)
	s.events.stopProgress()
	_, _ = daemon.SdNotify(false, daemon.SdNotifyStopping)
	return s.verdict(sup, err)
}

// handleSignals turns the first stop signal into a graceful stop and a second
// INT into a kill, and lets HUP reload. SIGPIPE is only caught so that a closed terminal or pipe is
// an ordinary write error.
func (s *session) handleSignals(ctx context.Context, stop context.CancelCauseFunc, sup *supervise.Supervisor) {
	stopping := false
	hangs, terminal := make(hangups, 1), hasTerminal()
	s.group.Go(func() { hangs.serve(ctx, s.onHangup) })
	for {
		select {
		case <-ctx.Done():
			return
		case sig := <-s.signals:
			switch {
			case sig == unix.SIGPIPE:
			case sig == unix.SIGHUP && !terminal:
				hangs.add()
			case !stopping:
				stopping = true
				_, _ = daemon.SdNotify(false, daemon.SdNotifyStopping)
				s.log.Info("stopping", "cause", errSignalled{sig}.Error())
				s.events.stopping.Store(true)
				s.killed.Store(int64(sup.Result().Escalated))
				s.events.startProgress(s.app, sup)
				stop(errSignalled{sig})
			case sig == unix.SIGINT:
				s.log.Warn("second INT: killing what is left")
				s.events.killing.Store(true)
				sup.KillNow()
			}
		}
	}
}

// talkToSystemd reports readiness and status, and feeds the watchdog as long
// as the supervisor answers. Without systemd it does nothing.
func (s *session) talkToSystemd(ctx context.Context, sup *supervise.Supervisor) {
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		s.log.Warn("the watchdog stays off: " + err.Error())
	}
	var tick <-chan time.Time
	if interval > 0 {
		ticker := time.NewTicker(interval / 2)
		defer ticker.Stop()
		tick = ticker.C
	}
	for {
		select {
		case <-ctx.Done():
			return
		case status := <-s.events.status:
			_, _ = daemon.SdNotify(false, status)
		case <-tick:
			_ = sup.Status() // answered by the loop that does the work: proof that it lives
			_, _ = daemon.SdNotify(false, daemon.SdNotifyWatchdog)
		}
	}
}

// verdict turns the end of a run into an exit code, and names what is wrong.
func (s *session) verdict(sup *supervise.Supervisor, err error) error {
	result := sup.Result()
	result.Escalated -= int(s.killed.Load()) // told when it was; this is about the end
	var stopErr *supervise.StopError
	var poolErr *supervise.PoolError
	switch {
	case errors.As(err, &stopErr):
		return fail(exitUnclean, err)
	case err != nil && !errors.As(err, &errSignalled{}) && !errors.As(err, &poolErr):
		return fail(exitSelf, err)
	case result.Blocked > 0 || result.Escalated > 0:
		return s.verdictError(exitUnclean, "the stop was not clean", result)
	case result.GaveUp > 0 || result.NeverReady > 0:
		return s.verdictError(exitFailed, "not every worker started", result)
	}
	s.log.Info("stopped clean", "started", result.Started, "ready", result.Ready)
	return nil
}

func (s *session) verdictError(code int, what string, r supervise.Result) error {
	var parts []string
	if r.NeverReady > 0 {
		parts = append(parts, count(r.NeverReady, "worker", "workers")+" never ready")
	}
	for _, part := range []struct {
		n    int
		what string
	}{
		{r.GaveUp, "given up"},
		{r.Escalated, "killed after their grace"},
		{r.Blocked, "still there"},
	} {
		if part.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", part.n, part.what))
		}
	}
	return fail(code, errors.New(what+": "+strings.Join(parts, ", ")))
}
