package server

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/pitvisor/pitvisor/internal/suggest"
	"github.com/pitvisor/pitvisor/supervise"
)

const (
	maxSelectors   = 64
	maxSelectorLen = 256
)

// labels are those of every pool, by its name.
type labels map[string]map[string]string

func (s *Server) labels() labels {
	all := labels{}
	for _, p := range s.o.Supervisor.Pools() {
		all[p.Name] = p.Labels
	}
	return all
}

// selection names workers. An empty one names all of them.
type selection []selector

// selector is one pattern of a selection: what supervise knows, and beside it one
// start of a worker, and a process.
type selector struct {
	text   string
	worker supervise.Selector // means none for a process
	start  uint64             // of "web/3.7"; 0 is any
	pid    int                // of "4711:84423"; 0 is none
	inode  uint64
}

// parseSelection reads patterns. Its errors are for the caller to see.
func parseSelection(texts []string) (selection, error) {
	if len(texts) > maxSelectors {
		return nil, badRequest("use a pattern such as web/*", "%d selectors, at most %d", len(texts), maxSelectors)
	}
	var all selection
	for _, text := range texts {
		s, err := parseSelector(text)
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}

func parseSelector(text string) (selector, error) {
	const cure = `write a pool, a worker such as web/3, one start of it such as web/3.7, a process as PID:INODE, a label such as env=prod, or a pattern such as web/*`
	s := selector{text: text}
	if text == "" || len(text) > maxSelectorLen {
		return s, badRequest(cure, "selector has %d bytes, must have 1 to %d", len(text), maxSelectorLen)
	}
	if _, err := strconv.ParseUint(text, 10, 64); err == nil && len(text) > 1 {
		return s, badRequest("write PID:INODE, as ps shows it; or the worker", "%s looks like the number of a process, which may be another process's by now", text)
	}
	if pid, inode, ok := strings.Cut(text, ":"); ok && !strings.Contains(text, "=") {
		n, err := strconv.ParseUint(pid, 10, 31)
		i, inodeErr := strconv.ParseUint(inode, 10, 64)
		if err != nil || inodeErr != nil || n == 0 || i == 0 {
			return s, badRequest(cure, "selector %q is no process", text)
		}
		s.pid, s.inode = int(n), i
		return s, nil
	}
	name, start, dotted := cutStart(text)
	if dotted {
		n, err := strconv.ParseUint(start, 10, 64)
		if err != nil || n == 0 {
			return s, badRequest(cure, "selector %q: what follows the dot is no number of a start", text)
		}
		s.start = n
	}
	var err error
	if s.worker, err = supervise.ParseSelector(name); err != nil {
		return s, badRequest(cure, "%v", err)
	}
	return s, nil
}

// cutStart cuts the number of a start off "web/3.7".
func cutStart(text string) (name, start string, ok bool) {
	slash, dot := strings.LastIndexByte(text, '/'), strings.LastIndexByte(text, '.')
	if slash < 0 || dot < slash || strings.ContainsAny(text, "=,") {
		return text, "", false
	}
	return text[:dot], text[dot+1:], true
}

// holds says whether a start of a worker is selected, or an event that is about its
// whole pool.
func (all selection) holds(id supervise.WorkerID, start uint64, l labels) bool {
	if len(all) == 0 {
		return true
	}
	for i := range all {
		if s := &all[i]; s.pid == 0 && s.worker.Match(id, l[id.Pool]) && (s.start == 0 || s.start == start) {
			return true
		}
	}
	return false
}

// choose returns the workers that are selected, each once, in their order. It is an
// error if a pattern fits none.
func (all selection) choose(workers []supervise.WorkerStatus, l labels) ([]supervise.WorkerStatus, error) {
	chosen, unmet := all.pick(workers, l)
	if len(unmet) > 0 {
		return nil, unmet[0].missing(workers, l)
	}
	return chosen, nil
}

// pick returns the workers that are selected, and the patterns that fit none.
func (all selection) pick(workers []supervise.WorkerStatus, l labels) (chosen []supervise.WorkerStatus, unmet selection) {
	if len(all) == 0 {
		return workers, nil
	}
	fits := make([]bool, len(all))
	for i := range workers {
		w := &workers[i]
		selected := false
		for j := range all {
			if all[j].fits(w, l) {
				fits[j], selected = true, true
			}
		}
		if selected {
			chosen = append(chosen, *w)
		}
	}
	for j, ok := range fits {
		if !ok {
			unmet = append(unmet, all[j])
		}
	}
	return chosen, unmet
}

// fitsPool says that a pattern means all of a pool, which may have nobody.
func (s *selector) fitsPool(name string, l labels) bool {
	return s.pid == 0 && s.start == 0 && s.worker.Match(supervise.WorkerID{Pool: name, Slot: -1}, l[name])
}

// fitsPool says that all of a pool is meant.
func (all selection) fitsPool(name string, l labels) bool {
	return len(all) == 0 || slices.ContainsFunc(all, func(s selector) bool { return s.fitsPool(name, l) })
}

// emptyPool is the name of a pool that a pattern means, which fits no worker; "" is none.
func (s *selector) emptyPool(l labels) string {
	for _, name := range slices.Sorted(maps.Keys(l)) {
		if s.fitsPool(name, l) {
			return name
		}
	}
	return ""
}

func (s *selector) fits(w *supervise.WorkerStatus, l labels) bool {
	if s.pid != 0 {
		return s.pid == w.PID // its inode is compared when its leaf is open
	}
	return s.worker.Match(w.Worker, l[w.Worker.Pool]) && (s.start == 0 || s.start == w.Start)
}

// missing says why a pattern fits no worker.
func (s *selector) missing(workers []supervise.WorkerStatus, l labels) error {
	if s.pid != 0 {
		return notFound("see `pitvisor ps`", "no worker's main process is %s", s.text)
	}
	if name := s.emptyPool(l); name != "" {
		return notFound(fmt.Sprintf("give it some: pitvisor scale %s=1", name), "pool %q has no workers", name)
	}
	var pools []string
	for i := range workers {
		w := &workers[i]
		if s.start != 0 && s.worker.Match(w.Worker, l[w.Worker.Pool]) {
			return conflict("leave the number of the start out", "%s is at start %d, not %d", w.Worker, w.Start, s.start)
		}
		if len(pools) == 0 || pools[len(pools)-1] != w.Worker.Pool {
			pools = append(pools, w.Worker.Pool)
		}
	}
	pool, _, _ := strings.Cut(s.text, "/")
	return notFound(whichThereAre(pool, pools), "no worker fits %q", s.text)
}

// whichThereAre is the cure for the name of a pool that there is not.
func whichThereAre(name string, pools []string) string {
	if word := suggest.Word(name, pools); word != "" && word != name {
		return fmt.Sprintf("did you mean %q?", word)
	}
	return fmt.Sprintf("there are %s", strings.Join(pools[:min(len(pools), 10)], ", "))
}
