// Package config turns a pitvisor.toml into the specs that the supervisor runs.
// It is strict: whatever it does not know is an error with its place in the file.
// It starts nothing, watches nothing and has no settings of its own.
package config

import (
	"github.com/pitvisor/pitvisor/internal/probe"
	"github.com/pitvisor/pitvisor/supervise"
)

// Config is one configuration file.
type Config struct {
	Name     string // of this set of pools; default: the file's name without its ending
	Path     string // of the file, absolute
	StateDir string // where logs and history are kept; "" means the usual place of the user
	Log      Log
	Pools    []Pool // in file order
}

// Log is the [log] table.
type Log struct {
	Level   string // "debug", "info", "warn" or "error"
	Format  string // "auto", "text", "json" or "journal"
	MaxSize int64  // bytes kept of each output stream of each worker
	Keep    int    // how many finished runs keep their output
}

// Pool is one [pool.NAME] table.
type Pool struct {
	Spec   supervise.PoolSpec // complete but for Readiness
	Ready  *probe.Rules       // nil: ready as soon as it runs
	Output string             // OutputFile or OutputNone
}

// The values of Pool.Output.
const (
	OutputFile = "file"
	OutputNone = "none"
)

// Error is one thing that is wrong with a file. Line and Column count from 1, Column in characters; both are 0 if the file could not be read at all.
type Error struct {
	File         string
	Line, Column int
	Msg, Hint    string
}

func (e *Error) Error() string { panic("unbuilt") }

// Errors are all the things that are wrong with a file, in the order of the file.
type Errors []*Error

func (e Errors) Error() string { panic("unbuilt") }

// Load reads and parses the file at path. Its error is an Errors.
func Load(path string) (*Config, error) { panic("unbuilt") }

// Parse parses data; name is the file it came from. Its error is an Errors.
func Parse(name string, data []byte) (*Config, error) { panic("unbuilt") }
