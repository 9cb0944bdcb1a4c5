package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// NoDropIns as the DropIns of a [Source] is for the main file alone.
const NoDropIns = "none"

const (
	mainName     = "pitvisor.toml" // the one whose drop-ins are found by themselves
	dropInDir    = "conf.d"
	maxDropIns   = 1000
	maxFileSize  = 16 << 20 // a file of 10,000 pools has 2 MiB
	maxTotalSize = 2 * maxFileSize
)

// Source says which files a configuration is made of.
type Source struct {
	File string // the main file

	// DropIns is a directory whose *.toml are read after the main file. "" is conf.d
	// beside a File that is called pitvisor.toml, if it is there; [NoDropIns] is none.
	DropIns string

	// As is where the main file is taken to be: relative paths start in its directory,
	// and its name is that of the configuration. "" is where it is.
	As string
}

// input is one file that was read.
type input struct {
	name string // as the user named it
	data []byte
	err  error // data is not what it should be
}

// read returns the main file and its drop-ins, in the order in which they count. The
// error is about the main file; a drop-in bears its own.
func (s Source) read() ([]input, error) {
	data, owner, err := readFile(s.File, maxFileSize)
	if err != nil {
		return nil, err
	}
	files := []input{{name: s.File, data: data}}
	dir, names, err := s.dropIns(owner)
	if err != nil {
		return append(files, input{name: dir, err: err}), nil
	}
	total := int64(len(data))
	for _, name := range names {
		f := input{name: filepath.Join(dir, name)}
		f.data, f.err = readDropIn(f.name, owner)
		if total += int64(len(f.data)); total > maxTotalSize {
			f.data, f.err = nil, errAllTooLarge
		}
		files = append(files, f)
	}
	return files, nil
}

// dropIns returns the directory of the drop-ins and their names, sorted.
func (s Source) dropIns(owner fs.FileInfo) (dir string, names []string, err error) {
	dir = s.DropIns
	switch {
	case dir == NoDropIns || dir == "" && filepath.Base(s.File) != mainName:
		return "", nil, nil
	case dir == "":
		dir = filepath.Join(filepath.Dir(s.File), dropInDir)
	}
	info, err := os.Stat(dir)
	switch {
	case s.DropIns == "" && errors.Is(err, fs.ErrNotExist):
		return "", nil, nil
	case err != nil:
		return dir, nil, err
	case !info.IsDir():
		return dir, nil, errNoDirectory
	}
	if err := trusted(info, owner); err != nil {
		return dir, nil, err
	}
	found, err := os.ReadDir(dir)
	if err != nil {
		return dir, nil, err
	}
	for _, e := range found {
		if isDropIn(e.Name()) {
			names = append(names, e.Name())
		}
	}
	if len(names) > maxDropIns {
		return dir, nil, fmt.Errorf("%w: %d", errTooMany, len(names))
	}
	return dir, names, nil
}

// isDropIn leaves out what editors and package managers put beside a file: .name.toml,
// name.toml~, name.toml.dpkg-old, #name.toml#.
func isDropIn(name string) bool {
	return strings.HasSuffix(name, ".toml") && name[0] != '.' && name[0] != '#'
}

// readDropIn reads a regular file.
func readDropIn(path string, owner fs.FileInfo) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errNotRegular // it might block
	}
	data, info, err := readFile(path, maxFileSize)
	if err != nil {
		return nil, err
	}
	return data, trusted(info, owner)
}

// ownerError says why a file or directory is not believed.
type ownerError struct{ msg, hint string }

func (e *ownerError) Error() string { return e.msg }

// trusted refuses what somebody may change who could not change the main file: a
// drop-in is not named by whoever starts the pools, so it must not be anybody's.
func trusted(info, owner fs.FileInfo) error {
	st, own := info.Sys().(*syscall.Stat_t), owner.Sys().(*syscall.Stat_t)
	switch {
	case st.Uid != 0 && st.Uid != own.Uid && int(st.Uid) != os.Geteuid():
		return &ownerError{
			fmt.Sprintf("it belongs to the user with ID %d, who is neither root nor you nor the owner of the main file", st.Uid),
			"let it belong to one of them, or remove it",
		}
	case st.Mode&unix.S_IWOTH != 0 && own.Mode&unix.S_IWOTH == 0:
		return &ownerError{"everybody may write to it, but not to the main file", "take that right away with chmod o-w"}
	}
	return nil
}

var (
	errTooLarge    = errors.New("file is too large") // also ends the reading of devices
	errAllTooLarge = fmt.Errorf("the files have more than %d MiB together", maxTotalSize>>20)
	errNotRegular  = errors.New("not a regular file")
	errNoDirectory = errors.New("not a directory")
	errTooMany     = fmt.Errorf("more than %d drop-ins", maxDropIns)
)

// readFile reads a file and says whose it is.
func readFile(path string, limit int64) ([]byte, fs.FileInfo, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = f.Close() }() // read-only; nothing to lose
	info, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, nil, err
	}
	if int64(len(data)) > limit {
		return nil, nil, errTooLarge
	}
	return data, info, nil
}

// fileError says why a file could not be read.
func fileError(path string, err error) *Error {
	e := &Error{File: path, Msg: fmt.Sprintf("read file: %v", err), err: err}
	var pe *fs.PathError
	if errors.As(err, &pe) {
		e.Msg = fmt.Sprintf("%s file: %v", pe.Op, pe.Err)
	}
	var owner *ownerError
	switch {
	case errors.As(err, &owner):
		e.Msg, e.Hint = owner.msg, owner.hint
	case errors.Is(err, errNotRegular), errors.Is(err, errNoDirectory), errors.Is(err, errTooMany):
		e.Msg = err.Error()
	case errors.Is(err, errAllTooLarge):
		e.Msg, e.Hint = err.Error(), "this is hardly a configuration"
	case errors.Is(err, unix.EISDIR):
		e.Msg, e.Hint = "this is a directory, not a file", "name the file in it, such as "+filepath.Join(path, mainName)
	case errors.Is(err, fs.ErrPermission):
		e.Hint = fmt.Sprintf("the user with ID %d must be able to read it", os.Geteuid())
	case errors.Is(err, errTooLarge):
		e.Msg, e.Hint = fmt.Sprintf("file has more than %d MiB", maxFileSize>>20), "this is hardly a configuration"
	}
	return e
}
