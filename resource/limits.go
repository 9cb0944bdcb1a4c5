package resource

import (
	"errors"
	"fmt"
	"io/fs"
	"reflect"
	"slices"
	"strconv"
	"time"

	"github.com/containerd/cgroups/v3/cgroup2"
	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/cgroup"
)

// ErrIdleWeight says that a cgroup is to be idle and to have a weight: the kernel
// refuses a weight of what is idle.
var ErrIdleWeight = errors.New("cpu.weight and cpu.idle exclude each other: leave one of them out")

// Unlimited lifts a limit; zero leaves it as it is.
const Unlimited int64 = -1

// Limits bounds what the processes of a cgroup may use, all together. The zero
// value changes nothing.
type Limits struct {
	MemoryMax     int64 // bytes, then the kernel reclaims and at last kills
	MemoryHigh    int64 // bytes, then it reclaims and slows down
	MemoryLow     int64 // bytes spared as long as others have some to give
	MemoryMin     int64 // bytes never reclaimed
	MemorySwapMax int64 // bytes of swap
	PIDsMax       int64 // processes and threads; fork gives EAGAIN beyond

	CPUWeight uint64        // 1 to 10000, the kernel starts with 100; 0 leaves it
	CPUQuota  time.Duration // CPU time per CPUPeriod; Unlimited lifts it
	CPUPeriod time.Duration // 1 ms to 1 s; 0 means 100 ms
	IOWeight  uint64        // 1 to 10000, the kernel starts with 100; 0 leaves it
	IOMax     []DiskLimit   // nil leaves all disks

	CPUIdle bool // CPU time only when nobody else of the same parent wants it; false leaves it, and then no CPUWeight may be set

	CPUs string // such as "0-3,6"; "" leaves it
	Mems string // memory nodes, such as "0"; "" leaves it

	OOMGroup bool // an out-of-memory kill takes all of the cgroup; false leaves it
}

// IsZero says whether there is nothing to set.
func (l Limits) IsZero() bool {
	if len(l.IOMax) > 0 && len(l.settings()) > 0 {
		return false
	}
	l.IOMax = nil
	return reflect.ValueOf(l).IsZero()
}

// Without returns the limits less those that need a controller.
func (l Limits) Without(controller string) Limits {
	switch controller {
	case "memory":
		l.MemoryMax, l.MemoryHigh, l.MemoryLow, l.MemoryMin, l.MemorySwapMax, l.OOMGroup = 0, 0, 0, 0, 0, false
	case "pids":
		l.PIDsMax = 0
	case "cpu":
		l.CPUWeight, l.CPUQuota, l.CPUPeriod, l.CPUIdle = 0, 0, 0, false
	case "cpuset":
		l.CPUs, l.Mems = "", ""
	case "io":
		l.IOWeight, l.IOMax = 0, nil
	}
	return l
}

// Files returns the kernel's files that the limits are written to, in order.
func (l Limits) Files() []string {
	var files []string
	for _, s := range l.settings() {
		if !slices.Contains(files, s.file) {
			files = append(files, s.file)
		}
	}
	return files
}

// WithoutFile returns the limits less the one that is written to a file of the kernel's.
func (l Limits) WithoutFile(file string) Limits {
	less := Limits{}
	for _, s := range l.settings() {
		if s.file != file {
			_ = ParseLimit(s.file, s.value, &less) // what we write we can read: FuzzParseLimit
		}
	}
	return less
}

// Controllers returns the controllers that the limits need, sorted.
func (l Limits) Controllers() []string {
	var needed []string
	for _, s := range l.settings() {
		if !slices.Contains(needed, s.controller) {
			needed = append(needed, s.controller)
		}
	}
	slices.Sort(needed)
	return needed
}

// Set sets those limits of a cgroup that are not zero. A limit whose controller is
// not enabled for the cgroup gives a *[cgroup.ControllerError]; a value that the
// kernel refuses gives an error that names file and value. What was set before the
// error stays.
func Set(d *cgroup.Dir, l Limits) error {
	if l.CPUIdle && l.CPUWeight != 0 {
		return fmt.Errorf("limit %s: %w", d.Path(), ErrIdleWeight)
	}
	for _, s := range l.settings() {
		if err := s.write(d); err != nil {
			return err
		}
	}
	return nil
}

// setting is one file of a controller and what goes into it.
type setting struct {
	controller, file, value string
	// resources makes containerd/cgroups write the value. It is nil for what that
	// library has no word for: "max" for memory, io.weight, and "max" for a disk.
	resources *cgroup2.Resources
}

func (l Limits) settings() []setting {
	var all []setting
	memory := func(file string, bytes int64, r cgroup2.Memory) {
		if bytes != 0 {
			all = append(all, amount("memory", file, bytes, &cgroup2.Resources{Memory: &r}))
		}
	}
	memory("memory.min", l.MemoryMin, cgroup2.Memory{Min: &l.MemoryMin})
	memory("memory.low", l.MemoryLow, cgroup2.Memory{Low: &l.MemoryLow})
	memory("memory.high", l.MemoryHigh, cgroup2.Memory{High: &l.MemoryHigh})
	memory("memory.max", l.MemoryMax, cgroup2.Memory{Max: &l.MemoryMax})
	memory("memory.swap.max", l.MemorySwapMax, cgroup2.Memory{Swap: &l.MemorySwapMax})
	if l.OOMGroup {
		all = append(all, setting{
			"memory", "memory.oom.group", "1",
			&cgroup2.Resources{Memory: &cgroup2.Memory{OOMGroup: &l.OOMGroup}},
		})
	}
	if l.PIDsMax != 0 {
		all = append(all, amount("pids", "pids.max", l.PIDsMax,
			&cgroup2.Resources{Pids: &cgroup2.Pids{Max: l.PIDsMax}}))
	}
	if l.CPUs != "" {
		all = append(all, setting{
			"cpuset", "cpuset.cpus", l.CPUs,
			&cgroup2.Resources{CPU: &cgroup2.CPU{Cpus: l.CPUs}},
		})
	}
	if l.Mems != "" {
		all = append(all, setting{
			"cpuset", "cpuset.mems", l.Mems,
			&cgroup2.Resources{CPU: &cgroup2.CPU{Mems: l.Mems}},
		})
	}
	return append(all, l.shares()...)
}

// shares returns the settings of the cpu and io controllers.
func (l Limits) shares() []setting {
	var all []setting
	if l.CPUWeight != 0 {
		all = append(all, setting{
			"cpu", "cpu.weight", strconv.FormatUint(l.CPUWeight, 10),
			&cgroup2.Resources{CPU: &cgroup2.CPU{Weight: &l.CPUWeight}},
		})
	}
	if l.CPUIdle {
		all = append(all, setting{"cpu", "cpu.idle", "1", nil})
	}
	if l.CPUQuota != 0 || l.CPUPeriod != 0 {
		var quota *int64
		if l.CPUQuota > 0 {
			us := l.CPUQuota.Microseconds()
			quota = &us
		}
		period := uint64(100_000)
		if l.CPUPeriod != 0 {
			period = uint64(l.CPUPeriod.Microseconds())
		}
		limit := cgroup2.NewCPUMax(quota, &period)
		all = append(all, setting{
			"cpu", "cpu.max", string(limit),
			&cgroup2.Resources{CPU: &cgroup2.CPU{Max: limit}},
		})
	}
	if l.IOWeight != 0 {
		all = append(all, setting{"io", "io.weight", strconv.FormatUint(l.IOWeight, 10), nil})
	}
	for _, d := range l.IOMax {
		if value := d.value(); value != "" {
			all = append(all, setting{"io", "io.max", value, nil}) // one disk a write
		}
	}
	return all
}

// amount makes a setting of a value for which Unlimited is "max".
func amount(controller, file string, n int64, r *cgroup2.Resources) setting {
	if n == Unlimited {
		return setting{controller, file, "max", nil}
	}
	return setting{controller, file, strconv.FormatInt(n, 10), r}
}

// write writes one value. Why that did not work is looked up afterwards: at nearly
// every start it does.
func (s setting) write(d *cgroup.Dir) error {
	var err error
	if s.resources == nil {
		err = d.WriteFile(s.file, s.value)
	} else if err = update(d, s.resources); err != nil {
		err = fmt.Errorf("set %s=%s of %s: %w", s.file, s.value, d.Path(), err)
	}
	if err == nil {
		return nil
	}
	_, readErr := d.ReadFile(s.file)
	switch {
	case readErr == nil && s.file == "io.max" && errors.Is(err, unix.ENODEV):
		// Not the cgroup is gone: the disk is none, or a partition of one.
		return fmt.Errorf("set %s=%s of %s: no such disk: %w", s.file, s.value, d.Path(), unix.ENODEV)
	case readErr == nil:
		return err
	case errors.Is(readErr, cgroup.ErrNotSupported):
		return d.Missing(s.controller, s.file)
	}
	return readErr
}

// update lets containerd/cgroups write, to a path that means this very directory.
// Its Update writes the files of the resources below that path and nothing above.
func update(d *cgroup.Dir, r *cgroup2.Resources) error {
	m, err := cgroup2.Load("/", cgroup2.WithMountpoint(path(d)))
	if err != nil {
		return err
	}
	return plain(m.Update(r))
}

// path is the name of the open directory for code that wants a path. It keeps
// meaning that directory, also after another one took its name.
func path(d *cgroup.Dir) string { return "/proc/self/fd/" + strconv.Itoa(d.FD()) }

// plain takes the path out of an error: our own words name the cgroup, not a
// descriptor.
func plain(err error) error {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Err
	}
	return err
}
