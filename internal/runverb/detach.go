package runverb

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/internal/detach"
	"github.com/pitvisor/pitvisor/internal/exit"
	"github.com/pitvisor/pitvisor/internal/oneshot"
	"github.com/pitvisor/pitvisor/registry"
)

// CheckDetach finds what is wrong with a call of pitvisor detach, before an owner is
// started for it.
func (v *Verb) CheckDetach(root *cgroup.Dir, args []string) error {
	f := v.Flags
	if err := f.check(); err != nil {
		return exit.Fail(exit.Usage, err)
	}
	switch {
	case f.Name == "":
		return exit.FailHint(exit.Usage, errors.New("no name"), "give the server one to end it by: --name NAME")
	case len(args) == 0:
		return exit.FailHint(exit.Usage, errors.New("no command"), "write it behind two dashes: pitvisor detach --name db -- postgres -D data")
	}
	if _, err := v.plan(args); err != nil {
		return err
	}
	return v.nameIsFree(root, registry.RunID{})
}

// nameIsFree refuses a second server of the same name: end would not know which. A
// run that is made at the same moment counts if it is older than own.
func (v *Verb) nameIsFree(root *cgroup.Dir, own registry.RunID) error {
	found, _, err := detach.Find(context.Background(), registry.New(root), v.Flags.Name)
	if err != nil {
		return err
	}
	for _, r := range found {
		if r.ID != own && (own.IsZero() || r.ID.String() < own.String()) {
			return exit.FailHint(exit.Failed, fmt.Errorf("a server named %q runs already: run %s, since %s", r.Name, r.ID, r.Started.Format(time.DateTime)),
				"end it with `pitvisor end "+r.Name+"`, or take another name")
		}
	}
	return nil
}

// Detached runs the server as its owner, and returns when it has ended.
func (v *Verb) Detached(root *cgroup.Dir, args []string, voice detach.Voice) error {
	spec, err := v.plan(args)
	if err != nil {
		return err
	}
	spec.Root, spec.StopOnTerm, spec.WaitForAll = root, true, true
	spec.Record.Kind = detach.Kind
	if from := os.Getenv(oneshot.EnvRunID); from != "" {
		if spec.Record.Labels == nil {
			spec.Record.Labels = map[string]string{}
		}
		spec.Record.Labels[detach.FromLabel] = from
	}
	if v.Flags.Timeout > 0 {
		spec.Record.Expires = time.Now().Add(v.Flags.Timeout)
	}
	spec.Announce = func(r *oneshot.Result) error { return v.nameIsFree(root, r.Run.ID) }
	spec.Started = func(r *oneshot.Result) { voice.Started(r.Run.ID) }
	result, err := oneshot.Run(spec)
	if err == nil && result.Blocked != nil {
		err = result.Blocked
	}
	return err
}
