package server

import (
	"encoding/json"
	"strconv"
	"time"

	"github.com/pitvisor/pitvisor/supervise"
)

// The status of ten thousand workers is asked for while they start, so it is encoded
// by hand: several times as fast as by reflection. TestStatusIsEncodedAsJSON holds it
// equal to what encoding/json makes of the types of package api.

// workerBytes is about what one worker takes.
const workerBytes = 220

func (s *Server) appendStatus(b []byte, seq uint64, all, workers []supervise.WorkerStatus, meant func(pool string) bool) []byte {
	if b == nil {
		b = make([]byte, 0, 1024+len(workers)*workerBytes)
	}
	b = append(b, `{"run":`...)
	b = appendJSON(b, s.self)
	b = append(b, `,"seq":`...)
	b = strconv.AppendUint(b, seq, 10)
	b = append(b, `,"pools":`...)
	b = appendJSON(b, s.sumUp(all, workers, meant))
	b = append(b, `,"workers":[`...)
	cold := s.look(workers)
	for i := range workers {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendWorker(b, &workers[i], cold.holds(&workers[i]))
	}
	return append(b, "]}\n"...)
}

func appendWorker(b []byte, w *supervise.WorkerStatus, frozen bool) []byte {
	b = append(b, `{"worker":"`...)
	b = append(b, w.Worker.Pool...) // the names of pools need no quoting
	b = append(b, '/')
	b = strconv.AppendInt(b, int64(w.Worker.Slot), 10)
	b = append(b, `","pool":"`...)
	b = append(b, w.Worker.Pool...)
	b = append(b, `","slot":`...)
	b = strconv.AppendInt(b, int64(w.Worker.Slot), 10)
	b = append(b, `,"state":"`...)
	b = append(b, w.State.String()...)
	b = append(b, `","ready":`...)
	b = strconv.AppendBool(b, w.Ready)
	b = append(b, `,"start":`...)
	b = strconv.AppendUint(b, w.Start, 10)
	if w.PID != 0 {
		b = append(b, `,"pid":`...)
		b = strconv.AppendInt(b, int64(w.PID), 10)
	}
	if w.Port != 0 {
		b = append(b, `,"port":`...)
		b = strconv.AppendInt(b, int64(w.Port), 10)
	}
	b = appendFlag(b, "frozen", frozen || w.Frozen)
	b = appendFlag(b, "held", w.Held)
	b = appendFlag(b, "stopped", w.Stopped)
	b = appendFlag(b, "surge", w.Surge)
	b = appendFlag(b, "leaving", w.Leaving)
	b = appendFlag(b, "replaced", w.Replaced)
	b = append(b, `,"failures":`...)
	b = strconv.AppendInt(b, int64(w.Failures), 10)
	b = append(b, `,"since":"`...)
	b = w.Since.AppendFormat(b, time.RFC3339Nano)
	b = append(b, '"')
	if w.Cause != "" {
		b = append(b, `,"cause":`...)
		b = appendJSON(b, w.Cause)
	}
	return append(appendSaid(b, w), '}')
}

// appendSaid appends what a worker says of itself.
func appendSaid(b []byte, w *supervise.WorkerStatus) []byte {
	if w.Text != "" {
		b = append(b, `,"status":`...)
		b = appendJSON(b, w.Text)
	}
	if w.Errno != 0 {
		b = append(b, `,"errno":`...)
		b = strconv.AppendInt(b, int64(w.Errno), 10)
	}
	b = appendFlag(b, "reloading", w.Reloading)
	return appendFlag(b, "announced", w.Announced)
}

// appendFlag appends what is told only if it is so.
func appendFlag(b []byte, name string, set bool) []byte {
	if !set {
		return b
	}
	b = append(b, `,"`...)
	b = append(b, name...)
	return append(b, `":true`...)
}

// appendJSON appends what encoding/json makes of a value that has a form in JSON.
func appendJSON(b []byte, v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		return append(b, "null"...)
	}
	return append(b, text...)
}
