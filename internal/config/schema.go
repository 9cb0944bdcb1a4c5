package config

import (
	"bytes"
	"encoding/json"
	"maps"
	"strings"
)

// schema is a JSON Schema, or a part of one.
type schema map[string]any

const poolNamePattern = "^[a-z0-9][a-z0-9_-]{0,62}$"

// schemaID is where the schema of the newest version is published.
const schemaID = "https://raw.githubusercontent.com/pitvisor/pitvisor/main/docs/pitvisor.schema.json"

// Schema returns the JSON Schema (2020-12) of a file, for editors and for programs that
// write one. It is made from the tables that the decoder goes by. It says what may be
// written: what depends on this machine, on another key or on another file is left to
// [Source.Load].
func Schema() ([]byte, error) {
	t := newTables()
	limits := nestDotted(objectOf(t.limits, nil))
	pool := objectOf(t.pool, map[string]schema{
		"limits": ref("limits"), "pool_limits": ref("limits"), "rlimits": ref("rlimits"), "backoff": ref("backoff"), "ready": ref("ready"), "live": ref("live"),
		"rollout": ref("rollout"), "recycle": ref("recycle"), "pressure": ref("pressure"),
	})
	root := objectOf(t.top, map[string]schema{"log": ref("log"), "api": ref("api"), "socket": tablesOf("socket"), "run": ref("run"), "defaults": ref("pool"), "pool": tablesOf("pool")})
	root["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	root["$id"] = schemaID
	root["title"] = "pitvisor.toml"
	root["description"] = "A configuration of pitvisor, or a drop-in of one."
	root["$defs"] = commonSchemas(schema{
		"log": objectOf(t.log, nil), "api": objectOf(t.api, nil), "socket": objectOf(t.socket, nil), "pool": pool, "limits": limits, "rlimits": objectOf(t.rlimits, nil),
		"backoff": objectOf(t.backoff, nil), "ready": objectOf(t.ready, nil), "live": objectOf(t.live, nil), "rollout": objectOf(t.rollout, nil), "recycle": objectOf(t.recycle, nil),
		"pressure": objectOf(t.pressure, nil), "run_pressure": objectOf(t.runPressure, nil),
		"run": objectOf(t.run, map[string]schema{"limits": ref("limits"), "pressure": ref("run_pressure")}),
	})
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	err := enc.Encode(root)
	return b.Bytes(), err
}

// tablesOf is a table of tables with names.
func tablesOf(name string) schema {
	return schema{"type": "object", "additionalProperties": ref(name), "propertyNames": schema{"pattern": poolNamePattern}}
}

func ref(name string) schema { return schema{"$ref": "#/$defs/" + name} }

// orVariable also allows a string whose value is known only when it is read.
func orVariable(s schema) schema { return schema{"anyOf": []any{s, ref("variable")}} }

func wholeSchema(least, most int64) schema {
	return orVariable(schema{"type": "integer", "minimum": least, "maximum": most})
}

func limitSchema(several bool) schema {
	one := schema{"type": []string{"string", "integer", "boolean"}}
	if several {
		return schema{"anyOf": []any{one, schema{"type": "array", "items": one}}}
	}
	return one
}

// commonSchemas adds the types of values to the tables.
func commonSchemas(tables schema) schema {
	const units = "ns|nsec|us|usec|µs|μs|ms|msec|s|sec|second|seconds|m|min|minute|minutes|h|hr|hour|hours|d|day|days|w|week|weeks"
	maps.Copy(tables, schema{
		"variable": schema{"type": "string", "pattern": `\$\{`, "description": "A string with ${NAME} or ${NAME:-default} in it."},
		"text":     schema{"type": "string", "minLength": 1},
		"duration": orVariable(schema{"type": "string", "pattern": `^\s*(0|([0-9.]+ *(` + units + `) *)+)\s*$`}),
		"size": schema{"anyOf": []any{
			schema{"type": "integer", "minimum": 0}, schema{"type": "string", "pattern": `^\s*[0-9.]+\s*(B|[KMGTP](iB)?)?\s*$`}, ref("variable"),
		}},
		"signal": schema{"anyOf": []any{
			schema{"type": "integer", "minimum": 1, "maximum": 64}, schema{"type": "string", "pattern": "^[A-Za-z0-9+-]+$"}, ref("variable"),
		}},
		"identity": schema{"anyOf": []any{schema{"type": "integer", "minimum": 0, "maximum": 4294967294}, ref("text")}},
	})
	return tables
}

// typeSchema returns what a type of the reference means.
func typeSchema(name string) schema {
	switch name {
	case "string", "path", "URL", "`host:port`", "address and port", "regular expression", "path or `\"none\"`":
		return ref("text")
	case "boolean":
		return orVariable(schema{"type": "boolean"})
	case "path or `true`":
		return schema{"anyOf": []any{schema{"const": true}, ref("text")}}
	case "duration", "size", "signal":
		return ref(name)
	case "name or number":
		return ref("identity")
	case "list of names and numbers":
		return schema{"type": "array", "items": ref("identity"), "maxItems": 65536}
	case "list of strings":
		return schema{"type": "array", "items": schema{"type": "string"}, "minItems": 1}
	case "table of strings":
		return schema{
			"type": "object", "additionalProperties": schema{"type": "string"},
			"propertyNames": schema{"pattern": "^[A-Za-z_][A-Za-z0-9_]*$", "not": schema{"pattern": "^PITVISOR_"}},
		}
	case "octal string": // TOML's 0o22 is a number to a schema
		return schema{"anyOf": []any{
			schema{"type": "string", "pattern": "^0*[0-7]{1,3}$"}, schema{"type": "integer", "minimum": 0, "maximum": 0o777}, ref("variable"),
		}}
	}
	return nil
}

// objectOf makes the schema of a table. The tables in it have their own.
func objectOf[T any](keys []key[T], tables map[string]schema) schema {
	properties := schema{}
	for _, k := range keys {
		s := maps.Clone(k.schema)
		if s == nil {
			s = maps.Clone(typeSchema(k.Type))
		}
		if sub, ok := tables[k.Name]; ok {
			s = maps.Clone(sub)
		}
		if s == nil {
			s = schema{}
		}
		s["description"] = k.Meaning
		if text := k.builtIn(); text != "" {
			s["default"] = literal(text).plain()
		}
		if example := exampleOf(k.Example); example != nil && tables[k.Name] == nil {
			s["examples"] = []any{example}
		}
		for _, name := range append([]string{k.Name}, k.Also...) {
			properties[name] = s
		}
	}
	return schema{"type": "object", "properties": properties, "additionalProperties": false}
}

// exampleOf returns the value in the example of a key, nil if it is a table.
func exampleOf(line string) any {
	var p problems
	t := parseTree(&p, p.open("", []byte(line)))
	if len(p.all) > 0 || len(t.entries) != 1 || t.entries[0].kind == kindTable {
		return nil
	}
	return t.entries[0].plain()
}

// nestDotted adds what TOML makes of the kernel's names without quotes: tables.
func nestDotted(object schema) schema {
	flat := object["properties"].(schema)
	for name, s := range maps.Clone(flat) {
		inner, parts := flat, strings.Split(name, ".")
		for _, part := range parts[:len(parts)-1] {
			if inner[part] == nil {
				inner[part] = schema{"type": "object", "properties": schema{}, "additionalProperties": false}
			}
			inner = inner[part].(schema)["properties"].(schema)
		}
		inner[parts[len(parts)-1]] = s
	}
	return object
}
