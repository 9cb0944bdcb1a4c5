package cgroup

import (
	"errors"
	"io/fs"
	"time"

	"github.com/containerd/cgroups/v3/cgroup2"
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

// Usage reads the statistics of the cgroup.
func (d *Dir) Usage() (Usage, error) {
	var u Usage
	if n, ok := d.MemoryCurrent(); ok {
		u.MemoryCurrent = &n
	}
	u.MemoryPeak = d.count("memory.peak", "")
	u.PIDsRefused = d.count("pids.events", "max")
	if us := d.count("cpu.stat", "usage_usec"); us != nil {
		used := time.Duration(*us) * time.Microsecond
		u.CPUUsage = &used
	}
	if err := d.containerdUsage(&u); err != nil {
		return Usage{}, d.wrap("read statistics", err)
	}
	if there, err := d.Exists(); err != nil || !there {
		return Usage{}, d.wrap("read statistics", errors.Join(err, ErrGone))
	}
	return u, nil
}

// containerdUsage asks containerd/cgroups for what it reads without a word. Its CPU
// and memory statistics read pressure files too, and it logs to stderr if the
// cgroup goes away meanwhile, which a supervisor's cgroups do all the time.
func (d *Dir) containerdUsage(u *Usage) error {
	m, err := cgroup2.Load("/", cgroup2.WithMountpoint(fdPath(d.fd)))
	if err != nil {
		return err
	}
	stats, err := m.StatFiltered(cgroup2.StatPids | cgroup2.StatMemoryEvents)
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		err = pathErr.Err
	}
	if err != nil {
		return err
	}
	if stats.MemoryEvents != nil {
		u.OOMKills = &stats.MemoryEvents.OomKill
	}
	// It gives zero for a missing file, and a cgroup may well hold zero processes.
	if there, err := existsAt(d.fd, "pids.current"); err == nil && there {
		u.PIDs = &stats.Pids.Current
	}
	return nil
}

// MemoryCurrent returns the memory in use, in bytes, by one read of one file. It
// gives false without a memory controller, and for a cgroup that is gone.
func (d *Dir) MemoryCurrent() (uint64, bool) {
	n := d.count("memory.current", "")
	if n == nil {
		return 0, false
	}
	return *n, true
}

// count reads one number: the whole file, or the value of one key in it.
func (d *Dir) count(file, key string) *uint64 {
	var n int
	if key == "" {
		var ok bool
		if n, ok = readInt(d.fd, file); !ok {
			return nil
		}
	} else if n = statField(d.fd, file, key); n < 0 {
		return nil
	}
	count := uint64(n)
	return &count
}
