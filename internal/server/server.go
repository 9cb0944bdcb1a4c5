package server

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	stdlog "log"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/api"
	"github.com/pitvisor/pitvisor/registry"
	"github.com/pitvisor/pitvisor/supervise"
)

// Supervisor is what a server asks of the supervisor, a [supervise.Supervisor].
type Supervisor interface {
	Status() []supervise.WorkerStatus
	Pools() []supervise.PoolStatus
	EventsAfter(seq uint64, buf []supervise.Event) (n int, lost uint64, more <-chan struct{})
	LastEvent() uint64

	Start(context.Context, supervise.Selector) ([]supervise.WorkerID, error)
	Stop(context.Context, supervise.Selector) ([]supervise.WorkerID, error)
	Kill(context.Context, supervise.Selector) ([]supervise.WorkerID, error)
	Restart(context.Context, supervise.Selector) ([]*supervise.Progress, error)
	Scale(ctx context.Context, pool string, size int) error
	Spare(worker supervise.WorkerID, start uint64)
	Wait(context.Context, supervise.Selector) error
	Strike(ctx context.Context, id supervise.WorkerID, start uint64, sig unix.Signal, kill bool, by string) error
	Visit(id supervise.WorkerID, start uint64) (*supervise.Visit, error)
}

// Options says what a server is for. All but those with a meaning for nil must be set.
type Options struct {
	Run        *registry.Run
	Supervisor Supervisor
	Log        *slog.Logger

	Config    string                                  // the file that the supervisor was started with
	Tier      string                                  // of guarantees
	Command   func(pool string) (api.Command, bool)   // what a pool runs
	History   func(n int) ([]api.Record, error)       // the newest n records, all when n is 0; nil means that none is kept
	Reload    func(context.Context) (Reloaded, error) // reads the configuration again; nil means that it cannot be
	Logs      string                                  // directory of the run's output, below that of all runs; "" means that there is none
	Metrics   http.Handler                            // nil means that there are none
	ReaderGID uint32                                  // of the group that reads; 0 is none
	Token     string                                  // what callers over TCP must have; "" refuses all of them
}

// The bounds of one call.
const (
	maxHeader   = 16 << 10
	maxBody     = 64 << 10
	headerTime  = 5 * time.Second
	requestTime = 10 * time.Second
	answerTime  = 30 * time.Second
	idleTime    = time.Minute
)

// Server answers callers. Make it with [New], and let [Server.Serve] have listeners.
type Server struct {
	o      Options
	gate   *gate
	http   *http.Server
	routes []route
	slow   time.Duration // how long a reader may take for a batch of a stream

	self     api.Run
	sessions sessions
	readers  readers
	buffers  buffers
	lines    lines

	frost frost
}

// New makes a server. It serves nothing yet.
func New(o Options) *Server {
	own := os.Geteuid()
	s := &Server{
		o:      o,
		gate:   newGate(func(uid int) bool { return uid == 0 || uid == own }),
		routes: table(),
		slow:   slowTime,
		self:   wireRun(&o),
	}
	s.http = &http.Server{
		Handler:           s,
		ConnContext:       withPeer,
		ReadHeaderTimeout: headerTime,
		ReadTimeout:       requestTime,
		WriteTimeout:      answerTime,
		IdleTimeout:       idleTime,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          stdlog.New(complaints{o.Log}, "", 0),
	}
	s.http.RegisterOnShutdown(s.sessions.cancel)
	return s
}

// complaints is where package net/http writes what callers do wrong, and what a
// handler panicked over.
type complaints struct{ log *slog.Logger }

func (c complaints) Write(b []byte) (int, error) {
	level := slog.LevelDebug
	if strings.Contains(string(b), "panic") {
		level = slog.LevelError
	}
	c.log.Log(context.Background(), level, "api: "+strings.TrimSpace(string(b)))
	return len(b), nil
}

// Serve answers those who connect to l, until Shutdown. It closes l.
func (s *Server) Serve(l net.Listener) error {
	err := s.http.Serve(&listener{Listener: l, gate: s.gate})
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// Shutdown closes the listeners, lets calls come to their end until ctx is done, and
// closes what is left. Streams end when the supervisor has ended.
func (s *Server) Shutdown(ctx context.Context) {
	if s.http.Shutdown(ctx) != nil {
		_ = s.http.Close() // whoever is still there has had its time
	}
	s.sessions.stop()
}

// ServeHTTP answers one call.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if err := s.serve(w, r); err != nil {
		if e := wireError(err); e.Status >= http.StatusInternalServerError {
			s.o.Log.Warn("api: "+e.Cause, "route", r.Method+" "+r.URL.Path)
		}
		answerError(w, err)
	}
}

// serve finds the route and checks whether the caller may use it, before anything
// of the call is looked at.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) error {
	uid := overTCP
	var p *peer
	if p, _ = r.Context().Value(peerKey{}).(*peer); p != nil {
		uid = p.uid()
	}
	if err := s.gate.call(uid, time.Now()); err != nil {
		return err
	}
	caller, err := s.callerOf(p, r)
	if err != nil {
		return err
	}
	route, vars, allowed := s.match(r.Method, r.URL.Path)
	if route == nil && caller.Role == roleStranger {
		return s.forbidden(caller, "anything here")
	}
	if route == nil {
		return noRoute(w, r, allowed)
	}
	if !route.access.allows(caller.Role) {
		return s.forbidden(caller, r.Method+" "+route.path)
	}
	c := &call{r: r, caller: caller, vars: vars, route: route}
	if err := c.checkQuery(); err != nil {
		return err
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	return route.handle(s, w, c)
}

// callerOf says who calls: by the kernel's word on a unix socket, by a token on TCP.
func (s *Server) callerOf(p *peer, r *http.Request) (*api.Caller, error) {
	if p != nil && p.conn != nil {
		return s.identify(p), nil
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") || s.o.Token == "" || !sameText(token, s.o.Token) {
		return nil, refuse(http.StatusUnauthorized, api.CodeToken, "send the header Authorization: Bearer TOKEN; the token is in the file that token_file in [api] names",
			"calls over TCP need the token of this supervisor")
	}
	return &api.Caller{Role: roleToken, UID: overTCP, Why: "has the token"}, nil
}

// sameText compares in a time that tells nothing of the texts.
func sameText(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}

// forbidden says to a caller whom it was taken for.
func (s *Server) forbidden(c *api.Caller, what string) error {
	cure := "call as root, or as the user of the supervisor"
	switch {
	case c.Role != roleStranger:
	case s.o.ReaderGID != 0:
		cure = fmt.Sprintf("call as root, as the user of the supervisor, or, to read, as a member of group %d", s.o.ReaderGID)
	default:
		cure += "; nobody else may read: when it started there was no group pitvisor, and [api] named none"
	}
	return refuse(http.StatusForbidden, api.CodeForbidden, cure, "uid %d (%s) may not use %s: %s", c.UID, c.Role, what, c.Why)
}

// ServeMetrics answers GET /metrics, and nothing else, to everybody who can connect
// to l, until ctx is done. It closes l.
func (s *Server) ServeMetrics(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", s.o.Metrics)
	server := &http.Server{
		Handler: mux, ReadHeaderTimeout: headerTime, ReadTimeout: requestTime, WriteTimeout: answerTime,
		IdleTimeout: idleTime, MaxHeaderBytes: maxHeader, ErrorLog: s.http.ErrorLog,
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() }) // a scrape is not worth waiting for
	defer stop()
	err := server.Serve(&listener{Listener: l, gate: newGate(func(int) bool { return false })})
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}
