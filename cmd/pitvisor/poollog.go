package main

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/pitvisor/pitvisor/supervise"
)

// describePool says an event of a whole pool in words.
func describePool(ev supervise.Event) (slog.Level, string, []any) {
	rollout := []any{"rollout", ev.Rollout, "reason", ev.Reason.String()}
	elapsed := []any{"elapsed", ev.Elapsed.Round(time.Millisecond)}
	switch ev.Kind {
	case supervise.EventScaled:
		return slog.LevelInfo, fmt.Sprintf("size is %d, was %d", ev.Size, ev.WasSize), nil
	case supervise.EventRollout:
		return slog.LevelInfo, "replaces its workers", rollout
	case supervise.EventRolledOut:
		return slog.LevelInfo, "has replaced its workers", append(rollout, elapsed...)
	case supervise.EventRolloutStopped:
		var failed *supervise.RolloutError
		if errors.As(ev.Err, &failed) {
			if failed.Worker.Slot < 0 {
				return slog.LevelError, "stops replacing its workers, the others serve on: " + failed.Cause, append(rollout, elapsed...)
			}
			return slog.LevelError, fmt.Sprintf("stops replacing its workers, the others serve on: %v did not become ready: %s", failed.Worker, failed.Cause), append(rollout, elapsed...)
		}
		return slog.LevelInfo, "stops replacing its workers" + causeText(ev.Err), rollout
	case supervise.EventPressure, supervise.EventPressureOver:
		return describePressure(ev)
	case supervise.EventHeld:
		return slog.LevelWarn, "starts are held" + causeText(ev.Err), nil
	case supervise.EventReleased:
		return slog.LevelInfo, "starts go on", nil
	case supervise.EventFrozen:
		return slog.LevelWarn, "workers are frozen" + causeText(ev.Err), nil
	case supervise.EventThawed:
		return slog.LevelInfo, "workers are thawed", nil
	case supervise.EventPressureTimeout:
		return slog.LevelWarn, "is under pressure for too long" + causeText(ev.Err), nil
	case supervise.EventAdded:
		return slog.LevelInfo, "pool added", []any{"workers", ev.Size}
	case supervise.EventRemoved:
		return slog.LevelInfo, "pool removed", nil
	default:
		return slog.LevelInfo, ev.Err.Error(), nil // waits for other pools
	}
}

// keepPools keeps the sizes of pools.
func (e *eventLog) keepPools(ev supervise.Event) {
	switch ev.Kind {
	case supervise.EventAdded:
		e.pools[ev.Worker.Pool] = &poolCount{size: ev.Size, seen: map[int]bool{}}
		e.workers += ev.Size
	case supervise.EventRemoved:
		if count := e.pools[ev.Worker.Pool]; count != nil {
			e.workers -= count.size
		}
		delete(e.pools, ev.Worker.Pool)
		e.announce(ev.Worker.Pool)
	case supervise.EventScaled:
		if count := e.pools[ev.Worker.Pool]; count != nil {
			count.size = ev.Size
			e.workers += ev.Size - ev.WasSize
			e.announce(ev.Worker.Pool)
		}
	default:
	}
}

// describePressure is loud about the run only: of a pool is told what it does about it.
func describePressure(ev supervise.Event) (slog.Level, string, []any) {
	level, text := slog.LevelWarn, "under pressure"
	if ev.Kind == supervise.EventPressureOver {
		level, text = slog.LevelInfo, "no more pressure"
	}
	if ev.Worker.Pool != "" {
		level = slog.LevelDebug
	}
	return level, text + causeText(ev.Err), nil
}
