package server

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/api"
	"github.com/pitvisor/pitvisor/spawn"
	"github.com/pitvisor/pitvisor/supervise"
)

// weather is what else goes on while somebody calls at random.
type weather struct {
	*rig
	specs   func(n int) []supervise.PoolSpec
	end     context.CancelFunc
	group   sync.WaitGroup
	mu      sync.Mutex // guards what follows
	reloads int
	execs   int
	events  int
	silent  []net.Conn
}

// stir lets the weather be bad until calm: the configuration is reloaded every 10 ms,
// commands run inside workers, one reader sees to it that it gets every event or is
// told of those it does not get, and others ask for much and read nothing.
func stir(r *rig, specs func(n int) []supervise.PoolSpec) *weather {
	ctx, cancel := context.WithCancel(context.Background())
	w := &weather{rig: r, specs: specs, end: cancel}
	w.group.Go(func() { w.reload(ctx) })
	w.group.Go(func() { w.visit(ctx) })
	w.group.Go(func() { w.listen(ctx) })
	for _, path := range []string{"/v1/events?since=0", "/v1/status", "/v1/history", "/v1/logs?follow=true"} {
		for range 5 {
			w.ask(path)
		}
	}
	return w
}

// ask makes calls and does not read the answers.
func (w *weather) ask(path string) {
	c, err := net.Dial("unix", w.socket)
	if err != nil {
		w.Error(err)
		return
	}
	w.silent = append(w.silent, c)
	for range 50 {
		_ = c.SetWriteDeadline(time.Now().Add(time.Second))
		if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path); err != nil {
			return // it is not heard any more
		}
	}
}

// reload changes the configuration every 10 ms.
func (w *weather) reload(ctx context.Context) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if _, err := w.sup.Reload(ctx, w.specs(n)); err != nil && ctx.Err() == nil {
			w.Errorf("reload %d: %v", n, err)
		}
		w.mu.Lock()
		w.reloads++
		w.mu.Unlock()
	}
}

// visit runs one command after the other inside workers that come and go.
func (w *weather) visit(ctx context.Context) {
	for ctx.Err() == nil {
		x, err := w.exec(ctx, api.Exec{Worker: "web/0"}, "exit 7")
		if err != nil {
			pause(ctx) // it has no process, or is frozen
			continue
		}
		e, err := x.Wait()
		_ = x.Close()
		for _, f := range x.files {
			_ = f.Close()
		}
		if err == nil && e.Exit.Code != 7 && e.Exit.Signal != "SIGKILL" && ctx.Err() == nil {
			w.Errorf("a command ended with %+v", e.Exit)
		}
		w.mu.Lock()
		w.execs++
		w.mu.Unlock()
	}
}

func pause(ctx context.Context) {
	again := time.NewTimer(10 * time.Millisecond)
	defer again.Stop()
	select {
	case <-again.C:
	case <-ctx.Done():
	}
}

// listen follows the events, and takes a stream up again that was lost.
func (w *weather) listen(ctx context.Context) {
	o := api.EventOptions{All: true}
	for ctx.Err() == nil {
		for e, err := range w.Events(ctx, o) {
			if err != nil {
				break // lost, or the end
			}
			next := o.Since + 1
			switch {
			case e.Missing != nil && e.Missing.From == next:
			case e.Missing == nil && e.Seq == next:
			default:
				w.Errorf("event %+v comes after %d", e, o.Since)
			}
			o.Since = e.Seq
			w.mu.Lock()
			w.events++
			w.mu.Unlock()
		}
	}
}

// calm ends it, and says what has been.
func (w *weather) calm() {
	w.Helper()
	w.end()
	w.group.Wait()
	for _, c := range w.silent {
		_ = c.Close()
	}
	w.Logf("%d reloads, %d commands inside workers, %d events", w.reloads, w.execs, w.events)
	visits := w.execs > 0 || spawn.Clone3Refused() // without it nobody can be visited
	if w.reloads == 0 || !visits || w.events == 0 {
		w.Error("the weather was not bad")
	}
}

// heap is what is in use after a collection.
func heap(tb testing.TB) uint64 {
	tb.Helper()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse
}
