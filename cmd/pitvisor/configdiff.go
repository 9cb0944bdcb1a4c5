package main

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pitvisor/pitvisor/internal/config"
)

const configDiffLong = `Compare two configurations by what they mean, and say what it takes to get from
OLD to NEW:
    live      no worker has to be replaced: the number of workers, limits, when and
              how they are stopped and restarted, dependencies, most rules of readiness
    replace   each worker of the pool has to be replaced, as [pool.NAME.rollout]
              says: what it is started with, as its command, environment and user,
              and what it is told of how it is to be ready
    restart   the supervisor has to be started anew: what is outside of pools

Both are read as if they lay where OLD does: relative paths start there. Each
has its own drop-ins; --config-dir names those of both. Values of environment
variables are not printed.

Exit codes: 0 there is no difference, 1 there is one, 2 a configuration is wrong.`

func (a *app) configDiffCommand() *cobra.Command {
	var dropIns string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "diff OLD NEW",
		Short: "compare two configurations, and say what it takes to get from one to the other",
		Long:  configDiffLong,
		Args:  takes(2, 2),
		RunE: func(_ *cobra.Command, args []string) error {
			return a.configDiff(args[0], args[1], dropIns, asJSON)
		},
	}
	cmd.Flags().StringVar(&dropIns, "config-dir", "", dropInsUsage)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func (a *app) configDiff(oldFile, newFile, dropIns string, asJSON bool) error {
	old, err := config.Source{File: oldFile, DropIns: dropIns}.Load()
	if err != nil {
		return badConfig(oldFile, err)
	}
	now, err := config.Source{File: newFile, DropIns: dropIns, As: oldFile}.Load()
	if err != nil {
		return badConfig(newFile, err)
	}
	d := config.Diff(old, now)
	if asJSON {
		err = a.printJSON(diffJSON(d))
	} else {
		_, err = fmt.Fprint(a.stdout, diffText(d, painter(a.colors(a.stdout))))
	}
	if err == nil && !d.Empty() {
		return fail(exitFailed, nil)
	}
	return err
}

// diffText writes a difference for people: one line for a pool that comes or goes, and
// for each key of one that stays.
func diffText(d config.Difference, paint painter) string {
	var b strings.Builder
	for _, c := range d.Settings {
		b.WriteString(diffLine(paint, "", c, "restarts the supervisor"))
	}
	for _, p := range d.Pools {
		switch {
		case p.OldSize == 0:
			fmt.Fprintf(&b, "%s: starts %s\n", paint.paint(styleGreen, "+ "+p.Name), count(p.NewSize, "worker", "workers"))
		case p.NewSize == 0:
			fmt.Fprintf(&b, "%s: stops %s\n", paint.paint(styleRed, "- "+p.Name), count(p.OldSize, "worker", "workers"))
		}
		for _, c := range p.Changes {
			b.WriteString(diffLine(paint, p.Name+": ", c, "replaces "+count(min(p.OldSize, p.NewSize), "worker", "workers")))
		}
	}
	return b.String()
}

func diffLine(paint painter, place string, c config.Change, harsh string) string {
	text := paint.paint(styleYellow, "~ "+place+c.Key)
	if c.Old != c.New {
		text += fmt.Sprintf(" %s -> %s", orNothing(c.Old), orNothing(c.New))
	}
	if c.Effect == config.EffectLive {
		harsh = "live"
	}
	return text + paint.paint(styleDim, " ("+harsh+")") + "\n"
}

// orNothing makes an empty value visible.
func orNothing(text string) string {
	return cmp.Or(string(printable([]byte(text))), `""`)
}

// shownDiff is what `config diff --json` prints.
type shownDiff struct {
	Settings []shownChange   `json:"settings"`
	Pools    []shownPoolDiff `json:"pools"`
}

type shownPoolDiff struct {
	Name    string        `json:"name"`
	Is      string        `json:"is"`     // "added", "removed" or "changed"
	Effect  string        `json:"effect"` // the strongest of the changes: "live" or "replace"
	OldSize int           `json:"old_size"`
	NewSize int           `json:"new_size"`
	Changes []shownChange `json:"changes"`
}

type shownChange struct {
	Key    string `json:"key"`
	Effect string `json:"effect"` // "live", "replace" or "restart"
	Old    string `json:"old,omitempty"`
	New    string `json:"new,omitempty"`
}

func diffJSON(d config.Difference) shownDiff {
	out := shownDiff{Settings: shownChanges(d.Settings), Pools: []shownPoolDiff{}}
	for _, p := range d.Pools {
		is := "changed"
		switch {
		case p.OldSize == 0:
			is = "added"
		case p.NewSize == 0:
			is = "removed"
		}
		out.Pools = append(out.Pools, shownPoolDiff{
			Name: p.Name, Is: is, Effect: p.Effect().String(), OldSize: p.OldSize, NewSize: p.NewSize, Changes: shownChanges(p.Changes),
		})
	}
	return out
}

func shownChanges(all []config.Change) []shownChange {
	out := []shownChange{}
	for _, c := range all {
		out = append(out, shownChange{Key: c.Key, Effect: c.Effect.String(), Old: c.Old, New: c.New})
	}
	return out
}
