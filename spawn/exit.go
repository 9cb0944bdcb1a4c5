package spawn

import (
	"bytes"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/pitvisor/pitvisor/internal/units"
	"golang.org/x/sys/unix"
)

// Exit is how a process ended.
type Exit struct {
	Code   int         // exit code; -1 when it was ended by a signal
	Signal unix.Signal // the signal that ended it; 0 when it exited by itself
	Core   bool        // it left a core dump

	// BeforeExec says that the process was killed before a single instruction of
	// the program ran: it never really started. See [Poisoned] for one reason.
	BeforeExec bool

	At time.Time // when it was reaped
}

// Success says whether the process exited by itself with code 0.
func (e Exit) Success() bool { return e.Signal == 0 && e.Code == 0 }

// String returns "exit 3" or "SIGKILL".
func (e Exit) String() string {
	if e.Signal == 0 {
		return "exit " + strconv.Itoa(e.Code)
	}
	s := units.SignalName(e.Signal)
	if e.Core {
		s += " (core dumped)"
	}
	if e.BeforeExec {
		s += " before exec"
	}
	return s
}

// exit translates what waitid says.
func (c ended) exit() Exit {
	if c.code == cldExited {
		return Exit{Code: int(c.status), At: time.Now()}
	}
	return Exit{Code: -1, Signal: unix.Signal(c.status), Core: c.code == cldDumped, At: time.Now()}
}

// parseStat returns the name and the flags of a line of /proc/<pid>/stat.
func parseStat(stat []byte) (comm string, flags uint64, err error) {
	// The name may hold spaces and brackets; the last bracket ends it.
	begin, end := bytes.IndexByte(stat, '('), bytes.LastIndexByte(stat, ')')
	if begin < 0 || end < begin {
		return "", 0, errors.New("no name in the stat line")
	}
	fields := strings.Fields(string(stat[end+1:]))
	const field = 9 - 3 // counted from the one behind the name
	if len(fields) <= field {
		return "", 0, errors.New("no flags in the stat line")
	}
	flags, err = strconv.ParseUint(fields[field], 10, 64)
	return string(stat[begin+1 : end]), flags, err
}
