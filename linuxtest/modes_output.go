package linuxtest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// outputModes are about what a process writes.
func outputModes() []builtin {
	return []builtin{
		{usage: "print LINE...", does: "prints the lines and exits", run: modePrint},
		{usage: "env", does: "prints its environment sorted and exits", run: modeEnv},
		{usage: "flood [BYTES]", does: "fills stdout as fast as it goes; without BYTES a pipe for ever, a file with 256 MB", run: modeFlood},
		{usage: "binary BYTES", does: "writes bytes that are no text and exits; see BinaryOutput", run: modeBinary},
		{usage: "both-streams N", does: "writes out 1..N to stdout and err 1..N to stderr and exits", run: modeBothStreams},
		{usage: "partial-line TEXT", does: "writes TEXT without an end of line, lives", run: modePartialLine},
		{usage: "cat", does: "copies stdin to stdout and exits when stdin is closed", run: modeCat},
	}
}

func modePrint(args []string) int {
	for _, line := range args {
		fmt.Println(line)
	}
	return 0
}

func modeEnv([]string) int {
	env := os.Environ()
	slices.Sort(env)
	return modePrint(env)
}

// modeFlood ends without a complaint when nobody reads any more.
func modeFlood(args []string) int {
	left, err := number(args, 0, 0)
	if err != nil {
		return complain(err)
	}
	signal.Ignore(unix.SIGPIPE)
	endless := left == 0 && isPipe(os.Stdout)
	if left == 0 {
		left = 256 << 20 // a disk is not for filling
	}
	line := []byte("the quick brown fox jumps over the lazy dog 0123456789 and again\n")
	block := bytes.Repeat(line, 64)
	for end := time.Now().Add(HelperLife); time.Now().Before(end) && (endless || left > 0); {
		n := len(block)
		if !endless {
			n = min(n, left)
		}
		written, err := os.Stdout.Write(block[:n])
		left -= written
		if errors.Is(err, unix.EPIPE) {
			return 0
		}
		if err != nil {
			return complain(err)
		}
	}
	return 0
}

func isPipe(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&(os.ModeNamedPipe|os.ModeSocket) != 0
}

// BinaryOutput is what the helper mode binary writes: every byte value, no
// text, hardly an end of line, the same each time.
func BinaryOutput(n int) []byte {
	source := rand.NewChaCha8([32]byte{1})
	data := make([]byte, n)
	_, _ = source.Read(data) // documented never to fail
	return data
}

func modeBinary(args []string) int {
	n, err := number(args, 0, 4096)
	if err != nil {
		return complain(err)
	}
	if _, err := os.Stdout.Write(BinaryOutput(n)); err != nil {
		return complain(err)
	}
	return 0
}

func modeBothStreams(args []string) int {
	n, err := number(args, 0, 10)
	if err != nil {
		return complain(err)
	}
	for i := range n {
		fmt.Println("out", i+1)
		fmt.Fprintln(os.Stderr, "err", i+1)
	}
	return 0
}

func modePartialLine(args []string) int {
	fmt.Print(arg(args, 0, "no end"))
	return live(nil)
}

func modeCat([]string) int {
	if _, err := io.Copy(os.Stdout, os.Stdin); err != nil {
		return complain(err)
	}
	return 0
}
