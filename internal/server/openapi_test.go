package server

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/api"
)

// object is JSON with its keys in the order of the alphabet.
type object = map[string]any

// comments are the words about the types and fields of package api, from its source.
type comments map[string]string

func readComments(tb testing.TB) comments {
	tb.Helper()
	files, err := filepath.Glob("../../api/*.go")
	if err != nil || len(files) == 0 {
		tb.Fatal("no source of package api", err)
	}
	all := comments{}
	fset := token.NewFileSet()
	for _, name := range files {
		file, err := parser.ParseFile(fset, name, nil, parser.ParseComments)
		if err != nil {
			tb.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			decl, ok := n.(*ast.GenDecl)
			if !ok {
				return true
			}
			for _, spec := range decl.Specs {
				if s, ok := spec.(*ast.TypeSpec); ok {
					all.add(s, decl.Doc.Text())
				}
			}
			return true
		})
	}
	return all
}

func (c comments) add(s *ast.TypeSpec, doc string) {
	c[s.Name.Name] = oneLine(doc)
	fields, ok := s.Type.(*ast.StructType)
	if !ok {
		return
	}
	for _, f := range fields.Fields.List {
		for _, name := range f.Names {
			c[s.Name.Name+"."+name.Name] = oneLine(f.Doc.Text() + " " + f.Comment.Text())
		}
	}
}

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

// schemas collects the types that travel.
type schemas struct {
	comments comments
	defs     object
}

// of returns the schema of a Go type.
func (s *schemas) of(t reflect.Type) object {
	switch {
	case t == reflect.TypeFor[time.Time]():
		return object{"type": "string", "format": "date-time"}
	case t == reflect.TypeFor[time.Duration]():
		return object{"type": "integer", "format": "int64", "description": "nanoseconds"}
	case t == reflect.TypeFor[api.State]():
		return object{"type": "string", "enum": []string{"down", "starting", "up", "stopping", "killing", "backoff", "failed", "completed"}}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return s.of(t.Elem())
	case reflect.String:
		return object{"type": "string"}
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.Int, reflect.Int64:
		return object{"type": "integer", "format": "int64"}
	case reflect.Float64:
		return object{"type": "number"}
	case reflect.Uint64:
		return object{"type": "integer", "format": "uint64", "minimum": 0}
	case reflect.Slice:
		return object{"type": "array", "items": s.of(t.Elem())}
	case reflect.Map:
		return object{"type": "object", "additionalProperties": s.of(t.Elem())}
	case reflect.Struct:
		s.define(t)
		return object{"$ref": "#/components/schemas/" + t.Name()}
	}
	panic("no schema for " + t.String())
}

func (s *schemas) define(t reflect.Type) {
	if _, known := s.defs[t.Name()]; known {
		return
	}
	def := object{"type": "object", "additionalProperties": false, "description": s.comments[t.Name()]}
	s.defs[t.Name()] = def
	props, required := object{}, []string{}
	s.fields(t, props, &required)
	def["properties"] = props
	if len(required) > 0 {
		slices.Sort(required)
		def["required"] = required
	}
}

func (s *schemas) fields(t reflect.Type, props object, required *[]string) {
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous {
			s.fields(f.Type, props, required)
			continue
		}
		name, rest, _ := strings.Cut(f.Tag.Get("json"), ",")
		schema := s.of(f.Type)
		if text := s.comments[t.Name()+"."+f.Name]; text != "" {
			schema["description"] = text
		}
		props[name] = schema
		if rest != "omitempty" {
			*required = append(*required, name)
		}
	}
}

// statuses are what a route may answer, beside 200.
func (r *route) statuses() []int {
	all := append([]int{400, 401, 429, 500, 503}, r.fails...)
	if r.access != accessAny {
		all = append(all, 403)
	}
	if len(r.params) > 0 && r.path == "/v1/events" {
		all = append(all, 409)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// openAPI is the document of the table of routes.
func openAPI(tb testing.TB) object {
	s := &schemas{comments: readComments(tb), defs: object{}}
	s.of(reflect.TypeFor[api.Error]())
	paths := object{}
	for _, r := range table() {
		at, ok := paths[r.path].(object)
		if !ok {
			at = object{}
			paths[r.path] = at
		}
		at[strings.ToLower(r.method)] = s.operation(&r)
	}
	return object{
		"openapi": "3.1.0",
		"info": object{
			"title": "pitvisor", "version": "1", "license": object{"name": "Apache-2.0", "identifier": "Apache-2.0"},
			"description": "The supervisor of `pitvisor up`, on a unix socket, and on TCP where that is configured. Made from the table of routes in internal/server and the types of package api.",
		},
		"servers":  []object{{"url": "http://pitvisor", "description": "any host name will do on the unix socket"}},
		"security": []object{{}, {"token": []string{}}},
		"paths":    paths,
		"components": object{
			"schemas": s.defs,
			"responses": object{"Error": object{
				"description": "why it was not done",
				"content":     object{textJSON: object{"schema": object{"$ref": "#/components/schemas/Error"}}},
			}},
			"securitySchemes": object{"token": object{"type": "http", "scheme": "bearer", "description": "On TCP. On the unix socket the kernel says who calls."}},
		},
	}
}

func (s *schemas) operation(r *route) object {
	content := object{}
	switch {
	case r.upgrade != "":
		content[textLines] = object{"schema": s.of(reflect.TypeOf(r.reply)), "x-stream": "one object in a line, over the upgraded connection"}
	case r.content == textLines:
		content[textLines] = object{"schema": s.of(reflect.TypeOf(r.reply)), "x-stream": "one object in a line"}
		content[r.also] = object{"schema": object{"type": "string"}, "x-stream": "the same objects as data, their numbers as id, their kinds as event; of lines their times as id"}
	case r.reply == nil:
		content[r.content] = object{"schema": object{"type": "string"}}
	default:
		content[textJSON] = object{"schema": s.of(reflect.TypeOf(r.reply))}
	}
	responses := object{"200": object{"description": "done", "content": content}}
	if r.upgrade != "" {
		responses = object{"101": object{"description": "the connection is upgraded to " + r.upgrade, "content": content}}
	}
	for _, status := range r.statuses() {
		responses[strconv.Itoa(status)] = object{"$ref": "#/components/responses/Error", "description": http.StatusText(status)}
	}
	op := object{"summary": r.summary, "x-access": r.access.String(), "responses": responses, "operationId": operationID(r)}
	if params := s.parameters(r); len(params) > 0 {
		op["parameters"] = params
	}
	if r.body != nil {
		op["requestBody"] = object{"required": true, "content": object{textJSON: object{"schema": s.of(reflect.TypeOf(r.body))}}}
	}
	return op
}

func operationID(r *route) string {
	parts := strings.FieldsFunc(r.path, func(c rune) bool { return c == '/' || c == '{' || c == '}' })
	return strings.ToLower(r.method) + "-" + strings.Join(slices.DeleteFunc(parts, func(p string) bool { return p == "v1" }), "-")
}

func (s *schemas) parameters(r *route) (params []object) {
	for part := range strings.SplitSeq(r.path, "/") {
		if name, ok := strings.CutPrefix(part, "{"); ok {
			params = append(params, object{"name": strings.TrimSuffix(name, "}"), "in": "path", "required": true, "schema": object{"type": "string"}})
		}
	}
	for _, p := range r.params {
		schema := object{"type": p.kind}
		if p.repeated {
			schema = object{"type": "array", "items": schema}
		}
		params = append(params, object{"name": p.name, "in": "query", "description": p.text, "schema": schema, "explode": true})
	}
	return params
}

// TestOpenAPIIsUpToDate: docs/openapi.json is what the code says. To write it again:
// PITVISOR_WRITE_DOCS=1 go test ./internal/server -run OpenAPI
func TestOpenAPIIsUpToDate(t *testing.T) {
	want, err := json.MarshalIndent(openAPI(t), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	want = append(want, '\n')
	path := filepath.Join("..", "..", "docs", "openapi.json")
	if os.Getenv("PITVISOR_WRITE_DOCS") != "" {
		if err := os.WriteFile(path, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil || string(got) != string(want) {
		t.Errorf("%s is not what the routes say (%v); write it again with PITVISOR_WRITE_DOCS=1", path, err)
	}
}

// TestEverythingIsDescribed: no field without a word, but for those whose name says it all.
func TestEverythingIsDescribed(t *testing.T) {
	doc := openAPI(t)
	plain := []string{"pool", "worker", "state", "pid", "port", "at", "name", "wait", "timeout_ns", "start", "run", "command", "path", "size", "gid", "exit", "ready", "elapsed_ns", "cause", "from", "to", "error", "cgroup_id", "frozen", "memory_bytes", "memory_peak_bytes", "cpu_ns", "pids", "oom_kills", "workers", "rollouts", "removed", "scaled", "labels", "processes", "select", "directory"}
	for name, def := range doc["components"].(object)["schemas"].(object) {
		if def.(object)["description"] == "" {
			t.Errorf("type %s is not described", name)
		}
		for field, schema := range def.(object)["properties"].(object) {
			if schema.(object)["description"] == nil && !slices.Contains(plain, field) {
				t.Errorf("%s.%s is not described", name, field)
			}
		}
	}
}

// TestAnswersAreAsDocumented calls each route and holds status and body against the
// document that is in docs.
func TestAnswersAreAsDocumented(t *testing.T) {
	data, err := os.ReadFile("../../docs/openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	var doc object
	if err := json.Unmarshal(data, &doc); err != nil {
		t.Fatal(err)
	}
	r := begin(t, func(o *Options) {
		o.Metrics = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("up 1\n")) })
		o.History = func(int) ([]api.Record, error) { return []api.Record{{Run: "x", Kind: "ready"}}, nil }
	}, sleepers(t, "web", 2))
	r.ready()
	called := map[string]bool{}
	for _, text := range []string{
		"GET /v1/status", "GET /v1/status?select=none", "GET /v1/workers/web/0", "GET /v1/workers/web/7", "GET /v1/events?since=0&follow=false",
		"GET /v1/events?since=999999", "GET /v1/history", "GET /v1/history?limit=x", "GET /v1/whoami", "GET /metrics",
		`POST /v1/signal {"select":["web/0"],"signal":"CONT"}`, `POST /v1/signal {"select":["web/0"]}`, `POST /v1/freeze {"select":["web/0"]}`,
		`POST /v1/thaw {"select":["web/0"]}`, `POST /v1/kill {"select":["web/1"]}`, `POST /v1/kill {"select":["web/9"]}`,
		`POST /v1/stop {"select":["web/0"],"wait":true}`, `POST /v1/start {"select":["web/0"],"wait":true}`, `POST /v1/restart {"select":["web"]}`,
		`POST /v1/scale {"pool":"web","size":1}`, `POST /v1/reload {}`, `POST /v1/exec {"worker":"web/0","command":["true"]}`, "GET /v1/logs", "GET /v1/logs?n=x", "GET /v1/logs?select=none",
	} {
		method, rest, _ := strings.Cut(text, " ")
		path, _, _ := strings.Cut(rest, " ")
		path, _, _ = strings.Cut(path, "?")
		path = strings.Replace(strings.Replace(path, "/web/0", "/{pool}/{slot}", 1), "/web/7", "/{pool}/{slot}", 1)
		called[method+" "+path] = true
		if err := documented(doc, method, path, r.call(text)); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
	for _, route := range table() {
		if !called[route.method+" "+route.path] {
			t.Errorf("%s %s is not called here", route.method, route.path)
		}
	}
}

// documented holds one answer against the document.
func documented(doc object, method, path string, got asked) error {
	at, ok := doc["paths"].(object)[path].(object)
	if !ok {
		return fmt.Errorf("no path %s", path)
	}
	op, ok := at[strings.ToLower(method)].(object)
	if !ok {
		return fmt.Errorf("no method %s", method)
	}
	response, ok := op["responses"].(object)[strconv.Itoa(got.Status)].(object)
	if !ok {
		return fmt.Errorf("status %d is not documented: %s", got.Status, got.Body)
	}
	if ref, ok := response["$ref"].(string); ok {
		response = doc["components"].(object)["responses"].(object)[filepath.Base(ref)].(object)
	}
	content := response["content"].(object)
	for kind, media := range content {
		schema := media.(object)["schema"].(object)
		switch kind {
		case textJSON:
			return conforms(doc, schema, []byte(got.Body))
		case textLines:
			for line := range strings.Lines(got.Body) {
				if err := conforms(doc, schema, []byte(line)); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func conforms(doc, schema object, data []byte) error {
	var v any
	if err := json.Unmarshal(data, &v); err != nil {
		return err
	}
	return fits(doc, schema, v, "answer")
}

// fits holds a value against a schema, as far as the document uses them.
func fits(doc, schema object, v any, at string) error {
	if ref, ok := schema["$ref"].(string); ok {
		schema = doc["components"].(object)["schemas"].(object)[filepath.Base(ref)].(object)
	}
	kinds := map[string]string{"string": "string", "bool": "boolean", "float64": "integer", "[]interface {}": "array", "map[string]interface {}": "object"}
	if got := kinds[fmt.Sprintf("%T", v)]; got != schema["type"] {
		return fmt.Errorf("%s is %v, want %v", at, got, schema["type"])
	}
	switch v := v.(type) {
	case []any:
		for i, item := range v {
			if err := fits(doc, schema["items"].(object), item, fmt.Sprintf("%s[%d]", at, i)); err != nil {
				return err
			}
		}
	case object:
		return fitsObject(doc, schema, v, at)
	case string:
		if words, ok := schema["enum"].([]any); ok && !slices.Contains(words, any(v)) {
			return fmt.Errorf("%s is %q, none of %v", at, v, words)
		}
	}
	return nil
}

func fitsObject(doc, schema, v object, at string) error {
	props, _ := schema["properties"].(object)
	required, _ := schema["required"].([]any)
	for _, name := range required {
		if _, ok := v[name.(string)]; !ok {
			return fmt.Errorf("%s.%s is missing", at, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(v)) {
		sub, ok := props[name].(object)
		if !ok {
			if sub, ok = schema["additionalProperties"].(object); !ok {
				return fmt.Errorf("%s.%s is not documented", at, name)
			}
		}
		if err := fits(doc, sub, v[name], at+"."+name); err != nil {
			return err
		}
	}
	return nil
}
