package supervise

import (
	"slices"
	"strconv"
	"strings"

	"github.com/pitvisor/pitvisor/registry"
)

// expander fills a command's placeholders in for each start.
type expander struct {
	args, env []string
	argsVary  bool // some argument has a placeholder
	envVary   bool
}

func newExpander(c Command) expander {
	args := c.Args
	if args == nil {
		args = []string{c.Path}
	}
	e := expander{args: args, env: c.Env, argsVary: hasPlaceholder(args), envVary: hasPlaceholder(c.Env)}
	if !e.envVary {
		e.env = without(c.Env, identity("", "", "", "", "")) // now rather than at each start
	}
	return e
}

// identity tells a worker who it is.
func identity(run, pool, slot, worker, start string) []string {
	return []string{
		"PITVISOR_RUN_ID=" + run, "PITVISOR_POOL=" + pool, "PITVISOR_SLOT=" + slot,
		"PITVISOR_WORKER=" + worker, "PITVISOR_START=" + start,
	}
}

func hasPlaceholder(texts []string) bool {
	for _, t := range texts {
		for _, name := range []string{"{pool}", "{slot}", "{worker}", "{start}", "{run}"} {
			if strings.Contains(t, name) {
				return true
			}
		}
	}
	return false
}

// expand returns the arguments and the environment of one start.
func (e expander) expand(run registry.RunID, id WorkerID, start uint64, more []string) (args, env []string) {
	runID, slot, number := run.String(), strconv.Itoa(id.Slot), strconv.FormatUint(start, 10)
	worker := id.Pool + "/" + slot
	args, env = e.args, e.env
	if e.argsVary || e.envVary {
		r := strings.NewReplacer("{pool}", id.Pool, "{slot}", slot, "{worker}", worker, "{start}", number, "{run}", runID)
		args, env = replaceAll(r, args), replaceAll(r, env)
	}
	own := identity(runID, id.Pool, slot, worker, number)
	if e.envVary {
		env = without(env, own)
	}
	if len(more) > 0 {
		env = slices.Concat(without(env, more), more)
	}
	return args, slices.Concat(env, own)
}

// without returns env without the variables that more has, which are to replace
// them: of two of a name, programs take the first or the last as they like. It is
// for the few variables that a supervisor or a readiness rule adds.
func without(env, more []string) []string {
	rest := make([]string, 0, len(env))
	for _, v := range env {
		if !slices.ContainsFunc(more, func(m string) bool { return sameName(v, m) }) {
			rest = append(rest, v)
		}
	}
	return rest
}

// sameName says whether two variables, "NAME=value" each, have one name.
func sameName(a, b string) bool {
	name, _, _ := strings.Cut(a, "=")
	return len(b) > len(name) && b[len(name)] == '=' && b[:len(name)] == name
}

func replaceAll(r *strings.Replacer, texts []string) []string {
	replaced := make([]string, len(texts))
	for i, t := range texts {
		replaced[i] = r.Replace(t)
	}
	return replaced
}
