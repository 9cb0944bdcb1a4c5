package config

import (
	"fmt"
	"io/fs"
	"slices"
	"strconv"

	"github.com/pitvisor/pitvisor/internal/sockets"
)

// maxSockets bounds the sockets of one name, and maxStored the descriptors that a worker
// may store; together they stay below a soft limit of open files of 1024.
const (
	maxSockets = 64
	maxStored  = 512
)

// socketDraft is a [socket.NAME] table while it is being read.
type socketDraft struct {
	sockets.Spec
	at         int // of the name
	place      string
	listen     []*value
	listenedAt *entry
	fd         *entry
	needsFile  []*entry // keys that mean something only for files
}

func socketTable() key[*Config] {
	return key[*Config]{
		Name: "socket", Type: "tables", Default: "none", Meaning: "Listening sockets that the supervisor owns and workers inherit, one table for each name; see [socket.NAME].",
		Example: "[socket.web]\nlisten = \"127.0.0.1:8080\"\n",
		set: func(d *decoder, e *entry, c *Config) {
			if t, ok := d.subtable(e, "write [socket.NAME]"); ok {
				d.sockets(t, c)
			}
		},
	}
}

func socketKeys() []key[*socketDraft] {
	kinds := []string{sockets.Stream.String(), sockets.Datagram.String(), sockets.SeqPacket.String()}
	return append([]key[*socketDraft]{
		{
			Name: "listen", Type: "address, or list of addresses", Default: "required, unless `fd` is set",
			Meaning: "Where to listen: `host:port` with an IP address or `localhost`, `:port` for all addresses of IPv6 and IPv4, a path for a unix socket, or `@name` for an abstract one. Each address of a list is a socket of its own, in this order, under the same name. A relative path is none.",
			Example: `listen = ["127.0.0.1:8080", "/run/shop.sock"]`,
			schema:  schema{"anyOf": []any{ref("text"), schema{"type": "array", "items": ref("text"), "minItems": 1, "maxItems": maxSockets}}},
			set:     func(d *decoder, e *entry, s *socketDraft) { s.listenedAt, s.listen = e, d.oneOrMore(e) },
		},
		oneWord(key[*socketDraft]{
			Name: "type", Default: "`\"stream\"`",
			Meaning: "`stream` is TCP, or a unix stream; `dgram` is UDP, or unix datagrams; `seqpacket` is for unix sockets.",
			Example: `type = "dgram"`,
		}, kinds, func(s *socketDraft, i int) { s.Kind = sockets.Kind(i) }),
		{
			Name: "fd", Type: "string", Default: "none",
			Meaning: "Take the socket from whoever starts pitvisor, under this name: `FileDescriptorName=` of a socket unit of systemd. It stays open while pitvisor itself is restarted.",
			Example: "fd = \"web\"",
			set: func(d *decoder, e *entry, s *socketDraft) {
				s.fd = e
				s.FD, _ = d.nonEmpty(e)
			},
		},
	}, socketOptionKeys()...)
}

func socketOptionKeys() []key[*socketDraft] {
	whenFile := func(s *socketDraft, e *entry) { s.needsFile = append(s.needsFile, e) }
	return []key[*socketDraft]{
		whole(key[*socketDraft]{
			Name: "backlog", Default: "`4096`", Meaning: "How many connections may wait until a worker accepts them. The kernel's own bound is `net.core.somaxconn`.",
			Example: "backlog = 128",
		}, 1, 1<<20, func(s *socketDraft, n int) { s.Backlog = n }),
		yesNo(key[*socketDraft]{
			Name: "reuse_port", Default: "`false`", Meaning: "Let others listen on the same address and port, if they set it as well: another pitvisor that takes over. TCP and UDP only.",
			Example: "reuse_port = true",
		}, func(s *socketDraft, b bool) { s.ReusePort = b }),
		{
			Name: "mode", Type: "octal string", Default: "`\"666\"`", Meaning: "Who may connect to a unix socket: the mode of its file.", Example: `mode = "660"`,
			set: func(d *decoder, e *entry, s *socketDraft) {
				whenFile(s, e)
				n, err := strconv.ParseUint(e.value.text, 8, 32)
				if e.kind != kindText || err != nil || n > 0o777 || n == 0 {
					d.add(e.value.at, `write octal digits, such as "660"`, "mode is %s, must be \"001\" to \"777\"", quoted(e.value.text))
					return
				}
				s.Mode = fs.FileMode(n)
			},
		},
		{
			Name: "user", Type: "name or number", Default: "the supervisor's", Meaning: "Who owns the file of a unix socket.", Example: `user = "root"`,
			set: func(d *decoder, e *entry, s *socketDraft) {
				whenFile(s, e)
				if uid, ok := d.userID(e); ok {
					s.UID = int(uid)
				}
			},
		},
		{
			Name: "group", Type: "name or number", Default: "the supervisor's", Meaning: "Its group.", Example: `group = "root"`,
			set: func(d *decoder, e *entry, s *socketDraft) {
				whenFile(s, e)
				if gid, ok := d.groupOf(e.value, "group"); ok {
					s.GID = int(gid)
				}
			},
		},
	}
}

// oneOrMore reads a string or a list of them.
func (d *decoder) oneOrMore(e *entry) []*value {
	if e.kind == kindText {
		if _, ok := d.nonEmpty(e); !ok {
			return nil
		}
		return []*value{e.value}
	}
	items, ok := d.list(e, "")
	if !ok {
		return nil
	}
	if len(items) == 0 || len(items) > maxSockets {
		d.add(e.value.at, "", "%s has %d items, must be 1 to %d", bareKey(e.name), len(items), maxSockets)
		return nil
	}
	return items
}

func (d *decoder) userID(e *entry) (uint32, bool) {
	name, ok := d.idText(e.value, "user")
	if !ok {
		return 0, false
	}
	if n, err := strconv.ParseUint(name, 10, 32); err == nil {
		return uint32(n), true // a file needs no account
	}
	who, err := d.accounts.user(name)
	if err != nil {
		d.add(e.value.at, "", "user %s: %v", quoted(name), err)
	}
	return who.UID, err == nil
}

// sockets decodes every [socket.NAME].
func (d *decoder) sockets(t *table, c *Config) {
	at := map[string]string{} // which name has an address
	for _, e := range t.entries {
		if e.kind != kindTable {
			d.add(e.at, "a socket has a name: [socket.NAME]", "unknown key %s in [socket]", quoted(e.name))
			continue
		}
		if !d.nameOfTable(e, "socket") {
			continue
		}
		s := &socketDraft{at: e.at, place: fmt.Sprintf("[socket.%s]", e.name)}
		s.Name, s.UID, s.GID = e.name, -1, -1
		before := d.count
		decodeTable(d, e.table, s.place, d.tables.socket, s)
		if d.count == before {
			d.finishSocket(s, at)
		}
		c.Sockets = append(c.Sockets, s.Spec)
	}
}

// finishSocket checks how the keys of a socket go together.
func (d *decoder) finishSocket(s *socketDraft, at map[string]string) {
	switch {
	case s.fd != nil && s.listenedAt != nil:
		d.add(s.fd.at, "leave one of them out", "%s has an address, and is to be passed on to pitvisor as well", s.place)
		return
	case s.fd == nil && len(s.listen) == 0:
		if !d.truncated {
			d.add(s.at, `add listen = "127.0.0.1:8080"`, "socket %q listens nowhere", s.Name)
		}
		return
	}
	hasFile := false
	for _, v := range s.listen {
		if err := sockets.CheckAddress(v.text, s.Kind); err != nil {
			d.add(v.at, "", "listen is %s: %v", quoted(v.text), err)
			continue
		}
		key := v.text + " " + s.Kind.String()
		if other, taken := at[key]; taken {
			d.add(v.at, "give one of them another address", "%s is an address of [socket.%s] as well", quoted(v.text), other)
		}
		at[key] = s.Name
		hasFile = hasFile || v.text[0] == '/'
		s.Listen = append(s.Listen, v.text)
	}
	for _, e := range s.needsFile {
		if !hasFile {
			d.add(e.at, "leave it out", "%s is for unix sockets with a path", e.name)
		}
	}
}

// finishSockets checks the names that pools say, and what they can be given together.
func (d *decoder) finishSockets(c *Config) {
	if d.truncated {
		return // what is missing may be in the rest
	}
	count := map[string]int{}
	var names []string
	for _, s := range c.Sockets {
		count[s.Name] = max(1, len(s.Listen))
		names = append(names, s.Name)
	}
	for _, use := range d.socketUses {
		for _, v := range use.names {
			if !slices.Contains(names, v.text) {
				d.add(v.at, didYouMean(v.text, names), "pool %q has socket %s, which there is not", use.pool, quoted(v.text))
				continue
			}
			use.files += count[v.text]
		}
		if use.fd > 0 && use.fd < 3+use.files {
			d.add(use.at, fmt.Sprintf("set fd = %d or more", 3+use.files), "fd of [pool.%s.ready] is %d, and the worker has its sockets from 3 to %d", use.pool, use.fd, 2+use.files)
		}
	}
}

// socketUse is what a pool wants from the sockets.
type socketUse struct {
	pool  string
	names []*value
	at    int // of its ready table
	fd    int // of it; 0 is none
	files int
}

// inheritKeys say what workers inherit, and what they may say.
func inheritKeys() []key[*poolDraft] {
	return []key[*poolDraft]{
		{
			Name: "sockets", Type: "list of names", Default: "none",
			Meaning: "The sockets of [socket.NAME] that each worker inherits, as sd_listen_fds(3) finds them: descriptors from 3 on, `LISTEN_FDS`, `LISTEN_PID` and `LISTEN_FDNAMES`. See docs/sockets.md.",
			Example: `sockets = ["web"]`,
			schema:  schema{"type": "array", "items": schema{"type": "string"}, "minItems": 1},
			set:     setSockets,
		},
		yesNo(key[*poolDraft]{
			Name: "notify", Default: "`false`",
			Meaning: "Listen to what workers say by sd_notify(3) even where no rule needs it: they find `NOTIFY_SOCKET`. See docs/notify.md. `ready.notify`, `live.notify`, `recycle.count` and `fd_store` do the same.",
			Example: "notify = true",
		}, func(p *poolDraft, b bool) { p.Notify = b }),
		whole(key[*poolDraft]{
			Name: "fd_store", Default: "`0`",
			Meaning: fmt.Sprintf("How many descriptors, up to %d, each worker may store with `FDSTORE=1` for its next start, which finds them behind its sockets. Systemd calls it `FileDescriptorStoreMax=`.", maxStored),
			Example: "fd_store = 16",
		}, 0, maxStored, func(p *poolDraft, n int) { p.Store = n }),
	}
}

func setSockets(d *decoder, e *entry, p *poolDraft) {
	items, ok := d.list(e, fmt.Sprintf("write it as a list: [%q]", e.value.text))
	if !ok {
		return
	}
	p.Sockets, p.sockets = nil, items
	for i, item := range items {
		if slices.Contains(p.Sockets, item.text) {
			d.add(item.at, "leave one of them out", "sockets has %s twice", quoted(item.text))
			continue
		}
		p.Sockets = append(p.Sockets, items[i].text)
	}
}

// finishInherit looks at what a worker inherits.
func (d *decoder) finishInherit(p *poolDraft) {
	use := &socketUse{pool: p.Spec.Name, names: p.sockets}
	if r := p.ready; r != nil {
		use.at, use.fd = r.at, r.rules.FD
		if r.rules.FD > 0 && p.Store > 0 {
			d.add(r.at, "use another rule, such as notify", "fd of [pool.%s.ready] does not go together with fd_store: how many descriptors a worker has from 3 on depends on what it has stored", p.Spec.Name)
			use.fd = 0
		}
	}
	d.socketUses = append(d.socketUses, use)
}
