// Package config turns a pitvisor.toml and its drop-ins into the specs that the
// supervisor runs.
//
// It is strict: whatever it does not know, or knows to be of no effect, is an
// error with its place in its file, and all errors are reported together. The keys
// stand in tables in the code (keys.go and the files beside it), from which
// docs/config.md, the manual and the JSON Schema are made. Each file becomes a tree
// (tree.go), the trees are laid over each other (merge.go), and the result is decoded
// (decode.go).
//
// Users, groups and programs are looked up while the file is read, so the result
// is good for this machine only. The package starts nothing, watches nothing and
// is not a place for defaults that the command line has.
package config

import (
	"cmp"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pitvisor/pitvisor/internal/probe"
	"github.com/pitvisor/pitvisor/internal/sockets"
	"github.com/pitvisor/pitvisor/supervise"
)

const (
	maxPoolSize    = 10_000
	maxWorkers     = 20_000 // of all pools; a kernel has 32,768 PIDs unless told otherwise
	maxPoolNameLen = 63
)

// Config is what the files of one configuration say.
type Config struct {
	Name     string   // of this set of pools
	Path     string   // of the main file, absolute
	Files    []string // that were read, as they were named: the main file, then the drop-ins
	StateDir string   // where output and history are kept; "" means the usual place of the user
	Log      Log
	API      API
	Sockets  []sockets.Spec
	Run      supervise.RunSpec
	Pools    []Pool // in the order of the files
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
	Spec   supervise.PoolSpec // complete but for Readiness and Liveness
	Ready  *probe.Rules       // nil: ready as soon as it runs
	Live   *probe.Live        // nil: well as long as it lives
	Output string             // OutputFile, OutputPipe or OutputNone

	Journal bool // output goes to systemd's journal as well

	Sockets []string // names of Config.Sockets that each worker inherits
	Notify  bool     // sd_notify is listened to even where no rule needs it
	Store   int      // descriptors that each worker may store
}

// The values of Pool.Output.
const (
	OutputFile = "file"
	OutputPipe = "pipe"
	OutputNone = "none"
)

// Load reads and parses the file at path and its drop-ins. Its error is an [Errors].
func Load(path string) (*Config, error) { return Source{File: path}.Load() }

// Load reads and parses the files. Its error is an [Errors].
func (s Source) Load() (*Config, error) {
	c, _, err := s.load(false)
	return c, err
}

// Explain does what Load does, and says where each value is from.
func (s Source) Explain() (*Config, *Effective, error) { return s.load(true) }

func (s Source) load(explain bool) (*Config, *Effective, error) {
	files, err := s.read()
	if err != nil {
		return nil, nil, Errors{fileError(s.File, err)}
	}
	path, err := filepath.Abs(cmp.Or(s.As, s.File))
	if err != nil {
		return nil, nil, Errors{fileError(s.File, err)}
	}
	return parse(path, files, os.Environ(), explain)
}

// parse reads the files as those of a main file at path.
func parse(path string, files []input, environ []string, explain bool) (*Config, *Effective, error) {
	d := newDecoder(filepath.Dir(path), environ)
	c := &Config{Name: nameOf(path), Path: path, Log: defaultLog()}
	var roots []*table
	for _, f := range files {
		roots = append(roots, d.read(f.name, f.data))
		c.Files = append(c.Files, f.name)
		if f.err != nil {
			d.put(problem{at: d.docs[len(d.docs)-1].base, other: fileError(f.name, f.err)})
			d.truncated = true
		}
	}
	if explain {
		d.settings = make(map[string]map[string]*entry)
	}
	d.decodeFile(combine(roots), c)
	if errs := d.problems.errors(); len(errs) > 0 {
		return nil, nil, errs
	}
	if !explain {
		return c, nil, nil
	}
	return c, d.effective(c), nil
}

// nameOf is the name that a file gives its pools: "pitvisor" for pitvisor.toml.
func nameOf(path string) string {
	base := filepath.Base(path)
	return strings.TrimSuffix(base, filepath.Ext(base))
}
