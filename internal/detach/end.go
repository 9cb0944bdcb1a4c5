package detach

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pitvisor/pitvisor/pidfd"
	"github.com/pitvisor/pitvisor/registry"
	"golang.org/x/sys/unix"
)

// ErrUnknown says that no detached run has that name.
var ErrUnknown = errors.New("no detached run of that name")

// Find returns the living detached runs with that name or id, and the names of all.
func Find(ctx context.Context, reg *registry.Registry, name string) (found []registry.RunView, all []string, err error) {
	runs, err := reg.List(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, r := range runs {
		if r.Kind != Kind || r.State != registry.RunRunning {
			continue
		}
		all = append(all, r.Name)
		if r.Name == name || r.ID.String() == strings.TrimPrefix(name, "run-") {
			found = append(found, r)
		}
	}
	slices.Sort(all)
	return found, all, nil
}

// End asks the owner of a run to stop it, and returns when the run is gone. The
// owner's grace decides how long that takes.
func End(ctx context.Context, reg *registry.Registry, run registry.RunView) error {
	owner, err := run.Owner.Open()
	if err == nil {
		defer owner.Close()
		err = owner.Signal(unix.SIGTERM)
	}
	if err == nil {
		err = owner.Wait(ctx)
	}
	if err != nil && !errors.Is(err, pidfd.ErrGone) && !errors.Is(err, fs.ErrClosed) {
		return fmt.Errorf("stop the owner %s of run %s: %w", run.Owner, run.ID, err)
	}
	dir, err := reg.Root().OpenChild(filepath.Base(run.Dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for run %s: %w", run.ID, err)
	}
	_ = dir.Close() // was only looked for
	return fmt.Errorf("run %s is still there after its owner's end: pitvisor sweep ends it", run.ID)
}
