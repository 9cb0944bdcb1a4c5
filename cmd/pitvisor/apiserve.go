package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/api"
	"github.com/pitvisor/pitvisor/history"
	"github.com/pitvisor/pitvisor/internal/account"
	"github.com/pitvisor/pitvisor/internal/config"
	"github.com/pitvisor/pitvisor/internal/metrics"
	"github.com/pitvisor/pitvisor/internal/server"
	"github.com/pitvisor/pitvisor/internal/units"
	"github.com/pitvisor/pitvisor/supervise"
)

// readingGroup is the group that may read when the configuration names none.
const readingGroup = "pitvisor"

// apiEndTime bounds the wait for callers at the end.
const apiEndTime = 2 * time.Second

// apiSession is where a `pitvisor up` can be asked.
type apiSession struct {
	socket *server.Socket // nil when there is to be none
	tcp    net.Listener   // likewise
	scrape net.Listener   // for metrics only; likewise
	counts *metrics.Metrics
	end    context.CancelFunc // ends what serves scrape
	token  string
	reader uint32
	server *server.Server
}

// openAPI makes the places to be asked at. Nobody is answered before startAPI.
func (s *session) openAPI(runtime string) error {
	a := &apiSession{counts: metrics.New(version(), goruntime.Version())}
	s.api = a
	s.countNotify()
	c := &s.cfg.API
	a.reader = readerGroup(c)
	if !c.Off {
		path := c.Socket
		if path == "" {
			path = filepath.Join(runtime, socketName(s.cfg, s.root.Dir.Path()))
		}
		if err := s.claimAddress(func(ctx context.Context) (err error) {
			a.socket, err = server.Listen(ctx, path)
			return err
		}); err != nil {
			return noSocket(err)
		}
		s.onClose(a.socket.Close)
		if err := s.run.SetSocket(path); err != nil {
			return err
		}
	}
	var err error
	if c.TCP != "" {
		if a.token, err = readToken(c.TokenFile); err != nil {
			return err
		}
	}
	if a.tcp, err = s.listenTCP(c.TCP, "tcp"); err != nil {
		return err
	}
	a.scrape, err = s.listenTCP(c.Metrics, "metrics")
	return err
}

// socketName tells apart what is kept in one place: two configurations of one name,
// and one configuration below two cgroups.
func socketName(cfg *config.Config, root string) string {
	sum := sha256.Sum256([]byte(cfg.Path + "\x00" + root))
	return cfg.Name + "-" + hex.EncodeToString(sum[:4]) + ".sock"
}

func noSocket(err error) error {
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrExist) {
		return failHint(exitSelf, err, `name another path with socket = "..." in [api]; its directory must be there, and be ours to write to`)
	}
	return err
}

// listenTCP listens at an address of the configuration; "" is none.
func (s *session) listenTCP(address, key string) (net.Listener, error) {
	if address == "" {
		return nil, nil
	}
	var l net.Listener
	err := s.claimAddress(func(context.Context) (err error) {
		l, err = net.Listen("tcp", address)
		return err
	})
	if err != nil {
		return nil, failHint(exitSelf, err, fmt.Sprintf("choose another address for %s in [api]", key))
	}
	s.onClose(func() error {
		if err := l.Close(); !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	})
	return l, nil
}

// readerGroup is the group that may read; 0 is none.
func readerGroup(c *config.API) uint32 {
	if c.Group != nil {
		return *c.Group
	}
	gid, err := account.Group(readingGroup)
	if err != nil {
		return 0 // there is none of that name
	}
	return gid
}

const (
	leastToken = 16
	mostToken  = 4096
)

// readToken reads the token, from a file that nobody else can read.
func readToken(path string) (string, error) {
	cure := fmt.Sprintf("make one: (umask 077; head -c 32 /dev/urandom | base64 > %s)", path)
	f, err := os.Open(path)
	if err != nil {
		return "", failHint(exitSelf, fmt.Errorf("read the token of [api]: %w", err), cure)
	}
	defer func() { _ = f.Close() }() // read-only; nothing to lose
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return "", failHint(exitSelf, fmt.Errorf("read the token of [api]: others may read %s (mode %#o)", path, info.Mode().Perm()), "chmod 600 "+path)
	}
	data, err := io.ReadAll(io.LimitReader(f, mostToken+1))
	if err != nil {
		return "", err
	}
	token := strings.TrimSpace(string(data))
	if len(token) < leastToken || len(data) > mostToken || strings.ContainsAny(token, "\r\n") {
		return "", failHint(exitSelf, fmt.Errorf("read the token of [api]: %s must hold one line of %d to %d bytes", path, leastToken, mostToken), cure)
	}
	return token, nil
}

// workerEnv is what workers are told of the socket.
func (a *apiSession) workerEnv() []string {
	if a.socket == nil {
		return nil
	}
	return []string{"PITVISOR_SOCKET=" + a.socket.Path()}
}

// startAPI answers callers from now on.
func (s *session) startAPI(sup *supervise.Supervisor) {
	a := s.api
	a.server = server.New(server.Options{
		Run: s.run, Supervisor: sup, Log: s.log, Config: s.cfg.Path, Tier: hostTier(s.root.Dir),
		Command: s.commandOf, History: s.readHistory, ReaderGID: a.reader, Token: a.token, Metrics: a.counts.Handler(s.run, sup), Reload: s.reloadAsked, Logs: s.logDirKept(),
	})
	serve := func(l net.Listener) {
		s.group.Go(func() {
			if err := a.server.Serve(l); err != nil {
				s.log.Error("the supervisor can no longer be asked: " + err.Error())
			}
		})
	}
	if a.socket != nil {
		serve(a.socket)
	}
	if a.tcp != nil {
		serve(a.tcp)
	}
	var ctx context.Context
	ctx, a.end = context.WithCancel(context.Background())
	if a.scrape != nil {
		s.group.Go(func() {
			if err := a.server.ServeMetrics(ctx, a.scrape); err != nil {
				s.log.Error("metrics are no longer answered: " + err.Error())
			}
		})
	}
}

// logDirKept is where the output of this run is, "" when no pool writes files.
func (s *session) logDirKept() string {
	if s.logs == nil {
		return ""
	}
	return s.logDir
}

// stopAPI lets calls come to their end. Streams have ended with the supervisor.
func (s *session) stopAPI() {
	if s.api == nil || s.api.server == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), apiEndTime)
	defer cancel()
	s.api.server.Shutdown(ctx)
	s.api.end()
}

// commandOf is what a pool runs, in the configuration in force.
func (s *session) commandOf(pool string) (api.Command, bool) {
	cfg := s.inForce.Load()
	for i := range cfg.Pools {
		if p := &cfg.Pools[i]; p.Spec.Name == pool {
			c := wireCommand(&p.Spec)
			c.HasReadiness = p.Ready != nil
			return c, true
		}
	}
	return api.Command{}, false
}

func wireCommand(spec *supervise.PoolSpec) api.Command {
	c := api.Command{
		Path: spec.Command.Path, Args: spec.Command.Args, Directory: spec.Command.Dir, Restart: spec.Restart.String(),
		StopSignal: signalText(spec.Stop.Signal), StopGrace: spec.Stop.Grace, Drain: spec.Stop.Drain, StartTimeout: spec.StartTimeout,
		FailureLimit: spec.FailureLimit, Track: spec.Track.String(),
	}
	if c.Args == nil {
		c.Args = []string{c.Path}
	}
	if who := spec.Command.Credential; who != nil {
		uid, gid := int(who.UID), int(who.GID)
		c.UID, c.GID = &uid, &gid
	}
	return c
}

// readHistory reads the newest records, all when n is 0.
func (s *session) readHistory(n int) ([]api.Record, error) {
	records, err := history.Read(s.records, n)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return wireRecords(records), err
}

func wireRecords(records []history.Record) []api.Record {
	out := make([]api.Record, len(records))
	for i := range records {
		r := &records[i]
		out[i] = api.Record{
			At: r.At, Run: r.Run.String(), Pool: r.Pool, Slot: r.Slot, Start: r.Start, Kind: r.Kind, Cause: r.Cause,
			Exit: r.Exit, Detail: r.Detail, Elapsed: r.Elapsed,
		}
	}
	return out
}

// signalText is the name of a stop signal; 0 is the usual one.
func signalText(sig unix.Signal) string {
	if sig == 0 {
		sig = unix.SIGTERM
	}
	return units.SignalName(sig)
}

// observe takes the supervisor's events.
func (s *session) observe(e supervise.Event) {
	s.api.counts.Observe(e)
	s.dropStored(&e)
	s.events.observe(e)
}

// heldEvents is how many events can be told again: those of six hundred workers that
// start and get ready.
const heldEvents = 2048
