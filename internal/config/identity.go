package config

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/pitvisor/pitvisor/internal/account"
	"github.com/pitvisor/pitvisor/spawn"
)

func identityKeys() []key[*poolDraft] {
	const types = "name or number"
	return []key[*poolDraft]{
		{
			Name: "user", Type: types, Default: "the supervisor's",
			Meaning: "User the workers run as, with its primary group and its supplementary groups unless `group` and `groups` say otherwise. `HOME`, `USER` and `LOGNAME` are set to match unless `env` or `env_file` set them. A number without an account needs `group`. Needs root.",
			Example: `user = "www-data"`,
			set:     func(d *decoder, e *entry, p *poolDraft) { p.user = e },
		},
		{
			Name: "group", Type: types, Default: "the user's",
			Meaning: "Primary group.",
			Example: `group = "www-data"`,
			set:     func(d *decoder, e *entry, p *poolDraft) { p.group = e },
		},
		{
			Name: "groups", Type: "list of names and numbers", Default: "those of `user`; none without `user`",
			Meaning: "Supplementary groups. `[]` means none at all.",
			Example: `groups = ["video", "audio"]`,
			set:     func(d *decoder, e *entry, p *poolDraft) { p.groups = e },
		},
	}
}

// accounts remembers users and groups, because 1,000 pools may have the same.
type accounts struct {
	users  map[string]answer[account.Account]
	groups map[string]answer[uint32]
}

type answer[T any] struct {
	value T
	err   error
}

func newAccounts() accounts {
	return accounts{users: make(map[string]answer[account.Account]), groups: make(map[string]answer[uint32])}
}

func (a *accounts) user(name string) (account.Account, error) {
	known, ok := a.users[name]
	if !ok {
		known.value, known.err = account.User(name)
		a.users[name] = known
	}
	return known.value, known.err
}

func (a *accounts) group(name string) (uint32, error) {
	known, ok := a.groups[name]
	if !ok {
		known.value, known.err = account.Group(name)
		a.groups[name] = known
	}
	return known.value, known.err
}

// idText returns a name or number as text.
func (d *decoder) idText(v *value, name string) (string, bool) {
	if v.kind == kindWhole {
		if _, ok := account.ID(v.text); !ok {
			d.add(v.at, "", "%s is %s, must be 0 to 4294967294", name, v.text)
			return "", false
		}
		return v.text, true
	}
	if v.kind != kindText || v.text == "" {
		d.add(v.at, "", "%s must be a name or a number, but this is %s", name, describe(v))
		return "", false
	}
	return v.text, d.noZero(v, name)
}

// finishCredential puts user, group and groups together.
func (d *decoder) finishCredential(p *poolDraft) {
	if p.user == nil && p.group == nil && p.groups == nil {
		return
	}
	who := account.Account{UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}
	ok := true
	if p.user != nil {
		who, ok = d.userOf(p)
	}
	if p.group != nil {
		gid, found := d.groupOf(p.group.value, "group")
		who.GID, ok = gid, ok && found
	}
	if p.groups != nil {
		groups, found := d.groupsOf(p.groups)
		who.Groups, ok = groups, ok && found
	}
	if !ok || d.isSelf(who, p.groups != nil) {
		return
	}
	groups := slices.Clone(who.Groups)
	slices.Sort(groups)
	p.Spec.Command.Credential = &spawn.Credential{UID: who.UID, GID: who.GID, Groups: slices.Compact(groups)}
}

// isSelf says that nothing is to be changed for an ordinary user, who may not change anything.
func (d *decoder) isSelf(who account.Account, explicit bool) bool {
	return os.Geteuid() != 0 && !explicit && who.UID == uint32(os.Geteuid()) && who.GID == uint32(os.Getegid())
}

func (d *decoder) userOf(p *poolDraft) (account.Account, bool) {
	name, ok := d.idText(p.user.value, "user")
	if !ok {
		return account.Account{}, false
	}
	who, err := d.accounts.user(name)
	if errors.Is(err, account.ErrNone) && p.group != nil {
		return who, true
	}
	if err != nil {
		hint := ""
		if errors.Is(err, account.ErrNone) {
			hint = "set group as well"
		}
		d.add(p.user.value.at, hint, "user %s: %v", quoted(name), err)
		return account.Account{}, false
	}
	return who, true
}

func (d *decoder) groupOf(v *value, key string) (uint32, bool) {
	name, ok := d.idText(v, key)
	if !ok {
		return 0, false
	}
	gid, err := d.accounts.group(name)
	if err != nil {
		d.add(v.at, "", "group %s: %v", quoted(name), err)
	}
	return gid, err == nil
}

func (d *decoder) groupsOf(e *entry) ([]uint32, bool) {
	if e.kind != kindList {
		d.wrongKind(e, "a list of names and numbers", fmt.Sprintf("write groups = [%q]", e.value.text))
		return nil, false
	}
	if len(e.items) > 65536 {
		d.add(e.value.at, "", "groups has %d items, more than the kernel takes", len(e.items))
		return nil, false
	}
	ids, ok := []uint32{}, true
	for _, item := range e.items {
		gid, found := d.groupOf(item, "an item of groups")
		ids, ok = append(ids, gid), ok && found
	}
	return ids, ok
}
