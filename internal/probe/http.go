package probe

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// maxBody bounds what is read of an answer's body.
const maxBody = 64 << 10

func (a *attempt) awaitHTTP(ctx context.Context) error {
	return a.awaitPort(ctx, fmt.Sprintf("http %s %s of", a.http.method, a.http.path), &a.http.target, a.http.ask)
}

// ask sends one request over the connection and judges the answer. The request
// is written by hand, because a client would leave goroutines behind that end
// when they like.
func (h *httpTarget) ask(ctx context.Context, conn net.Conn) error {
	stop := context.AfterFunc(ctx, func() {
		_ = conn.SetDeadline(time.Unix(1, 0)) // fails only when closed already
	})
	defer stop()
	addr := conn.RemoteAddr().String()
	req, err := http.NewRequestWithContext(ctx, h.method, "http://"+addr+h.path, nil)
	if err != nil {
		return err
	}
	if _, port, err := net.SplitHostPort(addr); err == nil {
		req.Host = h.name + ":" + port // servers choose by the name
	}
	req.Close = true
	req.Header.Set("User-Agent", "pitvisor-probe")
	if err := req.Write(conn); err != nil {
		return fmt.Errorf("send the request: %w", err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(io.LimitReader(conn, 2*maxBody)), req)
	if err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return errors.New("connection accepted, then closed without an HTTP answer")
		}
		return err
	}
	defer resp.Body.Close()
	if _, err := io.CopyN(io.Discard, resp.Body, maxBody); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read the body of the answer: %w", err)
	}
	if resp.StatusCode < 200 || resp.StatusCode > 399 {
		return fmt.Errorf("status %s", resp.Status)
	}
	return nil
}
