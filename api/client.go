package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// maxAnswer bounds an answer that is read as a whole: the status of 10,000 workers
// has about 3 MiB.
const maxAnswer = 64 << 20

// Client talks to one supervisor. Make it with [NewClient].
type Client struct {
	// Token is what a supervisor on TCP asks for; on a unix socket the kernel says
	// who calls. Set it before the first call.
	Token string

	address string
	base    string
	http    *http.Client
}

// NewClient returns a client for the supervisor at address: the path of its unix
// socket, or "http://host:port". It connects with the first call. A supervisor that
// is not there shows as fs.ErrNotExist or syscall.ECONNREFUSED then.
func NewClient(address string) *Client {
	c := &Client{address: address, base: "http://pitvisor"}
	transport := &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 2}
	if strings.HasPrefix(address, "http://") || strings.HasPrefix(address, "https://") {
		c.base = strings.TrimRight(address, "/")
	} else {
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialUnix(ctx, address)
		}
	}
	c.http = &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c
}

// Address returns what the client was made for.
func (c *Client) Address() string { return c.address }

// Close closes connections that idle. The client can be used again.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// maxSunPath is how long the path of a unix socket may be for the kernel.
const maxSunPath = 107

// dialUnix connects to a socket, also where its path is too long for the kernel:
// then by way of its directory.
func dialUnix(ctx context.Context, path string) (net.Conn, error) {
	var d net.Dialer
	if len(path) <= maxSunPath {
		return d.DialContext(ctx, "unix", path)
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer func() { _ = dir.Close() }() // was only a way to the socket
	short := fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path))
	conn, err := d.DialContext(ctx, "unix", short)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", path, err)
	}
	return conn, nil
}

// Status returns a snapshot of the run, and of the workers that are selected; all
// of them without a selection.
func (c *Client) Status(ctx context.Context, selected ...string) (*Status, error) {
	return get[Status](ctx, c, "/v1/status", url.Values{"select": selected})
}

// Inspect returns everything there is to know of one worker, such as "web/3".
func (c *Client) Inspect(ctx context.Context, worker string) (*Inspection, error) {
	pool, slot, ok := strings.Cut(worker, "/")
	if !ok {
		return nil, &Error{
			Status: http.StatusBadRequest, Code: CodeBadRequest,
			Cause: fmt.Sprintf("%q is no worker", worker), Cure: `name one as in "web/3"`,
		}
	}
	return get[Inspection](ctx, c, "/v1/workers/"+url.PathEscape(pool)+"/"+url.PathEscape(slot), nil)
}

// Signal sends a signal to the main processes of workers, or to all their processes.
func (c *Client) Signal(ctx context.Context, a Action) (*Done, error) {
	return post[Done](ctx, c, "/v1/signal", a)
}

// Freeze stops all processes of workers, without their knowing. It returns when they
// have stopped.
func (c *Client) Freeze(ctx context.Context, a Action) (*Done, error) {
	return post[Done](ctx, c, "/v1/freeze", a)
}

// Thaw lets workers go on that were frozen.
func (c *Client) Thaw(ctx context.Context, a Action) (*Done, error) {
	return post[Done](ctx, c, "/v1/thaw", a)
}

// Start starts workers that were stopped, were given up or have completed.
func (c *Client) Start(ctx context.Context, a Selected) (*Changed, error) {
	return post[Changed](ctx, c, "/v1/start", a)
}

// Stop stops workers until a command starts them again.
func (c *Client) Stop(ctx context.Context, a Stop) (*Changed, error) {
	return post[Changed](ctx, c, "/v1/stop", a)
}

// Restart replaces workers by new ones. How each rollout ended, if that was waited
// for, is in the answer.
func (c *Client) Restart(ctx context.Context, a Selected) (*Changed, error) {
	return post[Changed](ctx, c, "/v1/restart", a)
}

// Scale gives a pool another size.
func (c *Client) Scale(ctx context.Context, a Scale) (*Changed, error) {
	return post[Changed](ctx, c, "/v1/scale", a)
}

// Reload lets the supervisor read its configuration again.
func (c *Client) Reload(ctx context.Context, a Reload) (*Changed, error) {
	return post[Changed](ctx, c, "/v1/reload", a)
}

// Kill kills all processes of workers at once. The supervisor takes that for an end
// of theirs, and does what their pool says.
func (c *Client) Kill(ctx context.Context, a Action) (*Done, error) {
	return post[Done](ctx, c, "/v1/kill", a)
}

// History returns the newest n records of the history, all that are kept when n is 0,
// of the selected workers.
func (c *Client) History(ctx context.Context, n int, selected ...string) (*History, error) {
	query := url.Values{"select": selected}
	if n > 0 {
		query.Set("limit", strconv.Itoa(n))
	}
	return get[History](ctx, c, "/v1/history", query)
}

// Whoami returns whom the supervisor takes the caller for. Everybody may ask.
func (c *Client) Whoami(ctx context.Context) (*Caller, error) {
	return get[Caller](ctx, c, "/v1/whoami", nil)
}

// Metrics copies the metrics to w, in Prometheus' text format.
func (c *Client) Metrics(ctx context.Context, w io.Writer) error {
	resp, err := c.do(ctx, http.MethodGet, "/metrics", nil, nil)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // read to its end, or given up
	_, err = io.Copy(w, io.LimitReader(resp.Body, maxAnswer))
	return err
}

func get[T any](ctx context.Context, c *Client, path string, query url.Values) (*T, error) {
	resp, err := c.do(ctx, http.MethodGet, path, query, nil)
	if err != nil {
		return nil, err
	}
	return decode[T](resp, path)
}

func post[T any](ctx context.Context, c *Client, path string, body any) (*T, error) {
	data, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("encode the body of %s: %w", path, err)
	}
	resp, err := c.do(ctx, http.MethodPost, path, nil, data)
	if err != nil {
		return nil, err
	}
	return decode[T](resp, path)
}

// decode reads an answer to its end.
func decode[T any](resp *http.Response, path string) (*T, error) {
	defer func() { _ = resp.Body.Close() }() // was read, or is given up
	data, err := readAll(resp)
	if err != nil {
		return nil, fmt.Errorf("read the answer to %s: %w", path, err)
	}
	v := new(T)
	if err := json.Unmarshal(data, v); err != nil {
		return nil, fmt.Errorf("decode the answer to %s: %w", path, err)
	}
	return v, nil
}

var errTooLong = errors.New("answer is longer than 64 MiB")

// readAll reads into one buffer where the length is known.
func readAll(resp *http.Response) ([]byte, error) {
	if resp.ContentLength > maxAnswer {
		return nil, errTooLong
	}
	b := bytes.NewBuffer(make([]byte, 0, max(resp.ContentLength, 0)+bytes.MinRead))
	if _, err := b.ReadFrom(io.LimitReader(resp.Body, maxAnswer+1)); err != nil {
		return nil, err
	}
	if b.Len() > maxAnswer {
		return nil, errTooLong
	}
	return b.Bytes(), nil
}

// do makes one call. The caller closes the body of the answer, which is a good one.
func (c *Client) do(ctx context.Context, method, path string, query url.Values, body []byte) (*http.Response, error) {
	target := c.base + path
	if text := query.Encode(); text != "" {
		target += "?" + text
	}
	var content io.Reader
	if body != nil {
		content = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, target, content)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", c.address, err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.Token != "" {
		req.Header.Set("Authorization", "Bearer "+c.Token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		var wrapped *url.Error
		if errors.As(err, &wrapped) {
			err = wrapped.Err // the address says more than the URL
		}
		return nil, fmt.Errorf("ask the supervisor at %s: %w", c.address, err)
	}
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		return resp, nil
	}
	defer func() { _ = resp.Body.Close() }() // the error is all there is to read
	return nil, asError(resp)
}

// asError makes an *Error of an answer that is none of ours, too.
func asError(resp *http.Response) error {
	data, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	e := &Error{}
	if err != nil || json.Unmarshal(data, e) != nil || e.Cause == "" {
		e = &Error{
			Code:  CodeInternal,
			Cause: fmt.Sprintf("answered %s: %.200q", resp.Status, data),
			Cure:  "is it a supervisor that answers there?",
		}
	}
	e.Status = resp.StatusCode
	return e
}
