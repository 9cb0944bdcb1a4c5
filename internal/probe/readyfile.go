package probe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/pitvisor/pitvisor/supervise"
	"golang.org/x/sys/unix"
)

// maxReadyFile is more than anybody needs to write a port.
const maxReadyFile = 4096

// fileWait is one start's ready file.
type fileWait struct {
	path    string
	private string // the directory made for this start; "" when the path is the user's
	watcher *FileWatcher
	watch   *fileWatch
	before  stamp // of what was there before the worker was
}

// stamp tells one content of a file from another.
type stamp struct {
	dev, ino     uint64
	size         int64
	ctime, mtime unix.Timespec
}

// prepareFile begins to watch before the worker exists: what happens to the
// file from here on is of this start, whatever lies there already.
func (rd *readiness) prepareFile(info supervise.StartInfo) (*fileWait, error) {
	f := &fileWait{path: expand(rd.rules.File, info), watcher: rd.deps.Files}
	if rd.rules.FileAuto {
		dir, err := makePrivate(rd.deps.RuntimeDir, info)
		if err != nil {
			return nil, err
		}
		f.private, f.path = dir, filepath.Join(dir, "ready")
	}
	var err error
	if f.watch, err = f.watcher.add(filepath.Dir(f.path), filepath.Base(f.path)); err != nil {
		_ = f.close() // the first error counts
		return nil, err
	}
	f.before = stampOf(f.path)
	return f, nil
}

// makePrivate makes a directory that only the worker's user, and root, can
// write to. The random part keeps it apart from any earlier start.
func makePrivate(runtime string, info supervise.StartInfo) (string, error) {
	name := fmt.Sprintf("%s.%d.%d-*", info.Worker.Pool, info.Worker.Slot, info.Start)
	dir, err := os.MkdirTemp(runtime, name)
	if err != nil {
		return "", fmt.Errorf("make the directory of the ready file: %w", err)
	}
	if int(info.UID) == os.Geteuid() && int(info.GID) == os.Getegid() {
		return dir, nil
	}
	if err := os.Lchown(dir, int(info.UID), int(info.GID)); err != nil {
		_ = os.Remove(dir) // the first error counts
		return "", fmt.Errorf("give the directory of the ready file to uid %d: %w", info.UID, err)
	}
	return dir, nil
}

func stampOf(path string) stamp {
	var st unix.Stat_t
	if unix.Lstat(path, &st) != nil {
		return stamp{}
	}
	return stamp{dev: st.Dev, ino: st.Ino, size: st.Size, ctime: st.Ctim, mtime: st.Mtim}
}

func (f *fileWait) close() error {
	if f.watch != nil {
		f.watcher.remove(f.watch)
		f.watch = nil
	}
	if f.private == "" {
		return nil
	}
	if err := os.RemoveAll(f.private); err != nil {
		return fmt.Errorf("remove the directory of the ready file: %w", err)
	}
	return nil
}

// awaitFile waits until the worker has written its ready file.
func (a *attempt) awaitFile(ctx context.Context) error {
	rule := "ready file " + a.file.path
	for {
		port, err := a.file.look(a.info.UID)
		if err == nil {
			a.filePort = port
			return nil
		}
		if isFinal(err) {
			return &NotReadyError{Rule: rule, Last: err}
		}
		select {
		case <-a.file.watch.wake:
		case <-ctx.Done():
			return notReady(ctx, rule, err)
		}
	}
}

// look reads the file if this start has written it.
func (f *fileWait) look(uid uint32) (port int, err error) {
	event := f.watch.sum()
	if event.lost && stampOf(f.path) != f.before {
		event.any = true
	}
	if !event.any {
		switch {
		case event.gone:
			return 0, final(errors.New("its directory was removed"))
		case f.before != (stamp{}):
			return 0, errors.New("not written by this start; an older one is there")
		}
		return 0, errors.New("not written")
	}
	content, err := readSmall(f.path, uid)
	switch {
	case err != nil && event.gone:
		return 0, final(fmt.Errorf("its directory was removed: %w", err))
	case err != nil:
		return 0, err
	case len(bytes.TrimSpace(content)) == 0:
		return 0, errors.New("empty")
	case !event.moved && content[len(content)-1] != '\n':
		// A closed file is no better: it may have been opened for the next part.
		return 0, fmt.Errorf("%q has no end of line yet: end it with one, or rename the file into place", shorten(string(content)))
	case !utf8.Valid(content) || bytes.IndexByte(content, 0) >= 0:
		return 0, fmt.Errorf("not text: %q", shorten(string(content)))
	}
	return parseReady(string(content))
}

// readSmall reads a regular file that uid or root owns. The path may lie in a
// directory of the worker's, so it must lead neither elsewhere nor to a FIFO
// that blocks.
func readSmall(path string, uid uint32) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, fmt.Errorf("stat: %w", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, errors.New("not a regular file")
	}
	if uid != 0 && st.Uid != uid && st.Uid != 0 {
		return nil, fmt.Errorf("owned by uid %d, not by the worker's %d", st.Uid, uid)
	}
	content, err := io.ReadAll(io.LimitReader(f, maxReadyFile+1))
	if err != nil {
		return nil, fmt.Errorf("read: %w", err)
	}
	if len(content) > maxReadyFile {
		return nil, fmt.Errorf("larger than %d bytes", maxReadyFile)
	}
	return content, nil
}

// parseReady returns the port in the first line of a ready file, 0 when it
// names none. A port outside 1 to 65535 is an error.
func parseReady(content string) (int, error) {
	line, _, _ := strings.Cut(strings.TrimSpace(content), "\n")
	line = strings.TrimSpace(line)
	digits := line
	if i := strings.LastIndexByte(line, ':'); i >= 0 {
		digits = line[i+1:]
	} else if v, ok := strings.CutPrefix(line, "port="); ok {
		digits = v
	}
	if digits == "" || strings.Trim(digits, "0123456789") != "" {
		return 0, nil
	}
	n, err := strconv.Atoi(digits)
	if err != nil || n < 1 || n > 65535 {
		return 0, fmt.Errorf("port %q is not 1 to 65535", shorten(digits))
	}
	return n, nil
}
