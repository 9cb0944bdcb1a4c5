package server

import (
	"fmt"
	"path"
	"strconv"
	"strings"

	"github.com/pitvisor/pitvisor/internal/suggest"
	"github.com/pitvisor/pitvisor/supervise"
)

const (
	maxSelectors   = 64
	maxSelectorLen = 160 // a pool's name has at most 63 bytes
)

// selection names workers. An empty one names all of them.
type selection []selector

// selector is one pattern of a selection.
type selector struct {
	text  string
	glob  string // over the pool's name, or with a slash over the worker's
	start uint64 // of "web/3.7"; 0 is any
	pid   int    // of "4711:84423"; 0 is none
	inode uint64
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
	const cure = `write a pool, a worker such as web/3, one start of it such as web/3.7, a process as PID:INODE, or a pattern such as web/*`
	s := selector{text: text, glob: text}
	if text == "" || len(text) > maxSelectorLen {
		return s, badRequest(cure, "selector has %d bytes, must have 1 to %d", len(text), maxSelectorLen)
	}
	if _, err := strconv.ParseUint(text, 10, 64); err == nil {
		return s, badRequest("write PID:INODE, as ps shows it; or the worker", "%s is the number of a process, which may be another process's by now", text)
	}
	if pid, inode, ok := strings.Cut(text, ":"); ok {
		n, err := strconv.ParseUint(pid, 10, 31)
		i, inodeErr := strconv.ParseUint(inode, 10, 64)
		if err != nil || inodeErr != nil || n == 0 || i == 0 {
			return s, badRequest(cure, "selector %q is no process", text)
		}
		s.pid, s.inode = int(n), i
		return s, nil
	}
	if strings.Count(text, "/") > 1 {
		return s, badRequest(cure, "selector %q has more than one slash", text)
	}
	if i := strings.LastIndexByte(text, '.'); i > strings.IndexByte(text, '/') && strings.Contains(text, "/") {
		start, err := strconv.ParseUint(text[i+1:], 10, 64)
		if err != nil || start == 0 {
			return s, badRequest(cure, "selector %q: what follows the dot is no number of a start", text)
		}
		s.glob, s.start = text[:i], start
	}
	if _, err := path.Match(s.glob, ""); err != nil {
		return s, badRequest(cure, "selector %q: unfinished pattern", text)
	}
	return s, nil
}

// names says whether the pattern is about the worker, whichever start it is at.
func (s *selector) names(id supervise.WorkerID) bool {
	name := id.Pool
	if strings.Contains(s.glob, "/") {
		name = workerName(id)
	}
	if s.glob == name {
		return true
	}
	ok, _ := path.Match(s.glob, name) // the pattern is a good one
	return ok
}

// holds says whether a start of a worker is selected, or an event that is about its
// whole pool.
func (all selection) holds(id supervise.WorkerID, start uint64) bool {
	if len(all) == 0 {
		return true
	}
	for i := range all {
		if s := &all[i]; s.pid == 0 && s.names(id) && (s.start == 0 || s.start == start) {
			return true
		}
	}
	return false
}

// choose returns the workers that are selected, each once, in their order. It is an
// error if a pattern fits none.
func (all selection) choose(workers []supervise.WorkerStatus) ([]supervise.WorkerStatus, error) {
	if len(all) == 0 {
		return workers, nil
	}
	fits := make([]bool, len(all))
	var chosen []supervise.WorkerStatus
	for i := range workers {
		w := &workers[i]
		selected := false
		for j := range all {
			if all[j].fits(w) {
				fits[j], selected = true, true
			}
		}
		if selected {
			chosen = append(chosen, *w)
		}
	}
	for j, ok := range fits {
		if !ok {
			return nil, all[j].missing(workers)
		}
	}
	return chosen, nil
}

func (s *selector) fits(w *supervise.WorkerStatus) bool {
	if s.pid != 0 {
		return s.pid == w.PID // its inode is compared when its leaf is open
	}
	return s.names(w.Worker) && (s.start == 0 || s.start == w.Start)
}

// missing says why a pattern fits no worker.
func (s *selector) missing(workers []supervise.WorkerStatus) error {
	if s.pid != 0 {
		return notFound("see `pitvisor ps`", "no worker's main process is %s", s.text)
	}
	var pools []string
	for i := range workers {
		w := &workers[i]
		if s.start != 0 && s.names(w.Worker) {
			return conflict("leave the number of the start out", "%s is at start %d, not %d", w.Worker, w.Start, s.start)
		}
		if len(pools) == 0 || pools[len(pools)-1] != w.Worker.Pool {
			pools = append(pools, w.Worker.Pool)
		}
	}
	pool, _, _ := strings.Cut(s.glob, "/")
	cure := fmt.Sprintf("there are %s", strings.Join(pools[:min(len(pools), 10)], ", "))
	if word := suggest.Word(pool, pools); word != "" && word != pool {
		cure = fmt.Sprintf("did you mean %q?", word)
	}
	return notFound(cure, "no worker fits %q", s.text)
}
