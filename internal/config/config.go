// Package config turns a pitvisor.toml into the specs that the supervisor runs.
//
// It is strict: whatever it does not know, or knows to be of no effect, is an
// error with its place in the file, and all errors of a file are reported
// together. The keys stand in tables in the code (keys.go and the files beside
// it), from which docs/config.md is made.
//
// Users, groups and programs are looked up while the file is read, so the result
// is good for this machine only. The package starts nothing, watches nothing and
// is not a place for defaults that the command line has.
package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pitvisor/pitvisor/internal/probe"
	"github.com/pitvisor/pitvisor/supervise"
)

const (
	maxFileSize    = 16 << 20 // a file of 10,000 pools has 2 MiB
	maxPoolSize    = 10_000
	maxWorkers     = 20_000 // of all pools; a kernel has 32,768 PIDs unless told otherwise
	maxPoolNameLen = 63
)

// Config is one configuration file.
type Config struct {
	Name     string // of this set of pools
	Path     string // of the file, absolute
	StateDir string // where output and history are kept; "" means the usual place of the user
	Log      Log
	API      API
	Pools    []Pool // in the order of the file
}

// Log is the [log] table.
type Log struct {
	Level   string // "debug", "info", "warn" or "error"
	Format  string // "auto", "text", "json" or "journal"
	MaxSize int64  // bytes that are kept of each output stream of each worker
	Keep    int    // how many runs that are over keep their output
	Show    string // how `pitvisor up` shows the workers' output: ShowText, ShowJSON or ShowNone
	Rotate  Rotate // what becomes of output that is not among the newest
}

// Rotate is what becomes of output beyond Log.MaxSize.
type Rotate struct {
	Keep      int           // rotated files of each stream
	Age       time.Duration // a file that old is rotated whatever its size; 0 means never
	KeepAge   time.Duration // a rotated file that old is removed; 0 means never
	KeepTotal int64         // bytes of the rotated files of one stream on disk; 0 means no bound
	Plain     bool          // rotated files are not compressed
}

// The values of Log.Show.
const (
	ShowText = "text"
	ShowJSON = "json"
	ShowNone = "none"
)

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

// Load reads and parses the file at path. Its error is an [Errors].
func Load(path string) (*Config, error) {
	data, err := readFile(path, maxFileSize)
	if err != nil {
		return nil, Errors{fileError(path, err)}
	}
	return Parse(path, data)
}

// Parse parses data; name is the file it came from, whose directory relative
// paths start at. Its error is an [Errors].
func Parse(name string, data []byte) (*Config, error) {
	return parse(name, data, os.Environ())
}

func parse(name string, data []byte, environ []string) (*Config, error) {
	path, err := filepath.Abs(name)
	if err != nil {
		return nil, Errors{fileError(name, err)}
	}
	d := newDecoder(name, data, filepath.Dir(path), environ)
	c := &Config{Name: nameOf(path), Path: path, Log: defaultLog()}
	root := parseTree(&d.problems, d.src)
	d.decodeFile(root, c)
	if errs := d.problems.errors(name, d.src); len(errs) > 0 {
		return nil, errs
	}
	return c, nil
}

// nameOf is the name that a file gives its pools: "pitvisor" for pitvisor.toml.
func nameOf(path string) string {
	base := filepath.Base(path)
	return strings.TrimSuffix(base, filepath.Ext(base))
}

// errTooLarge is for the size bound, which also ends the reading of devices.
var errTooLarge = errors.New("file is too large")

func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // read-only; nothing to lose
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, errTooLarge
	}
	return data, nil
}

// fileError says why a file could not be read.
func fileError(path string, err error) *Error {
	e := &Error{File: path, Msg: fmt.Sprintf("read file: %v", err), err: err}
	var pe *fs.PathError
	if errors.As(err, &pe) {
		e.Msg = fmt.Sprintf("%s file: %v", pe.Op, pe.Err)
	}
	info, statErr := os.Stat(path)
	switch {
	case statErr == nil && info.IsDir():
		e.Msg, e.Hint = "this is a directory, not a file", "name the file in it, such as "+filepath.Join(path, "pitvisor.toml")
	case errors.Is(err, fs.ErrPermission):
		e.Hint = fmt.Sprintf("the user with ID %d must be able to read it", os.Geteuid())
	case errors.Is(err, errTooLarge):
		e.Msg, e.Hint = fmt.Sprintf("file has more than %d MiB", maxFileSize>>20), "this is hardly a configuration"
	}
	return e
}
