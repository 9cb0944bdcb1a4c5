package report

import (
	"slices"
	"time"
)

// Receipt is what all processes of the run have used together, those that have ended
// and the daemons included. It has the fields of package resource's receipt, in their
// order, so that one is converted into the other; that package links too much for
// what is started for every command.
type Receipt struct {
	CPUUsage         *time.Duration
	CPUUser          *time.Duration
	CPUSystem        *time.Duration
	ThrottledPeriods *uint64
	Throttled        *time.Duration

	MemoryCurrent *uint64
	MemoryPeak    *uint64
	SwapPeak      *uint64
	MemoryHigh    *uint64

	IOReadBytes  *uint64
	IOWriteBytes *uint64
	IOReads      *uint64
	IOWrites     *uint64

	PIDsPeak    *uint64
	PIDsRefused *uint64

	CPUPressureSome    *time.Duration
	CPUPressureFull    *time.Duration
	MemoryPressureSome *time.Duration
	MemoryPressureFull *time.Duration
	IOPressureSome     *time.Duration
	IOPressureFull     *time.Duration

	OOMHits       *uint64
	OOMHitsOwn    *uint64
	OOMKills      *uint64
	OOMKillsOwn   *uint64
	OOMGroupKills *uint64

	Unavailable map[string]string // why a field is nil, by the names below
}

// value is one field of a receipt. Both nil: not available.
type value struct {
	name  string
	took  *time.Duration
	count *uint64
	bytes bool
}

// values returns all fields, in order, by their names in the JSON.
func (r *Receipt) values() []value {
	return []value{
		{name: "cpu_usage", took: r.CPUUsage},
		{name: "cpu_user", took: r.CPUUser},
		{name: "cpu_system", took: r.CPUSystem},
		{name: "throttled_periods", count: r.ThrottledPeriods},
		{name: "throttled", took: r.Throttled},
		{name: "memory_current", count: r.MemoryCurrent, bytes: true},
		{name: "memory_peak", count: r.MemoryPeak, bytes: true},
		{name: "swap_peak", count: r.SwapPeak, bytes: true},
		{name: "memory_high", count: r.MemoryHigh},
		{name: "io_read_bytes", count: r.IOReadBytes, bytes: true},
		{name: "io_write_bytes", count: r.IOWriteBytes, bytes: true},
		{name: "io_reads", count: r.IOReads},
		{name: "io_writes", count: r.IOWrites},
		{name: "pids_peak", count: r.PIDsPeak},
		{name: "pids_refused", count: r.PIDsRefused},
		{name: "cpu_pressure_some", took: r.CPUPressureSome},
		{name: "cpu_pressure_full", took: r.CPUPressureFull},
		{name: "memory_pressure_some", took: r.MemoryPressureSome},
		{name: "memory_pressure_full", took: r.MemoryPressureFull},
		{name: "io_pressure_some", took: r.IOPressureSome},
		{name: "io_pressure_full", took: r.IOPressureFull},
		{name: "oom_hits", count: r.OOMHits},
		{name: "oom_hits_own", count: r.OOMHitsOwn},
		{name: "oom_kills", count: r.OOMKills},
		{name: "oom_kills_own", count: r.OOMKillsOwn},
		{name: "oom_group_kills", count: r.OOMGroupKills},
	}
}

func (v value) known() bool { return v.took != nil || v.count != nil }

// why says why a value is not available.
func (r *Receipt) why(name string) string {
	if reason := r.Unavailable[name]; reason != "" {
		return reason
	}
	return "not measured"
}

// unavailable returns the names of what is not known, by the reason, in order.
func (r *Receipt) unavailable() []unavailable {
	var all []unavailable
	for _, v := range r.values() {
		if v.known() {
			continue
		}
		reason := r.why(v.name)
		i := slices.IndexFunc(all, func(u unavailable) bool { return u.reason == reason })
		if i < 0 {
			i = len(all)
			all = append(all, unavailable{reason: reason})
		}
		all[i].names = append(all[i].names, v.name)
	}
	return all
}

// unavailable is a reason and the values that are missing for it.
type unavailable struct {
	reason string
	names  []string
}
