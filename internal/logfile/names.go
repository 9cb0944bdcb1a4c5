// Package logfile is the form in which workers' output lies on disk, and how it
// is read again: without a supervisor, across rotation and from compressed files.
//
// A pool's directory holds, for stream "stdout" of slot 3,
//
//	3.stdout.log                         what was written last
//	3.stdout.times                       when which byte was written, see Times
//	rotated/3.stdout.<from>-<to>.log.gz  what was moved out of 3.stdout.log
//
// Bytes of a stream are numbered over the whole run, across its rotated files:
// an offset stays right whatever is moved, compressed or removed.
//
// Package logfile is not for making, moving or removing these files, which is what
// package capture does; it is not a place for printing either.
package logfile

import (
	"fmt"
	"strconv"
	"strings"
)

// Stdout and Stderr name the two streams of a worker.
const (
	Stdout = "stdout"
	Stderr = "stderr"
)

// RotatedDir is the directory of rotated files, in that of the pool.
const RotatedDir = "rotated"

// LiveName is the name of the file that a stream is written to.
func LiveName(slot int, stream string) string { return fmt.Sprintf("%d.%s.log", slot, stream) }

// TimesName is the name of the file that says when which byte was written.
func TimesName(slot int, stream string) string { return fmt.Sprintf("%d.%s.times", slot, stream) }

// Piece is a rotated file: the bytes From up to To of a stream.
type Piece struct {
	From, To int64
	Gzip     bool
}

// Name is the name of the piece of a stream. Names of one stream sort by offset.
func (p Piece) Name(slot int, stream string) string {
	name := fmt.Sprintf("%d.%s.%016d-%016d.log", slot, stream, p.From, p.To)
	if p.Gzip {
		name += ".gz"
	}
	return name
}

// ParseLive takes the name of a live file apart, or of a .times file.
func ParseLive(name string) (slot int, stream string, ok bool) {
	slot, stream, rest, ok := cutSlot(name)
	return slot, stream, ok && (rest == "log" || rest == "times")
}

// ParsePiece takes the name of a rotated file apart.
func ParsePiece(name string) (slot int, stream string, p Piece, ok bool) {
	slot, stream, rest, ok := cutSlot(name)
	if !ok {
		return 0, "", Piece{}, false
	}
	rest, p.Gzip = strings.CutSuffix(rest, ".gz")
	rest, isLog := strings.CutSuffix(rest, ".log")
	from, to, two := strings.Cut(rest, "-")
	p.From, p.To = number(from), number(to)
	return slot, stream, p, isLog && two && p.From >= 0 && p.To > p.From && p.To <= maxOffset
}

func cutSlot(name string) (slot int, stream, rest string, ok bool) {
	first, rest, _ := strings.Cut(name, ".")
	stream, rest, ok = strings.Cut(rest, ".")
	n := number(first)
	if n < 0 || n > 1<<30 || strconv.FormatInt(n, 10) != first {
		return 0, "", "", false
	}
	return int(n), stream, rest, ok && (stream == Stdout || stream == Stderr)
}

// number parses digits only; it is -1 for everything else.
func number(s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || s[0] == '+' {
		return -1
	}
	return n
}
