package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/pitvisor/pitvisor/api"
	"github.com/pitvisor/pitvisor/internal/suggest"
)

// access says who may use a route.
type access uint8

const (
	accessAny     access = iota // everybody who can connect
	accessRead                  // owner, token, readers, and workers of this run
	accessControl               // owner and token
)

func (a access) allows(role string) bool {
	switch a {
	case accessAny:
		return true
	case accessRead:
		return role != roleStranger
	case accessControl:
		return role == roleOwner || role == roleToken
	}
	return false
}

// String returns the access in words for the documentation.
func (a access) String() string {
	switch a {
	case accessAny:
		return "everybody who can connect"
	case accessRead:
		return "root, the supervisor's user, members of the reading group, and workers of this run"
	case accessControl:
		return "root and the supervisor's user"
	}
	return fmt.Sprintf("access(%d)", uint8(a))
}

// route is one line of the table from which calls are served and the documentation
// is made.
type route struct {
	method, path string // a part of the path in braces is a variable
	access       access
	summary      string
	params       []param
	body         any    // a value of the type that the body has; nil is none
	reply        any    // a value of the type of a good answer; nil is text
	content      string // of the reply; "" is JSON
	also         string // another content that can be asked for with Accept
	upgrade      string // what the connection becomes, and then it is the reply that comes in lines
	fails        []int  // statuses of errors beside those that every route has
	handle       func(*Server, http.ResponseWriter, *call) error
}

// param is something that may stand in the query.
type param struct {
	name, kind, text string // kind is "string", "integer" or "boolean"
	repeated         bool
}

const (
	textJSON   = "application/json"
	textLines  = "application/x-ndjson"
	textEvents = "text/event-stream"
	textPlain  = "text/plain"
)

func runParam() param {
	return param{
		"run", "string",
		"The run whose stream is to go on, as the header Pitvisor-Run of its answer had it. The supervisor of another one refuses, with the code other-run.", false,
	}
}

func selectParam() param {
	return param{
		"select", "string",
		`A pool, a worker ("web/3"), one start of it ("web/3.7"), or a pattern ("web/*"). It may be repeated. Without it all workers are selected.`, true,
	}
}

// table returns all routes there are.
func table() []route {
	routes := []route{
		{
			method: "GET", path: "/v1/status", access: accessRead, reply: api.Status{}, handle: (*Server).getStatus,
			summary: "A snapshot of the run and its workers.", params: []param{selectParam()}, fails: []int{404, 409},
		},
		{
			method: "GET", path: "/v1/workers/{pool}/{slot}", access: accessRead, reply: api.Inspection{}, handle: (*Server).getWorker,
			summary: "Everything there is to know of one worker.", fails: []int{404},
		},
		{
			method: "GET", path: "/v1/events", access: accessRead, reply: api.Event{}, handle: (*Server).getEvents,
			summary: "The events of workers as they come, one JSON object in a line, or as server-sent events.",
			content: textLines, also: textEvents, fails: []int{409},
			params: []param{
				selectParam(), runParam(),
				{"since", "integer", "Begin after the event of this number; 0 is the oldest that is held. Without it the stream begins with what happens next. The header Last-Event-ID says the same, and is stronger.", false},
				{"kind", "string", "Only events of this kind. It may be repeated.", true},
				{"follow", "boolean", "false ends the answer after the newest event.", false},
			},
		},
		{
			method: "GET", path: "/v1/logs", access: accessRead, reply: api.LogLine{}, handle: (*Server).getLogs,
			summary: "Lines that workers of this run have printed, nearly in the order of time, one JSON object in a line, or as server-sent events. The last object has end.",
			content: textLines, also: textEvents, fails: []int{404, 409},
			params: []param{
				selectParam(), runParam(),
				{"stream", "string", "Only stdout or stderr.", false},
				{"since", "string", "Only lines since then, as in 2026-11-29T14:05:30Z.", false},
				{"until", "string", "Only lines before then. Not with follow.", false},
				{"n", "integer", "Only the newest so many lines of all workers together, 0 to 1000.", false},
				{"follow", "boolean", "true goes on with what is printed, until the supervisor ends. The header Last-Event-ID with the id (time) of the last line begins 30 seconds before it: leave out lines whose offset is not beyond the last one of their stream.", false},
			},
		},
		{
			method: "GET", path: "/v1/history", access: accessRead, reply: api.History{}, handle: (*Server).getHistory,
			summary: "What is kept of starts, exits and their causes, of earlier runs too; to a worker, of its own run.",
			params:  []param{selectParam(), {"limit", "integer", "The newest so many; without it all that are kept.", false}}, fails: []int{404},
		},
		{
			method: "GET", path: "/v1/whoami", access: accessAny, reply: api.Caller{}, handle: (*Server).getWhoami,
			summary: "Whom the supervisor takes the caller for.",
		},
		{
			method: "GET", path: "/metrics", access: accessRead, content: textPlain, handle: (*Server).getMetrics,
			summary: "Metrics in Prometheus' text format.", fails: []int{404},
		},
	}
	return append(routes, actions()...)
}

// actions returns the routes that do something to workers.
func actions() []route {
	action := func(path, summary string, handle func(*Server, http.ResponseWriter, *call) error) route {
		return route{
			method: "POST", path: path, access: accessControl, body: api.Action{}, reply: api.Done{}, handle: handle,
			summary: summary, fails: []int{404, 409, 413, 415},
		}
	}
	command := func(path, summary string, body any, handle func(*Server, http.ResponseWriter, *call) error) route {
		return route{
			method: "POST", path: path, access: accessControl, body: body, reply: api.Changed{}, handle: handle,
			summary: summary, fails: []int{404, 409, 413, 415, 504},
		}
	}
	return []route{
		command("/v1/start", "Start workers that were stopped, were given up or have completed, and end the backoff of others.", api.Selected{}, (*Server).postStart),
		command("/v1/stop", "Stop workers until a command starts them again.", api.Stop{}, (*Server).postStop),
		command("/v1/restart", "Replace workers by new ones, as the rollout of their pool says, and start those that do not run.", api.Selected{}, (*Server).postRestart),
		command("/v1/scale", "Give a pool another size.", api.Scale{}, (*Server).postScale),
		command("/v1/reload", "Read the configuration again, and change what has changed in it.", api.Reload{}, (*Server).postReload),
		action("/v1/signal", "Send a signal to the main processes of workers, or to all their processes.", (*Server).postSignal),
		action("/v1/freeze", "Stop all processes of workers without their knowing; answered when they have stopped.", (*Server).postFreeze),
		action("/v1/thaw", "Let frozen workers go on.", (*Server).postThaw),
		{
			method: "POST", path: "/v1/exec", access: accessControl, body: api.Exec{}, reply: api.ExecEvent{}, upgrade: api.ExecProtocol, handle: (*Server).postExec,
			summary: "Run a command inside a worker. Needs the unix socket. After 101 the caller sends one byte with three descriptors (SCM_RIGHTS), the command's standard files, and may then send objects {\"signal\":\"INT\"} in lines; the supervisor sends its objects in lines. The command is killed when the caller closes the connection.",
			fails:   []int{404, 409, 413, 415},
		},
		action("/v1/kill", "Kill all processes of workers at once. What follows is what their pool says of a worker that ends.", (*Server).postKill),
	}
}

// match finds the route of a call. Without one, allowed are the methods that the path
// has.
func (s *Server) match(method, path string) (*route, map[string]string, []string) {
	var allowed []string
	for i := range s.routes {
		r := &s.routes[i]
		vars, ok := r.fits(path)
		switch {
		case !ok:
		case r.method == method:
			return r, vars, nil
		default:
			allowed = append(allowed, r.method)
		}
	}
	return nil, nil, allowed
}

// fits compares a path with that of the route, and reads the variables.
func (r *route) fits(path string) (map[string]string, bool) {
	if !strings.Contains(r.path, "{") {
		return nil, r.path == path
	}
	want, have := strings.Split(r.path, "/"), strings.Split(path, "/")
	if len(want) != len(have) {
		return nil, false
	}
	vars := map[string]string{}
	for i, part := range want {
		switch name, variable := strings.CutPrefix(part, "{"); {
		case variable && have[i] != "":
			vars[strings.TrimSuffix(name, "}")] = have[i]
		case part != have[i]:
			return nil, false
		}
	}
	return vars, true
}

// noRoute says what there is instead.
func noRoute(w http.ResponseWriter, r *http.Request, allowed []string) error {
	if len(allowed) > 0 {
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		return refuse(http.StatusMethodNotAllowed, api.CodeBadRequest, "use "+strings.Join(allowed, " or "), "%s has no method %.20q", r.URL.Path, r.Method)
	}
	var paths []string
	for _, one := range table() {
		paths = append(paths, one.path)
	}
	cure := "the routes are in docs/api.md"
	if word := suggest.Word(r.URL.Path, paths); word != "" {
		cure = "did you mean " + word + "?"
	}
	return notFound(cure, "there is no route %.100q", r.URL.Path)
}

// call is one call of a route.
type call struct {
	r      *http.Request
	route  *route
	caller *api.Caller
	vars   map[string]string
	query  url.Values
}

// checkQuery refuses what the route does not know: what is ignored is not found out.
func (c *call) checkQuery() error {
	query, err := url.ParseQuery(c.r.URL.RawQuery)
	if err != nil {
		return badRequest("", "query of %s: %v", c.route.path, err)
	}
	var names []string
	for _, p := range c.route.params {
		names = append(names, p.name)
		if n := len(query[p.name]); n > 1 && !p.repeated {
			return badRequest("give it once", "%s is given %d times", p.name, n)
		}
	}
	for name := range query {
		if slices.Contains(names, name) {
			continue
		}
		cure := "there is none for this route"
		if len(names) > 0 {
			cure = "there are " + strings.Join(names, ", ")
		}
		if word := suggest.Word(name, names); word != "" {
			cure = fmt.Sprintf("did you mean %q?", word)
		}
		return badRequest(cure, "unknown parameter %.50q", name)
	}
	c.query = query
	return nil
}

// selected reads the selection of the query.
func (c *call) selected() (selection, error) { return parseSelection(c.query["select"]) }

// selectedByName is the same where there may be no process any more to compare with.
func (c *call) selectedByName() (selection, error) {
	all, err := c.selected()
	for _, one := range all {
		if one.pid != 0 {
			return nil, badRequest("name the worker", "%s is a process; %s is about workers", one.text, c.route.path)
		}
	}
	return all, err
}

// readBody reads a JSON body, strictly.
func readBody[T any](c *call) (T, error) {
	var v T
	kind, _, err := mime.ParseMediaType(c.r.Header.Get("Content-Type"))
	if err != nil || kind != textJSON {
		return v, refuse(http.StatusUnsupportedMediaType, api.CodeBadRequest, "send Content-Type: "+textJSON, "Content-Type is %.80q", c.r.Header.Get("Content-Type"))
	}
	data, err := io.ReadAll(c.r.Body)
	var tooLong *http.MaxBytesError
	if errors.As(err, &tooLong) {
		return v, refuse(http.StatusRequestEntityTooLarge, api.CodeBadRequest, "use patterns such as web/*", "the body is longer than %d bytes", tooLong.Limit)
	}
	if err != nil {
		return v, badRequest("", "read the body: %v", err)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		return v, badRequest("see docs/api.md", "body of %s: %v", c.route.path, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return v, badRequest("send one object", "body of %s: there is something after its end", c.route.path)
	}
	return v, nil
}
