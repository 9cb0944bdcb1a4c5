package supervise

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/registry"
	"github.com/pitvisor/pitvisor/resource"
)

// limit sets the limits of the pool's own cgroup, and lifts those that the
// revision before had and this one has not.
func (p *pool) limit(run *registry.Run, before, rev *revision) error {
	var errs []error
	if before != nil {
		errs = append(errs, lift(p.dir, before.ofPool, rev.ofPool))
	}
	if err := resource.Set(p.dir, rev.ofPool); err != nil {
		errs = append(errs, err)
	}
	if rev.counts() {
		p.evidence.Store(true)
	}
	p.count(run)
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("limit pool %s: %w", p.name, err)
	}
	return nil
}

// limitAgain orders the limits of a worker's leaf to be set anew, where another
// revision has others. The caller holds mu.
func (s *Supervisor) limitAgain(c *slot, rev *revision) {
	if c.leafID != 0 && !reflect.DeepEqual(c.rev.limits, rev.limits) {
		s.chores.push(order{kind: ordLimit, n: c.n, start: c.start, pool: c.pool, rev: rev, before: c.rev})
	}
}

// limitLeaf sets the limits of a leaf anew. A limit that is below what the worker has
// already may be refused, or may cost it its life: that is the kernel's to say.
func (s *Supervisor) limitLeaf(o order) {
	s.withLeaf(o, func(leaf *cgroup.Dir) error {
		err := errors.Join(lift(leaf, o.before.limits, o.rev.limits), resource.Set(leaf, o.rev.limits))
		if err == nil || errors.Is(err, cgroup.ErrGone) {
			return err
		}
		s.inbox.post(message{do: func() {
			s.emit(Event{Worker: WorkerID{Pool: o.pool.name, Slot: int(o.n)}, Start: o.start, Kind: EventDegraded, Err: err})
		}})
		return err
	})
}

// lift gives files of controllers that one set of limits has set, and the next
// one leaves alone, the value that the kernel starts with.
func lift(d *cgroup.Dir, before, now resource.Limits) error {
	var errs []error
	for _, f := range []struct {
		dropped     bool
		file, value string
	}{
		{before.MemoryMax != 0 && now.MemoryMax == 0, "memory.max", "max"},
		{before.MemoryHigh != 0 && now.MemoryHigh == 0, "memory.high", "max"},
		{before.MemoryLow != 0 && now.MemoryLow == 0, "memory.low", "0"},
		{before.MemoryMin != 0 && now.MemoryMin == 0, "memory.min", "0"},
		{before.MemorySwapMax != 0 && now.MemorySwapMax == 0, "memory.swap.max", "max"},
		{before.OOMGroup && !now.OOMGroup, "memory.oom.group", "0"},
		{before.PIDsMax != 0 && now.PIDsMax == 0, "pids.max", "max"},
		{before.CPUIdle && !now.CPUIdle, "cpu.idle", "0"}, // first: what is idle takes no weight
		{before.CPUWeight != 0 && now.CPUWeight == 0, "cpu.weight", "100"},
		{before.CPUQuota != 0 && now.CPUQuota == 0, "cpu.max", "max"},
		{before.IOWeight != 0 && now.IOWeight == 0, "io.weight", "default 100"},
		{before.CPUs != "" && now.CPUs == "", "cpuset.cpus", "\n"},
		{before.Mems != "" && now.Mems == "", "cpuset.mems", "\n"},
	} {
		if f.dropped {
			errs = append(errs, liftFile(d, f.file, f.value))
		}
	}
	for _, disk := range before.IOMax {
		if !strings.Contains(disks(now), " "+disk.Disk+" ") {
			errs = append(errs, d.WriteFile("io.max", disk.Disk+" rbps=max wbps=max riops=max wiops=max"))
		}
	}
	return errors.Join(errs...)
}

// liftFile writes what lifts a limit. Older kernels (5.10, 6.1) let no cpuset be empty in which
// there are processes: that gets all there are.
func liftFile(d *cgroup.Dir, file, value string) error {
	err := d.WriteFile(file, value)
	all := map[string]string{"cpuset.cpus": "/sys/devices/system/cpu/possible", "cpuset.mems": "/sys/devices/system/node/has_memory"}[file]
	if all == "" || !errors.Is(err, unix.ENOSPC) {
		return err
	}
	text, readErr := os.ReadFile(all)
	if readErr != nil {
		return errors.Join(err, readErr)
	}
	return d.WriteFile(file, strings.TrimSpace(string(text)))
}

// disks are the numbers of the disks that have limits, with a space around each.
func disks(l resource.Limits) string {
	text := " "
	for _, d := range l.IOMax {
		text += d.Disk + " "
	}
	return text
}
