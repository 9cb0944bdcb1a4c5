package server

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/api"
	"github.com/pitvisor/pitvisor/internal/units"
	"github.com/pitvisor/pitvisor/spawn"
	"github.com/pitvisor/pitvisor/supervise"
)

const (
	// mostSessions is how many commands may run inside workers, and callers read lines, at
	// a time.
	mostSessions = 64
	// mostOrder bounds what the caller of an exec may say at a time.
	mostOrder = 4096
	// handTime is how long the caller may take to hand over the files.
	handTime = 10 * time.Second
	// leaveTime bounds the end of what a command has left.
	leaveTime = time.Minute
	// mostStrings bounds what a command is given; the body has a bound of its own.
	mostStrings = 4096
)

// sessions are calls that last: the commands that run inside workers, and readers of
// lines.
type sessions struct {
	freeze sync.RWMutex // held by who freezes a worker, and exclusively by who starts a command: it would hang in a cgroup that is being frozen

	mu    sync.Mutex // guards what follows
	n     int
	over  bool
	end   map[int]context.CancelFunc
	group sync.WaitGroup
}

// enter makes room for a session; leave gives it back.
func (s *sessions) enter(end context.CancelFunc) (leave func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return nil, conflict("", "the supervisor is stopping")
	}
	if len(s.end) >= mostSessions {
		return nil, refuse(http.StatusServiceUnavailable, api.CodeTooMany, "end some", "%d commands inside workers and readers of lines, at most %d", len(s.end), mostSessions)
	}
	s.n++
	n := s.n
	if s.end == nil {
		s.end = map[int]context.CancelFunc{}
	}
	s.end[n] = end
	s.group.Add(1)
	return func() {
		s.mu.Lock()
		delete(s.end, n)
		s.mu.Unlock()
		s.group.Done()
	}, nil
}

// cancel ends all of them, and lets no more begin.
func (s *sessions) cancel() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
	for _, end := range s.end {
		end()
	}
}

// stop is cancel that waits for their end.
func (s *sessions) stop() {
	s.cancel()
	s.group.Wait()
}

func (s *Server) postExec(w http.ResponseWriter, c *call) error {
	e, err := readBody[api.Exec](c)
	if err == nil {
		err = checkExec(&e)
	}
	if err != nil {
		return err
	}
	worker, err := s.single(e.Worker)
	if err != nil {
		return err
	}
	if p, _ := c.r.Context().Value(peerKey{}).(*peer); p == nil || p.conn == nil {
		return conflict("use the unix socket", "the files of a command cannot be handed over TCP")
	}
	if !strings.EqualFold(c.r.Header.Get("Upgrade"), api.ExecProtocol) {
		return badRequest("send the headers Connection: Upgrade and Upgrade: "+api.ExecProtocol, "the call is not an upgrade")
	}
	ctx, cancel := context.WithCancel(context.Background())
	leave, err := s.sessions.enter(cancel)
	if err != nil {
		cancel()
		return err
	}
	v, err := s.o.Supervisor.Visit(worker.Worker, worker.Start)
	if err != nil {
		cancel()
		leave()
		return visitError(err)
	}
	s.audit(c, "exec "+e.Command[0], []string{e.Worker}, 1)
	// From here on the connection is not the HTTP server's: it must not end with this
	// call, nor with its deadlines.
	conn, err := hijack(w)
	if err != nil {
		cancel()
		err = errors.Join(err, closeVisit(v))
		leave()
		return err
	}
	x := &execution{server: s, conn: conn, visit: v, order: e, cancel: cancel}
	go func() {
		defer leave()
		x.run(ctx)
	}()
	return nil
}

// checkExec refuses what nothing could be started with.
func checkExec(e *api.Exec) error {
	if len(e.Command) == 0 || e.Command[0] == "" {
		return badRequest(`send {"worker":"web/3","command":["ps","x"]}`, "command is empty")
	}
	if len(e.Command)+len(e.Env) > mostStrings {
		return badRequest("", "%d arguments and variables, at most %d", len(e.Command)+len(e.Env), mostStrings)
	}
	for _, v := range e.Env {
		if name, _, ok := strings.Cut(v, "="); !ok || name == "" {
			return badRequest("write NAME=value", "env has %.60q", v)
		}
	}
	for _, list := range [][]string{e.Command, e.Env, {e.Dir}} {
		for _, text := range list {
			if strings.ContainsRune(text, 0) {
				return badRequest("", "%.60q holds a zero byte", text)
			}
		}
	}
	if e.Dir != "" && !strings.HasPrefix(e.Dir, "/") {
		return badRequest("write it from the root", "dir %.60q is not absolute", e.Dir)
	}
	return nil
}

// single finds the one worker that a selector means.
func (s *Server) single(text string) (*supervise.WorkerStatus, error) {
	selected, err := parseSelection([]string{text})
	if err != nil {
		return nil, err
	}
	l := s.labels()
	workers, err := selected.choose(s.o.Supervisor.Status(), l)
	if err != nil {
		return nil, err
	}
	if len(workers) != 1 {
		return nil, conflict("name one, such as "+workers[0].Worker.String(), "%q fits %d workers", text, len(workers))
	}
	return &workers[0], s.sameProcesses(selected, workers, l)
}

func visitError(err error) error {
	switch {
	case errors.Is(err, supervise.ErrNoMatch):
		return notFound("`pitvisor status` shows which there are", "%v", err)
	case errors.Is(err, supervise.ErrNoProcess):
		return conflict("", "%v", err)
	}
	return err
}

// hijack takes the connection over, with the good word to the caller.
func hijack(w http.ResponseWriter) (net.Conn, error) {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, fmt.Errorf("take the connection over: %w", err)
	}
	if buffered.Reader.Buffered() > 0 {
		_ = conn.Close() // what came with those bytes is lost
		return nil, badRequest("wait for the answer", "something was sent before the connection was upgraded")
	}
	err = conn.SetDeadline(time.Now().Add(handTime))
	if err == nil {
		_, err = fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", api.ExecProtocol)
	}
	if err != nil {
		_ = conn.Close() // gone already
		return nil, err
	}
	return conn, nil
}

// execution is one command inside a worker.
type execution struct {
	server *Server
	conn   net.Conn
	visit  *supervise.Visit
	order  api.Exec
	cancel context.CancelFunc
}

// run sees a command through to its end, whoever comes to that first: the command, the
// worker, the caller or the supervisor.
func (x *execution) run(ctx context.Context) {
	defer func() { _ = x.conn.Close() }() // all was said, or nobody is there
	defer x.cancel()
	p, err := x.start()
	if err != nil {
		err = errors.Join(err, closeVisit(x.visit))
		x.say(api.ExecEvent{Error: execError(err)})
		return
	}
	x.say(api.ExecEvent{Started: &api.ExecStarted{Worker: x.visit.Worker.String(), Start: x.visit.Start, PID: p.PID()}})
	heard := make(chan struct{})
	go func() {
		defer close(heard)
		defer x.cancel()
		x.listen(p)
	}()
	exit, err := p.Wait(ctx)
	over := x.visit.Over()
	if err := closeVisit(x.visit); err != nil {
		x.server.o.Log.Warn("api: exec: " + err.Error())
	}
	if err != nil { // the caller has gone, or everything ends
		last, done := context.WithTimeout(context.Background(), leaveTime)
		exit, err = p.Wait(last)
		done()
	}
	_ = p.Close() // a pidfd; nothing to lose
	if err == nil {
		x.say(api.ExecEvent{Exit: wireExit(&exit), Over: over})
	}
	_ = x.conn.SetReadDeadline(time.Unix(1, 0)) // whoever listens is woken
	<-heard
}

// start takes the files and starts the command.
func (x *execution) start() (*spawn.Process, error) {
	files, err := receive(x.conn)
	if err != nil {
		return nil, badRequest("send one byte with three descriptors (SCM_RIGHTS)", "take the standard files: %v", err)
	}
	defer func() {
		for _, f := range files {
			_ = f.Close() // the command has its own
		}
	}()
	if err := x.conn.SetDeadline(time.Time{}); err != nil {
		return nil, err
	}
	x.server.sessions.freeze.Lock()
	defer x.server.sessions.freeze.Unlock()
	return x.visit.Exec(supervise.VisitCommand{
		Args: x.order.Command, Env: x.order.Env, Dir: x.order.Dir, Terminal: x.order.TTY,
		Stdin: files[0], Stdout: files[1], Stderr: files[2],
	})
}

// receive takes three files from the other side.
func receive(c net.Conn) ([]*os.File, error) {
	unixConn, ok := c.(*conn).Conn.(*net.UnixConn)
	if !ok {
		return nil, errors.New("not a unix socket")
	}
	one, oob := make([]byte, 1), make([]byte, unix.CmsgSpace(16*4))
	n, oobn, flags, _, err := unixConn.ReadMsgUnix(one, oob) // close-on-exec
	if err != nil {
		return nil, err
	}
	var files []*os.File
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	for i := range messages {
		fds, parseErr := unix.ParseUnixRights(&messages[i])
		err = errors.Join(err, parseErr)
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "file of a caller"))
		}
	}
	if err == nil && (len(files) != 3 || n != 1 || flags&unix.MSG_CTRUNC != 0) {
		err = fmt.Errorf("%d descriptors with %d bytes", len(files), n)
	}
	if err != nil {
		for _, f := range files {
			_ = f.Close() // not wanted
		}
		return nil, err
	}
	return files, nil
}

// listen does what the caller says, until it is gone or says nonsense.
func (x *execution) listen(p *spawn.Process) {
	lines := bufio.NewScanner(x.conn)
	lines.Buffer(make([]byte, 0, 256), mostOrder)
	for lines.Scan() {
		var o api.ExecOrder
		if json.Unmarshal(lines.Bytes(), &o) != nil {
			return
		}
		sig, ok := units.Signal(o.Signal)
		if !ok {
			return
		}
		_ = p.Signal(sig) // it may have ended
	}
}

// say tells the caller. One that does not take it in time has gone.
func (x *execution) say(e api.ExecEvent) {
	line, err := json.Marshal(e)
	if err != nil {
		return // never: there is nothing in it that JSON has no form for
	}
	_ = x.conn.SetWriteDeadline(time.Now().Add(x.server.slow))
	_, _ = x.conn.Write(append(line, '\n'))
}

func closeVisit(v *supervise.Visit) error {
	ctx, cancel := context.WithTimeout(context.Background(), leaveTime)
	defer cancel()
	return v.Close(ctx)
}

// execError says why a command was not started.
func execError(err error) *api.Error {
	var e *spawn.Error
	if !errors.As(err, &e) {
		return wireError(err)
	}
	out := refuse(http.StatusConflict, api.CodeConflict, e.Hint(), "%v", err)
	switch e.Cause {
	case spawn.CauseNotFound:
		out.Code, out.Cure = api.CodeNoProgram, "it is looked for inside the worker, in PATH of its environment"
	case spawn.CauseNotExecutable, spawn.CauseBadFormat, spawn.CauseNoInterpreter:
		out.Code = api.CodeNotExecutable
	case spawn.CauseCgroupFrozen:
		out.Cure = "`pitvisor thaw` the worker first"
	default:
	}
	return out
}
