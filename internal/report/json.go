package report

import (
	"io"
	"maps"
	"slices"

	"github.com/pitvisor/pitvisor/internal/leftover"
	"github.com/pitvisor/pitvisor/internal/sockdiag"
)

// WriteJSON writes the report as docs/run-report.md describes it.
func (r *Report) WriteJSON(w io.Writer) error {
	j := &js{}
	j.object(func() { r.fields(j) })
	j.b = append(j.b, '\n')
	_, err := w.Write(j.b)
	return err
}

func (r *Report) fields(j *js) {
	j.key("schema").int(Schema)
	j.key("run_id").strOrNull(r.RunID)
	j.key("name").str(r.Name)
	j.key("labels").texts(r.Labels)
	j.key("command").strs(r.Command)
	j.key("started").time(r.Started)
	j.key("ended").time(r.Ended)
	j.key("wall_seconds")
	if wall, ok := r.Wall(); ok {
		j.seconds(wall)
	} else {
		j.null()
	}
	j.key("outcome").str(string(r.Outcome))
	j.key("extra_outcomes").strs(r.Extra)
	j.key("exit_code")
	if r.ExitCode != nil {
		j.int(*r.ExitCode)
	} else {
		j.null()
	}
	j.key("signal").strOrNull(r.Signal)
	j.key("core_dumped").flag(r.Core)
	j.key("pitvisor_exit_code").int(r.Code)
	j.key("error").strOrNull(r.Error)
	j.key("tier").strOrNull(r.Tier)
	j.key("weak").flag(r.Weak)
	j.key("clean").flag(r.Clean())
	j.key("cgroup_removed").flag(r.Removed)
	j.key("leaks").object(func() {
		j.key("total").int(r.Left.Total)
		j.key("error")
		if r.LeftErr != nil {
			j.str(r.LeftErr.Error())
		} else {
			j.null()
		}
		j.key("processes").list(len(r.Left.Processes), func(i int) { j.process(r.Left.Processes[i]) })
	})
	j.key("nested_runs").runs(r.Nested(), func(n Run) { j.key("processes").int(n.Processes) })
	j.key("detached_runs").runs(r.Detached, func(d Run) { j.key("name").str(d.Name) })
	j.key("blocked")
	r.blocked(j)
	j.key("receipt")
	r.receipt(j)
	r.limits(j)
}

// texts writes an object of strings, sorted by key.
func (j *js) texts(texts map[string]string) {
	j.object(func() {
		for _, name := range slices.Sorted(maps.Keys(texts)) {
			j.key(name).str(texts[name])
		}
	})
}

func (j *js) runs(runs []Run, more func(Run)) {
	j.list(len(runs), func(i int) {
		j.object(func() {
			j.key("run_id").str(runs[i].ID)
			more(runs[i])
		})
	})
}

// process writes a process. What is unknown of it is null.
func (j *js) process(p leftover.Process) {
	// known begins a field and says whether there is a value for it.
	known := func(name string, f leftover.Fact) bool {
		j.key(name)
		if slices.Contains(p.Unknown, f) {
			j.null()
			return false
		}
		return true
	}
	j.object(func() {
		j.key("pid").int(p.PID)
		j.key("inode")
		if p.Inode != 0 {
			j.uint(p.Inode)
		} else {
			j.null()
		}
		j.lineage(p, known)
		if known("args", leftover.FactArgs) {
			j.strs(p.Args)
		}
		j.key("args_cut").flag(p.ArgsCut)
		if known("uid", leftover.FactUID) {
			j.uint(uint64(p.UID))
		}
		j.key("cgroup").str(p.Cgroup)
		j.key("run_id").strOrNull(p.Run)
		j.key("left").list(len(p.Left), func(i int) { j.str(string(p.Left[i])) })
		if known("listening", leftover.FactListening) {
			j.list(len(p.Listening), func(i int) { j.socket(p.Listening[i]) })
		}
		j.key("listening_left_out").int(p.ListeningLeftOut)
		j.key("unknown").strs(facts(p))
	})
}

// lineage writes what the kernel keeps of a process.
func (j *js) lineage(p leftover.Process, known func(string, leftover.Fact) bool) {
	for _, field := range []struct {
		name  string
		write func()
	}{
		{"ppid", func() { j.int(p.PPID) }},
		{"session", func() { j.int(p.Session) }},
		{"process_group", func() { j.int(p.Group) }},
		{"comm", func() { j.str(p.Comm) }},
		{"state", func() { j.str(p.State) }},
		{"started", func() { j.time(p.Started) }},
		{"age_seconds", func() { j.seconds(p.Age) }},
	} {
		if known(field.name, leftover.FactState) {
			field.write()
		}
	}
}

func (j *js) socket(s sockdiag.Socket) {
	j.object(func() {
		j.key("protocol").str(s.Proto.String())
		switch s.Proto {
		case sockdiag.TCP, sockdiag.UDP:
			j.key("address").str(s.Addr.String())
			j.key("port").int(int(s.Port))
		case sockdiag.Unix, sockdiag.Unixpacket, sockdiag.Unixgram:
			j.key("path").str(s.Path)
		}
	})
}

func (r *Report) blocked(j *js) {
	b := r.Blocked
	if b == nil {
		j.null()
		return
	}
	j.object(func() {
		j.key("cgroup").str(b.Path)
		j.key("error").str(b.Error())
		j.key("total").int(b.Total)
		j.key("processes").list(len(b.Blockers), func(i int) {
			j.object(func() {
				j.key("pid").int(b.Blockers[i].PID)
				j.key("comm").str(b.Blockers[i].Comm)
				j.key("state").str(b.Blockers[i].State)
				j.key("wchan").strOrNull(b.Blockers[i].Wchan)
			})
		})
	})
}

func (r *Report) receipt(j *js) {
	if r.Receipt == nil {
		j.null()
		return
	}
	missing := map[string]string{}
	j.object(func() {
		for _, v := range r.Receipt.values() {
			switch {
			case v.took != nil:
				j.key(v.name).seconds(*v.took)
			case v.count != nil:
				j.key(v.name).uint(*v.count)
			default:
				missing[v.name] = r.Receipt.why(v.name)
			}
		}
		j.key("unavailable").texts(missing)
	})
}

// limits writes which limits were hit.
func (r *Report) limits(j *js) {
	j.key("oom")
	j.hit("kills", r.OOM)
	j.key("pids")
	j.hit("refused", r.PIDs)
}

// hit writes whose limit was hit, with its count under a name of its own.
func (j *js) hit(count string, h *Hit) {
	if h == nil {
		j.null()
		return
	}
	j.object(func() {
		j.key(count).uint(h.Count)
		j.key("whose").str(h.Whose)
		j.key("cgroup").strOrNull(h.Cgroup)
		j.key("sure").flag(h.Sure)
		j.key("words").str(h.Words)
	})
}
