package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/internal/config"
	"github.com/pitvisor/pitvisor/internal/metrics"
	"github.com/pitvisor/pitvisor/internal/probe"
	"github.com/pitvisor/pitvisor/internal/server"
	"github.com/pitvisor/pitvisor/internal/sockets"
	"github.com/pitvisor/pitvisor/supervise"
)

// passedOn returns the descriptors that who has started us has passed on, by name. It is
// for the begin of the program.
func passedOn() sockets.Passed {
	passed := sockets.Passed{}
	for _, f := range activation.Files(true) {
		passed[f.Name()] = append(passed[f.Name()], f)
	}
	return passed
}

// closePassed closes them, which does nothing to who else has them.
func closePassed(p sockets.Passed) {
	for _, files := range p {
		for _, f := range files {
			_ = f.Close() // nothing was written
		}
	}
}

// heldBriefly is how long the child of a process that was just killed may take to come to exec,
// and give up what it has inherited.
const heldBriefly = 50 * time.Millisecond

// claimAddress listens somewhere, and if somebody does there already, sweeps and tries again:
// processes of an owner that was killed may have it, workers that were given it or one that
// never came to exec. So this sweep can not go on beside the starts.
func (s *session) claimAddress(listen func(context.Context) error) error {
	brief, cancel := context.WithTimeout(context.Background(), heldBriefly)
	defer cancel()
	err := listen(brief)
	var taken *server.TakenError
	if !errors.Is(err, unix.EADDRINUSE) && !errors.As(err, &taken) {
		return err
	}
	s.sweepStale(context.Background())
	return listen(context.Background())
}

// openSockets opens the sockets of the configuration that we start with.
func (s *session) openSockets() (*sockets.Change, error) {
	var change *sockets.Change
	err := s.claimAddress(func(context.Context) (err error) {
		change, err = s.sockets.Prepare(s.cfg.Sockets)
		return err
	})
	if err != nil {
		return nil, err
	}
	s.onClose(s.sockets.Close)
	if err := change.Commit(); err != nil {
		return nil, err
	}
	return change, nil
}

// takeSockets puts the sockets of another configuration in force. Those that it has no
// more stay open until the workers that need them are gone for good.
func (s *session) takeSockets(change *sockets.Change, begun []*supervise.Progress) {
	if err := change.Commit(); err != nil {
		s.log.Warn("a socket keeps what it had: " + err.Error())
	}
	s.group.Go(func() {
		for _, p := range begun {
			if p.Wait(s.ctx) != nil {
				return // old workers go on, and start again under the old configuration
			}
		}
		change.Retire()
	})
}

// inherits returns what the workers of a pool are given.
func (s *session) inherits(p *config.Pool, change *sockets.Change) ([]supervise.Inheritance, error) {
	var all []supervise.Inheritance
	if len(p.Sockets) > 0 {
		all = append(all, change.For(p.Sockets))
	}
	if talks(p) {
		c, err := probe.NewChannel(probe.Channel{Notify: s.notify, Tell: s.tell, Store: p.Store})
		if err != nil {
			return nil, fail(exitUsage, fmt.Errorf("sd_notify of pool %s: %w", p.Spec.Name, err))
		}
		all = append(all, c)
	}
	return all, nil
}

// countNotify shows what has become of the messages that came. There may be no server yet.
func (s *session) countNotify() {
	read := func(get func(probe.NotifyCounts) uint64) func() uint64 {
		return func() uint64 {
			if server := s.stores.Load(); server != nil {
				return get(server.Counts())
			}
			return 0
		}
	}
	s.api.counts.CountNotify(
		metrics.Count{Result: "received", Read: read(func(c probe.NotifyCounts) uint64 { return c.Received })},
		metrics.Count{Result: "ignored", Read: read(func(c probe.NotifyCounts) uint64 { return c.Ignored })},
		metrics.Count{Result: "unknown_name", Read: read(func(c probe.NotifyCounts) uint64 { return c.Unknown })},
		metrics.Count{Result: "invalid_value", Read: read(func(c probe.NotifyCounts) uint64 { return c.Invalid })},
		metrics.Count{Result: "refused_process", Read: read(func(c probe.NotifyCounts) uint64 { return c.Refused })},
		metrics.Count{Result: "closed_descriptor", Read: read(func(c probe.NotifyCounts) uint64 { return c.Closed })},
	)
}

// talks says whether workers of a pool are listened to.
func talks(p *config.Pool) bool {
	return p.Notify || p.Store > 0 || p.Ready != nil && p.Ready.Notify || p.Live != nil && (p.Live.Rules.Notify || p.Live.Count)
}

func usesNotify(cfg *config.Config) bool {
	for i := range cfg.Pools {
		if talks(&cfg.Pools[i]) {
			return true
		}
	}
	return false
}

// listen makes the socket for sd_notify, the first time that a configuration needs it.
func (s *session) listen(cfg *config.Config) (fresh bool, err error) {
	if s.notify != nil || !usesNotify(cfg) {
		return false, nil
	}
	if s.notify, err = probe.NewNotifyServer(s.runtime.path); err != nil {
		return false, fmt.Errorf("listen for sd_notify messages: %w", err)
	}
	s.stores.Store(s.notify)
	s.onClose(s.notify.Close)
	return true, nil
}

func (s *session) serveNotify(ctx context.Context) {
	s.group.Go(func() {
		if err := s.notify.Serve(ctx); err != nil && ctx.Err() == nil {
			s.log.Error("sd_notify messages of workers are no longer read: " + err.Error())
		}
	})
}

// count hands on what a worker has counted.
func (s *session) count(info supervise.StartInfo, n uint64) {
	s.sup.Count(info.Worker, info.Start, n)
}

// tell hands on what a worker has said.
func (s *session) tell(info supervise.StartInfo, take func() supervise.Said) {
	s.sup.Tell(info.Worker, info.Start, take)
}

// dropStored closes what a worker has stored for a start that will not come.
func (s *session) dropStored(e *supervise.Event) {
	server := s.stores.Load()
	if server == nil || e.Worker.Slot < 0 {
		return
	}
	switch e.To {
	case supervise.StateDown, supervise.StateFailed, supervise.StateCompleted:
		server.DropStored(e.Worker, e.Start)
	default:
	}
}

// checkSockets says which sockets could not be opened now. What has them may be this very
// configuration, in a pitvisor that runs, so these are notes and no errors.
func checkSockets(cfg *config.Config) []string {
	var notes []string
	for _, s := range cfg.Sockets {
		if err := sockets.Try(s); err != nil {
			notes = append(notes, err.Error())
		}
	}
	return notes
}
