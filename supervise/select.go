package supervise

import (
	"errors"
	"fmt"
	"path"
	"strings"
)

// Selector says which workers are meant. The zero value means none.
type Selector struct {
	all   bool
	terms [][]part // any of them; each holds if all of its parts do
}

// part is one condition.
type part struct {
	label string // "" for a name
	glob  string // of the label's value, the pool or the worker
	slot  bool   // glob is pool/slot
}

// Everyone selects all workers.
func Everyone() Selector { return Selector{all: true} }

// ParseSelector reads what a person writes: one argument for each group of workers
// that is meant.
//
//	web           every worker of the pool
//	web/3         one worker
//	we*  */0      with the wildcards of path.Match
//	env=prod      every worker of the pools with that label; wildcards in the value
//	web,env=prod  both must hold
func ParseSelector(args ...string) (Selector, error) {
	var s Selector
	for _, arg := range args {
		var term []part
		for text := range strings.SplitSeq(arg, ",") {
			p, err := parsePart(text)
			if err != nil {
				return Selector{}, fmt.Errorf("select %q: %w", arg, err)
			}
			term = append(term, p)
		}
		s.terms = append(s.terms, term)
	}
	return s, nil
}

func parsePart(text string) (part, error) {
	label, glob, labelled := strings.Cut(text, "=")
	if !labelled {
		label, glob = "", text
	}
	slashes := strings.Count(glob, "/")
	switch _, err := path.Match(glob, ""); {
	case text == "":
		return part{}, errors.New("a part is empty")
	case labelled && label == "":
		return part{}, errors.New("the label before = is missing")
	case err != nil:
		return part{}, errors.New("what its brackets hold, or what its last backslash is for, is missing")
	case !labelled && slashes > 1:
		return part{}, fmt.Errorf("%q has more than one slash: write pool or pool/slot", text)
	}
	return part{label: label, glob: glob, slot: !labelled && slashes == 1}, nil
}

// Match says whether a worker of a pool with these labels is meant; of Slot -1, whether all
// of the pool is.
func (s Selector) Match(id WorkerID, labels map[string]string) bool {
	if s.all {
		return true
	}
	for _, term := range s.terms {
		holds := true
		for _, p := range term {
			holds = holds && p.match(id, labels)
		}
		if holds {
			return true
		}
	}
	return false
}

func (p part) match(id WorkerID, labels map[string]string) bool {
	text, known := id.Pool, true
	switch {
	case p.label != "":
		text, known = labels[p.label]
	case p.slot:
		text, known = id.String(), id.Slot >= 0 || strings.HasSuffix(p.glob, "/*")
	}
	matches, err := path.Match(p.glob, text)
	return known && err == nil && matches
}
