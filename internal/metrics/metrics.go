// Package metrics turns the supervisor's events into counters, and what the kernel
// counts into numbers, in Prometheus' text format.
//
// Counting an event costs a few hundred nanoseconds. Everything that is a state - how
// many workers are ready, what they use - is looked up when somebody asks, so it costs
// nothing while nobody does.
//
// It is not for deciding anything, nor for the metrics of what workers do.
package metrics

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/pitvisor/pitvisor/registry"
	"github.com/pitvisor/pitvisor/supervise"
)

const namespace = "pitvisor"

// Supervisor is what a scrape asks of the supervisor.
type Supervisor interface {
	Status() []supervise.WorkerStatus
	Pools() []supervise.PoolStatus
}

// Metrics counts. Make it with [New].
type Metrics struct {
	all *prometheus.Registry

	starts        *prometheus.CounterVec
	startFailures *prometheus.CounterVec
	restarts      *prometheus.CounterVec
	exits         *prometheus.CounterVec
	ready         *prometheus.HistogramVec
	stop          *prometheus.HistogramVec
	kills         *prometheus.CounterVec
	unhealthy     *prometheus.CounterVec
	rollouts      *prometheus.CounterVec
	leftover      *prometheus.CounterVec
	blocked       *prometheus.CounterVec
	pressed       *prometheus.CounterVec

	sweptRuns      *prometheus.CounterVec
	sweptProcesses prometheus.Counter
	sweep          prometheus.Histogram
}

// New makes all counters that are fed by events.
func New(version, goVersion string) *Metrics {
	m := &Metrics{all: prometheus.NewRegistry()}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, labels)
		m.all.MustRegister(c)
		return c
	}
	histogram := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		h := prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: namespace, Name: name, Help: help, Buckets: buckets}, labels)
		m.all.MustRegister(h)
		return h
	}
	m.starts = counter("worker_starts_total", "Starts of workers that were begun, by why.", "pool", "reason")
	m.startFailures = counter("worker_start_failures_total", "Starts that did not become ready, by how far they got and why. Those that a stop cancelled are not counted.", "pool", "phase", "cause")
	m.restarts = counter("worker_restarts_total", "Starts of a worker after its first, by why.", "pool", "worker", "reason")
	m.exits = counter("worker_exits_total", "Ends of ready workers by themselves, by how: exit or signal.", "pool", "how")
	m.ready = histogram("worker_ready_seconds", "From the begin of a start until the worker was ready.", prometheus.ExponentialBuckets(0.005, 2.5, 12), "pool")
	m.stop = histogram("worker_stop_seconds", "From the stop signal until the worker's cgroup was gone, by whether it had to be killed.", prometheus.ExponentialBuckets(0.005, 2.5, 10), "pool", "killed")
	m.kills = counter("worker_escalations_total", "Stops whose grace did not suffice.", "pool")
	m.unhealthy = counter("worker_unhealthy_total", "Ready workers whose liveness rule failed.", "pool")
	m.rollouts = counter("rollouts_total", "Rollouts that have ended, by result: done or stopped.", "pool", "result")
	m.leftover = counter("worker_leftover_processes_total", "Processes that main processes left behind, and that were killed.", "pool")
	m.blocked = counter("worker_blocked_total", "Cgroups that could not be removed at once because a process did not die.", "pool")
	m.pressed = counter("pool_pressure_timeouts_total", "Times that what a pool did because a resource was short was undone after max_for.", "pool")

	m.sweptRuns = counter("gc_runs_total", "Runs that sweeps looked at, by result.", "result")
	m.sweptProcesses = prometheus.NewCounter(prometheus.CounterOpts{Namespace: namespace, Name: "gc_killed_processes_total", Help: "Processes of stale runs that sweeps have killed."})
	m.sweep = prometheus.NewHistogram(prometheus.HistogramOpts{
		Namespace: namespace, Name: "gc_run_seconds", Help: "From the kill of a stale run until its cgroup was gone.", Buckets: prometheus.ExponentialBuckets(0.005, 2.5, 10),
	})
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Namespace: namespace, Name: "build_info", Help: "1, with the version of the program.",
		ConstLabels: prometheus.Labels{"version": version, "goversion": goVersion},
	})
	build.Set(1)
	m.all.MustRegister(m.sweptProcesses, m.sweep, build)
	return m
}

// Observe counts an event.
func (m *Metrics) Observe(e supervise.Event) {
	pool := e.Worker.Pool
	switch e.Kind {
	case supervise.EventStarting:
		m.starts.WithLabelValues(pool, e.Reason.String()).Inc()
		if e.Start > 1 {
			m.restarts.WithLabelValues(pool, e.Worker.String(), e.Reason.String()).Inc()
		}
	case supervise.EventStartFailed:
		if f := e.Failure; f != nil && f.Cause != supervise.CauseCanceled {
			m.startFailures.WithLabelValues(pool, f.Phase.String(), f.Cause.String()).Inc()
		}
	case supervise.EventReady:
		m.ready.WithLabelValues(pool).Observe(e.Elapsed.Seconds())
	case supervise.EventExited:
		m.exits.WithLabelValues(pool, how(&e)).Inc()
	case supervise.EventEscalated:
		m.kills.WithLabelValues(pool).Inc()
	case supervise.EventStopped:
		if e.Start > 0 {
			m.stop.WithLabelValues(pool, yesNo(e.Escalated)).Observe(e.Elapsed.Seconds())
		}
	case supervise.EventUnhealthy:
		m.unhealthy.WithLabelValues(pool).Inc()
	case supervise.EventRolledOut:
		m.rollouts.WithLabelValues(pool, "done").Inc()
	case supervise.EventRolloutStopped:
		m.rollouts.WithLabelValues(pool, "stopped").Inc()
	case supervise.EventBlocked:
		m.blocked.WithLabelValues(pool).Inc()
	case supervise.EventPressureTimeout:
		m.pressed.WithLabelValues(pool).Inc()
	default:
		// What these change is looked up at a scrape.
	}
	if e.Leftover > 0 {
		m.leftover.WithLabelValues(pool).Add(float64(e.Leftover))
	}
}

func how(e *supervise.Event) string {
	switch {
	case e.Exit == nil:
		return "unknown"
	case e.Exit.Signal != 0:
		return "signal"
	}
	return "exit"
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// Swept counts what a sweep did with one directory.
func (m *Metrics) Swept(e registry.SweepEvent) {
	m.sweptRuns.WithLabelValues(e.Result).Inc()
	if e.Result == registry.ResultSwept || e.Result == registry.ResultBlocked {
		m.sweptProcesses.Add(float64(e.Processes))
		m.sweep.Observe(e.Elapsed.Seconds())
	}
}

// scrapeTime bounds a scrape.
const scrapeTime = 20 * time.Second

// Handler answers scrapes: with what was counted, and with what sup and the cgroups of
// run say at that moment.
func (m *Metrics) Handler(run *registry.Run, sup Supervisor) http.Handler {
	m.all.MustRegister(&states{run: run, sup: sup})
	return promhttp.HandlerFor(m.all, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: scrapeTime, ErrorHandling: promhttp.ContinueOnError})
}
