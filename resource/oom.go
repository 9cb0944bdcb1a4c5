package resource

import (
	"errors"
	"fmt"

	"github.com/pitvisor/pitvisor/cgroup"
)

// OOM says for whose limit processes of a leaf were killed.
type OOM struct {
	Kills uint64 // in the leaf and below, as the kernel counts: memory.oom.group counts its first process twice
	Hit
}

// String says it in words: "2 kills for want of memory, limit of /sys/fs/cgroup/job".
func (o OOM) String() string {
	if o.Whose == LimitNone {
		return "no kill for want of memory"
	}
	noun := "kills"
	if o.Kills == 1 {
		noun = "kill"
	}
	whose := o.limit("which the host had not, or for a limit further up", ": others were killed there too")
	return fmt.Sprintf("%d %s for want of memory, %s", o.Kills, noun, whose)
}

// OOMSource says for whose limit the kernel killed processes of a leaf for want of
// memory. The ancestors come in order, the leaf's parent first; they should go up to
// the root, or to the first cgroup that nobody limits. It must be asked before the
// leaf is removed. Linux 5.3.
//
// It compares counters. The kernel counts a kill in the cgroup of the process that
// was killed, and "oom" in the cgroup whose limit was hit. So it can tell the leaf's
// own limit, one below it, and one of an ancestor from the host's memory. It tells one
// source, the nearest, even if there were several. As the counters begin with the
// cgroup, an ancestor's limit may have been hit earlier and for others; Sure says
// that nobody else was killed there.
//
// It cannot tell the host's memory from a limit above the given ancestors, or from
// that of a cpuset or memory policy. It does not see kills by programs, such as
// systemd-oomd, and nothing below the leaf if cgroup2 is mounted with
// memory_localevents.
//
// Cgroups without the memory controller have no limit and no counters; if the leaf
// is one, the nearest ancestor that has it stands for the leaf. If none has, the
// error is a *[cgroup.ControllerError].
func OOMSource(leaf *cgroup.Dir, ancestors ...*cgroup.Dir) (OOM, error) {
	var counts []oomCounts
	paths := map[int]string{}
	for i, d := range append([]*cgroup.Dir{leaf}, ancestors...) {
		c, err := readOOM(d)
		if errors.Is(err, cgroup.ErrNotSupported) {
			continue
		}
		if err != nil {
			return OOM{}, err
		}
		c.level, paths[i] = i, d.Path()
		counts = append(counts, c)
	}
	if len(counts) == 0 {
		return OOM{}, leaf.Missing("memory", "memory.events.local")
	}
	o := whose(counts)
	o.Path = paths[o.Level]
	return o, nil
}

// oomCounts are the counters of one cgroup.
type oomCounts struct {
	level         int
	hits, hitsOwn uint64
	kills         uint64
}

func readOOM(d *cgroup.Dir) (oomCounts, error) {
	all, own := read(d, "memory.events"), read(d, "memory.events.local")
	if err := errors.Join(all.err, own.err); err != nil {
		return oomCounts{}, err
	}
	return oomCounts{
		hits: all.numbers["oom"], hitsOwn: own.numbers["oom"], kills: all.numbers["oom_kill"],
	}, nil
}

// whose compares the counters of a leaf, the first, and of the cgroups above it.
func whose(counts []oomCounts) OOM {
	leaf := counts[0]
	o := OOM{Kills: leaf.kills, Hit: Hit{Level: leaf.level, Sure: true}}
	switch {
	case leaf.kills == 0:
		o.Whose, o.Level = LimitNone, -1
		return o
	case leaf.hitsOwn > 0:
		o.Whose = LimitOwn
		if leaf.level > 0 {
			o.Whose = LimitAncestor
		}
		return o
	case leaf.hits > 0:
		o.Whose = LimitBelow
		return o
	}
	for _, c := range counts[1:] {
		if c.hitsOwn > 0 {
			o.Whose, o.Level, o.Sure = LimitAncestor, c.level, c.kills == leaf.kills
			return o
		}
	}
	o.Whose, o.Level = LimitAbove, -1
	return o
}
