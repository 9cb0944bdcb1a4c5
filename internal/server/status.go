package server

import (
	"net/http"
	"strconv"

	"github.com/pitvisor/pitvisor/api"
	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/registry"
	"github.com/pitvisor/pitvisor/resource"
	"github.com/pitvisor/pitvisor/supervise"
)

func (s *Server) getWhoami(w http.ResponseWriter, c *call) error { return answer(w, c.caller) }

func (s *Server) getMetrics(w http.ResponseWriter, c *call) error {
	if s.o.Metrics == nil {
		return notFound("", "this supervisor has no metrics")
	}
	s.o.Metrics.ServeHTTP(w, c.r)
	return nil
}

func (s *Server) getStatus(w http.ResponseWriter, c *call) error {
	selected, err := c.selected()
	if err != nil {
		return err
	}
	seq := s.o.Supervisor.LastEvent() // before the snapshot: rather told twice than never
	all, l := s.o.Supervisor.Status(), s.labels()
	workers, unmet := selected.pick(all, l)
	for i := range unmet {
		if unmet[i].emptyPool(l) == "" {
			return unmet[i].missing(all, l)
		}
	}
	if err := s.sameProcesses(selected, workers, l); err != nil {
		return err
	}
	return answerBytes(w, s.appendStatus(nil, seq, all, workers, func(pool string) bool { return selected.fitsPool(pool, l) }))
}

// wireRun is what the supervisor says of itself.
func wireRun(o *Options) api.Run {
	if o.Run == nil {
		return api.Run{} // a test of something else
	}
	info := o.Run.Info()
	return api.Run{
		ID: info.ID.String(), Name: info.Name, Version: info.Version, Started: info.Started, Owner: info.Owner.String(),
		Cgroup: o.Run.Dir().Path(), Config: o.Config, Tier: o.Tier,
	}
}

// sumUp describes the pools of the workers that were selected, and those that are meant
// though they have nobody, each as a whole.
func (s *Server) sumUp(all, selected []supervise.WorkerStatus, meant func(pool string) bool) []api.Pool {
	pools := map[string]*api.Pool{}
	for i := range selected {
		if name := selected[i].Worker.Pool; pools[name] == nil {
			pools[name] = &api.Pool{Name: name}
		}
	}
	for i := range all {
		w := &all[i]
		p := pools[w.Worker.Pool]
		if p == nil {
			continue
		}
		switch w.State {
		case supervise.StateUp:
			p.Up++
		case supervise.StateFailed:
			p.Failed++
		case supervise.StateCompleted:
			p.Completed++
		default:
		}
	}
	sums := []api.Pool{}
	known := s.o.Supervisor.Pools()
	for i := range known {
		k := &known[i]
		p := pools[k.Name]
		if p == nil && meant(k.Name) {
			p = &api.Pool{Name: k.Name} // it is there, though it has nobody
		}
		if p == nil {
			continue
		}
		p.Size, p.Ready, p.Labels, p.Removed, p.Waits, p.InVain = k.Size, k.Ready, k.Labels, k.Removed, k.Waits, k.InVain
		p.Pressure, p.Held, p.Frozen, p.Withheld = k.Pressure, k.Held, k.Frozen, k.Withheld
		for _, err := range k.Degraded {
			p.Degraded = append(p.Degraded, err.Error())
		}
		switch {
		case k.Rollout != 0:
			p.Rollout = &api.Rollout{ID: k.Rollout, Reason: k.Reason.String(), Left: k.Left}
		case k.Stopped != nil:
			p.Rollout = &api.Rollout{ID: k.Stopped.Rollout, Error: k.Stopped.Error()}
		}
		sums = append(sums, *p)
	}
	return sums
}

func wireWorker(w *supervise.WorkerStatus, frozen bool) api.Worker {
	return api.Worker{
		Worker: w.Worker.String(), Pool: w.Worker.Pool, Slot: w.Worker.Slot, State: api.State(w.State.String()), Ready: w.Ready,
		Start: w.Start, PID: w.PID, Port: w.Port, Frozen: frozen || w.Frozen, Held: w.Held, Failures: w.Failures, Since: w.Since, Cause: w.Cause,
		Stopped: w.Stopped, Surge: w.Surge, Leaving: w.Leaving, Replaced: w.Replaced,
		Status: w.Text, Errno: w.Errno, Reloading: w.Reloading, Announced: w.Announced,
	}
}

// find returns the worker that a path names.
func (s *Server) find(pool, slot string) (*supervise.WorkerStatus, error) {
	n, err := strconv.Atoi(slot)
	if err != nil || n < 0 {
		return nil, badRequest("write /v1/workers/web/3", "%.40q is no number of a worker", slot)
	}
	workers := s.o.Supervisor.Status()
	for i := range workers {
		if workers[i].Worker == (supervise.WorkerID{Pool: pool, Slot: n}) {
			return &workers[i], nil
		}
	}
	return nil, notFound("`pitvisor status` shows which there are", "no worker is called %.100q", pool+"/"+slot)
}

// inspectedEvents is how many of a worker's newest events an inspection has.
const inspectedEvents = 20

func (s *Server) getWorker(w http.ResponseWriter, c *call) error {
	worker, err := s.find(c.vars["pool"], c.vars["slot"])
	if err != nil {
		return err
	}
	one := []supervise.WorkerStatus{*worker}
	out := api.Inspection{Worker: wireWorker(worker, s.look(one).holds(worker)), Events: s.lastEvents(worker.Worker, inspectedEvents)}
	if command, ok := s.o.Command(worker.Worker.Pool); ok {
		out.Command = command
	}
	leaf, err := s.openLeaf(worker.Worker.Pool, leafOf(worker))
	if err == nil { // else there is none, or none any more
		defer func() { _ = leaf.Close() }() // was only looked at
		s.lookInto(leaf, worker, &out)
	}
	return answer(w, out)
}

// leafOf names the leaf of the current start.
func leafOf(w *supervise.WorkerStatus) string {
	return strconv.Itoa(w.Worker.Slot) + "." + strconv.FormatUint(w.Start, 10)
}

// lookInto reads what the kernel says of a leaf.
func (s *Server) lookInto(leaf *cgroup.Dir, w *supervise.WorkerStatus, out *api.Inspection) {
	if view, ok := registry.ViewLeaf(w.Worker.Pool, leaf); ok {
		for _, p := range view.Processes {
			out.Processes = append(out.Processes, api.Process{PID: p.PID, Inode: p.Inode, Name: p.Comm})
		}
	}
	out.Leaf = &api.Leaf{Path: leaf.Path(), CgroupID: leaf.ID(), Limits: limitsOf(leaf)}
	if events, err := leaf.Events(); err == nil {
		out.Leaf.Frozen = events.Frozen
	}
	used, err := resource.Read(leaf)
	if err != nil {
		return // it is being removed
	}
	out.Leaf.MemoryBytes, out.Leaf.MemoryPeak = used.MemoryCurrent, used.MemoryPeak
	out.Leaf.PIDs, out.Leaf.OOMKills = used.PIDs, used.OOMKills
	if used.CPUUsage != nil {
		ns := uint64(*used.CPUUsage)
		out.Leaf.CPUNanoseconds = &ns
	}
}

func (s *Server) getHistory(w http.ResponseWriter, c *call) error {
	if s.o.History == nil {
		return notFound("", "this supervisor keeps no history")
	}
	selected, err := c.selectedByName()
	if err != nil {
		return err
	}
	limit, err := c.number("limit")
	if err != nil {
		return err
	}
	worker := c.caller.Role == roleWorker // to whom other runs are none of its business
	ask := limit
	if len(selected) > 0 || worker {
		ask = 0 // the newest of these may be old
	}
	records, err := s.o.History(ask)
	if err != nil {
		return err
	}
	l, run := s.labels(), wireRun(&s.o).ID
	out := api.History{Records: []api.Record{}}
	for _, r := range records {
		if worker && r.Run != run {
			continue
		}
		if selected.holds(supervise.WorkerID{Pool: r.Pool, Slot: r.Slot}, r.Start, l) {
			out.Records = append(out.Records, r)
		}
	}
	if limit > 0 && len(out.Records) > limit {
		out.Records = out.Records[len(out.Records)-limit:]
	}
	return answer(w, out)
}

// whole reads a whole number of the query from 0 to most.
func (c *call) whole(name string, most int) (int, error) {
	text := c.query.Get(name)
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || n > most {
		return 0, badRequest("", "%s is %.40q, must be 0 to %d", name, text, most)
	}
	return n, nil
}

// number reads a whole number of the query; 0 when it is not given.
func (c *call) number(name string) (int, error) {
	text := c.query.Get(name)
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(text, 10, 32)
	if err != nil || n < 1 {
		return 0, badRequest("write a whole number from 1", "%s is %.40q", name, text)
	}
	return int(n), nil
}
