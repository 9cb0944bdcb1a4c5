// Package detach starts a server that outlives the run it is started from: in a run
// of its own, with an owner process of its own. It is the only way out of a run, and
// a named one.
//
//	<root>/supervisor-<id>/   the owner, and its guardian
//	<root>/run-<id>/          the server
//
// The root is the one in which the outermost run was made, so the server is seen,
// limited and swept like everything else there.
//
// It is not for supervising: a server that ends is not started again.
package detach

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/registry"
	"github.com/pitvisor/pitvisor/spawn"
	"golang.org/x/sys/unix"
)

// Kind is what the record of a detached run calls it.
const Kind = "detach"

// FromLabel is the label of a detached run that names the run it was started from.
const FromLabel = "detached_from"

// OwnerFD is the descriptor on which an owner tells how the start went.
const OwnerFD = 3

// Owner says how to start an owner: a process of this program that runs the server
// and ends with it.
type Owner struct {
	Root   *cgroup.Dir
	Args   []string // of this program, to become the owner
	Output *os.File // stdout and stderr of the owner and the server
}

// Start starts an owner outside of the run that the caller is in, and returns what
// it has to say: the id of the server's run, or why there is none. The owner goes on.
func Start(o Owner) (string, error) {
	leaf, err := registry.New(o.Root).CreateSupervisorLeaf()
	if err != nil {
		return "", err
	}
	defer leaf.Close()
	report, write, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer report.Close()
	self, err := os.Executable()
	if err != nil {
		return "", errors.Join(err, write.Close())
	}
	p, err := spawn.Start(&spawn.Cmd{
		Path: self, Args: o.Args, Env: os.Environ(), Leaf: leaf,
		Stdout: o.Output, Stderr: o.Output, ExtraFiles: []*os.File{write}, Session: spawn.SessionNew,
	})
	if err := errors.Join(err, write.Close()); err != nil {
		return "", errors.Join(err, o.Root.RemoveChild(leaf.Name(), leaf.ID()))
	}
	defer p.Close()
	return listen(report)
}

// listen reads the owner's word. Its end without a word is the owner's end.
func listen(r io.Reader) (string, error) {
	line, err := bufio.NewReader(r).ReadString('\n')
	word, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
	switch {
	case word == "started":
		return rest, nil
	case word == "failed":
		return "", errors.New(rest)
	case errors.Is(err, io.EOF):
		return "", errors.New("the owner ended before it could say how the start went; its output may tell more")
	case err != nil:
		return "", fmt.Errorf("listen to the owner: %w", err)
	}
	return "", fmt.Errorf("listen to the owner: unexpected %q", line)
}

// Voice is an owner's line to who started it.
type Voice struct{ pipe *os.File }

// OpenVoice takes the descriptor that Start has left.
func OpenVoice() Voice {
	unix.CloseOnExec(OwnerFD)
	return Voice{os.NewFile(OwnerFD, "owner's voice")}
}

// Started says that the server runs. Whoever waits may be gone; that is no error.
func (v Voice) Started(run registry.RunID) { v.say("started " + run.String()) }

// Failed says why it does not. It does nothing after Started.
func (v Voice) Failed(err error) {
	v.say("failed " + strings.ReplaceAll(err.Error(), "\n", ": "))
}

func (v Voice) say(line string) {
	_, _ = fmt.Fprintln(v.pipe, line) // who listened may be gone, and has its answer then
	_ = v.pipe.Close()
}

// Leave moves an owner that has done its work out of its leaf and removes that.
// Where the kernel refuses it, the next sweep does it.
func Leave(root *cgroup.Dir) {
	self, err := cgroup.SelfPath()
	if err != nil {
		return
	}
	name, ok := strings.CutPrefix(self, root.Path()+"/")
	if !ok || !strings.HasPrefix(name, "supervisor-") || strings.Contains(name, "/") {
		return
	}
	mount, err := cgroup.FindMount()
	if err != nil {
		return
	}
	top, err := cgroup.Open(mount.Path)
	if err != nil {
		return
	}
	defer top.Close()
	if top.MoveSelf() == nil {
		_ = root.RemoveChild(name, 0) // the next sweep
	}
}
