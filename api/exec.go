package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
)

// Exec asks for a command to be run inside a worker: in its cgroup and namespaces, as
// its user, with its environment and directory.
type Exec struct {
	Worker  string   `json:"worker"`        // one of them, as a worker ("web/3"), one start of it ("web/3.7"), its main process ("4711:84423"), or what else fits one only
	Command []string `json:"command"`       // its name, looked for in PATH of the worker's environment, and its arguments
	Env     []string `json:"env,omitempty"` // "NAME=value", in place of the worker's or in addition
	Dir     string   `json:"dir,omitempty"` // the worker's without it
	TTY     bool     `json:"tty,omitempty"` // the standard input is a terminal that no session has, and becomes the command's controlling one
}

// ExecEvent is what the supervisor says of a command: that it was started, or the
// error why it was not, and then how it ended.
type ExecEvent struct {
	Started *ExecStarted `json:"started,omitempty"` // first
	Exit    *Exit        `json:"exit,omitempty"`    // last, when it has ended
	Over    bool         `json:"over,omitempty"`    // beside exit: the worker has ended, and the command with it
	Error   *Error       `json:"error,omitempty"`   // in place of both: it was not started
}

// ExecStarted names what was started.
type ExecStarted struct {
	Worker string `json:"worker"` // whom it is beside
	Start  uint64 `json:"start"`  // which start of it
	PID    int    `json:"pid"`    // of the command, for printing
}

// ExecOrder is what the caller may say meanwhile.
type ExecOrder struct {
	Signal string `json:"signal"` // to be sent to the command: a name such as "INT", or a number
}

// ExecProtocol is what the connection of an exec is upgraded to. From then on the
// caller sends one byte with three descriptors (SCM_RIGHTS), which become the
// command's standard files, and then an [ExecOrder] in a line as often as it likes; the
// supervisor sends an [ExecEvent] in a line. When the caller closes the connection the
// command is killed, with everything it has started.
const ExecProtocol = "pitvisor-exec"

// The codes of errors of an [ExecEvent], beside the others.
const (
	CodeNoProgram     = "no-program"     // the command was not found
	CodeNotExecutable = "not-executable" // it was, and cannot be executed
)

// Running is a command that runs inside a worker.
type Running struct {
	ExecStarted

	conn  *net.UnixConn
	lines *bufio.Reader
	mu    sync.Mutex // guards writing
	stop  func() bool
}

// Exec starts a command inside a worker, with these standard files, which stay the
// caller's to close. It needs a unix socket, over which they are handed. The command is
// killed when ctx is done, when the Running is closed, and with this program.
func (c *Client) Exec(ctx context.Context, e Exec, stdin, stdout, stderr *os.File) (*Running, error) {
	if strings.HasPrefix(c.base, "http://") && c.base != "http://pitvisor" || strings.HasPrefix(c.base, "https://") {
		return nil, &Error{Status: http.StatusConflict, Code: CodeConflict, Cause: "a command's files cannot be handed over TCP", Cure: "use the unix socket of the supervisor"}
	}
	r, err := c.upgrade(ctx, e)
	if err != nil {
		return nil, err
	}
	err = r.hand(stdin, stdout, stderr)
	if err == nil {
		err = r.begin()
	}
	if err != nil {
		_ = r.Close() // the other error matters
		return nil, err
	}
	return r, nil
}

// upgrade asks, and keeps the connection.
func (c *Client) upgrade(ctx context.Context, e Exec) (*Running, error) {
	body, err := json.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("encode the body of /v1/exec: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+"/v1/exec", bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", c.address, err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", ExecProtocol)
	conn, err := dialUnix(ctx, c.address)
	if err != nil {
		return nil, fmt.Errorf("ask the supervisor at %s: %w", c.address, err)
	}
	r := &Running{conn: conn.(*net.UnixConn), lines: bufio.NewReader(conn)}
	r.stop = context.AfterFunc(ctx, func() { _ = r.conn.Close() }) // ends the command
	if err = req.Write(conn); err == nil {
		err = r.accepted(req)
	}
	if err != nil {
		_ = r.Close() // the other error matters
		return nil, err
	}
	return r, nil
}

// accepted reads the answer.
func (r *Running) accepted(req *http.Request) error {
	resp, err := http.ReadResponse(r.lines, req)
	if err != nil {
		return fmt.Errorf("read the answer to /v1/exec: %w", err)
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return nil
	}
	defer func() { _ = resp.Body.Close() }() // the error is all there is to read
	return asError(resp)
}

// hand hands the standard files over.
func (r *Running) hand(files ...*os.File) error {
	fds := make([]int, len(files))
	for i, f := range files {
		fds[i] = int(f.Fd()) // which makes blocking what Go has made nonblocking, as os/exec does
	}
	_, _, err := r.conn.WriteMsgUnix([]byte{0}, syscall.UnixRights(fds...), nil)
	runtime.KeepAlive(files)
	if err != nil {
		return fmt.Errorf("hand the standard files to the supervisor: %w", err)
	}
	return nil
}

// begin waits until the command runs, or does not.
func (r *Running) begin() error {
	e, err := r.next()
	switch {
	case err != nil:
		return err
	case e.Error != nil:
		return e.Error
	case e.Started == nil:
		return errors.New("the supervisor did not say that the command was started")
	}
	r.ExecStarted = *e.Started
	return nil
}

func (r *Running) next() (*ExecEvent, error) {
	line, err := r.lines.ReadSlice('\n')
	if err != nil {
		return nil, fmt.Errorf("the supervisor has let go of the command: %w", err)
	}
	e := &ExecEvent{}
	if err := json.Unmarshal(line, e); err != nil {
		return nil, fmt.Errorf("decode what became of the command: %w", err)
	}
	return e, nil
}

// Signal sends a signal to the command.
func (r *Running) Signal(name string) error {
	line, err := json.Marshal(ExecOrder{Signal: name})
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, err := r.conn.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("signal the command: %w", err)
	}
	return nil
}

// Wait returns how the command ended, when it has and what it left is gone.
func (r *Running) Wait() (*ExecEvent, error) {
	for {
		e, err := r.next()
		if err != nil {
			return nil, err
		}
		if e.Exit != nil {
			return e, nil
		}
		if e.Error != nil {
			return nil, e.Error
		}
	}
}

// Close kills the command if it still runs, and gives back the connection.
func (r *Running) Close() error {
	r.stop()
	if err := r.conn.Close(); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}
