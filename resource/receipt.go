package resource

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pitvisor/pitvisor/cgroup"
)

// Receipt is what all processes that were ever in a cgroup and below it have used
// together, those that have ended included. A field is nil where this host cannot
// tell, and Unavailable then says why, under the name that stands behind the field.
type Receipt struct {
	CPUUsage         *time.Duration // cpu_usage
	CPUUser          *time.Duration // cpu_user
	CPUSystem        *time.Duration // cpu_system
	ThrottledPeriods *uint64        // throttled_periods: those in which cpu.max, of the cgroup itself, was used up
	Throttled        *time.Duration // throttled: for how long, added up over the CPUs

	MemoryCurrent *uint64 // memory_current: bytes
	MemoryPeak    *uint64 // memory_peak: bytes; caches count
	SwapPeak      *uint64 // swap_peak: bytes
	MemoryHigh    *uint64 // memory_high: how often processes were held back for memory.high, here and below

	IOReadBytes  *uint64 // io_read_bytes: what disks did; caches do not count
	IOWriteBytes *uint64 // io_write_bytes
	IOReads      *uint64 // io_reads: operations
	IOWrites     *uint64 // io_writes

	PIDsPeak    *uint64 // pids_peak: processes and threads at once
	PIDsRefused *uint64 // pids_refused: forks, for limits here and below; before Linux 6.11 for limits above, too

	// How long some or all of the processes stood still for want of something.
	CPUPressureSome    *time.Duration // cpu_pressure_some
	CPUPressureFull    *time.Duration // cpu_pressure_full
	MemoryPressureSome *time.Duration // memory_pressure_some
	MemoryPressureFull *time.Duration // memory_pressure_full
	IOPressureSome     *time.Duration // io_pressure_some
	IOPressureFull     *time.Duration // io_pressure_full

	// Out of memory: how often a limit was hit with nothing left to reclaim, and how
	// many processes were killed for it or for another's limit (see [OOMSource]). The
	// difference between a number and the one of the cgroup itself was below it.
	OOMHits       *uint64 // oom_hits: limits of this cgroup and of those below
	OOMHitsOwn    *uint64 // oom_hits_own: this cgroup's limit
	OOMKills      *uint64 // oom_kills: processes here and below; a group's first one counts twice
	OOMKillsOwn   *uint64 // oom_kills_own: processes in this cgroup itself
	OOMGroupKills *uint64 // oom_group_kills: cgroups that were killed whole

	Unavailable map[string]string // why a field is nil; itself nil if none is
}

// ReceiptControllers returns the controllers that a whole receipt needs.
func ReceiptControllers() []string { return []string{"cpu", "io", "memory", "pids"} }

// ReadReceipt reads the receipt of a cgroup, a dozen files. It fails only if the
// cgroup is gone or d is closed.
func ReadReceipt(d *cgroup.Dir) (Receipt, error) {
	var r Receipt
	files := map[string]content{}
	absent := sync.OnceValue(func() map[string]string { return absentControllers(d) })
	for _, e := range r.entries() {
		c, known := files[e.file]
		if !known {
			c = read(d, e.file)
			files[e.file] = c
		}
		n, ok := c.numbers[e.key]
		if !ok {
			if r.Unavailable == nil {
				r.Unavailable = map[string]string{}
			}
			r.Unavailable[e.name] = e.why(d, c.err, absent)
			continue
		}
		e.set(n)
	}
	if r.PIDsRefused != nil {
		*r.PIDsRefused += refusedBelow(d)
	}
	there, err := d.Exists()
	if err == nil && !there {
		err = cgroup.ErrGone
	}
	if err != nil {
		return Receipt{}, fmt.Errorf("read statistics of %s: %w", d.Path(), err)
	}
	return r, nil
}

// refusedBelow adds up the refused forks below a cgroup that its own count leaves
// out. Before pids.events.local, which came with Linux 6.11, the kernel counted a
// refused fork in the cgroup of the process only, whosever the limit was.
func refusedBelow(d *cgroup.Dir) uint64 {
	if _, err := d.ReadFile("pids.events.local"); !errors.Is(err, cgroup.ErrNotSupported) {
		return 0
	}
	names, err := d.Children()
	if err != nil {
		return 0 // gone, which the caller finds out
	}
	sum := uint64(0)
	for _, name := range names {
		child, err := d.OpenChild(name)
		if err != nil {
			continue // removed meanwhile
		}
		if n := field(child, "pids.events", "max"); n != nil {
			sum += *n
		}
		sum += refusedBelow(child)
		_ = child.Close() // was only read
	}
	return sum
}

// entry is one value of a receipt and where it comes from.
type entry struct {
	name       string
	controller string // that has the file or the key; "" for none
	file, key  string
	since      string // the Linux that brought it; "" for all that we work on
	set        func(uint64)
}

func (r *Receipt) entries() []entry {
	count := func(to **uint64) func(uint64) { return func(n uint64) { *to = &n } }
	usec := func(to **time.Duration) func(uint64) {
		return func(n uint64) { t := time.Duration(n) * time.Microsecond; *to = &t }
	}
	return []entry{
		{"cpu_usage", "", "cpu.stat", "usage_usec", "", usec(&r.CPUUsage)},
		{"cpu_user", "", "cpu.stat", "user_usec", "", usec(&r.CPUUser)},
		{"cpu_system", "", "cpu.stat", "system_usec", "", usec(&r.CPUSystem)},
		{"throttled_periods", "cpu", "cpu.stat", "nr_throttled", "", count(&r.ThrottledPeriods)},
		{"throttled", "cpu", "cpu.stat", "throttled_usec", "", usec(&r.Throttled)},
		{"memory_current", "memory", "memory.current", "", "", count(&r.MemoryCurrent)},
		{"memory_peak", "memory", "memory.peak", "", "5.19", count(&r.MemoryPeak)},
		{"swap_peak", "memory", "memory.swap.peak", "", "6.5", count(&r.SwapPeak)},
		{"memory_high", "memory", "memory.events", "high", "", count(&r.MemoryHigh)},
		{"io_read_bytes", "io", "io.stat", "rbytes", "", count(&r.IOReadBytes)},
		{"io_write_bytes", "io", "io.stat", "wbytes", "", count(&r.IOWriteBytes)},
		{"io_reads", "io", "io.stat", "rios", "", count(&r.IOReads)},
		{"io_writes", "io", "io.stat", "wios", "", count(&r.IOWrites)},
		{"pids_peak", "pids", "pids.peak", "", "6.1", count(&r.PIDsPeak)},
		{"pids_refused", "pids", "pids.events", "max", "", count(&r.PIDsRefused)},
		{"cpu_pressure_some", "", "cpu.pressure", "some", "", usec(&r.CPUPressureSome)},
		{"cpu_pressure_full", "", "cpu.pressure", "full", "5.13", usec(&r.CPUPressureFull)},
		{"memory_pressure_some", "", "memory.pressure", "some", "", usec(&r.MemoryPressureSome)},
		{"memory_pressure_full", "", "memory.pressure", "full", "", usec(&r.MemoryPressureFull)},
		{"io_pressure_some", "", "io.pressure", "some", "", usec(&r.IOPressureSome)},
		{"io_pressure_full", "", "io.pressure", "full", "", usec(&r.IOPressureFull)},
		{"oom_hits", "memory", "memory.events", "oom", "", count(&r.OOMHits)},
		{"oom_hits_own", "memory", "memory.events.local", "oom", "5.3", count(&r.OOMHitsOwn)},
		{"oom_kills", "memory", "memory.events", "oom_kill", "", count(&r.OOMKills)},
		{"oom_kills_own", "memory", "memory.events.local", "oom_kill", "5.3", count(&r.OOMKillsOwn)},
		{"oom_group_kills", "memory", "memory.events", "oom_group_kill", "5.17", count(&r.OOMGroupKills)},
	}
}

// why says why there is no such value, err being what reading the file gave. A key
// that is missing comes from a file that was read.
func (e entry) why(d *cgroup.Dir, err error, absent func() map[string]string) string {
	if err != nil && !errors.Is(err, cgroup.ErrNotSupported) {
		return err.Error()
	}
	what := e.file
	if err == nil {
		what = e.key + " in " + e.file
	}
	switch {
	case e.controller != "":
		if reason := absent()[e.controller]; reason != "" {
			return reason
		}
	case err != nil && strings.HasSuffix(e.file, ".pressure"):
		return noPressure()
	}
	if _, err := d.ReadFile("cgroup.type"); errors.Is(err, cgroup.ErrNotSupported) {
		return "the root cgroup has no " + what
	}
	if e.file == "memory.swap.peak" {
		return "this kernel has no memory.swap.peak, which came with Linux 6.5, or it does not account swap"
	}
	if e.since != "" {
		return fmt.Sprintf("this kernel has no %s, which came with Linux %s", what, e.since)
	}
	return "this kernel has no " + what
}

// absentControllers says why the cgroup has not each of the controllers that it has
// not.
func absentControllers(d *cgroup.Dir) map[string]string {
	have, err := d.Controllers()
	if err != nil {
		return nil // gone, which the caller finds out
	}
	reasons := map[string]string{}
	for _, c := range ReceiptControllers() {
		if slices.Contains(have, c) {
			continue
		}
		why := "the one above does not hand it down"
		var missing *cgroup.ControllerError
		if errors.As(d.Missing(c, ""), &missing) && missing.Hybrid {
			why = "it is bound to cgroup v1 on this host"
		}
		reasons[c] = fmt.Sprintf("no %s controller in this cgroup: %s", c, why)
	}
	return reasons
}

func noPressure() string {
	if _, err := os.Stat("/proc/pressure"); err != nil {
		return "this kernel does not measure pressure: it is built without CONFIG_PSI, or needs psi=1 at boot"
	}
	return "pressure is switched off for this cgroup (cgroup.pressure), or needs psi=1 at boot"
}
