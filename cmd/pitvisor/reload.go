package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/internal/config"
	"github.com/pitvisor/pitvisor/internal/server"
	"github.com/pitvisor/pitvisor/supervise"
)

// reload reads the configuration again and changes what has changed. One that is
// wrong, or cannot be put in force, leaves everything as it is. It does not wait for the
// workers.
func (s *session) reload(ctx context.Context) (done server.Reloaded, err error) {
	s.reloading.Lock()
	defer s.reloading.Unlock()
	cfg, err := s.again()
	if err != nil {
		return done, err
	}
	old := s.inForce.Load()
	if err := s.canReload(cfg); err != nil {
		return done, err
	}
	fresh, err := s.listen(cfg)
	if err != nil {
		return done, err
	}
	if fresh {
		s.serveNotify(s.ctx)
	}
	open, err := s.sockets.Prepare(cfg.Sockets)
	if err != nil {
		return done, err
	}
	specs, err := s.specs(cfg, open)
	if err != nil {
		open.Undo()
		return done, err
	}
	// Starts look there where they write to; those of the old pools still find theirs.
	s.inForce.Store(withOld(cfg, old))
	done.Changes, err = s.sup.ReloadAll(ctx, cfg.Run, specs)
	if err != nil {
		s.inForce.Store(old)
		open.Undo()
		return server.Reloaded{}, err
	}
	s.takeSockets(open, done.Rolling)
	s.inForce.Store(cfg)
	s.tellOfSettings(config.Diff(old, cfg), &done)
	return done, nil
}

// withOld returns cfg with the pools that only the old configuration has.
func withOld(cfg, old *config.Config) *config.Config {
	both := *cfg
	both.Pools = slices.Clone(cfg.Pools)
	for _, p := range old.Pools {
		if !slices.ContainsFunc(cfg.Pools, func(q config.Pool) bool { return q.Spec.Name == p.Spec.Name }) {
			both.Pools = append(both.Pools, p)
		}
	}
	return &both
}

// canReload refuses what was not prepared for at the start.
func (s *session) canReload(cfg *config.Config) error {
	const cure = "restart pitvisor: this is prepared at its start only"
	for _, p := range cfg.Pools {
		switch {
		case p.Output != config.OutputNone && s.logs == nil:
			return failHint(exitUsage, fmt.Errorf("pool %s keeps its output, and no pool did at the start", p.Spec.Name), cure)
		case p.Journal && s.journal == nil:
			return failHint(exitUsage, fmt.Errorf("pool %s sends its output to the journal, and no pool did at the start", p.Spec.Name), cure)
		}
	}
	return nil
}

// tellOfSettings says, and puts down in done, that the sockets have changed, which is no
// change of a pool, and what is not taken over while pitvisor runs.
func (s *session) tellOfSettings(d config.Difference, done *server.Reloaded) {
	for _, c := range d.Settings {
		switch {
		case c.Effect == config.EffectRestart:
			done.Later = append(done.Later, c.Key)
		case c.Key == "socket":
			done.Sockets = true
			s.log.Info("the listening sockets are those of the configuration now")
		}
	}
	if len(done.Later) > 0 {
		s.log.Warn("these settings hold from the next start of pitvisor on", "settings", strings.Join(done.Later, ", "))
	}
}

// onHangup reloads, and says how that went, also to systemd.
func (s *session) onHangup(ctx context.Context) {
	started := s.events.started()
	if started {
		var now unix.Timespec
		_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) // systemd wants it: this reload, not the one before
		_, _ = daemon.SdNotify(false, fmt.Sprintf("%s\nMONOTONIC_USEC=%d", daemon.SdNotifyReloading, now.Nano()/1000))
	}
	changes, err := s.reload(ctx)
	status := changesText(changes.Changes)
	switch {
	case errors.Is(err, supervise.ErrEnding), ctx.Err() != nil:
		return
	case err != nil:
		status = "the configuration was not reloaded: " + firstLine(err.Error())
		s.log.Error("the configuration was not reloaded, everything is as before: " + err.Error())
	default:
		s.log.Info("configuration reloaded: " + status)
	}
	if started {
		status = "READY=1\nSTATUS=" + status // which ends the reload for systemd
	} else {
		status = "STATUS=" + status
	}
	_, _ = daemon.SdNotify(false, status)
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}

// changesText says in words what a reload has changed.
func changesText(c supervise.Changes) string {
	if c.Empty() {
		return "no pool has changed"
	}
	var rolling []string
	for _, p := range c.Rolling {
		rolling = append(rolling, p.Pool)
	}
	var parts []string
	for _, part := range []struct {
		what  string
		pools []string
	}{
		{"added", c.Added},
		{"removed", c.Removed},
		{"scaled", c.Scaled},
		{"replacing the workers of", rolling},
		{"changed without replacing workers", c.Updated},
		{"changed", ofRun(c)},
	} {
		if len(part.pools) > 0 {
			parts = append(parts, part.what+" "+strings.Join(part.pools, ", "))
		}
	}
	return strings.Join(parts, "; ")
}

// ofRun names what concerns all pools, if it has changed.
func ofRun(c supervise.Changes) []string {
	if c.Run {
		return []string{"[run]"}
	}
	return nil
}

// hasTerminal says whether this process has a controlling terminal, whose end is told
// with HUP.
func hasTerminal() bool {
	tty, err := os.Open("/dev/tty")
	if err != nil {
		return false
	}
	_ = tty.Close() // opened only to look
	return true
}

// hangups collects requests to reload: while one is carried out, others become one.
type hangups chan struct{}

func (h hangups) add() {
	select {
	case h <- struct{}{}:
	default:
	}
}

// serve carries them out until ctx is done.
func (h hangups) serve(ctx context.Context, reload func(context.Context)) {
	for {
		select {
		case <-h:
			reload(ctx)
		case <-ctx.Done():
			return
		}
	}
}
