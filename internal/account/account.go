// Package account looks up users and groups by name or number.
//
// It is not for remembering them: a caller that asks often keeps the answers.
package account

import (
	"errors"
	"fmt"
	"os/user"
	"slices"
	"strconv"
)

// Account is what the system knows of a user.
type Account struct {
	UID, GID uint32
	Groups   []uint32 // supplementary ones, sorted, without GID
	Name     string   // "" if there is only a number
	Home     string
}

// ErrNone is for a number that no account has: it has no primary group.
var ErrNone = errors.New("has no account, so its group is not known")

// User looks a user up by name or number. A number without an account gives it
// together with ErrNone.
func User(name string) (Account, error) {
	u, err := user.Lookup(name)
	if uid, numeric := ID(name); numeric {
		if u, err = user.LookupId(name); err != nil {
			return Account{UID: uid}, ErrNone
		}
	}
	var unknown user.UnknownUserError
	if errors.As(err, &unknown) {
		return Account{}, errors.New("unknown user")
	}
	if err != nil {
		return Account{}, err
	}
	a := Account{Name: u.Username, Home: u.HomeDir}
	uid, okUser := ID(u.Uid)
	gid, okGroup := ID(u.Gid)
	if !okUser || !okGroup {
		return Account{}, fmt.Errorf("its account has the IDs %q and %q", u.Uid, u.Gid)
	}
	a.UID, a.GID = uid, gid
	ids, err := u.GroupIds()
	if err != nil {
		return Account{}, fmt.Errorf("list its groups: %w", err)
	}
	for _, id := range ids {
		if gid, ok := ID(id); ok && gid != a.GID {
			a.Groups = append(a.Groups, gid)
		}
	}
	slices.Sort(a.Groups)
	return a, nil
}

// Group looks a group up by name; a number needs no account.
func Group(name string) (uint32, error) {
	if gid, numeric := ID(name); numeric {
		return gid, nil
	}
	g, err := user.LookupGroup(name)
	var unknown user.UnknownGroupError
	if errors.As(err, &unknown) {
		return 0, errors.New("unknown group")
	}
	if err != nil {
		return 0, err
	}
	gid, ok := ID(g.Gid)
	if !ok {
		return 0, fmt.Errorf("it has the ID %q", g.Gid)
	}
	return gid, nil
}

// ID reads the number of a user or group. The largest one means "no change" to the kernel.
func ID(text string) (uint32, bool) {
	n, err := strconv.ParseUint(text, 10, 32)
	return uint32(n), err == nil && n != 1<<32-1
}
