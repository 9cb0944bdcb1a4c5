package registry

import (
	"cmp"
	"context"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/pidfd"
)

// ProcessView is one process of a leaf. It is for printing: PID may be another process's by the time
// it is read, PID with Inode never is, and PID with Start only within a hundredth of a second.
type ProcessView struct {
	PID   int    `json:"pid"`
	Inode uint64 `json:"inode,omitempty"` // of its pidfd: unique in a boot, 0 before Linux 6.9
	Start uint64 `json:"start,omitempty"` // in clock ticks since boot, where there is no inode
	Comm  string `json:"comm"`
}

// viewPools describes what is in a run, and counts its processes wherever in it they are.
func viewPools(ctx context.Context, run *cgroup.Dir) ([]PoolView, int, error) {
	names, err := run.Children()
	if err != nil {
		return nil, 0, ignoreGone(err)
	}
	total := countHere(run)
	var pools []PoolView
	for _, name := range names {
		pool, err := run.OpenChild(name)
		if isGone(err) {
			continue
		}
		if err != nil {
			return nil, 0, err
		}
		view, processes, err := viewPool(ctx, pool)
		_ = pool.Close() // was only read
		if err != nil {
			return nil, 0, err
		}
		pools = append(pools, view)
		total += processes
	}
	return pools, total, nil
}

// viewPool describes one pool and counts its processes.
func viewPool(ctx context.Context, pool *cgroup.Dir) (PoolView, int, error) {
	record, ok := readPool(pool)
	if !ok {
		record.Name = pool.Name()
	}
	view := PoolView{Pool: record}
	names, err := pool.Children()
	if err != nil {
		return view, 0, ignoreGone(err)
	}
	total := countHere(pool)
	for _, name := range names {
		if ctx.Err() != nil {
			return view, 0, context.Cause(ctx)
		}
		leaf, err := pool.OpenChild(name)
		if isGone(err) {
			continue
		}
		if err != nil {
			return view, 0, err
		}
		worker, processes, ok := viewLeaf(record.Name, leaf)
		_ = leaf.Close() // was only read
		total += processes
		if ok {
			view.Workers = append(view.Workers, worker)
		}
	}
	slices.SortFunc(view.Workers, func(a, b WorkerView) int {
		return cmp.Or(cmp.Compare(a.Slot, b.Slot), cmp.Compare(a.Worker.Start, b.Worker.Start))
	})
	return view, total, nil
}

// viewLeaf describes one leaf and counts its processes; false when it is not a worker's.
func viewLeaf(pool string, leaf *cgroup.Dir) (WorkerView, int, bool) {
	pids := pidsBelow(leaf)
	slot, start, named := slotAndStart(leaf.Name())
	record, ok := readWorker(leaf)
	if !ok && !named {
		return WorkerView{}, len(pids), false
	}
	if !ok {
		record = Worker{Pool: pool, Slot: slot, Start: start}
		if _, err := leaf.Xattr(xattrWorker); err != nil {
			record.State = "starting" // its owner writes the record when there is a process
		}
	}
	view := WorkerView{Worker: record, Leaf: leaf.Name(), Memory: memoryOf(leaf)}
	if !record.Started.IsZero() {
		view.Age = max(0, time.Since(record.Started))
	}
	if events, err := leaf.Events(); err == nil {
		view.Frozen = events.Frozen && events.Populated
	}
	for _, pid := range pids {
		if p, ok := viewProcess(pid); ok {
			view.Processes = append(view.Processes, p)
		}
	}
	return view, len(pids), true
}

// viewProcess names one process; false when it is gone or going. Its name is read while its pidfd is
// held and counts only if the process still lives afterwards, so it cannot be a successor's.
func viewProcess(pid int) (ProcessView, bool) {
	p, err := pidfd.Open(pid)
	if err != nil {
		return ProcessView{}, false
	}
	defer p.Close()
	id, err := p.Identity()
	if err != nil {
		return ProcessView{}, false
	}
	comm, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/comm")
	if err != nil {
		return ProcessView{}, false
	}
	if exited, err := p.Exited(); err != nil || exited {
		return ProcessView{}, false
	}
	return ProcessView{PID: pid, Inode: id.Inode, Start: id.Start, Comm: strings.TrimSuffix(string(comm), "\n")}, true
}

// slotAndStart reads the name of a leaf, "<slot>.<start>".
func slotAndStart(name string) (int, uint64, bool) {
	left, right, ok := strings.Cut(name, ".")
	slot, slotErr := strconv.Atoi(left)
	start, startErr := strconv.ParseUint(right, 10, 64)
	return slot, start, ok && slotErr == nil && startErr == nil && slot >= 0
}

// countHere counts the processes of the directory itself.
func countHere(dir *cgroup.Dir) int {
	pids, err := dir.PIDs()
	if err != nil {
		return 0
	}
	return len(pids)
}

// ignoreGone makes nothing of a directory that was removed meanwhile.
func ignoreGone(err error) error {
	if isGone(err) {
		return nil
	}
	return err
}
