package runverb

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pitvisor/pitvisor/internal/account"
	"github.com/pitvisor/pitvisor/internal/envfile"
	"github.com/pitvisor/pitvisor/internal/exit"
	"github.com/pitvisor/pitvisor/spawn"
)

// command turns the flags and the arguments into what is started.
func (f *Flags) command(args []string) (spawn.Cmd, error) {
	env, err := f.environment(f.withoutTwins(os.Environ()))
	if err != nil {
		return spawn.Cmd{}, exit.Fail(exit.Usage, err)
	}
	credential, err := f.credential()
	if err != nil {
		return spawn.Cmd{}, exit.Fail(exit.Usage, err)
	}
	path, err := spawn.LookPath(args[0], env, f.Dir)
	if err != nil {
		return spawn.Cmd{}, exit.Fail(startCode(err), err)
	}
	c := spawn.Cmd{
		Path: path, Args: args, Env: env, Dir: f.Dir, Credential: credential, NetNS: f.NetNS,
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
	}
	if f.StdinLifeline {
		c.Stdin = nil
	}
	if f.nice {
		c.Nice = &f.Nice
	}
	return c, nil
}

// startCode is the exit code of a command that could not be started, as env(1) and
// timeout(1) have it.
func startCode(err error) int {
	var e *spawn.Error
	if !errors.As(err, &e) {
		return exit.Self
	}
	switch e.Cause {
	case spawn.CauseNotFound, spawn.CauseNoInterpreter:
		return exit.NotFound
	case spawn.CauseNotExecutable, spawn.CauseBadFormat, spawn.CausePermission:
		return exit.NotExecutable
	case spawn.CauseUnknown, spawn.CauseCgroupGone, spawn.CauseCgroupFrozen, spawn.CauseCgroupOutside, spawn.CauseKilledBeforeExec,
		spawn.CauseForkLimit, spawn.CauseBadDir, spawn.CauseCredential, spawn.CauseTooManyFiles,
		spawn.CauseSetting, spawn.CauseNetwork, spawn.CauseHelper, spawn.CauseInvalid:
	}
	return exit.Self
}

// environment is what the command gets: the caller's, unless it is cleared, then
// files, then single variables.
func (f *Flags) environment(own []string) ([]string, error) {
	if !f.ClearEnv && len(f.EnvFiles) == 0 && len(f.Env) == 0 {
		return own, nil
	}
	env := newVariables(!f.ClearEnv, own)
	for _, path := range f.EnvFiles {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("--env-file: %w", err)
		}
		all, wrong := envfile.Parse(string(data))
		for _, w := range wrong {
			return nil, fmt.Errorf("%s:%d:%d: %w", path, w.Line, w.Column, w.Err)
		}
		for _, v := range all {
			env.set(v.Name, v.Value)
		}
	}
	for _, e := range f.Env {
		name, value, set := strings.Cut(e, "=")
		if name == "" || strings.ContainsRune(name, 0) {
			return nil, fmt.Errorf("--env %q has no name: write NAME=VALUE", e)
		}
		if !set {
			if value, set = os.LookupEnv(name); !set {
				continue // as docker does: what is not there is not passed on
			}
		}
		env.set(name, value)
	}
	return env.all, nil
}

// withoutTwins drops the twins of this verb's flags, which are meant for this run and
// not for one inside of it.
func (f *Flags) withoutTwins(env []string) []string {
	return slices.DeleteFunc(env, func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		flag, ok := strings.CutPrefix(name, twinPrefix)
		if !ok {
			return false
		}
		flag = strings.ToLower(strings.ReplaceAll(flag, "_", "-"))
		return f.own[flag]
	})
}

// variables is an environment in which each name is set once.
type variables struct {
	all []string
	at  map[string]int
}

func newVariables(keep bool, own []string) *variables {
	v := &variables{at: map[string]int{}}
	if keep {
		v.all = slices.Clone(own)
		for i, e := range own {
			name, _, _ := strings.Cut(e, "=")
			v.at[name] = i
		}
	}
	return v
}

func (v *variables) set(name, value string) {
	if i, known := v.at[name]; known {
		v.all[i] = name + "=" + value
		return
	}
	v.at[name] = len(v.all)
	v.all = append(v.all, name+"="+value)
}

// credential is the user to become; nil keeps the caller's.
func (f *Flags) credential() (*spawn.Credential, error) {
	if f.UID == "" && f.GID == "" && len(f.Groups) == 0 && !f.noGroups {
		return nil, nil
	}
	who := account.Account{UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}
	var err error
	if f.UID != "" {
		who, err = account.User(f.UID)
		if errors.Is(err, account.ErrNone) && f.GID != "" {
			err = nil
		}
		if err != nil {
			return nil, fmt.Errorf("--uid %s: %w", f.UID, err)
		}
	}
	if f.GID != "" {
		if who.GID, err = account.Group(f.GID); err != nil {
			return nil, fmt.Errorf("--gid %s: %w", f.GID, err)
		}
	}
	if len(f.Groups) > 0 || f.noGroups {
		who.Groups = nil
	}
	for _, name := range f.Groups {
		gid, err := account.Group(name)
		if err != nil {
			return nil, fmt.Errorf("--groups %s: %w", name, err)
		}
		who.Groups = append(who.Groups, gid)
	}
	return &spawn.Credential{UID: who.UID, GID: who.GID, Groups: who.Groups}, nil
}

// labels are those that were given, behind what a CI system says of its job.
func (f *Flags) labels() (map[string]string, error) {
	labels := map[string]string{}
	for _, name := range []string{"GITHUB_RUN_ID", "CI_JOB_ID", "BUILDKITE_JOB_ID", "BUILD_TAG"} {
		if value := os.Getenv(name); value != "" {
			labels[strings.ToLower(name)] = value
		}
	}
	for _, l := range f.Labels {
		key, value, ok := strings.Cut(l, "=")
		if !ok || key == "" {
			return nil, fmt.Errorf("--label %q is not of the form KEY=VALUE", l)
		}
		labels[key] = value
	}
	if len(labels) == 0 {
		return nil, nil
	}
	return labels, nil
}

// name is the run's name for people.
func (f *Flags) name(args []string) string {
	if f.Name != "" {
		return f.Name
	}
	return filepath.Base(args[0])
}
