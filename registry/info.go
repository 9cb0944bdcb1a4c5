package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/pidfd"
	"golang.org/x/sys/unix"
)

// The extended attributes of the tree; doc.go says what each holds.
const (
	xattrRun    = "user.pitvisor.run"
	xattrInfo   = "user.pitvisor.info"
	xattrWorker = "user.pitvisor.worker"
	xattrPool   = "user.pitvisor.pool"
	xattrKilled = "user.pitvisor.killed"
)

// The names of directories below the root.
const (
	runPrefix        = "run-"
	supervisorName   = "supervisor"
	supervisorPrefix = "supervisor-"
)

// Info is what a run's directory says about the run.
type Info struct {
	ID    RunID          `json:"id"`
	Boot  string         `json:"boot"`
	Owner pidfd.Identity `json:"owner"`
	// PIDNS is the inode of the owner's PID namespace. A process of another PID namespace looks dead
	// though it lives, so an owner's death is only ever proven within the same one.
	PIDNS   uint64    `json:"pidns"`
	Kind    string    `json:"kind"` // "up", "run", "detach"
	Name    string    `json:"name"`
	Version string    `json:"version"` // of the program that made the run
	Started time.Time `json:"started"`
	// Labels are for people and programs to find a run by. Nothing here looks at them.
	Labels map[string]string `json:"labels,omitempty"`
	// Expires is when the owner will end the run; zero is never.
	Expires time.Time `json:"expires,omitzero"`
}

// Spec says what a new run is for. All of it is for people and may be empty.
type Spec struct {
	Kind, Name, Version string
	Labels              map[string]string
	Expires             time.Time
}

// errNoRecord says that a directory carries no whole record of a run: it is half made, or not ours.
var errNoRecord = errors.New("no record of a run")

// fill describes a run that the calling process owns, but for its id.
func (i *Info) fill(s *Spec) error {
	self, err := pidfd.Self()
	if err != nil {
		return fmt.Errorf("open own process: %w", err)
	}
	defer self.Close()
	if i.Owner, err = self.Identity(); err != nil {
		return fmt.Errorf("read own identity: %w", err)
	}
	if i.PIDNS, err = ownPIDNamespace(); err != nil {
		return err
	}
	i.Boot, i.Kind, i.Name, i.Version = i.Owner.Boot, s.Kind, s.Name, s.Version
	i.Started = time.Now().UTC() // a local time would need the zone file
	i.Labels, i.Expires = s.Labels, s.Expires
	return nil
}

// write puts the record on the run's directory, the mark that makes it whole last.
func (i *Info) write(dir *cgroup.Dir) error {
	text, err := i.encode()
	if err != nil {
		return fmt.Errorf("encode record of run %s: %w", i.ID, err)
	}
	if err := dir.SetXattr(xattrInfo, text); err != nil {
		return fmt.Errorf("write record of run %s: %w", i.ID, err)
	}
	if err := dir.SetXattr(xattrRun, []byte(i.ID.String())); err != nil {
		return fmt.Errorf("mark run %s: %w", i.ID, err)
	}
	return nil
}

// readInfo reads the record of an open directory that is named as a run. errNoRecord means that it
// does not carry the mark of that very run; any other error means that this could not be told.
func readInfo(dir *cgroup.Dir) (Info, error) {
	id, ok := runIDOf(dir.Name())
	if !ok {
		return Info{}, errNoRecord
	}
	mark, err := dir.Xattr(xattrRun)
	if errors.Is(err, fs.ErrNotExist) || err == nil && string(mark) != id.String() {
		return Info{}, errNoRecord
	}
	if err != nil {
		return Info{}, fmt.Errorf("read mark of run %s: %w", id, err)
	}
	// The mark alone makes the directory ours. A text that cannot be read leaves only what the
	// mark says: no owner to prove dead, so a held lock on it is never broken.
	var info Info
	text, err := dir.Xattr(xattrInfo)
	if err != nil || json.Unmarshal(text, &info) != nil || info.ID != id {
		return Info{ID: id, Started: id.Time()}, nil
	}
	return info, nil
}

// runIDOf reads the run id in a directory's name.
func runIDOf(name string) (RunID, bool) {
	text, ok := strings.CutPrefix(name, runPrefix)
	if !ok {
		return RunID{}, false
	}
	id, err := ParseRunID(text)
	return id, err == nil
}

// isSupervisorName says whether a directory of the root is a supervisor's own leaf.
func isSupervisorName(name string) bool {
	return name == supervisorName || strings.HasPrefix(name, supervisorPrefix)
}

// isGone says that an error means nothing but: the directory has been removed meanwhile.
func isGone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, cgroup.ErrGone) || errors.Is(err, unix.ENODEV)
}
