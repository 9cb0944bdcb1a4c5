package server

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/pitvisor/pitvisor/api"
)

// What one user may have. Root and the supervisor's own user may have more: their
// tools follow events, and nobody gains from shutting them out.
const (
	connsOfOwner = 4096
	connsOfOther = 64
	callsOfOwner = 2000 // a second
	callsOfOther = 100
	burst        = 2 // seconds of calls that may be made at once
	maxUsers     = 1024
)

// gate bounds connections and calls of each user. Time is looked at only when
// somebody calls.
type gate struct {
	owner func(uid int) bool

	mu    sync.Mutex // guards what follows
	conns map[int]int
	total int
	rates map[int]rate
}

// rate is a bucket that fills with time and is emptied by calls.
type rate struct {
	calls float64
	at    time.Time
}

func newGate(owner func(uid int) bool) *gate {
	return &gate{owner: owner, conns: map[int]int{}, rates: map[int]rate{}}
}

// enter counts a connection, and says no if there are too many.
func (g *gate) enter(uid int) error {
	most := connsOfOther
	if g.owner(uid) {
		most = connsOfOwner
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.conns[uid] >= most {
		return refuse(http.StatusServiceUnavailable, api.CodeTooMany, "close some", "uid %d has %d connections, at most %d", uid, g.conns[uid], most)
	}
	if g.total >= connsOfOwner && !g.owner(uid) {
		return refuse(http.StatusServiceUnavailable, api.CodeTooMany, "try again later", "%d connections in all", g.total)
	}
	g.conns[uid]++
	g.total++
	return nil
}

func (g *gate) leave(uid int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.total--
	if g.conns[uid]--; g.conns[uid] == 0 {
		delete(g.conns, uid)
	}
}

// call counts a call, and says no if they come too fast.
func (g *gate) call(uid int, now time.Time) error {
	most := float64(callsOfOther)
	if g.owner(uid) {
		most = callsOfOwner
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	r, known := g.rates[uid]
	if !known {
		g.forget(now)
		r = rate{calls: most * burst, at: now}
	}
	r.calls = min(most*burst, r.calls+now.Sub(r.at).Seconds()*most)
	r.at = now
	refused := r.calls < 1
	if !refused {
		r.calls--
	}
	g.rates[uid] = r
	if refused {
		return refuse(http.StatusTooManyRequests, api.CodeTooMany, "wait a second; events tell what happens without asking again and again",
			"uid %d makes more than %.0f calls a second", uid, most)
	}
	return nil
}

// forget makes room for another user: who has not called for a while has a full
// bucket anyway.
func (g *gate) forget(now time.Time) {
	if len(g.rates) < maxUsers {
		return
	}
	for uid, r := range g.rates {
		if now.Sub(r.at) > burst*time.Second {
			delete(g.rates, uid)
		}
	}
	if len(g.rates) >= maxUsers {
		clear(g.rates)
	}
}

// listener knows who connects, and lets in only so many.
type listener struct {
	net.Listener
	gate *gate
}

// conn is a connection of somebody who is known.
type conn struct {
	net.Conn
	peer  *peer
	leave func()
}

// Accept returns the next connection that may be served. The others get their
// answer at once.
func (l *listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		p, err := newPeer(c)
		if err == nil {
			err = l.gate.enter(p.uid())
		}
		if err != nil {
			turnAway(c, err)
			continue
		}
		uid := p.uid()
		return &conn{Conn: c, peer: p, leave: sync.OnceFunc(func() { l.gate.leave(uid) })}, nil
	}
}

// Close closes the connection and makes room for another.
func (c *conn) Close() error {
	c.leave()
	return c.Conn.Close()
}

// turnAway answers without reading. A new connection has room for so little, so this
// does not wait for the other side.
func turnAway(c net.Conn, err error) {
	body, _ := json.Marshal(wireError(err)) // nothing in it that JSON has no form for
	_ = c.SetDeadline(time.Now().Add(time.Second))
	_, _ = fmt.Fprintf(c, "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: %d\r\nRetry-After: 1\r\nConnection: close\r\n\r\n%s", len(body), body)
	_ = c.Close() // it has got all there is
}
