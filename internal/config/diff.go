package config

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/pitvisor/pitvisor/internal/probe"
	"github.com/pitvisor/pitvisor/internal/sockets"
)

// Effect is what it takes to bring a change about in a supervisor that runs.
type Effect uint8

// The effects, the mildest first. Which a key has is for [supervise.Supervisor.Reload] to
// say: what a worker is started with is never changed under it, and what is outside of
// pools is looked at only at the start.
const (
	EffectLive    Effect = iota // no process has to go
	EffectReplace               // each worker of the pool has to be started anew
	EffectRestart               // the supervisor has to be started anew
)

// String returns the effect as programs read it.
func (e Effect) String() string {
	return [...]string{"live", "replace", "restart"}[e]
}

// Change is one key that two configurations have differently.
type Change struct {
	Key      string
	Effect   Effect
	Old, New string // for people; both "" if the values are long or may be secret
}

// PoolChange is what is different about one pool.
type PoolChange struct {
	Name             string
	OldSize, NewSize int // 0 in the configuration that does not have it
	Changes          []Change
}

// Effect returns the strongest effect of all changes. A pool that comes or goes leaves
// the processes of others alone.
func (p PoolChange) Effect() Effect {
	effect := EffectLive
	for _, c := range p.Changes {
		effect = max(effect, c.Effect)
	}
	return effect
}

// Difference is what two configurations have differently.
type Difference struct {
	Settings []Change     // outside of pools
	Pools    []PoolChange // those of the new one in its order, then those that are gone
}

// Empty says that there is none.
func (d Difference) Empty() bool { return len(d.Settings) == 0 && len(d.Pools) == 0 }

// Diff compares two configurations by what they mean, not by how they are written: of
// "60s" and "1min", and of a group by name and by number, it says nothing.
func Diff(old, now *Config) Difference {
	d := Difference{Settings: compare(settingComparisons(), old, now)}
	before := make(map[string]*Pool, len(old.Pools))
	for i := range old.Pools {
		before[old.Pools[i].Spec.Name] = &old.Pools[i]
	}
	for i := range now.Pools {
		p := &now.Pools[i]
		was := before[p.Spec.Name]
		delete(before, p.Spec.Name)
		if was == nil {
			d.Pools = append(d.Pools, PoolChange{Name: p.Spec.Name, NewSize: p.Spec.Size})
			continue
		}
		changes := compare(poolComparisons(), was, p)
		if slices.Equal(was.Sockets, p.Sockets) && !reflect.DeepEqual(old.inherited(was), now.inherited(p)) {
			changes = append(changes, Change{Key: "sockets", Effect: EffectReplace})
		}
		if len(changes) > 0 {
			d.Pools = append(d.Pools, PoolChange{Name: p.Spec.Name, OldSize: was.Spec.Size, NewSize: p.Spec.Size, Changes: changes})
		}
	}
	for _, p := range old.Pools {
		if before[p.Spec.Name] != nil {
			d.Pools = append(d.Pools, PoolChange{Name: p.Spec.Name, OldSize: p.Spec.Size})
		}
	}
	return d
}

// inherited is what the sockets are that the workers of a pool get: where one listens and
// of which kind it is, but nothing that is changed in place.
func (c *Config) inherited(p *Pool) []sockets.Spec {
	var all []sockets.Spec
	for _, name := range p.Sockets {
		for _, s := range c.Sockets {
			if s.Name == name {
				all = append(all, sockets.Spec{Listen: s.Listen, FD: s.FD, Kind: s.Kind, ReusePort: s.ReusePort})
			}
		}
	}
	return all
}

// comparison looks at one key.
type comparison[T any] struct {
	key    string
	effect Effect
	get    func(*T) any
	show   bool // the values are short and no secret
}

func compare[T any](all []comparison[T], old, now *T) []Change {
	var changes []Change
	for _, c := range all {
		a, b := c.get(old), c.get(now)
		if reflect.DeepEqual(a, b) {
			continue
		}
		change := Change{Key: c.key, Effect: c.effect}
		if c.show {
			change.Old, change.New = fmt.Sprint(a), fmt.Sprint(b)
		}
		if c.key == "env" {
			change.Key += ": " + strings.Join(changedNames(a.([]string), b.([]string)), ", ")
		}
		changes = append(changes, change)
	}
	return changes
}

// changedNames returns the names of the variables that are different.
func changedNames(old, now []string) []string {
	var names []string
	for _, pair := range [][2][]string{{old, now}, {now, old}} {
		for _, v := range pair[0] {
			name, _, _ := strings.Cut(v, "=")
			if !slices.Contains(pair[1], v) && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return names
}

func settingComparisons() []comparison[Config] {
	group := func(c *Config) any {
		if c.API.Group == nil {
			return nil
		}
		return *c.API.Group
	}
	return []comparison[Config]{
		{"name", EffectRestart, func(c *Config) any { return c.Name }, true},
		{"state_dir", EffectRestart, func(c *Config) any { return c.StateDir }, true},
		{"socket", EffectLive, func(c *Config) any { return c.Sockets }, false},
		{"api.socket", EffectRestart, func(c *Config) any { return [2]any{c.API.Socket, c.API.Off} }, false},
		{"api.group", EffectRestart, group, false},
		{"api.tcp", EffectRestart, func(c *Config) any { return c.API.TCP }, true},
		{"api.token_file", EffectRestart, func(c *Config) any { return c.API.TokenFile }, true},
		{"log.level", EffectRestart, func(c *Config) any { return c.Log.Level }, true},
		{"log.format", EffectRestart, func(c *Config) any { return c.Log.Format }, true},
		{"log.max_size", EffectRestart, func(c *Config) any { return c.Log.MaxSize }, true},
		{"log.show", EffectRestart, func(c *Config) any { return c.Log.Show }, true},
		{"log.rotate", EffectRestart, func(c *Config) any { return c.Log.Rotate }, false},
		{"run.limits", EffectLive, func(c *Config) any { return c.Run.RunLimits }, false},
		{"run.pressure", EffectLive, func(c *Config) any { return c.Run.Watch }, false},
		{"run.limits_mode", EffectLive, func(c *Config) any { return limitsMode(c.Run.BestEffort) }, true},
		{"log.keep", EffectRestart, func(c *Config) any { return c.Log.Keep }, true},
	}
}

func poolComparisons() []comparison[Pool] {
	return slices.Concat(processComparisons(), lifeComparisons(), readyComparisons())
}

// processComparisons are about what a worker is started with, and about its pool.
func processComparisons() []comparison[Pool] {
	pointed := func(p *int) any {
		if p == nil {
			return "the supervisor's"
		}
		return *p
	}
	return []comparison[Pool]{
		{"command", EffectReplace, func(p *Pool) any { return append([]string{p.Spec.Command.Path}, p.Spec.Command.Args...) }, false},
		{"size", EffectLive, func(p *Pool) any { return p.Spec.Size }, true},
		{"directory", EffectReplace, func(p *Pool) any { return p.Spec.Command.Dir }, true},
		{"env", EffectReplace, func(p *Pool) any { return p.Spec.Command.Env }, false},
		{"user", EffectReplace, func(p *Pool) any { return p.Spec.Command.Credential }, false},
		{"umask", EffectReplace, func(p *Pool) any { return pointed(p.Spec.Command.Umask) }, false},
		{"nice", EffectReplace, func(p *Pool) any { return pointed(p.Spec.Command.Nice) }, true},
		{"oom_score_adj", EffectReplace, func(p *Pool) any { return pointed(p.Spec.Command.OOMScoreAdj) }, true},
		{"no_new_privs", EffectReplace, func(p *Pool) any { return p.Spec.Command.NoNewPrivs }, true},
		{"netns", EffectReplace, func(p *Pool) any { return p.Spec.Command.NetNS }, true},
		{"rlimits", EffectReplace, func(p *Pool) any { return p.Spec.Command.Rlimits }, false},
		{"limits", EffectLive, func(p *Pool) any { return p.Spec.Limits }, false},
		{"sockets", EffectReplace, func(p *Pool) any { return p.Sockets }, false},
		{"notify", EffectReplace, func(p *Pool) any { return p.Notify }, true},
		{"fd_store", EffectReplace, func(p *Pool) any { return p.Store }, true},
		{"after", EffectLive, func(p *Pool) any { return inAnyOrder(p.Spec.After) }, false},
		{"labels", EffectLive, func(p *Pool) any { return p.Spec.Labels }, false},
		{"rollout", EffectLive, func(p *Pool) any { return p.Spec.Rollout }, false},
		{"recycle", EffectLive, func(p *Pool) any { return p.Spec.Recycle }, false},
		{"pressure", EffectLive, func(p *Pool) any { return p.Spec.Pressure }, false},
		{"pool_limits", EffectLive, func(p *Pool) any { return p.Spec.PoolLimits }, false},
		{"limits_mode", EffectLive, func(p *Pool) any { return limitsMode(p.Spec.BestEffortLimits) }, true},
	}
}

// inAnyOrder returns a copy whose order says nothing.
func inAnyOrder[T any](all []T) []T {
	sorted := slices.Clone(all)
	slices.SortFunc(sorted, func(a, b T) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
	return sorted
}

func limitsMode(bestEffort bool) string {
	if bestEffort {
		return "best-effort"
	}
	return "strict"
}

// lifeComparisons are about what the supervisor does when something happens, and about
// how it knows.
func lifeComparisons() []comparison[Pool] {
	return []comparison[Pool]{
		{"restart", EffectLive, func(p *Pool) any { return p.Spec.Restart }, true},
		{"backoff", EffectLive, func(p *Pool) any { return p.Spec.Backoff }, false},
		{"failure_limit", EffectLive, func(p *Pool) any { return p.Spec.FailureLimit }, true},
		{"start_timeout", EffectLive, func(p *Pool) any { return p.Spec.StartTimeout }, true},
		{"live", EffectReplace, func(p *Pool) any { return liveText(p.Live) }, false},
		{"track", EffectReplace, func(p *Pool) any { return p.Spec.Track }, true},
		{"output", EffectReplace, func(p *Pool) any { return p.Output }, true},
		{"journal", EffectReplace, func(p *Pool) any { return p.Journal }, true},
		{"stop_signal", EffectLive, func(p *Pool) any { return p.Spec.Stop.Signal }, true},
		{"stop_grace", EffectLive, func(p *Pool) any { return p.Spec.Stop.Grace }, true},
		{"drain", EffectLive, func(p *Pool) any { return p.Spec.Stop.Drain }, true},
		{"stop_scope", EffectLive, func(p *Pool) any { return p.Spec.Stop.All }, false},
	}
}

// liveText is all that is checked of a ready worker, for comparing.
func liveText(l *probe.Live) string {
	if l == nil {
		return ""
	}
	return fmt.Sprintf("%+v %v %v", *l, l.Rules.Stdout, l.Rules.Stderr)
}

// readyComparisons: of most rules a worker knows nothing, and new ones are asked from its
// next start on. Some are told to it in its environment.
func readyComparisons() []comparison[Pool] {
	const defaultInterval, defaultTryTimeout = 100 * time.Millisecond, 5 * time.Second
	of := func(get func(r *probe.Rules) any) func(*Pool) any {
		return func(p *Pool) any {
			if p.Ready == nil {
				return get(&probe.Rules{})
			}
			return get(p.Ready)
		}
	}
	return []comparison[Pool]{
		{"ready.stdout", EffectLive, of(func(r *probe.Rules) any { return fmt.Sprint(r.Stdout) }), false},
		{"ready.stderr", EffectLive, of(func(r *probe.Rules) any { return fmt.Sprint(r.Stderr) }), false},
		{"ready.file", EffectReplace, of(func(r *probe.Rules) any { return [2]any{r.File, r.FileAuto} }), false},
		{"ready.notify", EffectReplace, of(func(r *probe.Rules) any { return r.Notify }), true},
		{"ready.fd", EffectReplace, of(func(r *probe.Rules) any { return r.FD }), true},
		{"ready.port", EffectReplace, of(func(r *probe.Rules) any { return r.Port }), true},
		{"ready.tcp", EffectLive, of(func(r *probe.Rules) any { return r.TCP }), true},
		{"ready.http", EffectLive, of(func(r *probe.Rules) any { return r.HTTP }), true},
		{"ready.grpc", EffectLive, of(func(r *probe.Rules) any { return r.GRPC }), true},
		{"ready.grpc_service", EffectLive, of(func(r *probe.Rules) any { return r.GRPCService }), true},
		{"ready.exec", EffectLive, of(func(r *probe.Rules) any { return r.Exec }), false},
		{"ready.interval", EffectLive, of(func(r *probe.Rules) any { return cmp.Or(r.Interval, defaultInterval) }), true},
		{"ready.timeout", EffectLive, of(func(r *probe.Rules) any { return cmp.Or(r.TryTimeout, defaultTryTimeout) }), true},
	}
}
