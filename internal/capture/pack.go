package capture

import (
	"compress/gzip"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// packer writes rotated files. It keeps what compression needs, about 1 MiB, for the next one.
type packer struct {
	plain bool
	buf   []byte
	gzip  *gzip.Writer
}

func newPacker(plain bool) *packer {
	p := &packer{plain: plain, buf: make([]byte, bufferSize)}
	if !plain {
		p.gzip, _ = gzip.NewWriterLevel(nil, gzip.BestSpeed) // the level is a valid one
	}
	return p
}

// pack makes the file at path of n bytes that read gives, which gets the offset
// from 0 on. The file has its name only when all of it is on disk.
func (p *packer) pack(path string, read func(buf []byte, off int64) (int, error), n int64) (size int64, err error) {
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o640)
	if err != nil {
		return 0, explain("create", tmp, err)
	}
	err = p.fill(f, read, n)
	if err == nil {
		err = explain("write", tmp, f.Sync())
	}
	if err == nil {
		size, err = f.Seek(0, io.SeekCurrent)
	}
	if cerr := f.Close(); err == nil {
		err = explain("close", tmp, cerr)
	}
	if err == nil {
		err = explain("rename", tmp, os.Rename(tmp, path))
	}
	if err != nil {
		_ = os.Remove(tmp) // the other error matters
		return 0, err
	}
	return size, explain("sync", filepath.Dir(path), syncDir(filepath.Dir(path)))
}

func (p *packer) fill(f *os.File, read func(buf []byte, off int64) (int, error), n int64) error {
	var w io.Writer = f
	if p.gzip != nil {
		p.gzip.Reset(f)
		w = p.gzip
	}
	for off := int64(0); off < n; {
		m, err := read(p.buf, off)
		if err != nil {
			return err
		}
		if _, err := w.Write(p.buf[:m]); err != nil {
			return explain("write", f.Name(), err)
		}
		off += int64(m)
	}
	if p.gzip != nil {
		return explain("write", f.Name(), p.gzip.Close())
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	_ = d.Close() // read-only; nothing to lose
	return err
}
