package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/history"
	"github.com/pitvisor/pitvisor/internal/capture"
	"github.com/pitvisor/pitvisor/internal/config"
	"github.com/pitvisor/pitvisor/internal/exit"
	"github.com/pitvisor/pitvisor/internal/home"
	"github.com/pitvisor/pitvisor/internal/probe"
	"github.com/pitvisor/pitvisor/internal/sockets"
	"github.com/pitvisor/pitvisor/registry"
	"github.com/pitvisor/pitvisor/spawn"
	"github.com/pitvisor/pitvisor/supervise"
)

// session is one `pitvisor up`: what it opened, in the order of opening.
type session struct {
	app *app
	log *slog.Logger
	cfg *config.Config // with which it was started

	inForce atomic.Pointer[config.Config]  // the last one that was taken over
	again   func() (*config.Config, error) // reads it again
	sup     *supervise.Supervisor
	ctx     context.Context // of what runs until the session ends

	reloading sync.Mutex // held by reload
	sockets   *sockets.Set
	opened    *sockets.Change                    // what it has at the start
	stores    atomic.Pointer[probe.NotifyServer] // notify, for who observes
	files     *probe.FileWatcher
	signals   chan os.Signal // taken by handleSignals
	killed    atomic.Int64   // workers killed after their grace before the end began

	root   cgroup.Root
	reg    *registry.Registry
	run    *registry.Run
	logs   *capture.Store // nil when no pool writes files
	logDir string

	closeLogs func() error
	runtime   *runDir
	records   string              // the history's file
	notify    *probe.NotifyServer // nil when no pool uses it
	history   *history.Log
	api       *apiSession
	show      *display
	journal   *journalLines // nil when no pool's output goes to the journal
	shown     chan struct{} // closed when all output was shown and sent; nil when none is
	events    *eventLog

	closers []func() error // run in reverse order
	group   sync.WaitGroup // goroutines that end with the session's context
}

func (a *app) superviseConfig(cfg *config.Config, again func() (*config.Config, error), show string, log *slog.Logger) (err error) {
	s := &session{app: a, sockets: sockets.NewSet(a.passed), log: log, cfg: cfg, again: again, files: probe.NewFileWatcher(), signals: make(chan os.Signal, 8)}
	s.inForce.Store(cfg)
	// From here on a stop is orderly, also one that comes before the start is done.
	signal.Notify(s.signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGPIPE)
	defer signal.Stop(s.signals)
	ctx, cancel := context.WithCancel(context.Background())
	defer func() {
		cancel()
		s.group.Wait()
		if cerr := s.close(); err == nil {
			err = cerr
		}
	}()
	if err := s.open(); err != nil {
		return exit.AsSelf(err)
	}
	sup, err := s.supervisor(show)
	if err != nil {
		return exit.AsSelf(err)
	}
	s.ctx = ctx
	s.startHelpers(ctx)
	s.startAPI(sup)
	err = s.supervise(ctx, sup)
	s.stopAPI()
	s.showRest()
	return err
}

// restTime bounds the wait for a reader of our stdout that has stopped reading.
const restTime = 2 * time.Second

// showRest prints what the workers said last.
func (s *session) showRest() {
	if s.shown == nil {
		return
	}
	if err := s.closeLogs(); err != nil {
		s.log.Warn("close the output files: " + err.Error())
	}
	limit := time.NewTimer(restTime)
	defer limit.Stop()
	select {
	case <-s.shown:
	case <-limit.C:
		s.log.Warn("the end of the workers' output was not shown or sent: nobody reads it", "files", s.logDir)
	}
}

// open acquires everything that a start needs, before anything is started.
func (s *session) open() error {
	err := s.claim()
	if err != nil {
		return err
	}
	if s.root, err = cgroup.FindRoot(s.app.cgroupRoot); err != nil {
		if refusal, ok := errors.AsType[*cgroup.NoRootError](err); ok && refusal.Unit {
			return fail(exitUsage, err) // systemd need not try once more
		}
		return err
	}
	s.onClose(s.root.Dir.Close)
	if cure := s.root.Undelegated; cure != "" {
		s.log.Warn("workers are in "+s.root.Dir.Path()+", outside of the unit: "+cure, "cgroup", s.root.Dir.Path())
	}
	s.reg = registry.New(s.root.Dir)
	place, err := home.Settle(s.root.Dir)
	if err != nil {
		return err
	}
	s.onClose(place.Leave)
	if place.Poisoned {
		s.log.Warn("moved to a fresh cgroup: the kernel kills every process started from one that was once killed",
			"from", place.From, "to", place.To)
	}
	if s.run, err = s.reg.Create(registry.Spec{Kind: "up", Name: s.cfg.Name, Version: version()}); err != nil {
		return err
	}
	s.onClose(s.closeRun)
	return s.openState()
}

// openState makes the places on disk: logs, sockets, history.
func (s *session) openState() error {
	state, err := s.app.stateRoot()
	if err != nil {
		return err
	}
	runtime, err := s.app.runtimeRoot(state)
	if err != nil {
		return err
	}
	id := s.run.ID().String()
	if s.runtime, err = makeRunDir(runtime, id); err != nil {
		return noPlace("runtime", fmt.Errorf("make the runtime directory: %w", err))
	}
	s.onClose(s.runtime.remove)
	if usesFiles(s.cfg) {
		s.logDir = filepath.Join(state, "logs", id)
		warn := func(err error) { s.log.Warn("output files: " + err.Error()) }
		if s.logs, err = capture.Open(captureOptions(s.cfg, s.logDir, warn)); err != nil {
			return noPlace("state", fmt.Errorf("open the workers' log files: %w", err))
		}
		s.closeLogs = sync.OnceValue(s.logs.Close)
		s.onClose(s.closeLogs)
		warnJournal := func(err error) { s.log.Warn("journal: " + err.Error()) }
		if s.journal, err = newJournalLines(s.inForce.Load, id, warnJournal); err != nil {
			return err
		}
	}
	if _, err = s.listen(s.cfg); err != nil {
		return err
	}
	s.records = filepath.Join(state, "history.db")
	s.history = history.Open(s.records, func(err error) {
		s.log.Warn("history: " + err.Error())
	})
	s.onClose(s.closeHistory)
	s.prune(filepath.Join(state, "logs"), runtime)
	if err := s.openAPI(runtime); err != nil {
		return err
	}
	s.opened, err = s.openSockets()
	return err
}

func (s *session) onClose(f func() error) { s.closers = append(s.closers, f) }

// close undoes open in reverse order and returns the first error.
func (s *session) close() error {
	var first error
	for i := len(s.closers) - 1; i >= 0; i-- {
		if err := s.closers[i](); err != nil && first == nil {
			first = err
		}
	}
	if first == nil {
		return nil
	}
	var blocked *cgroup.BlockedError
	if errors.As(first, &blocked) {
		return fail(exitUnclean, first)
	}
	return exit.AsSelf(first)
}

func (s *session) closeRun() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return s.run.Close(ctx)
}

func (s *session) closeHistory() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := s.history.Close(ctx); err != nil {
		s.log.Warn("history: some records were not written: " + err.Error())
	}
	return nil
}

// prune removes log and runtime directories of runs that have ended.
func (s *session) prune(logs, runtime string) {
	for root, keep := range map[string]int{logs: s.cfg.Log.Keep, runtime: 0} {
		if _, err := capture.Prune(root, keep); err != nil {
			s.log.Warn("remove directories of ended runs: " + err.Error())
		}
	}
}

// supervisor builds the pools' specs with their probes and outputs.
func (s *session) supervisor(show string) (*supervise.Supervisor, error) {
	specs, err := s.specs(s.cfg, s.opened)
	if err != nil {
		return nil, err
	}
	s.show = newDisplay(s.app, s.log, s.cfg, s.run.ID().String(), show)
	s.events = newEventLog(s.log, s.cfg, s.history, s.run.ID())
	s.sup, err = supervise.New(supervise.Options{
		Run: s.run, Pools: specs, RunSpec: s.cfg.Run, Output: s.output(), Observe: s.observe, EventRing: heldEvents,
	})
	return s.sup, orBestEffort(err)
}

// orBestEffort adds to the cure of a limit that can not be enforced here that one may go on
// without it.
func orBestEffort(err error) error {
	var missing *cgroup.ControllerError
	if !errors.As(err, &missing) {
		return err
	}
	return failHint(exitSelf, err, exit.Hint(err)+`; or go on without it: limits_mode = "best-effort"`)
}

// specs completes the specs of a configuration with their probes.
func (s *session) specs(cfg *config.Config, open *sockets.Change) ([]supervise.PoolSpec, error) {
	specs := make([]supervise.PoolSpec, 0, len(cfg.Pools))
	for _, p := range cfg.Pools {
		spec := p.Spec
		spec.Variant = fmt.Sprintf("output %s, journal %v", p.Output, p.Journal)
		spec.Command.Env = append(slices.Clip(spec.Command.Env), s.api.workerEnv()...)
		deps := probe.Deps{
			RuntimeDir: s.runtime.path, Notify: s.notify, Files: s.files, Track: spec.Track, Count: s.count,
			ExecEnv: spec.Command.Env, ExecDir: spec.Command.Dir, ExecCredential: spec.Command.Credential,
		}
		var err error
		if spec.Inherit, err = s.inherits(&p, open); err != nil {
			return nil, err
		}
		if p.Ready != nil {
			if spec.Readiness, err = probe.New(*p.Ready, deps); err != nil {
				return nil, fail(exitUsage, fmt.Errorf("readiness of pool %s: %w", p.Spec.Name, err))
			}
		}
		if p.Live != nil {
			if spec.Liveness, err = probe.NewLive(*p.Live, deps); err != nil {
				return nil, fail(exitUsage, fmt.Errorf("liveness of pool %s: %w", p.Spec.Name, err))
			}
		}
		specs = append(specs, spec)
	}
	return specs, nil
}

// follow shows the workers' output, and sends it to the journal. Its goroutines are not of the group: a
// reader of our stdout that does not read would hold up the end.
func (s *session) follow(ctx context.Context) {
	var readers sync.WaitGroup
	read := func(what string, f func(capture.Line)) {
		follower := s.logs.NewFollower()
		readers.Go(func() {
			if err := follower.Run(ctx, f); err != nil && ctx.Err() == nil {
				s.log.Warn("the workers' output is no longer "+what+": "+err.Error(), "files", s.logDir)
			}
		})
	}
	if s.show.wanted() {
		read("shown", s.show.line)
	}
	if s.journal != nil {
		read("sent to the journal", s.journal.line)
	}
	s.shown = make(chan struct{})
	go func() {
		defer close(s.shown)
		readers.Wait()
	}()
}

// startHelpers starts what runs beside the supervisor until the session ends.
func (s *session) startHelpers(ctx context.Context) {
	s.group.Go(func() {
		if err := spawn.ReapOrphans(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("orphans of workers are left to init: " + err.Error())
		}
	})
	s.group.Go(func() { s.sweepStale(ctx) })
	s.group.Go(func() { s.slimDown(ctx) })
	if s.logs != nil && (s.show.wanted() || s.journal != nil) {
		s.follow(ctx)
	}
	if s.notify != nil {
		s.serveNotify(ctx)
	}
}

// sweepStale removes what dead owners left, beside the starts.
func (s *session) sweepStale(ctx context.Context) {
	result, err := s.reg.Sweep(ctx, registry.SweepOptions{Observe: func(e registry.SweepEvent) {
		s.api.counts.Swept(e)
		if e.Err != nil {
			s.log.Warn("sweep "+e.Dir+": "+e.Err.Error(), "result", e.Result)
		}
	}})
	if err != nil && ctx.Err() == nil {
		s.log.Warn("sweep: " + err.Error())
	}
	if result.Swept > 0 {
		s.log.Info("swept what earlier owners left", "runs", result.Swept, "processes", result.Processes,
			"elapsed", result.Elapsed.Round(time.Millisecond))
	}
}

func usesFiles(cfg *config.Config) bool {
	for _, p := range cfg.Pools {
		if p.Output != "none" {
			return true
		}
	}
	return false
}
