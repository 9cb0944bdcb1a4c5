package resource

import (
	"fmt"
	"time"

	"github.com/containerd/cgroups/v3/cgroup2"

	"github.com/pitvisor/pitvisor/cgroup"
)

// Usage is what the processes of a cgroup and below it use together. A field is nil
// where this host cannot tell.
type Usage struct {
	MemoryCurrent *uint64        // bytes, needs the memory controller
	MemoryPeak    *uint64        // bytes, Linux 5.19
	OOMKills      *uint64        // processes killed for want of memory
	PIDs          *uint64        // processes and threads, needs the pids controller
	PIDsRefused   *uint64        // forks refused by pids.max
	CPUUsage      *time.Duration // user and system time, always there
}

// Read reads the statistics of a cgroup.
func Read(d *cgroup.Dir) (Usage, error) {
	var u Usage
	if n, ok := d.MemoryCurrent(); ok {
		u.MemoryCurrent = &n
	}
	u.MemoryPeak = number(d, "memory.peak")
	u.PIDsRefused = field(d, "pids.events", "max")
	if us := field(d, "cpu.stat", "usage_usec"); us != nil {
		used := time.Duration(*us) * time.Microsecond
		u.CPUUsage = &used
	}
	if err := u.containerd(d); err != nil {
		return Usage{}, fmt.Errorf("read statistics of %s: %w", d.Path(), err)
	}
	there, err := d.Exists()
	if err == nil && !there {
		err = cgroup.ErrGone
	}
	if err != nil {
		return Usage{}, fmt.Errorf("read statistics of %s: %w", d.Path(), err)
	}
	return u, nil
}

// containerd asks containerd/cgroups for what it reads without a word. Its CPU
// and memory statistics read pressure files too, and it logs to stderr if the
// cgroup goes away meanwhile, which a supervisor's cgroups do all the time.
func (u *Usage) containerd(d *cgroup.Dir) error {
	m, err := cgroup2.Load("/", cgroup2.WithMountpoint(path(d)))
	if err != nil {
		return err
	}
	stats, err := m.StatFiltered(cgroup2.StatPids | cgroup2.StatMemoryEvents)
	if err != nil {
		return plain(err)
	}
	if stats.MemoryEvents != nil {
		u.OOMKills = &stats.MemoryEvents.OomKill
	}
	// It gives zero for a missing file, and a cgroup may well hold zero processes.
	if number(d, "pids.current") != nil {
		u.PIDs = &stats.Pids.Current
	}
	return nil
}

// number reads a file that holds one number.
func number(d *cgroup.Dir, file string) *uint64 { return field(d, file, "") }

// field reads one value of a file of "key value" lines.
func field(d *cgroup.Dir, file, key string) *uint64 {
	n, ok := read(d, file).numbers[key]
	if !ok {
		return nil
	}
	return &n
}
