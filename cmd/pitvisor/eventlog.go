package main

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pitvisor/pitvisor/history"
	"github.com/pitvisor/pitvisor/internal/config"
	"github.com/pitvisor/pitvisor/internal/exit"
	"github.com/pitvisor/pitvisor/registry"
	"github.com/pitvisor/pitvisor/supervise"
)

// manyWorkers is the pool size from which single workers are logged at debug
// level only, and the pool as a whole at info.
const manyWorkers = 33

// eventLog turns the supervisor's events into log lines, history records and
// systemd status. observe is called in order, one call at a time.
type eventLog struct {
	log     *slog.Logger
	history *history.Log
	run     registry.RunID
	workers int
	pools   map[string]*poolCount
	status  chan string // newest sd_notify message; old ones are dropped

	allReady chan struct{} // closed when every worker was ready once
	stopping atomic.Bool   // everything is to stop
	killing  atomic.Bool   // and at once

	mu       sync.Mutex // guards progress
	progress *progress
}

// poolCount is how far the first start of a pool has come.
type poolCount struct {
	size      int
	seen      map[int]bool // slots that were ready once
	announced bool
	escalated int // killed after their grace, while everything stops
}

func newEventLog(log *slog.Logger, cfg *config.Config, records *history.Log, run registry.RunID) *eventLog {
	e := &eventLog{log: log, history: records, run: run, pools: map[string]*poolCount{}, status: make(chan string, 1), allReady: make(chan struct{})}
	for _, p := range cfg.Pools {
		e.pools[p.Spec.Name] = &poolCount{size: p.Spec.Size, seen: map[int]bool{}}
		e.workers += p.Spec.Size
	}
	return e
}

func (e *eventLog) observe(ev supervise.Event) {
	level, message, attrs := e.describe(ev)
	if message != "" && e.log.Enabled(context.Background(), level) {
		attrs = append([]any{"worker", workerName(ev.Worker)}, attrs...)
		e.log.Log(context.Background(), level, message, attrs...)
	}
	e.record(ev)
	e.keepPools(ev)
	if ev.Kind == supervise.EventReady {
		e.countReady(ev)
	}
	e.mu.Lock()
	if e.progress != nil && (ev.Kind == supervise.EventStopped || ev.Kind == supervise.EventBlocked) {
		e.progress.show()
	}
	e.mu.Unlock()
}

// workerName is "pool/slot", or the pool where an event is about all of it.
func workerName(id supervise.WorkerID) string {
	switch {
	case id.Slot < 0 && id.Pool == "":
		return "run" // about all pools
	case id.Slot < 0:
		return id.Pool
	}
	return id.String()
}

// describe says an event in words. An empty message is not logged.
func (e *eventLog) describe(ev supervise.Event) (slog.Level, string, []any) {
	switch ev.Kind {
	case supervise.EventStarting, supervise.EventUp:
		return slog.LevelDebug, ev.Kind.String(), []any{"start", ev.Start, "pid", ev.PID}
	case supervise.EventReady:
		return e.single(ev.Worker.Pool), "ready", readyAttrs(ev)
	case supervise.EventStartFailed:
		level := slog.LevelWarn
		if ev.Failure != nil && ev.Failure.Cause == supervise.CauseCanceled {
			level = slog.LevelDebug // a stop was asked for meanwhile
		}
		return level, "start failed: " + failureText(ev.Failure), failureAttrs(ev)
	case supervise.EventExited:
		return slog.LevelWarn, exitedText(ev) + causeText(ev.Err), exitAttrs(ev)
	case supervise.EventBackoff:
		level := slog.LevelDebug
		if ev.Delay >= time.Second {
			level = slog.LevelInfo
		}
		return level, "starts again after " + ev.Delay.Round(time.Millisecond).String(), nil
	case supervise.EventStopping:
		return slog.LevelDebug, "stopping", nil
	case supervise.EventEscalated:
		level, text := e.escalation(ev.Worker.Pool)
		return level, text, []any{"elapsed", ev.Elapsed.Round(time.Millisecond)}
	case supervise.EventStopped:
		return slog.LevelDebug, "stopped: " + exitText(ev), exitAttrs(ev)
	case supervise.EventGaveUp:
		return slog.LevelError, "given up after repeated failures" + causeText(ev.Err), nil
	case supervise.EventCompleted:
		return e.single(ev.Worker.Pool), "completed: " + exitText(ev), exitAttrs(ev)
	case supervise.EventBlocked:
		return slog.LevelError, "does not die" + causeText(ev.Err), nil
	case supervise.EventDegraded:
		return slog.LevelWarn, "works with less than asked" + causeText(ev.Err), nil
	case supervise.EventUnhealthy:
		return slog.LevelWarn, "is not well, and is restarted" + causeText(ev.Err), []any{"start", ev.Start, "elapsed", ev.Elapsed.Round(time.Millisecond)}
	case supervise.EventRecycling:
		return e.single(ev.Worker.Pool), "is to be replaced" + causeText(ev.Err), []any{"reason", ev.Reason.String()}
	case supervise.EventMain, supervise.EventReloading, supervise.EventReloaded:
		return e.single(ev.Worker.Pool), saidText(ev), []any{"pid", ev.PID}
	case supervise.EventScaled, supervise.EventRollout, supervise.EventRolledOut, supervise.EventRolloutStopped,
		supervise.EventAdded, supervise.EventRemoved, supervise.EventWaiting,
		supervise.EventPressure, supervise.EventPressureOver, supervise.EventHeld, supervise.EventReleased, supervise.EventFrozen, supervise.EventThawed, supervise.EventPressureTimeout:
		return describePool(ev)
	}
	return slog.LevelDebug, ev.Kind.String(), nil
}

// saidText is what a worker has said of itself.
func saidText(ev supervise.Event) string {
	switch ev.Kind {
	case supervise.EventMain:
		return "has another main process"
	case supervise.EventReloading:
		return "reloads by itself"
	}
	return "has reloaded"
}

// single is the level at which one worker of the pool is worth a line.
func (e *eventLog) single(pool string) slog.Level {
	if count := e.pools[pool]; count != nil && count.size >= manyWorkers {
		return slog.LevelDebug
	}
	return slog.LevelInfo
}

// escalation is what there is to say of one worker that has to be killed. Of a
// thousand not each is told: that takes longer than their end.
func (e *eventLog) escalation(pool string) (slog.Level, string) {
	const most, text = 10, "did not stop within its grace: killing"
	count := e.pools[pool]
	switch {
	case e.killing.Load():
		return slog.LevelDebug, "killing" // as has been said of all
	case count == nil || !e.stopping.Load():
		return slog.LevelWarn, text
	}
	count.escalated++
	if count.escalated == most && count.size > most {
		return slog.LevelWarn, text + ", and others of the pool with it"
	}
	if count.escalated > most {
		return slog.LevelDebug, text
	}
	return slog.LevelWarn, text
}

func causeText(err error) string {
	if err == nil {
		return ""
	}
	return ": " + err.Error()
}

func readyAttrs(ev supervise.Event) []any {
	attrs := []any{"elapsed", ev.Elapsed.Round(time.Millisecond), "pid", ev.PID}
	if ev.Port != 0 {
		attrs = append(attrs, "port", ev.Port)
	}
	return attrs
}

func exitText(ev supervise.Event) string {
	if ev.Exit == nil {
		return "gone"
	}
	return ev.Exit.String()
}

func exitAttrs(ev supervise.Event) []any {
	attrs := []any{"start", ev.Start, "elapsed", ev.Elapsed.Round(time.Millisecond)}
	if ev.Leftover > 0 {
		attrs = append(attrs, "leftover_killed", ev.Leftover)
	}
	return attrs
}

// failureText is cause and detail: "exited: exit 3", "timeout: tcp …: refused".
func failureText(f *supervise.StartFailure) string {
	if f == nil {
		return "unknown"
	}
	text := f.Cause.String()
	if f.Exit != nil {
		text += ": " + f.Exit.String()
	}
	return text + causeText(f.Err)
}

func failureAttrs(ev supervise.Event) []any {
	attrs := []any{"start", ev.Start}
	if f := ev.Failure; f != nil {
		attrs = append(attrs, "phase", f.Phase.String(), "elapsed", f.Elapsed.Round(time.Millisecond))
		hint := exit.Hint(f.Err)
		if hint == "" && f.Cause == supervise.CausePortTaken {
			hint = "end that process, or give pool " + ev.Worker.Pool + " another port"
		}
		if hint != "" {
			attrs = append(attrs, "hint", hint)
		}
		if len(f.Stderr) > 0 {
			attrs = append(attrs, "stderr", f.Stderr)
		}
	}
	return attrs
}

// record keeps starts, exits and causes in the history.
func (e *eventLog) record(ev supervise.Event) {
	rec := history.Record{
		At: ev.At, Run: e.run, Pool: ev.Worker.Pool, Slot: ev.Worker.Slot, Start: ev.Start,
		Kind: ev.Kind.String(), Elapsed: ev.Elapsed,
	}
	switch ev.Kind {
	case supervise.EventStarting, supervise.EventUp, supervise.EventBackoff, supervise.EventStopping, supervise.EventEscalated:
		return // steps on the way to what is kept
	case supervise.EventStartFailed:
		rec.Cause = failureText(ev.Failure)
		if ev.Failure != nil {
			rec.Detail = strings.Join(ev.Failure.Stderr, "\n")
		}
	default:
		rec.Cause = strings.TrimPrefix(causeText(ev.Err), ": ")
		if ev.Kind == supervise.EventStopped && ev.Escalated {
			rec.Cause = "killed after its grace" + causeText(ev.Err)
		}
	}
	if ev.Exit != nil {
		rec.Exit = ev.Exit.String()
	}
	e.history.Add(rec)
}

// countReady announces a pool when every worker of it was ready once.
func (e *eventLog) countReady(ev supervise.Event) {
	count := e.pools[ev.Worker.Pool]
	if count == nil || count.announced {
		return
	}
	count.seen[ev.Worker.Slot] = true
	e.announce(ev.Worker.Pool)
}

// announce tells a pool, and at last all of them, as ready when it is time.
func (e *eventLog) announce(pool string) {
	if count := e.pools[pool]; count != nil && !count.announced {
		for slot := range count.size {
			if !count.seen[slot] {
				return
			}
		}
		count.announced, count.seen = true, nil
		if count.size > 1 {
			e.log.Info("pool "+pool+" is ready", "workers", count.size)
		}
	}
	for _, other := range e.pools {
		if !other.announced {
			return
		}
	}
	if !e.started() {
		e.setStatus("READY=1\nSTATUS=" + count(e.workers, "worker", "workers") + " ready")
		close(e.allReady)
	}
}

// started says whether every worker was ready once.
func (e *eventLog) started() bool {
	select {
	case <-e.allReady:
		return true
	default:
		return false
	}
}

// setStatus hands the newest message to the goroutine that talks to systemd.
func (e *eventLog) setStatus(message string) {
	select {
	case <-e.status:
	default:
	}
	select {
	case e.status <- message:
	default:
	}
}

// progress shows on a terminal how a stop proceeds.
type progress struct {
	app   *app
	sup   *supervise.Supervisor
	ask   chan struct{}
	done  chan struct{}
	ended chan struct{}
}

// startProgress begins to show how many workers are left, on a terminal only.
func (e *eventLog) startProgress(a *app, sup *supervise.Supervisor) {
	if !isTerminal(a.stderr) {
		return
	}
	p := &progress{app: a, sup: sup, ask: make(chan struct{}, 1), done: make(chan struct{}), ended: make(chan struct{})}
	go p.run()
	e.mu.Lock()
	e.progress = p
	e.mu.Unlock()
}

// stopProgress ends the display and waits for it.
func (e *eventLog) stopProgress() {
	e.mu.Lock()
	p := e.progress
	e.progress = nil
	e.mu.Unlock()
	if p == nil {
		return
	}
	close(p.done)
	<-p.ended
}

// show asks for a new line; several asks make one.
func (p *progress) show() {
	select {
	case p.ask <- struct{}{}:
	default:
	}
}

func (p *progress) run() {
	defer close(p.ended)
	for {
		select {
		case <-p.done:
			fmt.Fprint(p.app.stderr, "\r\x1b[K")
			return
		case <-p.ask:
			fmt.Fprintf(p.app.stderr, "\r\x1b[Kpitvisor: stopping: %s", leftText(p.sup.Status()))
		}
	}
}

// leftText names the workers that are still there: "2 left: web/0 (stopping) …".
func leftText(all []supervise.WorkerStatus) string {
	var names []string
	for _, w := range all {
		switch w.State {
		case supervise.StateStarting, supervise.StateUp, supervise.StateStopping, supervise.StateKilling:
			names = append(names, fmt.Sprintf("%s (%s)", w.Worker, w.State))
		case supervise.StateDown, supervise.StateBackoff, supervise.StateFailed, supervise.StateCompleted:
		}
	}
	text := fmt.Sprintf("%d of %d left", len(names), len(all))
	if len(names) > 0 {
		text += ": " + strings.Join(names[:min(3, len(names))], ", ")
	}
	return text
}

func exitedText(ev supervise.Event) string {
	if ev.Reason == supervise.ReasonCommand {
		return "ended by a command: " + exitText(ev)
	}
	return "exited by itself: " + exitText(ev)
}
