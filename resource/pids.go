package resource

import (
	"errors"
	"fmt"

	"github.com/pitvisor/pitvisor/cgroup"
)

// PIDs says for whose limit of processes forks were refused.
type PIDs struct {
	Refused uint64 // forks in the leaf and below; where an ancestor counts, below that
	Hit
}

// String says it in words: "2 forks refused, limit of /sys/fs/cgroup/job".
func (p PIDs) String() string {
	if p.Whose == LimitNone {
		return "no fork refused"
	}
	noun := "forks"
	if p.Refused == 1 {
		noun = "fork"
	}
	return fmt.Sprintf("%d %s refused, %s", p.Refused, noun, p.limit("limit of a cgroup further up", ""))
}

// PIDsHits is how often the limits of processes of these cgroups were hit so far,
// for [PIDsSource]: their counters begin with the cgroups. It is zero before Linux
// 6.11, whose kernels count where the fork was.
func PIDsHits(ancestors ...*cgroup.Dir) uint64 {
	sum := uint64(0)
	for _, d := range ancestors {
		if n := field(d, "pids.events.local", "max"); n != nil {
			sum += *n
		}
	}
	return sum
}

// PIDsSource says for whose limit of processes the kernel refused forks of a leaf.
// The ancestors come in order, the leaf's parent first; before is what [PIDsHits]
// said of them when the leaf was new. It must be asked before the leaf is removed.
//
// Since Linux 6.11 the kernel counts a refused fork in the cgroup whose limit was
// hit, and not where the fork was. So the leaf's own limit, and one below, are
// certain; that of an ancestor was hit by somebody in it. Kernels before that count
// where the fork was, whosever the limit; then it is the one that is full, where
// pids.peak tells (Linux 6.1), and the nearest one otherwise.
//
// Cgroups without the pids controller have no limit and no counters. If none has it
// the error is a *[cgroup.ControllerError].
func PIDsSource(before uint64, leaf *cgroup.Dir, ancestors ...*cgroup.Dir) (PIDs, error) {
	var counts []pidsCounts
	paths := map[int]string{}
	for i, d := range append([]*cgroup.Dir{leaf}, ancestors...) {
		c, err := readPIDs(d)
		if errors.Is(err, cgroup.ErrNotSupported) {
			continue
		}
		if err != nil {
			return PIDs{}, err
		}
		c.level, paths[i] = i, d.Path()
		counts = append(counts, c)
	}
	if len(counts) == 0 {
		return PIDs{}, leaf.Missing("pids", "pids.events")
	}
	p := whoseFork(counts, before)
	p.Path = paths[p.Level]
	return p, nil
}

// pidsCounts are the counters of one cgroup.
type pidsCounts struct {
	level     int
	hits      uint64 // "max" of pids.events, and before Linux 6.11 the same of all cgroups below
	own       uint64 // "max" of pids.events.local
	splitting bool   // there is a pids.events.local: hits are counted where the limit is
	full      bool   // there is a limit, and as far as is known it was reached
}

func readPIDs(d *cgroup.Dir) (pidsCounts, error) {
	all, own := read(d, "pids.events"), read(d, "pids.events.local")
	if all.err != nil {
		return pidsCounts{}, all.err
	}
	c := pidsCounts{hits: all.numbers["max"], own: own.numbers["max"], splitting: own.err == nil}
	if !c.splitting {
		c.hits += refusedBelow(d)
	}
	if limit := number(d, "pids.max"); limit != nil { // "max" is no number
		peak := number(d, "pids.peak")
		c.full = peak == nil || *peak >= *limit
	}
	return c, nil
}

// whoseFork compares the counters of a leaf, the first, and of the cgroups above it.
func whoseFork(counts []pidsCounts, before uint64) PIDs {
	if !counts[0].splitting {
		return whoseForkOnce(counts)
	}
	sum := uint64(0)
	nearest := -1
	for _, c := range counts {
		switch {
		case c.level == 0 && c.own > 0:
			return PIDs{Refused: c.own, Hit: Hit{Whose: LimitOwn, Level: 0, Sure: true}}
		case c.level == 0 && c.hits > 0:
			return PIDs{Refused: c.hits, Hit: Hit{Whose: LimitBelow, Level: 0, Sure: true}}
		case c.level == 0:
		case c.own > 0 && nearest < 0:
			nearest = c.level
			fallthrough
		default:
			sum += c.own
		}
	}
	if sum <= before {
		return PIDs{Hit: Hit{Whose: LimitNone, Level: -1, Sure: true}}
	}
	return PIDs{Refused: sum - before, Hit: Hit{Whose: LimitAncestor, Level: nearest}}
}

// whoseForkOnce does it for kernels that count where the fork was.
func whoseForkOnce(counts []pidsCounts) PIDs {
	leaf := counts[0]
	if leaf.level > 0 || leaf.hits == 0 {
		return PIDs{Hit: Hit{Whose: LimitNone, Level: -1, Sure: leaf.level == 0}}
	}
	p := PIDs{Refused: leaf.hits, Hit: Hit{Whose: LimitAbove, Level: -1, Sure: true}}
	for _, c := range counts {
		switch {
		case !c.full:
		case p.Level >= 0:
			p.Sure = false
		case c.level == 0:
			p.Whose, p.Level = LimitOwn, 0
		default:
			p.Whose, p.Level = LimitAncestor, c.level
		}
	}
	return p
}
