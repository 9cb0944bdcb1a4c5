package oneshot

import (
	"github.com/pitvisor/pitvisor/internal/guardian"
	"github.com/pitvisor/pitvisor/internal/siginfo"
	"golang.org/x/sys/unix"
)

// group tells the signals that the whole process group has got from those that
// pitvisor alone has got. The command of a job on a terminal is in that group, and
// has got the former by itself: those of `kill %1`, or the SIGCONT of the shell's fg.
//
// Where nobody can tell, a signal is taken for one to pitvisor alone: better twice
// than never.
type group struct {
	witness *guardian.Witness // nil where there cannot be one
	ahead   uint64            // signals of the group that pitvisor has not taken yet
}

// watch begins to look.
func (g *group) watch() {
	if witness, err := guardian.StartWitness(); err == nil {
		g.witness = witness
	}
}

// got returns those of some signals that the whole group has got: signal n is bit n-1.
func (g *group) got(signals []siginfo.Info) uint64 {
	if g.witness == nil {
		return 0
	}
	pending, err := g.witness.Pending()
	if err != nil {
		return 0
	}
	all := g.ahead | pending
	g.ahead = all
	for _, s := range signals {
		g.ahead &^= bit(s.Signal)
	}
	if pending != 0 {
		g.renew(pending)
	}
	return all
}

// renew starts a fresh witness: one that has got a signal does not show the next.
func (g *group) renew(known uint64) {
	old := g.witness
	g.witness = nil
	g.watch()
	if late, err := old.Pending(); err == nil {
		g.ahead |= late &^ known
	}
	_ = old.Stop() // it ends with pitvisor at the latest
}

func (g *group) close() error {
	if g.witness == nil {
		return nil
	}
	return g.witness.Stop()
}

// bit is a signal's place in the kernel's sets.
func bit(sig unix.Signal) uint64 { return 1 << (sig - 1) }
