package config

import (
	"slices"
	"strings"

	"github.com/pitvisor/pitvisor/supervise"
)

// finishAfter checks how the pools depend on each other. Those of which something was
// wrong count as well, so that nothing is said of a pool that is there.
func (d *decoder) finishAfter(names []string, pools []Pool) {
	if d.truncated {
		return // what is missing may be in the rest
	}
	restarts := make(map[string]supervise.RestartPolicy, len(pools))
	for _, p := range pools {
		restarts[p.Spec.Name] = p.Spec.Restart
	}
	edges := make(map[string][]dependency)
	for _, dep := range d.dependencies {
		restart, known := restarts[dep.Pool]
		switch {
		case !slices.Contains(names, dep.Pool):
			d.add(dep.at, didYouMean(dep.Pool, names), "pool %q comes after pool %s, which there is not", dep.from, quoted(dep.Pool))
		case dep.Until == supervise.UntilCompleted && known && restart == supervise.RestartAlways:
			d.add(dep.at, `set restart = "on-failure" or "never" there`, "pool %q waits until pool %q has completed, which it never does: its workers are always restarted", dep.from, dep.Pool)
		}
		edges[dep.from] = append(edges[dep.from], dep)
	}
	d.circles(names, edges)
}

// visit is where a search for circles stands.
type visit uint8

const (
	visitNone visit = iota
	visitOpen       // on the way
	visitDone
)

// circles reports each dependency that closes a circle, once.
func (d *decoder) circles(names []string, edges map[string][]dependency) {
	state := make(map[string]visit, len(names))
	var way []string
	var walk func(name string)
	walk = func(name string) {
		state[name] = visitOpen
		way = append(way, name)
		for _, dep := range edges[name] {
			switch state[dep.Pool] {
			case visitNone:
				walk(dep.Pool)
			case visitOpen:
				ring := append(slices.Clone(way[slices.Index(way, dep.Pool):]), dep.Pool)
				if len(ring) > 6 {
					ring = append(append(slices.Clone(ring[:3]), "..."), ring[len(ring)-2:]...)
				}
				d.add(dep.at, "leave one of them out", "pool %q comes after itself: %s", dep.from, strings.Join(ring, " after "))
			case visitDone:
			}
		}
		way = way[:len(way)-1]
		state[name] = visitDone
	}
	for _, name := range names {
		if state[name] == visitNone {
			walk(name)
		}
	}
}
