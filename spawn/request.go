package spawn

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// request is what the helper is told: the part of a Cmd that only the child itself
// can do. Strings go over as they are, with a zero byte after each, because a path
// or an argument need not be valid UTF-8.
type request struct {
	Path        string
	Args, Env   []string
	Dir         string
	Weak        bool // there is no leaf to join
	Credential  *Credential
	Rlimits     []Rlimit
	OOMScoreAdj *int
	OwnPID      string
}

// version is the first field. Both sides are the same program, so another one means
// that something else was inherited.
const version = "pitvisor-spawn-3"

// encode writes the request. No string in it may hold a zero byte.
func (r *request) encode() []byte {
	var b []byte
	text := func(s string) { b = append(append(b, s...), 0) }
	number := func(n int64) { text(strconv.FormatInt(n, 10)) }
	texts := func(list []string) {
		number(int64(len(list)))
		for _, s := range list {
			text(s)
		}
	}
	text(version)
	text(r.Path)
	texts(r.Args)
	texts(r.Env)
	text(r.Dir)
	if r.Weak {
		number(1)
	} else {
		number(0)
	}
	if c := r.Credential; c == nil {
		number(0)
	} else {
		number(1)
		number(int64(c.UID))
		number(int64(c.GID))
		number(int64(len(c.Groups)))
		for _, g := range c.Groups {
			number(int64(g))
		}
	}
	number(int64(len(r.Rlimits)))
	for _, l := range r.Rlimits {
		number(int64(l.Resource))
		text(strconv.FormatUint(l.Soft, 10))
		text(strconv.FormatUint(l.Hard, 10))
	}
	if r.OOMScoreAdj == nil {
		number(0)
	} else {
		number(1)
		number(int64(*r.OOMScoreAdj))
	}
	text(r.OwnPID)
	return b
}

var errRequest = errors.New("not a request of this program")

// decode reads what encode has written.
func decode(data []byte) (*request, error) {
	d := decoder{fields: strings.Split(string(data), "\x00")}
	if d.text() != version {
		return nil, errRequest
	}
	r := &request{Path: d.text(), Args: d.texts(), Env: d.texts(), Dir: d.text()}
	r.Weak = d.number() != 0
	if d.number() != 0 {
		r.Credential = &Credential{UID: uint32(d.number()), GID: uint32(d.number())}
		for range d.count() {
			r.Credential.Groups = append(r.Credential.Groups, uint32(d.number()))
		}
	}
	for range d.count() {
		r.Rlimits = append(r.Rlimits, Rlimit{Resource: int(d.number()), Soft: d.unsigned(), Hard: d.unsigned()})
	}
	if d.number() != 0 {
		n := int(d.number())
		r.OOMScoreAdj = &n
	}
	r.OwnPID = d.text()
	// The last zero byte leaves one empty field.
	if d.bad || len(d.fields) != 1 || d.fields[0] != "" || len(r.Args) == 0 {
		return nil, errRequest
	}
	return r, nil
}

// decoder takes field after field, and remembers if one was missing or wrong.
type decoder struct {
	fields []string
	bad    bool
}

func (d *decoder) text() string {
	if len(d.fields) == 0 {
		d.bad = true
		return ""
	}
	s := d.fields[0]
	d.fields = d.fields[1:]
	return s
}

func (d *decoder) number() int64 {
	n, err := strconv.ParseInt(d.text(), 10, 64)
	d.bad = d.bad || err != nil
	return n
}

func (d *decoder) unsigned() uint64 {
	n, err := strconv.ParseUint(d.text(), 10, 64)
	d.bad = d.bad || err != nil
	return n
}

// count is a number of fields that follow.
func (d *decoder) count() int {
	n := d.number()
	if n < 0 || n > int64(len(d.fields)) {
		d.bad = true
		return 0
	}
	return int(n)
}

func (d *decoder) texts() []string {
	var list []string
	for range d.count() {
		list = append(list, d.text())
	}
	return list
}

// image is a request in the form that execve takes, made while memory can still be
// had: afterwards a limit may forbid it.
type image struct {
	path, dir *byte
	argv, env []*byte
}

func (r *request) image() (m image, err error) {
	if m.path, err = syscall.BytePtrFromString(r.Path); err != nil {
		return m, err
	}
	if r.Dir != "" {
		if m.dir, err = syscall.BytePtrFromString(r.Dir); err != nil {
			return m, err
		}
	}
	if m.argv, err = syscall.SlicePtrFromStrings(r.Args); err != nil {
		return m, err
	}
	env := r.Env
	if r.OwnPID != "" {
		env = append(without(env, r.OwnPID), r.OwnPID+"="+strconv.Itoa(os.Getpid()))
	}
	m.env, err = syscall.SlicePtrFromStrings(env)
	return m, err
}

// without returns env without the variable.
func without(env []string, name string) []string {
	rest := make([]string, 0, len(env)+1)
	for _, v := range env {
		if !strings.HasPrefix(v, name+"=") {
			rest = append(rest, v)
		}
	}
	return rest
}
