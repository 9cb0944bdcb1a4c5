package logfile

import (
	"bufio"
	"cmp"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// pieceReader reads one rotated file from some place on.
type pieceReader struct {
	Piece
	path string
	file *os.File
	from io.Reader // what it unpacks to
}

// openPiece begins to read the rotated file p at the offset of the stream.
func (s *Stream) openPiece(p Piece) error {
	path := filepath.Join(s.dir, RotatedDir, p.Name(s.slot, s.name))
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // removed a moment ago; who reads on looks again
	}
	if err != nil {
		return s.passOver(p, fmt.Errorf("read rotated output: %w", err))
	}
	r := &pieceReader{Piece: p, path: path, file: f, from: f}
	if p.Gzip {
		z, err := gzip.NewReader(bufio.NewReader(f))
		if err != nil {
			_ = f.Close() // read-only; the other error matters
			return s.passOver(p, &DamagedError{Path: path, Off: s.off, Err: noEOF(err)})
		}
		r.from = z
	}
	if _, err := io.CopyN(io.Discard, r.from, s.off-p.From); err != nil {
		_ = f.Close() // read-only; the other error matters
		return s.passOver(p, &DamagedError{Path: path, Off: s.off, Err: noEOF(err)})
	}
	s.piece = r
	return nil
}

// noEOF makes an end in the middle look like one.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// errTooLong is for a file with more in it than its name says.
var errTooLong = errors.New("it holds more than its name says")

// passOver goes on behind a rotated file that can not be read.
func (s *Stream) passOver(p Piece, err error) error {
	s.closePiece()
	s.off = p.To
	return err
}

// readPiece reads from the open rotated file. Nothing and no error is its end.
func (s *Stream) readPiece(buf []byte) (int, error) {
	p := s.piece
	n, err := 0, error(nil)
	if s.off < p.To {
		n, err = p.from.Read(buf[:min(int64(len(buf)), p.To-s.off)])
	}
	s.off += int64(n)
	if n > 0 {
		return n, nil // an error comes again
	}
	switch {
	case s.off >= p.To:
		// The checksum is behind the last byte.
		if _, err := p.from.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			return 0, s.passOver(p.Piece, &DamagedError{Path: p.path, Off: p.From, Err: cmp.Or(err, errTooLong)})
		}
		s.closePiece()
		return 0, nil
	case err == nil:
		return 0, nil
	}
	return 0, s.passOver(p.Piece, &DamagedError{Path: p.path, Off: s.off, Err: noEOF(err)})
}

func (s *Stream) closePiece() {
	if s.piece != nil {
		_ = s.piece.file.Close() // read-only; nothing to lose
		s.piece = nil
	}
}
