package metrics

import (
	"os"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/internal/pressure"
	"github.com/pitvisor/pitvisor/registry"
	"github.com/pitvisor/pitvisor/supervise"
)

// states is what is looked up at a scrape.
type states struct {
	run *registry.Run
	sup Supervisor
}

// desc describes one number.
func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(namespace+"_"+name, help, labels, nil)
}

// descs are all numbers of a scrape.
type descs struct {
	size, ready, workers, processes, started *prometheus.Desc
	memory, peak, cpu, poolOOM, poolPIDs     *prometheus.Desc
	pressure, failures, poolMemory           *prometheus.Desc
	ratio, held, frozen, withheld            *prometheus.Desc
}

func newDescs() descs {
	return descs{
		size:       desc("pool_size", "Workers that the pool is to have.", "pool"),
		ready:      desc("pool_ready", "Workers of the pool that are ready.", "pool"),
		workers:    desc("pool_workers", "Workers of the pool, by state.", "pool", "state"),
		failures:   desc("worker_failures", "Failures of the worker in a row; only where there are some.", "pool", "worker"),
		processes:  desc("run_processes", "Processes of the run, threads not counted."),
		started:    desc("run_start_time_seconds", "When the run was made, since 1970."),
		memory:     desc("cgroup_memory_bytes", "Memory that the kernel charges to a worker's cgroup.", "pool", "worker"),
		peak:       desc("cgroup_memory_peak_bytes", "The most of it since this start of the worker.", "pool", "worker"),
		cpu:        desc("cgroup_cpu_seconds_total", "CPU time of a worker's cgroup since this start of the worker, by mode.", "pool", "worker", "mode"),
		poolMemory: desc("pool_memory_bytes", "Memory that the kernel charges to a pool's cgroup.", "pool"),
		poolOOM:    desc("cgroup_oom_kills_total", "Processes of the pool that the kernel has killed for want of memory.", "pool"),
		poolPIDs:   desc("pool_refused_forks_total", "Forks that the kernel refused in a pool because of a limit of processes.", "pool"),
		ratio:      desc("pressure_ratio", "Share of the last ten seconds, 0 to 1, in which some or all programs of the host or the run waited for a resource.", "where", "resource", "kind"),
		held:       desc("pool_held_starts", "Starts of the pool that wait until a resource is not short any more.", "pool"),
		frozen:     desc("pool_frozen_workers", "Workers of the pool that are frozen because a resource is short.", "pool"),
		withheld:   desc("pool_withheld_workers", "Workers that are missing of the pool's size because a resource is short.", "pool"),
		pressure:   desc("cgroup_pressure_seconds_total", "Time in which some or all of a pool's processes waited for a resource.", "pool", "resource", "kind"),
	}
}

// Describe says nothing: what there is differs with the host.
func (s *states) Describe(chan<- *prometheus.Desc) {}

// Collect looks everything up.
func (s *states) Collect(out chan<- prometheus.Metric) {
	d := newDescs()
	gauge := func(desc *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, v, labels...)
	}
	gauge(d.started, float64(s.run.Info().Started.UnixNano())/1e9)
	if pids, err := s.run.Dir().PIDsRecursive(); err == nil {
		gauge(d.processes, float64(len(pids)))
	}
	s.ratios(&d, out)
	counts := map[string]map[supervise.State]int{}
	all := s.sup.Status()
	for i := range all {
		w := &all[i]
		if counts[w.Worker.Pool] == nil {
			counts[w.Worker.Pool] = map[supervise.State]int{}
		}
		counts[w.Worker.Pool][w.State]++
		if w.Failures > 0 {
			gauge(d.failures, float64(w.Failures), w.Worker.Pool, w.Worker.String())
		}
	}
	for _, p := range s.sup.Pools() {
		gauge(d.size, float64(p.Size), p.Name)
		gauge(d.ready, float64(p.Ready), p.Name)
		gauge(d.held, float64(p.Held), p.Name)
		gauge(d.frozen, float64(p.Frozen), p.Name)
		gauge(d.withheld, float64(p.Withheld), p.Name)
		for state := supervise.StateDown; state <= supervise.StateCompleted; state++ {
			gauge(d.workers, float64(counts[p.Name][state]), p.Name, state.String())
		}
		s.pool(&d, p.Name, all, out)
	}
}

// ratios is how much programs wait now.
func (s *states) ratios(d *descs, out chan<- prometheus.Metric) {
	for _, resource := range []string{"cpu", "io", "memory"} {
		host, hostErr := os.ReadFile("/proc/pressure/" + resource)
		run, runErr := s.run.Dir().ReadFile(resource + ".pressure")
		for _, x := range []struct {
			where string
			text  []byte
			err   error
		}{{"host", host, hostErr}, {"run", run, runErr}} {
			for _, full := range []bool{false, true} {
				if line, ok := pressure.Parse(string(x.text), full); ok && x.err == nil {
					kind := pressure.Source{Full: full}.Kind()
					out <- prometheus.MustNewConstMetric(d.ratio, prometheus.GaugeValue, line.Average/100, x.where, resource, kind)
				}
			}
		}
	}
}

// pool looks into the cgroup of a pool and those of its workers.
func (s *states) pool(d *descs, name string, all []supervise.WorkerStatus, out chan<- prometheus.Metric) {
	dir, err := s.run.Dir().OpenChild(name)
	if err != nil {
		return // it is being removed
	}
	defer func() { _ = dir.Close() }() // was only looked at
	number(out, d.poolMemory, prometheus.GaugeValue, dir, "memory.current", "", 1, name)
	number(out, d.poolOOM, prometheus.CounterValue, dir, "memory.events", "oom_kill", 1, name)
	number(out, d.poolPIDs, prometheus.CounterValue, dir, "pids.events", "max", 1, name)
	for _, resource := range []string{"cpu", "io", "memory"} {
		pressed(out, d.pressure, dir, name, resource)
	}
	for i := range all {
		w := &all[i]
		if w.Worker.Pool != name || w.PID == 0 {
			continue
		}
		leaf, err := dir.OpenChild(strconv.Itoa(w.Worker.Slot) + "." + strconv.FormatUint(w.Start, 10))
		if err != nil {
			continue // it has ended meanwhile
		}
		worker(out, d, leaf, w)
		_ = leaf.Close() // was only looked at
	}
}

func worker(out chan<- prometheus.Metric, d *descs, leaf *cgroup.Dir, w *supervise.WorkerStatus) {
	labels := []string{w.Worker.Pool, w.Worker.String()}
	number(out, d.memory, prometheus.GaugeValue, leaf, "memory.current", "", 1, labels...)
	number(out, d.peak, prometheus.GaugeValue, leaf, "memory.peak", "", 1, labels...)
	for _, mode := range []string{"user", "system"} {
		number(out, d.cpu, prometheus.CounterValue, leaf, "cpu.stat", mode+"_usec", 1e-6, append(labels, mode)...)
	}
}

// number reads one number of a cgroup's file, if this host has it. Without a key the
// file holds nothing else.
func number(out chan<- prometheus.Metric, desc *prometheus.Desc, kind prometheus.ValueType, dir *cgroup.Dir, file, key string, unit float64, labels ...string) {
	data, err := dir.ReadFile(file)
	if err != nil {
		return
	}
	for line := range strings.Lines(string(data)) {
		text := strings.TrimSpace(line)
		if key != "" {
			var ok bool
			if text, ok = strings.CutPrefix(text, key+" "); !ok {
				continue
			}
		}
		if n, err := strconv.ParseUint(text, 10, 64); err == nil {
			out <- prometheus.MustNewConstMetric(desc, kind, float64(n)*unit, labels...)
		}
		return
	}
}

// pressed reads the totals of a pressure file.
func pressed(out chan<- prometheus.Metric, desc *prometheus.Desc, dir *cgroup.Dir, pool, resource string) {
	data, err := dir.ReadFile(resource + ".pressure")
	if err != nil {
		return // the kernel counts none
	}
	for _, full := range []bool{false, true} {
		if line, ok := pressure.Parse(string(data), full); ok {
			kind := pressure.Source{Full: full}.Kind()
			out <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, line.Total.Seconds(), pool, resource, kind)
		}
	}
}
