package config

import (
	"net"
	"strconv"
)

// API is the [api] table: where the supervisor can be asked.
type API struct {
	Socket    string  // absolute; "" means the usual place
	Off       bool    // no socket at all
	Group     *uint32 // that may read; nil means pitvisor, if there is such a group
	TCP       string  // host:port, "" is none; needs TokenFile
	TokenFile string
	Metrics   string // host:port for metrics only; "" is none

	group, tcp, token *entry
}

func apiTable() key[*Config] {
	return key[*Config]{
		Name: "api", Type: "table", Default: "", Meaning: "Where the supervisor can be asked, and by whom; see [api].",
		Example: "[api]",
		set: func(d *decoder, e *entry, c *Config) {
			if t, ok := d.subtable(e, "write [api]"); ok {
				decodeTable(d, t, "[api]", d.tables.api, &c.API)
				d.finishAPI(&c.API)
			}
		},
	}
}

func apiKeys() []key[*API] {
	return append([]key[*API]{
		{
			Name: "socket", Type: "path or `\"none\"`", Default: "a socket in the runtime directory, which `pitvisor ps --json` names",
			Meaning: "The unix socket on which the supervisor is asked. Root and the supervisor's user may do everything, `group` and the run's own workers may read. A relative path starts at the directory of the main file. `none` is no socket: `pitvisor status` and the like do not work.",
			Example: `socket = "/run/pitvisor/shop.sock"`,
			set: func(d *decoder, e *entry, a *API) {
				s, ok := d.nonEmpty(e)
				if a.Off = ok && s == "none"; ok && !a.Off {
					e.value.text = d.path(s)
					a.Socket = e.value.text
				}
			},
		},
		{
			Name: "group", Type: "name or number", Default: "`\"pitvisor\"`, if there is such a group",
			Meaning: "The group whose members may read: status, events, history, logs, metrics.",
			Example: `group = "adm"`,
			set:     func(_ *decoder, e *entry, a *API) { a.group = e },
		},
	}, apiTCPKeys()...)
}

func apiTCPKeys() []key[*API] {
	const example = `write an address and a port, such as "127.0.0.1:9330"`
	return []key[*API]{
		{
			Name: "tcp", Type: "address and port", Default: "none",
			Meaning: "Where to listen for callers with the token as well. They may do everything, and nothing is encrypted: leave it at a loopback address, or put something in front that encrypts.",
			Example: "tcp = \"127.0.0.1:9330\"\ntoken_file = \"/etc/pitvisor/token\"",
			set: func(d *decoder, e *entry, a *API) {
				a.tcp = e
				a.TCP = d.address(e, example)
			},
		},
		{
			Name: "token_file", Type: "path", Default: "none",
			Meaning: "File with the token for `tcp`: one line of at least 16 bytes. Only its owner may read it. It is read when the supervisor starts.",
			Example: "token_file = \"/etc/pitvisor/token\"\ntcp = \"127.0.0.1:9330\"",
			set: func(d *decoder, e *entry, a *API) {
				a.token = e
				if s, ok := d.nonEmpty(e); ok {
					e.value.text = d.path(s)
					a.TokenFile = e.value.text
				}
			},
		},
		{
			Name: "metrics", Type: "address and port", Default: "none",
			Meaning: "Where `GET /metrics` is answered for everybody who can connect, in Prometheus' text format. They are on the socket, too.",
			Example: `metrics = "127.0.0.1:9331"`,
			set:     func(d *decoder, e *entry, a *API) { a.Metrics = d.address(e, example) },
		},
	}
}

// address reads where to listen on TCP.
func (d *decoder) address(e *entry, hint string) string {
	s, ok := d.nonEmpty(e)
	if !ok {
		return ""
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		d.add(e.value.at, hint, "%s is %s: no address and port", bareKey(e.name), quoted(s))
		return ""
	}
	if host != "" && host != "localhost" && net.ParseIP(host) == nil {
		d.add(e.value.at, hint, "%s is %s: %s is no address of this machine; names are not looked up", bareKey(e.name), quoted(s), quoted(host))
		return ""
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		d.add(e.value.at, hint, "%s is %s: the port must be 1 to 65535", bareKey(e.name), quoted(s))
		return ""
	}
	return s
}

// finishAPI looks at what only goes together.
func (d *decoder) finishAPI(a *API) {
	if a.group != nil {
		if gid, ok := d.groupOf(a.group.value, "group"); ok {
			a.Group = &gid
		}
	}
	switch {
	case a.tcp != nil && a.token == nil:
		d.add(a.tcp.at, `add token_file = "/etc/pitvisor/token"`, "tcp needs a token_file: over TCP nobody knows who calls")
	case a.token != nil && a.tcp == nil:
		d.add(a.token.at, `add tcp = "127.0.0.1:9330", or leave it out`, "token_file has no meaning without tcp")
	}
	if a.Off && a.group != nil {
		d.add(a.group.at, "leave one of them out", `group has no meaning with socket = "none"`)
	}
	a.group, a.tcp, a.token = nil, nil, nil
}
